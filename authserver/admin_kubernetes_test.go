package authserver_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
	"github.com/auth-gateway/auth-gateway/keys"
)

// kubernetesAdmins is a server for administrators of the gateway auth in a namespace of a real API server.
type kubernetesAdmins struct {
	t         *testing.T
	namespace string
	api       *kubernetes.Clientset // a cluster administrator's
	clock     *testenv.Clock        // of the server
	server    *gatewaytest.Server
	client    *testenv.Client
}

// audience is that of the tokens that the server accepts.
func (k *kubernetesAdmins) audience() string { return "authgateway.io/" + k.namespace + "/auth" }

// onKubernetes starts a server for administrators over the database of a cluster, whose access to the API server is
// changed.
func onKubernetes(c *cluster, t *testing.T, change func(*rest.Config), changes ...env) *kubernetesAdmins {
	t.Helper()
	if testing.Short() {
		t.Skip("the test needs an API server")
	}
	access := kubernetestest.Config(t)
	k := &kubernetesAdmins{
		t: t, namespace: kubernetestest.Namespace(t), api: testenv.Must(kubernetes.NewForConfig(access))(t), clock: &testenv.Clock{},
	}
	access = rest.CopyConfig(access)
	change(access)
	settings := gatewaytest.Environ(c.db, append([]env{{
		"ADMIN_PORT": "3", "ADMIN_KUBERNETES": k.namespace + "/auth",
		"ACCESS_PASSPHRASE": unset, "REFRESH_PASSPHRASE": unset,
	}}, changes...)...)
	k.server = testenv.Must(gatewaytest.Start(t, testenv.Must(config.LoadAdmin(settings.Lookup, os.ReadFile))(t), authserver.Options{
		Log: c.logs.logger(), Version: "test", Now: k.clock.Now, Kubernetes: access,
	}))(t)
	t.Cleanup(func() {
		if err := k.server.End(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	k.client = testenv.NewClient(t, k.server.Admin)
	return k
}

func (k *kubernetesAdmins) waitReady() {
	k.t.Helper()
	testenv.Until(k.t, time.Minute, "the server is ready", func() bool {
		status, _ := k.server.Probe("/readyz")
		return status == http.StatusOK
	})
}

// account creates a ServiceAccount.
func (k *kubernetesAdmins) account(name string) {
	k.t.Helper()
	_, err := k.api.CoreV1().ServiceAccounts(k.namespace).Create(k.t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	testenv.NoError(k.t, err)
}

// token returns a token of a ServiceAccount, as kubectl create token does.
func (k *kubernetesAdmins) token(account string, audiences ...string) string {
	k.t.Helper()
	r, err := k.api.CoreV1().ServiceAccounts(k.namespace).CreateToken(k.t.Context(), account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: audiences},
	}, metav1.CreateOptions{})
	testenv.NoError(k.t, err)
	return r.Status.Token
}

// bind grants rights on a gateway to a ServiceAccount, and waits until the API server knows it.
func (k *kubernetesAdmins) bind(account, gateway string, rights ...admin.Right) {
	k.t.Helper()
	rules := make([]rbacv1.PolicyRule, len(rights))
	for i, r := range rights {
		rules[i] = rbacv1.PolicyRule{
			APIGroups: []string{"authgateway.io"}, Resources: []string{"authgateways/" + string(r.Resource)},
			ResourceNames: []string{gateway}, Verbs: []string{string(r.Verb)},
		}
	}
	meta := metav1.ObjectMeta{Name: account}
	_, err := k.api.RbacV1().Roles(k.namespace).Create(k.t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
	testenv.NoError(k.t, err)
	_, err = k.api.RbacV1().RoleBindings(k.namespace).Create(k.t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: account},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: k.namespace, Name: account}},
	}, metav1.CreateOptions{})
	testenv.NoError(k.t, err)
}

// forged signs a token again after a change of its claims, with the key of the API server.
func (k *kubernetesAdmins) forged(token string, change func(jwt.MapClaims)) string {
	k.t.Helper()
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	testenv.NoError(k.t, err)
	change(parsed.Claims.(jwt.MapClaims))
	key := testenv.Must(jwt.ParseECPrivateKeyFromPEM(kubernetestest.SignerKey(k.t)))(k.t)
	return testenv.Must(parsed.SignedString(key))(k.t)
}

