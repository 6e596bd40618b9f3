package controllers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/controllers"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
	"github.com/auth-gateway/auth-gateway/keys"
)

// says waits until a condition's message contains all words.
func (e *env) says(name, kind, reason string, words ...string) {
	e.t.Helper()
	e.eventually(fmt.Sprintf("%s of %s says %q", kind, name, words), func() error {
		c := meta.FindStatusCondition(e.gateway(name).Status.Conditions, kind)
		if c == nil || c.Reason != reason {
			return fmt.Errorf("it is %+v", c)
		}
		for _, w := range words {
			if !strings.Contains(c.Message, w) {
				return fmt.Errorf("it is %+v", c)
			}
		}
		return nil
	})
}

// without fails if the operator has created anything but the objects in save.
func (e *env) without(name string, save ...string) {
	e.t.Helper()
	for _, o := range objects {
		made, called := o.empty(), strings.Replace(o.name, "auth", name, 1)
		what := fmt.Sprintf("%T %s", made, called)
		if err := e.client.Get(e.t.Context(), e.key(called), made); err == nil && !slices.Contains(save, what) {
			e.t.Errorf("the operator created %s", what)
		}
	}
}

func TestNameConflictIsLeftAloneAndAwaited(t *testing.T) {
	t.Parallel()
	e := newDirectEnv(t)
	e.create(credentials("auth-db"))
	plain := &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"x": "y"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	all := []client.Object{
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "-keys"}, StringData: map[string]string{"a": "b"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "-passphrases"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "-caller"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "-public-keys"}, Data: map[string]string{"a": "b"}},
		&corev1.ServiceAccount{},
		&corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}},
		&networkingv1.NetworkPolicy{},
		&policyv1.PodDisruptionBudget{Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: new(intstr.FromInt32(1))}},
		&appsv1.Deployment{Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: plain.Labels}, Template: *plain}},
		&autoscalingv2.HorizontalPodAutoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "x", APIVersion: "apps/v1"}, MaxReplicas: 3,
		}},
		// One that was created for another gateway.
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "-public-keys", Labels: map[string]string{
			"app.kubernetes.io/managed-by": "auth-gateway-operator", "app.kubernetes.io/instance": "other",
		}}},
		// One whose labels name this gateway, and whose owner is another.
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Name:   "-public-keys",
			Labels: map[string]string{"app.kubernetes.io/managed-by": "auth-gateway-operator", "app.kubernetes.io/instance": "auth-11"},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "AuthGateway", Name: "auth-11", UID: "another", Controller: new(true),
			}},
		}},
	}
	// All at once, because the operator looks for a free name only periodically.
	name := func(i int) string { return fmt.Sprintf("auth-%d", i) }
	before := make([][]byte, len(all))
	for i, foreign := range all {
		foreign.SetName(name(i) + foreign.GetName())
		e.create(foreign)
		var err error
		if before[i], err = json.Marshal(foreign); err != nil {
			t.Fatal(err)
		}
		g := smallest(name(i))
		autoscaled(g)
		e.create(g)
	}
	for i, foreign := range all {
		e.shows(name(i), "Ready False NameConflict", "Stalled True NameConflict")
		e.says(name(i), "Ready", "NameConflict", " "+foreign.GetName()+" ")
	}
	e.rest()
	for i, foreign := range all {
		// What depends on it is not created; everything else is.
		switch foreign.GetName() {
		case name(i) + "-keys", name(i) + "-passphrases":
			e.without(name(i), fmt.Sprintf("%T %s", foreign, foreign.GetName()))
		default:
			e.ring(name(i))
			if err := e.client.Get(t.Context(), e.key(name(i)), &appsv1.Deployment{}); foreign.GetName() != name(i) && err == nil {
				t.Errorf("%s: the Deployment was created although the name of another object is taken", foreign.GetName())
			}
		}
		testenv.NoError(t, e.client.Get(t.Context(), client.ObjectKeyFromObject(foreign), foreign))
		if after, _ := json.Marshal(foreign); !bytes.Equal(before[i], after) {
			t.Errorf("the operator changed it to\n%s\nfrom\n%s", after, before[i])
		}
		e.remove(foreign)
	}
	for i := range all {
		e.made(name(i))
		e.shows(name(i), "Ready False Progressing")
	}
}

