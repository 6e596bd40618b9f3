package controllers_test

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/controllers"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

// deniedWatches returns the kinds that the operator may not watch in a namespace, according to its metric.
func (e *env) deniedWatches(namespace string) (kinds []string) {
	e.t.Helper()
	for _, labels := range e.metric(e.operator.Watches(), "authgateway_operator_watch_denied") {
		if labels["watched_namespace"] == namespace {
			kinds = append(kinds, labels["kind"])
		}
	}
	return kinds
}

func (e *env) synced() {
	e.t.Helper()
	e.eventually("the operator is ready", func() error { return e.operator.Synced(nil) })
}

// in returns a env for another namespace.
func (e *env) in(namespace string) *env {
	other := emptyEnv(e.t)
	other.namespace = namespace
	return other
}

// A namespace that the operator may not watch does not affect the others. When the permission is granted, the namespace
// is managed without a restart. When it is removed, the others are still managed.
func TestWatchesOfALostNamespaceAreLeftOutUntilItIsBack(t *testing.T) {
	t.Parallel()
	here := emptyEnv(t)
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
	becomes(there, "no watch is denied any more", 0, func() int { return len(here.deniedWatches(there.namespace)) })

	// The permission is removed, as when the namespace is deleted.
	there.remove(bind)
	edit(here, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Audiences = []string{"others"} })
	becomes(here, "the other namespace is managed", "others", func() string { return variables(here.made("auth"))["AUDIENCE"] })
	here.synced()
}

// A missing permission affects only gateways that need it. Their condition names it.
func TestWatchesThatAreDeniedCostOnlyGatewaysThatWantThem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		group, resource, kind string
		want                  func(*v1alpha1.AuthGateway)
	}{
		{"autoscaling", "horizontalpodautoscalers", "HorizontalPodAutoscaler", autoscaled},
		{"networking.k8s.io", "ingresses", "Ingress", func(g *v1alpha1.AuthGateway) { *g = *exposed(g.Name) }},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			e := emptyEnv(t)
			user, grant := e.as("*", c.group, c.resource)
			e.startOperatorAs(user)
			e.synced()
			e.create(credentials("auth-db"))
			e.ready(smallest("auth"))
			if denied := e.deniedWatches(e.namespace); !slices.Equal(denied, []string{c.kind}) {
				t.Errorf("the metric reports the denied watches %v", denied)
			}
			wants := smallest("wants")
			c.want(wants)
			e.create(wants)
			e.says("wants", "Ready", "Forbidden", c.resource)
			e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Replicas = new(int32(3)) })
			becomes(e, "the other gateway is managed", 3, func() int32 { return e.replicas("auth") })
			grant()
			e.rollOut("wants")
			e.shows("wants", "Ready True Ready")
		})
	}
}

// Pods that the operator may not list are not treated as absent: otherwise a key
// would sign although no replica has confirmed it.
func TestWatchesOfPodsThatAreDeniedHideNoPods(t *testing.T) {
	t.Parallel()
	e := emptyEnv(t)
	user, grant := e.as("*", "", "pods")
	e.startOperatorAs(user)
	e.create(credentials("auth-db"), smallest("auth"))
	e.says("auth", "Ready", "Forbidden", "pods")
	grant()
	e.rollOut("auth")
	e.shows("auth", "Ready True Ready")
}

// Errors other than denials keep the operator unready until it has read everything.
func TestReadinessWaitsUntilEverythingIsRead(t *testing.T) {
	t.Parallel()
	e := emptyEnv(t)
	var broken atomic.Bool
	broken.Store(true)
	refused := make(chan struct{}, 1)
	e.startOperatorAs(through(t, func(q *http.Request) (*http.Response, error) {
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
	if err := e.operator.Synced(nil); err == nil || !strings.Contains(err.Error(), "AuthGateway in "+e.namespace) {
		t.Errorf("the error is %v", err)
	}
	broken.Store(false)
	e.synced()
}