func (k *kubernetesAdmins) as(token, method, path string) *testenv.Reply {
	k.t.Helper()
	header := http.Header{}
	if token != "" {
		header = testenv.Bearer(token)
	}
	return k.client.Do(method, path, header, nil)
}

func TestAdminOnKubernetesIsDecidedByRBAC(t *testing.T) {
	t.Parallel()
	c, n := single(t)
	published := filepath.Join(t.TempDir(), keys.PublicDocumentFile)
	ofOperator := prepareRotation(t).published
	testenv.NoError(t, os.WriteFile(published, keys.PublicFiles(ofOperator, issuer)[keys.PublicDocumentFile], 0o600))
	k := onKubernetes(c, t, func(*rest.Config) {}, env{"KEYS_PUBLISHED": published})
	k.waitReady()
	for _, account := range []string{"stranger", "viewer", "editor", "elsewhere", "deleted"} {
		k.account(account)
	}
	k.bind("viewer", "auth", admin.Roles["viewer"]...)
	k.bind("editor", "auth", admin.Rights...)
	k.bind("elsewhere", "other", admin.Rights...)
	k.bind("deleted", "auth", admin.Rights...)
	token := func(account string) string { return k.token(account, k.audience()) }
	u := n.newUser()
	callers := map[string]string{
		"":                       "",
		"no JWT":                 "something",
		"a token of a user":      u.access,
		"a key of a file":        "agadmin_ABCDEFGHIJKLMNOPQRSTUVWXYZ",
		"for the API server":     k.token("editor"),
		"for another gateway":    k.token("editor", "authgateway.io/"+k.namespace+"/other"),
		"for another namespace":  k.token("editor", "authgateway.io/other/auth"),
		"for a longer audience":  k.token("editor", k.audience()+"/x"),
		"expired":                k.forged(token("editor"), func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Minute).Unix() }),
		"not valid yet":          k.forged(token("editor"), func(c jwt.MapClaims) { c["nbf"] = time.Now().Add(time.Hour).Unix() }),
		"of another issuer":      k.forged(token("editor"), func(c jwt.MapClaims) { c["iss"] = "https://example.com" }),
		"with another signature": token("editor")[:len(token("editor"))-20] + strings.Repeat("A", 20),
		"of a deleted account":   token("deleted"),
		"stranger":               token("stranger"), "elsewhere": token("elsewhere"),
		"viewer": token("viewer"), "editor": token("editor"),
		"for two audiences": k.token("editor", "https://example.com", k.audience()),
		"signed again":      k.forged(token("editor"), func(jwt.MapClaims) {}), // shows that the forged ones fail for their claims
	}
	testenv.NoError(t, k.api.CoreV1().ServiceAccounts(k.namespace).Delete(t.Context(), "deleted", metav1.DeleteOptions{}))
	testenv.Until(t, time.Minute, "the API server knows the bindings", func() bool {
		return k.as(callers["viewer"], "GET", "/admin/users").Status == 200 && k.as(callers["editor"], "GET", "/admin/users").Status == 200 &&
			k.as(callers["of a deleted account"], "GET", "/admin/users").Status == 401
	})
	user := "/admin/users/" + u.id
	invite := body{"state": "invited", "email": "new@example.com", "username": "new", "first_name": "A", "last_name": "B"}
	for _, route := range []struct {
		method, path   string
		body           any
		viewer, editor int // else 403
	}{
		{"GET", "/admin/users", nil, 200, 200},
		{"POST", "/admin/users", invite, 403, 200}, // the same key each time
		{"GET", user, nil, 200, 200},
		{"PATCH", user, body{"first_name": "Ada"}, 403, 200},
		{"POST", user + "/suspend", nil, 403, 200},
		{"POST", user + "/unsuspend", nil, 403, 200},
		{"POST", user + "/require-password-change", nil, 403, 200},
		{"POST", user + "/resend-verification", nil, 403, 409},
		{"POST", user + "/sign-out", nil, 403, 200},
		{"GET", user + "/sessions", nil, 200, 200},
		{"DELETE", user + "/sessions/" + u.id, nil, 403, 404},
		{"GET", user + "/export", nil, 200, 200},
		{"GET", "/admin/events", nil, 200, 200},
		{"GET", "/admin/keys", nil, 200, 200},
		{"POST", "/admin/keys/rotate", nil, 403, 409},
		{"POST", "/admin/keys/" + ofOperator.Keys[0].ID + "/revoke", nil, 403, 409},
		{"DELETE", "/admin/users/" + strings.ReplaceAll(u.id, u.id[:4], "0000"), nil, 403, 404},
		{"GET", "/admin/openapi.json", nil, 200, 200},
	} {
		for who, credential := range callers {
			want := map[string]int{
				"stranger": 403, "elsewhere": 403, "viewer": route.viewer,
				"editor": route.editor, "for two audiences": route.editor, "signed again": route.editor,
			}[who]
			switch {
			case route.path == "/admin/openapi.json":
				want = 200 // for everyone
			case want == 0:
				want = 401
			}
			header := http.Header{"Idempotency-Key": {"the same"}}
			if credential != "" {
				header.Set("Authorization", "Bearer "+credential)
			}
			r := k.client.Do(route.method, route.path, header, route.body)
			if r.Status != want && (r.Status != 201 || want != 200) {
				t.Errorf("%s %s by %q: %v, want %d", route.method, route.path, who, r, want)
			}
			if want == 409 && strings.HasPrefix(route.path, "/admin/keys") && (r.Text("reason") != "keys_elsewhere" ||
				!strings.Contains(r.Text("error_description"), "kubectl annotate agw auth --namespace "+k.namespace)) {
				t.Errorf("%s by %q: %v", route.path, who, r)
			}
		}
	}
	if shown := ringOf(t, k.as(callers["viewer"], "GET", "/admin/keys")); shown.Generation != ofOperator.Generation ||
		len(shown.in("access", "Published")) != 1 || len(shown.Items) != len(ofOperator.Keys) {
		t.Errorf("the keys are %+v", shown)
	}
	for who, text := range map[string]string{
		"for the API server": "--audience=" + k.audience(), "for another gateway": "another audience", "expired": "has expired",
		"no JWT": "does not know this token",
		"viewer": "system:serviceaccount:" + k.namespace + ":viewer may not delete authgateways/users of auth in namespace " + k.namespace,
	} {
		if r := k.as(callers[who], "DELETE", user); !strings.Contains(r.Text("error_description"), text) {
			t.Errorf("the reply to %s is %v", who, r)
		}
	}
	var events struct {
		Items []struct {
			Event   identity.EventName
			Details map[string]any
		}
	}
	want(t, 200, k.as(callers["viewer"], "GET", "/admin/events?user="+u.id)).JSON(t, &events)
	actors := map[any]bool{}
	for _, e := range events.Items {
		if e.Event == admin.EventSuspended {
			actors[e.Details["actor"]] = true
		}
	}
	if want := map[any]bool{"system:serviceaccount:" + k.namespace + ":editor": true}; !maps.Equal(actors, want) {
		t.Errorf("the suspensions are those of %v", actors)
	}
	for who, credential := range callers {
		if len(credential) > 20 && c.logs.Contains(credential) {
			t.Errorf("the token %q is in the log", who)
		}
	}
	if r := n.try("GET", "/admin/users", testenv.Bearer(callers["editor"]), nil); r.Status != 404 {
		t.Errorf("the port of the API: %v", r)
	}
}