func TestQuotaIsNamedAndAwaited(t *testing.T) {
	t.Parallel()
	for _, resourceName := range []corev1.ResourceName{
		"count/deployments.apps", "secrets", "configmaps", "services", "count/poddisruptionbudgets.policy",
	} {
		t.Run(strings.ReplaceAll(string(resourceName), "/", " "), func(t *testing.T) {
			t.Parallel()
			// Backoff needs a manager.
			e := directEnv(t)
			e.direct = resourceName != "count/deployments.apps"
			e.startOperator()
			e.create(credentials("auth-db"))
			// No controller counts objects, so the test sets the status.
			quota := &corev1.ResourceQuota{
				ObjectMeta: metav1.ObjectMeta{Name: "full"},
				Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{resourceName: resource.MustParse("0")}},
			}
			e.create(quota)
			quota.Status = corev1.ResourceQuotaStatus{Hard: quota.Spec.Hard, Used: corev1.ResourceList{resourceName: resource.MustParse("0")}}
			testenv.NoError(t, e.client.Status().Update(t.Context(), quota))
			e.eventually("the API server enforces the quota", func() error {
				one := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: e.namespace, Name: "probe"}}
				if resourceName != "secrets" {
					return nil
				}
				if err := e.client.Create(t.Context(), one, client.DryRunAll); !apierrors.IsForbidden(err) {
					return fmt.Errorf("the error is %v", err)
				}
				return nil
			})
			e.create(smallest("auth"))
			e.shows("auth", "Ready False QuotaExceeded")
			e.says("auth", "Ready", "QuotaExceeded", "full", string(resourceName))
			e.shows("auth", "Reconciling True QuotaExceeded")
			if !e.direct {
				e.calls.reset()
				time.Sleep(4 * time.Second) // it backs off
				if n := len(e.calls.written()); n > 8 {
					t.Errorf("the operator wrote %d times in four seconds", n)
				}
			}
			e.remove(quota)
			e.made("auth")
			e.shows("auth", "Ready False Progressing")
		})
	}
}

func TestNamespaceThatIsBeingDeletedIsLeftInPeace(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before", "after"} {
		t.Run(when+" everything is made", func(t *testing.T) {
			t.Parallel()
			e := emptyEnv(t)
			e.create(credentials("auth-db"), smallest("auth"))
			if when == "after" {
				e.startOperator()
				e.made("auth")
			}
			e.remove(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: e.namespace}})
			e.eventually("nothing can be created in the namespace", func() error {
				err := e.client.Create(t.Context(),
					&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: e.namespace, Name: "x"}}, client.DryRunAll)
				if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
					return fmt.Errorf("the error is %v", err)
				}
				return nil
			})
			if when == "before" {
				e.startOperator()
			} else {
				for _, o := range objects { // as the controller of namespaces does
					e.remove(get(e, o.name, o.empty()))
				}
			}
			e.eventually("the gateway reports it", func() error {
				for _, c := range e.gateway("auth").Status.Conditions {
					if c.Type == "Ready" && (c.Reason == "NamespaceTerminating" || c.Reason == "KeysLost") {
						return nil
					}
				}
				return errors.New("it does not")
			})
			e.calls.reset()
			time.Sleep(3 * time.Second) // it backs off
			if n := e.calls.count(); n > 60 {
				t.Errorf("%d calls in three seconds", n)
			}
			if n := len(e.calls.written()); n > 8 {
				t.Errorf("%d writes in three seconds", n)
			}
		})
	}
}

