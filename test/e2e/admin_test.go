package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// bind binds a role to a ServiceAccount of the namespace, in the namespace or in the cluster.
func (p testNamespace) bind(t *testing.T, kind, role, account string) {
	t.Helper()
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role}
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: p.name, Name: account}}
	if kind == "Role" {
		p.create(t, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: account}, RoleRef: ref, Subjects: subjects})
		return
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: p.name + "-" + account}, RoleRef: ref, Subjects: subjects,
	}
	testenv.NoError(t, p.Create(t.Context(), binding))
	t.Cleanup(func() {
		if err := client.IgnoreNotFound(p.Delete(context.WithoutCancel(t.Context()), binding)); err != nil {
			t.Error(err)
		}
	})
}

// token returns a token of a ServiceAccount, as kubectl create token does.
func (p testNamespace) token(t *testing.T, account string, audiences ...string) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}
	r, err := p.clients.CoreV1().ServiceAccounts(p.name).CreateToken(t.Context(), account, request, metav1.CreateOptions{})
	testenv.NoError(t, err)
	return r.Status.Token
}

func TestAdministratorsMayDoWhatRBACAllows(t *testing.T) {
	t.Parallel()
	p, a := serving(t)
	u := a.drive(t)
	p.change(t, &v1alpha1.AuthGateway{}, "auth", `{"spec": {"admin": {"enabled": true, "replicas": 2}}}`)
	testenv.Eventually(t, later, "the status says what is missing", func() error {
		c := meta.FindStatusCondition(p.gateway(t, "auth").Status.Conditions, "AdminAvailable")
		if c == nil || c.Reason != "ReviewsForbidden" || !strings.Contains(c.Message, "--serviceaccount="+p.name+":auth-admin") {
			return fmt.Errorf("AdminAvailable is %+v", c)
		}
		return nil
	})
	a.must(t, http.StatusOK, http.MethodGet, "/users", u.access, nil) // the API serves meanwhile
	p.bind(t, "ClusterRole", "system:auth-delegator", "auth-admin")
	figure(t, "administrators are served %.1f s after the binding", p.ready(t, "auth", later).Seconds())

	for _, name := range []string{"viewer", "editor", "stranger"} {
		p.create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	p.bind(t, "Role", "auth-user-viewer", "viewer")
	p.bind(t, "Role", "auth-user-editor", "editor")
	audience := "authgateway.io/" + p.name + "/auth"
	viewer, editor := p.token(t, "viewer", audience), p.token(t, "editor", audience)
	admins := a
	admins.url, admins.callerKey = "http://auth-admin."+p.name+".svc", ""
	expect := func(want int, method, path, token string) map[string]any {
		t.Helper()
		var reply map[string]any
		testenv.Eventually(t, soon, fmt.Sprintf("%s %s is answered %d", method, path, want), func() error {
			status, got := admins.call(t, method, path, "", token, nil)
			if reply = got; status != want {
				return fmt.Errorf("%d: %v", status, got["error_description"])
			}
			return nil
		})
		return reply
	}
	found, _ := expect(http.StatusOK, http.MethodGet, "/admin/users?username="+u.name, viewer)["items"].([]any)
	if len(found) != 1 {
		t.Fatalf("the viewer finds %v", found)
	}
	id, _ := found[0].(map[string]any)["id"].(string)
	user := "/admin/users/" + id
	expect(http.StatusForbidden, http.MethodPost, user+"/suspend", viewer)
	expect(http.StatusForbidden, http.MethodGet, user, p.token(t, "stranger", audience))
	expect(http.StatusUnauthorized, http.MethodGet, user, p.token(t, "editor"))
	expect(http.StatusUnauthorized, http.MethodGet, user, p.token(t, "editor", "authgateway.io/"+p.name+"/other"))
	expect(http.StatusUnauthorized, http.MethodGet, user, u.access)
	if status, _ := a.call(t, http.MethodGet, "/admin/users", "", editor, nil); status != http.StatusNotFound {
		t.Errorf("the port of the API answers an administrator with %d", status)
	}
	if state := expect(http.StatusOK, http.MethodPost, user+"/suspend", editor)["state"]; state != "suspended" {
		t.Errorf("the editor has suspended the account: %v", state)
	}
	if status, _ := a.call(t, http.MethodGet, "/users", a.callerKey, u.access, nil); status != http.StatusUnauthorized {
		t.Errorf("the token of the suspended user is answered %d", status)
	}
	events := asJSON(t, expect(http.StatusOK, http.MethodGet, "/admin/events?user="+id, viewer))
	if !strings.Contains(string(events), "system:serviceaccount:"+p.name+":editor") {
		t.Errorf("the trail is %s", events)
	}

	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{ // kubectl auth can-i
		User: "system:serviceaccount:" + p.name + ":viewer",
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: p.name, Verb: "list", Group: "authgateway.io", Resource: "authgateways", Subresource: "users", Name: "auth",
		},
	}}
	testenv.NoError(t, p.Create(t.Context(), review))
	if !review.Status.Allowed {
		t.Errorf("kubectl auth can-i says no: %s", review.Status.Reason)
	}
	for _, secret := range []string{viewer, editor} {
		for what, text := range p.everythingSaid(t) {
			if strings.Contains(text, secret) {
				t.Errorf("%s contains a token", what)
			}
		}
	}

	testenv.NoError(t, p.Delete(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: p.name, Name: "editor"}}))
	figure(t, "a right that is taken away is refused after %.1f s", testenv.Eventually(t, soon, "the editor is refused", func() error {
		if status, _ := admins.call(t, http.MethodGet, user, "", editor, nil); status != http.StatusForbidden {
			return fmt.Errorf("%d", status)
		}
		return nil
	}).Seconds())
	p.change(t, &v1alpha1.AuthGateway{}, "auth", `{"spec": {"admin": null}}`)
	testenv.Eventually(t, later, "the pods for administrators are gone", func() error {
		var pods corev1.PodList
		err := p.List(t.Context(), &pods, client.InNamespace(p.name), client.MatchingLabels{"app.kubernetes.io/name": "authserver-admin"})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("there are %d", len(pods.Items))
		}
		return err
	})
	p.ready(t, "auth", later)
}