// A right that is taken away is refused within the seconds that a decision is remembered.
func TestAdminOnKubernetesForgetsARightThatIsTakenAway(t *testing.T) {
	t.Parallel()
	c, _ := single(t)
	k := onKubernetes(c, t, func(*rest.Config) {})
	k.account("viewer")
	k.bind("viewer", "auth", admin.Roles["viewer"]...)
	token := k.token("viewer", k.audience())
	testenv.Until(t, time.Minute, "the viewer may list", func() bool { return k.as(token, "GET", "/admin/users").Status == 200 })
	testenv.NoError(t, k.api.RbacV1().RoleBindings(k.namespace).Delete(t.Context(), "viewer", metav1.DeleteOptions{}))
	took := testenv.Eventually(t, time.Minute, "the viewer may not list", func() error {
		if r := k.as(token, "GET", "/admin/users"); r.Status != 403 {
			return errors.New(r.String())
		}
		return nil
	})
	if took > 20*time.Second { // 5 s, and a busy machine
		t.Errorf("it took %v", took)
	}
	t.Logf("refused after %v", took.Round(time.Millisecond))
}

// forwarder is a way to the API server that can be cut.
type forwarder struct {
	listener net.Listener
	target   string

	mu   sync.Mutex
	mode string // "": works; hang: accepts and never answers; gone: closes at once
	open []net.Conn
}

