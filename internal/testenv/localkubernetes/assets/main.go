// Command assets downloads or builds the programs of a Kubernetes API server if they are missing, and prints their
// folder, to which KUBEBUILDER_ASSETS can be set. Run it before tests that have a time limit.
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
