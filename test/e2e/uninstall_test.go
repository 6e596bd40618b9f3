package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// helm runs the helm of hack/tools/kubernetes without the settings of this machine.
type helm struct {
	cluster

	program     string
	environment []string
}

func (c cluster) helm(t *testing.T) helm {
	t.Helper()
	find := exec.CommandContext(t.Context(), "go", "tool", "-modfile=hack/tools/kubernetes/go.mod", "-n", "helm")
	find.Dir = c.root
	program, err := find.Output()
	if err != nil {
		t.Fatalf("build helm: %v", err)
	}
	kubeconfig := testenv.Must(filepath.Abs(c.kubeconfig))(t)
	home := t.TempDir()
	return helm{c, strings.TrimSpace(string(program)), []string{
		"KUBECONFIG=" + kubeconfig, "PATH=" + os.Getenv("PATH"),
		"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home,
	}}
}

func (h helm) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, h.program, append(args, "--namespace", operatorNamespace)...)
	cmd.Dir, cmd.Env = h.root, h.environment
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, exit.Stderr)
	}
	return string(out), err
}

// It is not parallel, because it removes the operator, which all tests share.
func TestUninstallingTakesTheOperatorAndNothingElse(t *testing.T) {
	p, a := serving(t, func(s *v1alpha1.AuthGatewaySpec) { s.DeletionPolicy = v1alpha1.DeletionRetain })
	p.create(t, smallest("brief", func(s *v1alpha1.AuthGatewaySpec) {
		s.Replicas, s.DeletionPolicy = new(int32(1)), v1alpha1.DeletionDelete
		s.Issuer = "http://auth." + p.name + ".svc" // a database belongs to one issuer
	}))
	p.ready(t, "brief", later)
	u := a.drive(t)
	kid, _ := signingKey(p.gateway(t, "auth"))
	before := testenv.Must(p.servers(t, "auth"))(t)

	h := p.helm(t)
	values := testenv.Must(h.run(t.Context(), "get", "values", release, "--output", "yaml"))(t)
	file := filepath.Join(t.TempDir(), "values.yaml")
	testenv.NoError(t, os.WriteFile(file, []byte(values), 0o600))
	installed := true
	install := func(ctx context.Context) error {
		_, err := h.run(ctx, "install", release, "charts/auth-gateway", "--values", file, "--wait", "--timeout", "2m")
		installed = err == nil
		return err
	}
	t.Cleanup(func() { // other tests need the operator
		if !installed {
			if err := install(context.WithoutCancel(t.Context())); err != nil {
				t.Errorf("the operator could not be installed again: %v", err)
			}
		}
	})

	l := a.load(t, 0, time.Minute)
	installed = false
	testenv.NoError(t, testenv.Err(h.run(t.Context(), "uninstall", release, "--wait", "--timeout", "2m")))
	if err := p.Get(t.Context(), client.ObjectKey{Namespace: operatorNamespace, Name: operatorName},
		&appsv1.Deployment{}); !apierrors.IsNotFound(err) {
		t.Errorf("the operator is still there: %v", err)
	}
	if all, err := p.gateways(t.Context(), p.name); err != nil || len(all) != 2 {
		t.Errorf("there are %d AuthGateways, want 2: %v", len(all), err)
	}
	a.drive(t)

	// Objects that a gateway owns are deleted with it, even without an operator.
	p.remove(t, "brief")
	p.exists(t, false, "brief-keys", "brief-passphrases", "brief-caller")
	p.exists(t, true, "auth-keys", "auth-passphrases", "auth-caller")

	testenv.NoError(t, install(t.Context()))
	p.operatorRuns(t)
	p.operatorActs(t, "auth")
	p.ready(t, "auth", later)
	l.flows(t)
	l.perfect(t, "uninstalled and installed again")
	after := testenv.Must(p.servers(t, "auth"))(t)
	for _, pod := range after {
		if pod.UID != before[0].UID && pod.UID != before[1].UID {
			t.Errorf("pod %s was created by the newly installed operator", pod.Name)
		}
	}
	if now, _ := signingKey(p.gateway(t, "auth")); now != kid {
		t.Errorf("the newly installed operator changed the key from %s to %s", kid, now)
	}

	kept := &corev1.Secret{}
	p.get(t, "auth-keys", kept)
	p.remove(t, "auth")
	p.exists(t, false, "auth-caller")
	p.exists(t, true, "auth-keys", "auth-passphrases")
	still := &corev1.Secret{}
	p.get(t, "auth-keys", still)
	if !sameKeys(kept, still) {
		t.Error("the retained keys have changed")
	}

	p.create(t, smallest("auth", cheapPasswords))
	p.ready(t, "auth", later)
	g := p.gateway(t, "auth")
	if now, _ := signingKey(g); now != kid {
		t.Errorf("the new gateway signs with %s, not with the retained %s", now, kid)
	}
	a.callerKey = p.callerKey(t, g)
	a.reaches(t)
	a.must(t, http.StatusOK, http.MethodGet, "/users", u.access, nil)
	if err := a.verifies(t, u.access); err != nil {
		t.Errorf("the earlier token, with the mounted keys: %v", err)
	}
	a.drive(t)
}

// remove deletes an AuthGateway, and waits until its pods are gone.
func (p testNamespace) remove(t *testing.T, gateway string) {
	t.Helper()
	testenv.NoError(t, p.Delete(t.Context(), p.gateway(t, gateway)))
	testenv.Eventually(t, later, "the pods of "+gateway+" are gone", func() error {
		if pods, err := p.servers(t, gateway); err != nil || len(pods) > 0 {
			return fmt.Errorf("there are %d pods: %w", len(pods), err)
		}
		return nil
	})
}

// exists waits until the Secrets exist, or until they are gone.
func (p testNamespace) exists(t *testing.T, want bool, secrets ...string) {
	t.Helper()
	for _, name := range secrets {
		testenv.Eventually(t, soon, fmt.Sprintf("Secret %s is there: %v", name, want), func() error {
			err := p.Get(t.Context(), client.ObjectKey{Namespace: p.name, Name: name}, &corev1.Secret{})
			if client.IgnoreNotFound(err) != nil {
				return err
			}
			if there := err == nil; there != want {
				return fmt.Errorf("it exists: %v", there)
			}
			return nil
		})
	}
}
