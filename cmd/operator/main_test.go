package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An API server that takes connections and never answers, as behind a firewall.
func TestTheOperatorEndsThoughTheAPIServerDoesNotAnswer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	asked := make(chan struct{}, 100)
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			asked <- struct{}{}
		}
	}()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("{apiVersion: v1, kind: Config, current-context: x, contexts: [{name: x, context: {cluster: x}}], clusters: [{name: x, cluster: {server: 'http://%s'}}]}", silent.Addr())
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", kubeconfig)
	t.Setenv("POD_NAMESPACE", "auth-gateway-system")
	ctx, sigterm := context.WithCancel(t.Context())
	var errs bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"--health-probe-bind-address=0", "--metrics-bind-address=0", "--shutdown-timeout=1ms"}, &errs, &errs)
	}()
	select {
	case <-asked:
	case c := <-code:
		t.Fatalf("it ended with %d before it was told to: %s", c, errs.String())
	}
	sigterm()
	if c := <-code; c != 1 || !strings.Contains(errs.String(), "cut off") {
		t.Errorf("it ended with %d: %s", c, errs.String())
	}
}