// as returns a user with the operator's role, but without a verb for one resource (* means every verb). grant adds it.
func (e *env) as(verb, group, name string) (user *rest.Config, grant func()) {
	e.t.Helper()
	role, err := readRole()
	if err != nil {
		e.t.Fatal(err)
	}
	rules := []rbacv1.PolicyRule{}
	taken := false
	for _, r := range role.Rules {
		for _, of := range r.Resources {
			verbs := r.Verbs
			if of == name && r.APIGroups[0] == group {
				verbs = slices.DeleteFunc(slices.Clone(verbs), func(v string) bool { return v == verb || verb == "*" })
				taken = taken || len(verbs) < len(r.Verbs)
			}
			if len(verbs) == 0 {
				continue
			}
			rules = append(rules, rbacv1.PolicyRule{APIGroups: r.APIGroups, Resources: []string{of}, Verbs: verbs})
		}
	}
	if verb != "" && !taken {
		e.t.Fatalf("the role has no %s %s", verb, name)
	}
	as := rest.CopyConfig(kubernetestest.Config(e.t))
	as.Impersonate.UserName = "operator-of-" + e.namespace
	bind := func(what string, rules []rbacv1.PolicyRule) {
		e.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: what}, Rules: rules}, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: what},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: what},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: as.Impersonate.UserName}},
		})
	}
	bind("operator", rules)
	c, err := client.New(as, client.Options{Scheme: controllers.Scheme()})
	if err != nil {
		e.t.Fatal(err)
	}
	e.eventually("the user has their rights", func() error {
		return c.List(e.t.Context(), &v1alpha1.AuthGatewayList{}, client.InNamespace(e.namespace))
	})
	return as, func() {
		bind("the-rest", []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{name}, Verbs: []string{verb}}})
	}
}

func TestRoleIsEnough(t *testing.T) {
	t.Parallel()
	e := emptyEnv(t)
	user, _ := e.as("", "", "")
	// Pods that set no user are restricted, too: the namespace enforces it.
	e.startOperatorAs(user, func(o *controllers.Options) { o.PlatformUsers = true })
	e.create(credentials("auth-db"))
	g := smallest("auth")
	autoscaled(g)
	g.Spec.Admin.Enabled = true // its Roles grant no more than the operator has
	e.create(g)
	e.rollOut("auth")
	e.rollOut("auth-admin")
	e.shows("auth", "Ready True Ready")
	for _, c := range e.calls.written() {
		if c.status == http.StatusForbidden {
			t.Errorf("%v was forbidden", c)
		}
	}
}

// A permission that the operator lacks is named by its verb and resource.
func TestRoleWithoutAVerbIsNamed(t *testing.T) {
	t.Parallel()
	immutable := func(e *env) {
		edit(e, "auth-public-keys", &corev1.ConfigMap{}, func(c *corev1.ConfigMap) { c.Immutable = new(true) })
	}
	relabel := func(name string, o client.Object) func(*env) {
		return func(e *env) { edit(e, name, o, func(o client.Object) { o.SetLabels(nil) }) }
	}
	autoscale := func(e *env) { e.change("auth", autoscaled) }
	open := func(e *env) {
		e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.NetworkPolicy.Enabled = new(false) })
	}
	administrate := func(e *env) { e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Admin.Enabled = true }) }
	nothing := func(*env) {}
	for _, c := range []struct {
		verb, group, resource string
		provoke               func(*env) // after everything was created
		early                 bool       // it is noticed before everything is created
	}{
		{"get", "", "secrets", nothing, true},
		{"create", "", "secrets", nothing, true},
		{"update", "", "secrets", relabel("auth-caller", &corev1.Secret{}), false},
		{"get", "", "configmaps", nothing, true},
		{"create", "", "configmaps", nothing, true},
		{"patch", "", "configmaps", nothing, true},
		{"delete", "", "configmaps", immutable, false},
		{"get", "", "serviceaccounts", nothing, true},
		{"create", "", "serviceaccounts", nothing, true},
		{"patch", "", "serviceaccounts", nothing, true},
		{"get", "", "services", nothing, true},
		{"create", "", "services", nothing, true},
		{"patch", "", "services", nothing, true},
		{"get", "apps", "deployments", nothing, true},
		{"create", "apps", "deployments", nothing, true},
		{"patch", "apps", "deployments", nothing, true},
		{"get", "policy", "poddisruptionbudgets", nothing, true},
		{"create", "policy", "poddisruptionbudgets", nothing, true},
		{"patch", "policy", "poddisruptionbudgets", nothing, true},
		{"get", "networking.k8s.io", "networkpolicies", nothing, true},
		{"create", "networking.k8s.io", "networkpolicies", nothing, true},
		{"patch", "networking.k8s.io", "networkpolicies", nothing, true},
		{"delete", "networking.k8s.io", "networkpolicies", open, false},
		{"get", "autoscaling", "horizontalpodautoscalers", autoscale, false},
		{"create", "autoscaling", "horizontalpodautoscalers", autoscale, false},
		{"patch", "autoscaling", "horizontalpodautoscalers", autoscale, false},
		{"get", "rbac.authorization.k8s.io", "roles", administrate, false},
		{"create", "rbac.authorization.k8s.io", "roles", administrate, false},
		{"patch", "rbac.authorization.k8s.io", "roles", administrate, false},
	} {
		t.Run(c.verb+" "+c.resource, func(t *testing.T) {
			t.Parallel()
			e := directEnv(t)
			user, grant := e.as(c.verb, c.group, c.resource)
			e.startOperatorAs(user)
			e.create(credentials("auth-db"), smallest("auth"))
			if !c.early {
				e.made("auth")
				e.rest()
				c.provoke(e)
			}
			e.shows("auth", "Ready False Forbidden")
			e.says("auth", "Ready", "Forbidden", fmt.Sprintf("cannot %s resource %q", c.verb, c.resource))
			grant()
			e.made("auth")
			e.shows("auth", "Ready False Progressing")
		})
	}
}