func newForwarder(t *testing.T, access *rest.Config) *forwarder {
	t.Helper()
	target := access.Host
	if u, err := url.Parse(access.Host); err == nil && u.Host != "" {
		target = u.Host
	}
	f := &forwarder{listener: testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t), target: target}
	t.Cleanup(func() {
		_ = f.listener.Close()
		f.set("gone")
	})
	go func() {
		for {
			in, err := f.listener.Accept()
			if err != nil {
				return
			}
			go f.serve(in)
		}
	}()
	access.Host = "https://" + f.listener.Addr().String()
	return f
}

func (f *forwarder) serve(in net.Conn) {
	f.mu.Lock()
	mode := f.mode
	f.open = append(f.open, in)
	f.mu.Unlock()
	switch mode {
	case "gone":
		_ = in.Close()
	case "":
		out, err := net.Dial("tcp", f.target)
		if err != nil {
			_ = in.Close()
			return
		}
		go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
		_, _ = io.Copy(in, out)
		_ = in.Close()
	}
}

func (f *forwarder) set(mode string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mode = mode
	for _, c := range f.open {
		_ = c.Close()
	}
	f.open = nil
}

// Without an answer no request is allowed, beyond what was decided a few seconds ago. The server stays ready, because
// no other replica would get an answer.
func TestAdminOnKubernetesWithoutAnAnswerIsClosed(t *testing.T) {
	t.Parallel()
	c, _ := single(t)
	var way *forwarder
	var failing sync.Map // the paths that are answered with 500
	k := onKubernetes(c, t, func(access *rest.Config) {
		way = newForwarder(t, access)
		access.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(q *http.Request) (*http.Response, error) {
				if _, fails := failing.Load(q.URL.Path); fails {
					return &http.Response{
						StatusCode: 500, Header: http.Header{"Content-Type": {"application/json"}}, Request: q,
						Body: io.NopCloser(strings.NewReader(`{"kind":"Status","apiVersion":"v1","status":"Failure","code":500}`)),
					}, nil
				}
				return next.RoundTrip(q)
			})
		})
	})
	k.waitReady()
	k.account("editor")
	k.bind("editor", "auth", admin.Rights...)
	token := k.token("editor", k.audience())
	works := func() {
		t.Helper()
		testenv.Until(t, time.Minute, "the editor may list", func() bool { return k.as(token, "GET", "/admin/users").Status == 200 })
	}
	undecided := func(what string) {
		t.Helper()
		for _, credential := range []string{token, "something"} {
			r := k.as(credential, "GET", "/admin/events")
			if r.Status != 503 || r.Text("reason") != "right_undecided" || r.Header.Get("Retry-After") == "" ||
				!strings.Contains(r.Text("error_description"), "did not answer the ") {
				t.Errorf("%s: %v", what, r)
			}
		}
		if status, body := k.server.Probe("/readyz"); status != 200 {
			t.Errorf("%s: /readyz is %d %s", what, status, body)
		}
	}
	works()
	for _, mode := range []string{"gone", "hang"} {
		way.set(mode)
		undecided(mode)
		way.set("")
		works()
		k.clock.Advance(6 * time.Second)
		token = k.token("editor", k.audience())
	}
	works()
	way.set("gone")
	want(t, 200, k.as(token, "GET", "/admin/users"), "what was decided just now")
	k.clock.Advance(6 * time.Second)
	want(t, 503, k.as(token, "GET", "/admin/users"), "what was decided 6 s ago")
	way.set("")
	works()
	for path, review := range map[string]string{
		"/apis/authentication.k8s.io/v1/tokenreviews": "TokenReview", "/apis/authorization.k8s.io/v1/subjectaccessreviews": "SubjectAccessReview",
	} {
		k.clock.Advance(6 * time.Second)
		failing.Store(path, true)
		r := k.as(token, "GET", "/admin/events")
		if r.Status != 503 || !strings.Contains(r.Text("error_description"), "did not answer the "+review) {
			t.Errorf("without %ss: %v", review, r)
		}
		failing.Delete(path)
	}
	works()
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(q *http.Request) (*http.Response, error) { return r(q) }

