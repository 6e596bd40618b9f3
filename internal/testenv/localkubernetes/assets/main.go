// Command assets gets the programs of a Kubernetes API server, where they are not
// there yet, and prints their folder: it is what KUBEBUILDER_ASSETS may be set
// to. Run it before tests whose time is limited, for it may have to build them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/auth-gateway/auth-gateway/internal/testenv/localkubernetes"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	dir, err := localkubernetes.Assets(ctx, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "assets:", err)
		os.Exit(1)
	}
	fmt.Println(dir)
}
