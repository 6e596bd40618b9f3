package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// The API server accepts connections and never answers, as behind some firewalls.
func TestShutdownDoesNotWaitForASilentAPIServer(t *testing.T) {
	silent := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
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
	testenv.NoError(t, os.WriteFile(kubeconfig, []byte(text), 0o600))
	t.Setenv("KUBECONFIG", kubeconfig)
	t.Setenv("POD_NAMESPACE", "auth-gateway-system")
	ctx, sigterm := context.WithCancel(t.Context())
	var errs bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"--server-image=example.com/authserver:1", "--health-probe-bind-address=0",
			"--metrics-bind-address=0", "--shutdown-timeout=1ms"}, &errs, &errs)
	}()
	select {
	case <-asked:
	case c := <-code:
		t.Fatalf("it ended with %d before SIGTERM: %s", c, errs.String())
	}
	sigterm()
	if c := <-code; c != 1 || !strings.Contains(errs.String(), "shutdown timed out") {
		t.Errorf("it ended with %d: %s", c, errs.String())
	}
}

func TestPlatformUsersAreDetected(t *testing.T) {
	t.Parallel()
	constraints := schema.GroupVersionKind{Group: "security.openshift.io", Version: "v1", Kind: "SecurityContextConstraints"}
	openshift := meta.NewDefaultRESTMapper([]schema.GroupVersion{constraints.GroupVersion()})
	openshift.Add(constraints, meta.RESTScopeRoot)
	others := meta.NewDefaultRESTMapper(nil)
	for _, c := range []struct {
		setting string
		kinds   meta.RESTMapper
		want    bool
	}{{"auto", openshift, true}, {"auto", others, false}, {"true", others, true}, {"false", openshift, false}} {
		if got, err := assignsUsers(c.setting, c.kinds); got != c.want || err != nil {
			t.Errorf("%s: %v, %v", c.setting, got, err)
		}
	}
	if _, err := assignsUsers("perhaps", others); err == nil || !strings.Contains(err.Error(), "write auto, true or false") {
		t.Errorf("it says %v", err)
	}
}

func TestMemoryLimitIsAShareOfTheContainers(t *testing.T) {
	was := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(was) })
	t.Setenv("GOMEMLIMIT", "")
	t.Setenv("MEMORY_LIMIT", "1000000000")
	limitMemory()
	if limit := debug.SetMemoryLimit(-1); limit != 900000000 {
		t.Errorf("the limit is %d", limit)
	}
}

// An image without a registry would be pulled from a public one, where anyone may own the name.
func TestServerImageIsRequired(t *testing.T) {
	var errs bytes.Buffer
	if code := run(t.Context(), []string{"--server-image="}, &errs, &errs); code != 1 ||
		!strings.Contains(errs.String(), "--server-image is not set: set it to the image of the servers") {
		t.Errorf("it ended with %d: %s", code, errs.String())
	}
}
