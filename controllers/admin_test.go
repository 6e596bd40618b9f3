package controllers_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	serverconfig "github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// adminObjects are those that serve administrators of the gateway auth.
var adminObjects = []struct {
	name  string
	empty func() client.Object
}{
	{"auth-user-viewer", func() client.Object { return &rbacv1.Role{} }},
	{"auth-user-editor", func() client.Object { return &rbacv1.Role{} }},
	{"auth-admin", func() client.Object { return &corev1.ServiceAccount{} }},
	{"auth-admin", func() client.Object { return &corev1.Service{} }},
	{"auth-admin", func() client.Object { return &networkingv1.NetworkPolicy{} }},
	{"auth-admin", func() client.Object { return &policyv1.PodDisruptionBudget{} }},
	{"auth-admin", func() client.Object { return &appsv1.Deployment{} }},
}

// administrating returns a gateway that is Ready and serves administrators.
func administrating(t *testing.T) *env {
	t.Helper()
	e := readyDirectEnv(t)
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Admin.Enabled = true })
	e.shows("auth", "Ready False Progressing", "AdminAvailable False Progressing", "Available True ReplicasReady")
	e.rollOut("auth-admin")
	e.shows("auth", "Ready True Ready", "AdminAvailable True ReplicasReady")
	return e
}

func TestAdminIsOffUntilItIsAskedForAndGoesWhenTurnedOff(t *testing.T) {
	t.Parallel()
	e := readyDirectEnv(t)
	are := func(want bool) error {
		for _, o := range adminObjects {
			made := o.empty()
			err := e.client.Get(t.Context(), e.key(o.name), made)
			if client.IgnoreNotFound(err) != nil || apierrors.IsNotFound(err) == want {
				return fmt.Errorf("%T %s: %v", made, o.name, err)
			}
			if owner := metav1.GetControllerOf(made); want && (owner == nil || owner.Name != "auth") {
				return fmt.Errorf("%T %s has the owner %v", made, o.name, owner)
			}
		}
		return nil
	}
	testenv.NoError(t, are(false))
	for range 2 {
		e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Admin.Enabled = true })
		e.eventually("everything is made", func() error { return are(true) })
		e.rollOut("auth-admin")
		e.shows("auth", "Ready True Ready", "AdminAvailable True ReplicasReady")
		e.secondPassWritesNothing("auth")
		e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Admin.Enabled = false })
		e.eventually("everything is gone", func() error { return are(false) })
		e.shows("auth", "Ready True Ready")
		if slices.ContainsFunc(e.gateway("auth").Status.Conditions, func(c metav1.Condition) bool { return c.Type == "AdminAvailable" }) {
			t.Error("the condition is still there")
		}
		for _, p := range e.pods(client.MatchingLabels{"app.kubernetes.io/name": "authserver-admin"}) {
			e.remove(&p, client.GracePeriodSeconds(0)) // as the garbage collector does
		}
	}
}

func TestAdminDriftIsRepaired(t *testing.T) {
	t.Parallel()
	e := administrating(t)
	deployment := func(what string, change func(*appsv1.Deployment)) drift {
		return drifting("Deployment: "+what, "auth-admin", &appsv1.Deployment{}, change)
	}
	role := func(what string, change func(*rbacv1.Role)) drift {
		return drifting("Role: "+what, "auth-user-viewer", &rbacv1.Role{}, change)
	}
	all := []drift{
		role("a verb more", func(r *rbacv1.Role) { r.Rules[0].Verbs = append(r.Rules[0].Verbs, "delete") }),
		role("every gateway", func(r *rbacv1.Role) { r.Rules[0].ResourceNames = nil }),
		role("a rule more", func(r *rbacv1.Role) {
			r.Rules = append(r.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}})
		}),
		role("no rules", func(r *rbacv1.Role) { r.Rules = nil }),
		drifting("Service: the API's pods", "auth-admin", &corev1.Service{}, func(s *corev1.Service) {
			s.Spec.Selector["app.kubernetes.io/name"] = "authserver"
		}),
		drifting("NetworkPolicy: everyone", "auth-admin", &networkingv1.NetworkPolicy{}, func(p *networkingv1.NetworkPolicy) {
			p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{})
		}),
		drifting("ServiceAccount: a token", "auth-admin", &corev1.ServiceAccount{}, func(s *corev1.ServiceAccount) {
			s.AutomountServiceAccountToken = new(true)
		}),
		drifting("PodDisruptionBudget: two at a time", "auth-admin", &policyv1.PodDisruptionBudget{}, func(p *policyv1.PodDisruptionBudget) {
			p.Spec.MaxUnavailable.IntVal = 2
		}),
		deployment("no command", func(d *appsv1.Deployment) { server(d).Args = nil }),
		deployment("no token", func(d *appsv1.Deployment) { pod(d).AutomountServiceAccountToken = new(false) }),
		deployment("a file of keys", func(d *appsv1.Deployment) {
			server(d).Env = append(server(d).Env, corev1.EnvVar{Name: "ADMIN_KEYS", Value: "/x"})
		}),
		deployment("another gateway's rights", func(d *appsv1.Deployment) {
			for i := range server(d).Env {
				if e := &server(d).Env[i]; e.Name == "ADMIN_KUBERNETES" {
					e.Value = "other/gateway"
				}
			}
		}),
	}
	for _, o := range adminObjects {
		empty := o.empty()
		all = append(all, drift{fmt.Sprintf("%T %s: all labels", empty, o.name), o.name, empty, func(o client.Object) { o.SetLabels(nil) }})
	}
	for _, d := range all {
		e.quiet()
		before := essence(t, get(e, d.name, d.empty))
		edit(e, d.name, d.empty, d.edit)
		if essence(t, d.empty) == before {
			t.Errorf("%s: the edit changes nothing", d.what)
		}
		becomes(e, d.what+" is restored", before, func() string {
			return essence(t, get(e, d.name, d.empty))
		})
		if strings.HasPrefix(d.what, "Deployment") {
			e.rollOut("auth-admin")
		}
	}
	e.shows("auth", "Ready True Ready")
	for _, o := range adminObjects { // a deleted object comes back
		e.remove(get(e, o.name, o.empty()))
		e.eventually(fmt.Sprintf("%T %s is made again", o.empty(), o.name), func() error {
			return e.client.Get(t.Context(), e.key(o.name), o.empty())
		})
	}
}

