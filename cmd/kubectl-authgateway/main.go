// Command kubectl-authgateway is a plugin of kubectl. See kubectl authgateway --help.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // credentials of kubeconfig files that are not tokens and certificates
	"k8s.io/klog/v2"

	"github.com/auth-gateway/auth-gateway/cmd/kubectl-authgateway/plugin"
)

// version is set by the linker: -X main.version=v1.2.3.
var version string

func main() {
	klog.SetLogger(logr.Discard()) // the commands report errors themselves
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if info, ok := debug.ReadBuildInfo(); version == "" && ok {
		version = info.Main.Version
	}
	p := plugin.New(genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}, version)
	code := p.Run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