// The operator works even if it may not write the status or events.
func TestRoleWithoutStatusOrEventsStillWorks(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{
		{"patch", "authgateway.io", "authgateways/status"}, {"create", "events.k8s.io", "events"}, {"patch", "events.k8s.io", "events"},
	} {
		t.Run(strings.ReplaceAll(c[0]+" "+c[2], "/", " "), func(t *testing.T) {
			t.Parallel()
			e := emptyEnv(t)
			user, grant := e.as(c[0], c[1], c[2])
			e.startOperatorAs(user)
			e.create(credentials("auth-db"), smallest("auth"))
			e.made("auth")
			e.calls.reset()
			time.Sleep(3 * time.Second) // it backs off
			if n := len(e.calls.written()); n > 10 {
				t.Errorf("%d writes in three seconds", n)
			}
			grant()
			e.shows("auth", "Ready False Progressing")
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(q *http.Request) (*http.Response, error) { return r(q) }

// through returns access to an API server for which meddle answers if it wants to.
func through(t testing.TB, meddle func(*http.Request) (*http.Response, error)) *rest.Config {
	c := rest.CopyConfig(kubernetestest.Config(t))
	c.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(q *http.Request) (*http.Response, error) {
			response, err := meddle(q)
			if response == nil && err == nil {
				return next.RoundTrip(q)
			}
			if q.Body != nil {
				_ = q.Body.Close()
			}
			return response, err
		})
	})
	return c
}

// refusal returns an API server's error response.
func refusal(q *http.Request, code int, reason metav1.StatusReason) *http.Response {
	text, _ := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Reason: reason, Code: int32(code), Message: "a test says no",
	})
	return &http.Response{
		Request: q, StatusCode: code, Status: http.StatusText(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(text)), ContentLength: int64(len(text)),
	}
}

