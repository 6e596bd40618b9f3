// Command cluster implements `make up`, `make down` and `make status`: Auth Gateway in a Kubernetes cluster on this
// machine. `cluster cloudnativepg` installs the CloudNativePG operator in it. Package localcluster describes it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/auth-gateway/auth-gateway/hack/localcluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "supervise" { // up runs it
		return localcluster.Supervise(ctx, args[1])
	}
	if len(args) != 1 {
		return errors.New("usage: cluster up | cloudnativepg | status | down")
	}
	c, err := localcluster.New(os.Stderr)
	if err != nil {
		return err
	}
	switch args[0] {
	case "up":
		return c.Up(ctx, os.Stdout)
	case "cloudnativepg":
		return c.CloudNativePG(ctx)
	case "status":
		return c.Status(ctx, os.Stdout)
	case "down":
		return c.Down(ctx)
	default:
		return fmt.Errorf("unknown command %q: use up, cloudnativepg, status or down", args[0])
	}
}