// A server whose ServiceAccount is not bound is not ready, and says why. system:auth-delegator is enough.
func TestAdminOnKubernetesNeedsOnlyAuthDelegator(t *testing.T) {
	t.Parallel()
	c, _ := single(t)
	var own string
	k := onKubernetes(c, t, func(access *rest.Config) {
		own = fmt.Sprintf("system:serviceaccount:server-%d:auth-admin", time.Now().UnixNano())
		access.Impersonate.UserName = own
	})
	k.account("editor")
	k.bind("editor", "auth", admin.Rights...)
	token := k.token("editor", k.audience())
	testenv.Until(t, time.Minute, "the server says why it is not ready", func() bool {
		status, body := k.server.Probe("/readyz")
		return status == 503 && strings.Contains(body, "system:auth-delegator")
	})
	var state config.State
	_, text := k.server.Probe("/state")
	testenv.NoError(t, json.Unmarshal([]byte(text), &state))
	if !state.MayNotReview || state.Ready || state.Keys.Generation != 0 {
		t.Errorf("/state is %s", text)
	}
	r := k.as(token, "GET", "/admin/users")
	if r.Status != 503 || !strings.Contains(r.Text("error_description"), "may not create TokenReviews") {
		t.Errorf("got %v", r)
	}
	_, err := k.api.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: k.namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:auth-delegator"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: own}},
	}, metav1.CreateOptions{})
	testenv.NoError(t, err)
	k.waitReady()
	want(t, 200, k.as(token, "GET", "/admin/users"))
}

func TestAdminOnKubernetesAsksOnceInAWhile(t *testing.T) {
	t.Parallel()
	c, n := single(t)
	u := n.newUser()
	var mu sync.Mutex
	asked := map[string]int{}
	k := onKubernetes(c, t, func(access *rest.Config) {
		access.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(q *http.Request) (*http.Response, error) {
				mu.Lock()
				asked[q.URL.Path[strings.LastIndex(q.URL.Path, "/")+1:]]++
				mu.Unlock()
				return next.RoundTrip(q)
			})
		})
	})
	k.waitReady()
	k.account("viewer")
	k.bind("viewer", "auth", admin.Roles["viewer"]...)
	token := k.token("viewer", k.audience())
	testenv.Until(t, time.Minute, "the viewer may list", func() bool { return k.as(token, "GET", "/admin/users").Status == 200 })
	mu.Lock()
	clear(asked)
	mu.Unlock()
	for range 50 {
		want(t, 200, k.as(token, "GET", "/admin/users"))
	}
	k.clock.Advance(6 * time.Second)
	want(t, 200, k.as(token, "GET", "/admin/users"))
	mu.Lock()
	if n := asked["tokenreviews"]; n < 1 || n > 4 { // one, the server's own check, and what a slow machine adds
		t.Errorf("50 requests and one after the time: %v", asked)
	}
	clear(asked)
	mu.Unlock()
	// Pages ask what to offer. A viewer lacks three rights on each, and a refusal is not remembered.
	b := newBrowser(t, k.server.Admin)
	b.send("/console/sign-in", "credential", token)
	for range 5 {
		if p := b.get("/console/users/" + u.id); p.status != 200 || !p.has(u.email) || p.has("Suspend") {
			t.Fatalf("the page is %+v", p)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if asked["tokenreviews"] > 6 || asked["subjectaccessreviews"] < 15 || asked["subjectaccessreviews"] > 30 {
		t.Errorf("signing in and five pages: %v", asked)
	}
}
