// Command authserver is the identity service. See authserver -h.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/auth-gateway/auth-gateway/authserver"
)

// version is set by the linker: -X main.version=v1.2.3.
var version string

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	return authserver.Command{
		Args: os.Args[1:], LookupEnv: os.LookupEnv, Environ: os.Environ(), ReadFile: os.ReadFile, WriteFile: os.WriteFile,
		Out: os.Stdout, Err: os.Stderr, Version: buildVersion(),
	}.Run(ctx)
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); version == "" && ok {
		return info.Main.Version
	}
	return version
}