// Every second write fails. In one case it succeeds and its response is lost. The
// result is the same as without failures.
func TestWritesThatFailAreRetried(t *testing.T) {
	t.Parallel()
	refuse := func(code int, reason metav1.StatusReason) func(*http.Request) (*http.Response, error) {
		return func(q *http.Request) (*http.Response, error) { return refusal(q, code, reason), nil }
	}
	for _, c := range []struct {
		what string
		fail func(*http.Request) (*http.Response, error)
	}{
		{"409", refuse(http.StatusConflict, metav1.StatusReasonConflict)},
		{"429", refuse(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests)},
		{"500", refuse(http.StatusInternalServerError, metav1.StatusReasonInternalError)},
		{"timeout", func(*http.Request) (*http.Response, error) { return nil, context.DeadlineExceeded }},
		{"done, and the answer lost", nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			e := directEnv(t)
			var mu sync.Mutex
			writes := map[string]int{}
			// It counts by object, so that events and other concurrent writes do not decide which write fails.
			unlucky := func(q *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if q.Method == http.MethodGet {
					return false
				}
				writes[q.URL.Path]++
				return writes[q.URL.Path]%2 == 1
			}
			as := kubernetestest.Config(t)
			if c.fail == nil {
				as = rest.CopyConfig(as)
				as.Wrap(func(next http.RoundTripper) http.RoundTripper {
					return roundTripper(func(q *http.Request) (*http.Response, error) {
						response, err := next.RoundTrip(q)
						if err == nil && unlucky(q) {
							_ = response.Body.Close()
							return nil, io.ErrUnexpectedEOF
						}
						return response, err
					})
				})
			} else {
				as = through(t, func(q *http.Request) (*http.Response, error) {
					if unlucky(q) {
						return c.fail(q)
					}
					return nil, nil
				})
			}
			e.startOperatorAs(as)
			e.create(credentials("auth-db"), smallest("auth"))
			e.eventually("the Deployment is made", func() error {
				if err := e.client.Get(t.Context(), e.key("auth"), &appsv1.Deployment{}); err != nil {
					return fmt.Errorf("%w; it wrote %v", err, e.calls.written())
				}
				return nil
			})
			e.rollOut("auth")
			e.shows("auth", "Ready True Ready")
			e.whole("auth")
			if ring := e.ring("auth"); len(ring.Keys) != 2 {
				t.Errorf("the ring has %d keys", len(ring.Keys))
			}
			old := e.signing("auth", keys.Access).ID
			annotate(e, "auth", v1alpha1.AnnotationRotate, "now")
			next := e.published("auth", keys.Access)
			e.wait("auth")
			e.phase("auth", next, keys.Signing)
			e.phase("auth", old, keys.Retiring)
			if ring := e.ring("auth"); len(ring.Keys) > 4 {
				t.Errorf("one rotation left %d keys", len(ring.Keys))
			}
			e.eventually("the ring is published", func() error { return e.wholeErr("auth") })
		})
	}
}

// whole fails if the keys, the passphrases and the public keys do not match.
func (e *env) whole(name string) {
	e.t.Helper()
	if err := e.wholeErr(name); err != nil {
		e.t.Errorf("%s: %v", name, err)
	}
}

func (e *env) wholeErr(name string) error {
	ring := e.ring(name)
	s := e.secret(name + "-passphrases").Data
	if _, err := keys.Open(ring, keys.Passphrases{
		Access:  []string{string(s["ACCESS_PASSPHRASE"]), string(s["FORMER_ACCESS_PASSPHRASE"])},
		Refresh: []string{string(s["REFRESH_PASSPHRASE"]), string(s["FORMER_REFRESH_PASSPHRASE"])},
	}); err != nil {
		return err
	}
	for _, use := range keys.Uses() {
		if _, ok := ring.Signing(use); !ok {
			return fmt.Errorf("no %s key signs", use)
		}
	}
	return e.checkPublished(name)
}

func TestAPIServerOutageIsWaitedFor(t *testing.T) {
	t.Parallel()
	e := emptyEnv(t)
	var gone atomic.Bool
	e.startOperatorAs(through(t, func(*http.Request) (*http.Response, error) {
		if gone.Load() {
			return nil, errors.New("connection refused")
		}
		return nil, nil
	}))
	e.create(credentials("auth-db"))
	e.ready(smallest("auth"))
	old := e.signing("auth", keys.Access).ID
	e.quiet()
	gone.Store(true)
	annotate(e, "auth", v1alpha1.AnnotationRotate, "now")
	time.Sleep(5 * time.Second) // the outage
	if n := len(e.calls.written()); n > 20 {
		t.Errorf("the operator tried to write %d times in five seconds", n)
	}
	gone.Store(false)
	next := e.published("auth", keys.Access)
	e.wait("auth")
	e.phase("auth", next, keys.Signing)
	e.phase("auth", old, keys.Retiring)
	e.nudge("auth")
	e.rest()
	if ring := e.ring("auth"); len(ring.Keys) != 4 {
		t.Errorf("one rotation left %d keys", len(ring.Keys))
	}
	e.whole("auth")
}

