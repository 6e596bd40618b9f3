package controllers_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/controllers"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

// deniedWatches returns the kinds that the operator may not watch in a namespace,
// according to its metric.
func (b *bed) deniedWatches(namespace string) (kinds []string) {
	b.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(b.operator.Watches())
	families, err := registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "authgateway_operator_watch_denied" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["watched_namespace"] == namespace {
				kinds = append(kinds, labels["kind"])
			}
		}
	}
	return kinds
}

func (b *bed) synced() {
	b.t.Helper()
	b.eventually("the operator is ready", func() error { return b.operator.Synced(nil) })
}

// in returns a bed for another namespace.
func (b *bed) in(namespace string) *bed {
	other := emptyBed(b.t)
	other.namespace = namespace
	return other
}

// A namespace that the operator may not watch does not affect the others. When the
// permission is granted, the namespace is managed without a restart. When it is
// removed, the others are still managed.
func TestALostNamespaceIsLeftOutUntilItIsBack(t *testing.T) {
	t.Parallel()
	here := emptyBed(t)
	there := here.in(kubernetestest.Namespace(t))
	user, _ := here.as("", "", "")
	here.startOperatorAs(user, func(o *controllers.Options) { o.Namespaces = append(o.Namespaces, there.namespace, "never-made") })
	here.synced()
	here.create(credentials("auth-db"))
	here.ready(smallest("auth"))
	there.create(credentials("auth-db"), smallest("auth"))
	if denied := here.deniedWatches(there.namespace); !slices.Contains(denied, "AuthGateway") || !slices.Contains(denied, "Pod") {
		t.Errorf("the metric reports the denied watches %v", denied)
	}
	if denied := here.deniedWatches(here.namespace); len(denied) > 0 {
		t.Errorf("the metric reports denied watches in an allowed namespace: %v", denied)
	}

	// The same user gets the same rights there.
	bind := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "operator"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "operator"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user.Impersonate.UserName}},
	}
	role := get(here, "operator", &rbacv1.Role{})
	there.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "operator"}, Rules: role.Rules}, bind)
	there.made("auth")
	here.synced()
	there.eventually("no watch is denied any more", func() error {
		if denied := here.deniedWatches(there.namespace); len(denied) > 0 {
			return fmt.Errorf("denied: %v", denied)
		}
		return nil
	})

	// The permission is removed, as when the namespace is deleted.
	if err := there.client.Delete(t.Context(), bind); err != nil {
		t.Fatal(err)
	}
	edit(here, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Audiences = []string{"others"} })
	here.eventually("the other namespace is managed", func() error {
		if v := variables(here.made("auth"))["AUDIENCE"]; v != "others" {
			return fmt.Errorf("AUDIENCE is %q", v)
		}
		return nil
	})
	here.synced()
}

// A missing permission affects only gateways that need it. Their condition names it.
func TestAKindWithoutRightsCostsOnlyThoseThatWantIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		group, resource, kind string
		want                  func(*v1alpha1.AuthGateway)
	}{
		{"autoscaling", "horizontalpodautoscalers", "HorizontalPodAutoscaler", func(g *v1alpha1.AuthGateway) {
			g.Spec.Replicas, g.Spec.Autoscaling = nil, &v1alpha1.Autoscaling{MaxReplicas: 3}
		}},
		{"networking.k8s.io", "ingresses", "Ingress", func(g *v1alpha1.AuthGateway) { *g = *exposed(g.Name) }},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			b := emptyBed(t)
			user, grant := b.as("*", c.group, c.resource)
			b.startOperatorAs(user)
			b.synced()
			b.create(credentials("auth-db"))
			b.ready(smallest("auth"))
			if denied := b.deniedWatches(b.namespace); !slices.Equal(denied, []string{c.kind}) {
				t.Errorf("the metric reports the denied watches %v", denied)
			}
			wants := smallest("wants")
			c.want(wants)
			b.create(wants)
			b.says("wants", "Ready", "Forbidden", c.resource)
			edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Replicas = new(int32(3)) })
			b.eventually("the other gateway is managed", func() error {
				if n := b.replicas("auth"); n != 3 {
					return fmt.Errorf("it has %d replicas", n)
				}
				return nil
			})
			grant()
			b.rollOut("wants")
			b.condition("wants", "Ready", metav1.ConditionTrue, "Ready")
		})
	}
}

// Pods that the operator may not list are not treated as absent: otherwise a key
// would sign although no replica has confirmed it.
func TestPodsThatCannotBeSeenAreNotThoughtGone(t *testing.T) {
	t.Parallel()
	b := emptyBed(t)
	user, grant := b.as("*", "", "pods")
	b.startOperatorAs(user)
	b.create(credentials("auth-db"), smallest("auth"))
	b.says("auth", "Ready", "Forbidden", "pods")
	grant()
	b.rollOut("auth")
	b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")
}

// Errors other than denials keep the operator unready until it has read everything.
func TestTheOperatorIsReadyWhenItHasReadEverything(t *testing.T) {
	t.Parallel()
	b := emptyBed(t)
	var broken atomic.Bool
	broken.Store(true)
	refused := make(chan struct{}, 1)
	b.startOperatorAs(through(t, func(q *http.Request) (*http.Response, error) {
		if broken.Load() && strings.HasSuffix(q.URL.Path, "/authgateways") {
			select {
			case refused <- struct{}{}:
			default:
			}
			return refusal(q, http.StatusInternalServerError, metav1.StatusReasonInternalError), nil
		}
		return nil, nil
	}))
	<-refused
	if err := b.operator.Synced(nil); err == nil || !strings.Contains(err.Error(), "AuthGateway in "+b.namespace) {
		t.Errorf("the error is %v", err)
	}
	broken.Store(false)
	b.synced()
}