// kubectl auth can-i asks the same questions as the server, and gets these answers.
func TestAdminRolesDecide(t *testing.T) {
	t.Parallel()
	e := administrating(t)
	bind := func(role, user string) {
		e.create(&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
		})
	}
	bind("auth-user-viewer", "vera")
	bind("auth-user-editor", "ed")
	may := func(user, verb, gateway, resource string) bool {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: e.namespace, Verb: verb, Group: "authgateway.io",
				Resource: "authgateways", Subresource: resource, Name: gateway}}}
		testenv.NoError(t, e.client.Create(t.Context(), review))
		return review.Status.Allowed
	}
	e.eventually("the bindings are known", func() error {
		if !may("vera", "list", "auth", "users") || !may("ed", "delete", "auth", "users") {
			return errors.New("they are not")
		}
		return nil
	})
	for _, c := range []struct {
		user, verb, gateway, resource string
		want                          bool
	}{
		{"vera", "get", "auth", "users", true}, {"vera", "list", "auth", "events", true}, {"vera", "list", "auth", "sessions", true},
		{"vera", "update", "auth", "users", false}, {"vera", "delete", "auth", "sessions", false},
		{"vera", "list", "other", "users", false}, {"vera", "get", "auth", "", false}, {"vera", "get", "auth", "status", false},
		{"ed", "update", "auth", "users", true}, {"ed", "delete", "auth", "sessions", true}, {"ed", "list", "auth", "keys", true},
		{"vera", "list", "auth", "keys", true}, {"ed", "update", "auth", "keys", false}, {"ed", "create", "auth", "keys", false},
		{"ed", "update", "other", "users", false}, {"ed", "update", "auth", "", false},
		{"nobody", "list", "auth", "users", false},
	} {
		if got := may(c.user, c.verb, c.gateway, c.resource); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// The status says how to bind the ServiceAccount until that is done. The API serves meanwhile.
func TestAdminWithoutItsBindingSaysHowToBindIt(t *testing.T) {
	t.Parallel()
	e := readyDirectEnv(t)
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Admin.Enabled = true })
	e.shows("auth", "Ready False Progressing")
	d := e.made("auth-admin")
	e.answer(e.startPod(d, 0, false), func() (serverconfig.State, error) {
		return serverconfig.State{Reason: "may not", MayNotReview: true}, nil
	})
	e.report("auth-admin", 0)
	e.shows("auth", "AdminAvailable False ReviewsForbidden", "Ready False ReviewsForbidden", "Available True ReplicasReady")
	e.says("auth", "Ready", "ReviewsForbidden", "--serviceaccount="+e.namespace+":auth-admin")
	e.rollOut("auth-admin")
	e.shows("auth", "Ready True Ready", "AdminAvailable True ReplicasReady")
}

// Only the Deployment for administrators waits for the name of an object of theirs.
func TestAdminNameThatIsTakenDelaysOnlyAdministrators(t *testing.T) {
	t.Parallel()
	e := readyDirectEnv(t)
	e.create(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "auth-admin"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Admin.Enabled, g.Spec.Passwords.MinLength = true, 20 })
	e.says("auth", "Ready", "NameConflict", "a Service auth-admin")
	if value := variables(e.deployment("auth"))["PASSWORD_MIN_LENGTH"]; value != "20" {
		t.Errorf("the pods of the API do not follow the spec: %q", value)
	}
	if err := e.client.Get(t.Context(), e.key("auth-admin"), &appsv1.Deployment{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Deployment for administrators: %v", err)
	}
}