func TestSpecThatFlapsEndsAsItsLastStateAndChurnsNoKeys(t *testing.T) {
	t.Parallel()
	e := readyEnv(t)
	signs := e.signing("auth", keys.Access).ID
	generation := e.ring("auth").Generation
	for i := range 30 {
		e.change("auth", func(g *v1alpha1.AuthGateway) {
			g.Spec.Replicas = new(int32(2 + i%2))
			g.Spec.Keys.Algorithm = []v1alpha1.Algorithm{"EdDSA", "ES256"}[i%2]
			g.Spec.Database.CredentialsSecretRef.Name = []string{"missing", "auth-db"}[i%2]
			g.Spec.Tokens.AccessTokenTTL = []v1alpha1.Duration{"1h", "15m"}[i%2]
		})
		time.Sleep(100 * time.Millisecond)
	}
	becomes(e, "the Deployment has the last state", 3, func() int32 { return e.replicas("auth") })
	e.rollOut("auth")
	e.shows("auth", "Ready True Ready")
	ring := e.ring("auth")
	if ring.Generation-generation > 8 || len(ring.Keys) > 6 {
		t.Errorf("the ring went from generation %d to %d, and has %d keys", generation, ring.Generation, len(ring.Keys))
	}
	if k, _ := ring.Signing(keys.Access); k.ID != signs {
		t.Error("another key signs, although no key can have been published for long enough")
	}
	e.whole("auth")
}

// Two processes reconcile the same gateways: each gateway gets one ring, and everything matches it.
func TestOperatorsAtOnceMakeOneRingEach(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.startOperator()
	e.create(credentials("auth-db"))
	const many = 10
	name := func(i int) string { return fmt.Sprintf("auth-%d", i) }
	for i := range many {
		e.create(smallest(name(i)))
	}
	for i := range many {
		e.made(name(i))
	}
	e.rest()
	for i := range many {
		e.eventually("it is published", func() error { return e.wholeErr(name(i)) })
		if ring := e.ring(name(i)); len(ring.Keys) != 2 {
			t.Errorf("%s has %d keys", name(i), len(ring.Keys))
		}
	}
	e.secondPassWritesNothing(name(0))
}

func TestStatusThatIsEditedByHandComesBack(t *testing.T) {
	t.Parallel()
	e := readyDirectEnv(t)
	e.quiet()
	before := e.gateway("auth")
	for _, patch := range []string{
		`{"status":{"replicas":9,"readyReplicas":9,"url":"http://attacker","publicKeysConfigMapRef":{"name":"attackers"},"callerSecretRef":{"name":"x"},"selector":"a=b","image":"x","observedGeneration":99}}`,
		`{"status":{"keys":null}}`,
		`{"status":{"keys":{"generation":99,"access":[],"observedRotate":"never"}}}`,
		`{"status":{"conditions":null}}`,
		`{"status":null}`,
	} {
		g := &v1alpha1.AuthGateway{ObjectMeta: metav1.ObjectMeta{Namespace: e.namespace, Name: "auth"}}
		if err := e.client.Status().Patch(t.Context(), g, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
			t.Fatal(err)
		}
		e.eventually("the status comes back after "+patch, func() error {
			g := e.gateway("auth")
			for i := range g.Status.Conditions { // a condition may change while the status is restored
				if i < len(before.Status.Conditions) {
					g.Status.Conditions[i].LastTransitionTime = before.Status.Conditions[i].LastTransitionTime
				}
			}
			is, _ := json.Marshal(g.Status)
			if was, _ := json.Marshal(before.Status); !bytes.Equal(is, was) {
				return fmt.Errorf("it is\n%s\nwant\n%s", is, was)
			}
			return nil
		})
	}
	e.rest()
	if writes := repairs(e); len(writes) > 0 {
		t.Errorf("the edits of the status caused the writes %v", writes)
	}
}

func TestDeletionMidRotationIsFinal(t *testing.T) {
	t.Parallel()
	for _, finalizer := range []bool{false, true} {
		t.Run(fmt.Sprintf("with a finalizer %v", finalizer), func(t *testing.T) {
			t.Parallel()
			e := newDirectEnv(t)
			e.create(credentials("auth-db"))
			g := smallest("auth")
			if finalizer {
				g.Finalizers = []string{"example.com/backup"}
			}
			e.ready(g)
			annotate(e, "auth", v1alpha1.AnnotationRotate, "now")
			e.published("auth", keys.Access)
			e.remove(e.gateway("auth"))
			e.rest()
			e.calls.reset()
			e.pass(lead)
			for _, o := range objects { // of which a person deletes those that outlive the gateway
				e.remove(get(e, o.name, o.empty()))
			}
			e.rest()
			e.without("auth")
			if writes := repairs(e); len(writes) > 0 {
				t.Errorf("the operator wrote %v", writes)
			}
		})
	}
}
