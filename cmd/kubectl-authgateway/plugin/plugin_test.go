package plugin_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// The commands for accounts reach a pod through the API server, with the rights of a ServiceAccount and its name in the
// audit trail.
func TestAccountsAreAdministratedThroughAForwardedPort(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, access := f.person("ada")
	testenv.Eventually(t, time.Minute, "the API server knows the binding", func() error {
		if got := f.run("users", "find"); got.code != 0 {
			return errors.New(got.err)
		}
		return nil
	})
	if text := f.must("users", "find", "ada"); !strings.Contains(text, id) {
		t.Errorf("find: %s", text)
	}
	text := f.must("sessions", "list", "ada@example.com", "--gateway", "auth", "--service-account", "helpdesk")
	if strings.Count(text, "\n") != 2 {
		t.Errorf("sessions: %s", text)
	}
	f.must("users", "suspend", "ada", "--reason", "spam", "--namespace", f.namespace, "--context", "test",
		"--service-account", f.namespace+"/helpdesk")
	if r := f.client.Do("GET", "/users", testenv.Bearer(access), nil); r.Status != 401 {
		t.Errorf("a token of a suspended account: %v", r)
	}
	var events struct {
		Items []struct {
			Event   string
			Details map[string]any
		}
	}
	testenv.NoError(t, json.Unmarshal([]byte(f.must("events", "ada", "-o", "json", "--event", "account suspended")), &events))
	if len(events.Items) != 1 || events.Items[0].Details["actor"] != "system:serviceaccount:"+f.namespace+":helpdesk" {
		t.Errorf("the events are %+v", events)
	}
	f.must("users", "delete", id, "--yes")
	f.refused(f.run("users", "show", "ada"), 1, "no account has the username")

	// A ServiceAccount that is the caller uses its own rights, and not those of another one.
	f.bind(t, "viewer", "auth-user-viewer")
	f.refused(f.run("users", "find", "--as", "system:serviceaccount:"+f.namespace+":viewer"), 1, "cannot list resource")
	got := f.run("users", "invite", "--email", "b@example.com", "--username", "bob", "--first-name", "B", "--last-name", "C",
		"--service-account", "viewer")
	f.refused(got, 1, "may not create authgateways/users of auth")
}

func TestServiceAccountIsFoundOrNamed(t *testing.T) {
	t.Parallel()
	f := emptyFixture(t)
	f.refused(f.run("users", "find"), 1, "has no AuthGateway", "--namespace")
	f.createGateway(t, "auth", false)
	f.refused(f.run("users", "find"), 1, "does not serve administrators", `{"spec":{"admin":{"enabled":true}}}`)
	f.createGateway(t, "shop", true)
	f.refused(f.run("users", "find"), 1, "several AuthGateways", "auth, shop")
	f.refused(f.run("users", "find", "--gateway", "other"), 1, "has no AuthGateway other", "status -A")
	find := []string{"users", "find", "--gateway", "shop"}
	f.refused(f.run(find...), 1, "no ServiceAccount has a Role",
		"kubectl create rolebinding helpdesk --namespace "+f.namespace+" --role=shop-user-editor")
	f.refused(f.run(append(find, "--service-account", "other")...), 1, "there is no ServiceAccount "+f.namespace+"/other")
	f.bind(t, "viewer", "shop-user-viewer")
	// From here on only the pod is missing.
	f.refused(f.run(find...), 1, "no pod with the labels", "doctor")
	f.bind(t, "first", "shop-user-editor")
	f.refused(f.run(find...), 1, "no pod with the labels")
	f.bind(t, "second", "shop-user-editor")
	f.refused(f.run(find...), 1, "several ServiceAccounts have the Role shop-user-editor", "first", "second")
	f.refused(f.run("users", "find", "--context", "none"), 1, `context "none" does not exist`)
}

func TestStatusAndKeys(t *testing.T) {
	t.Parallel()
	f := emptyFixture(t)
	if got := f.run("status"); got.code != 0 || got.out != "" || !strings.Contains(got.err, "has no AuthGateways") {
		t.Errorf("without a gateway: %+v", got)
	}
	f.createGateway(t, "auth", true)
	f.createGateway(t, "new", false)
	f.change(t, "new", func(o map[string]any) { o["status"] = map[string]any{"observedGeneration": int64(-1)} }, "status")
	age := `\d+s`
	golden(t, f.must("status"), `
NAME  READY    STATUS       REPLICAS  ADMIN  NEXT ROTATION         AGE
auth  True     Ready        2/2       on     2026-12-01T12:00:00Z  `+age+`
new   Unknown  NotObserved  -         off    -                     `+age+`

`+f.namespace+`/new: the operator has not seen this version of the AuthGateway yet
`)
	golden(t, f.must("status", "auth"), `
Name:           auth
Namespace:      `+f.namespace+`
Ready:          True Ready
Replicas:       2/2
URL:            http://auth.`+f.namespace+`.svc
Issuer:         http://auth.test
Image:          registry.example.com/authserver:1.2.3
Admin:          on
Next rotation:  2026-12-01T12:00:00Z
Age:            `+age+`

CONDITION       STATUS  REASON         SINCE                 MESSAGE
Ready           True    Ready          2026-11-01T12:00:00Z  everything is in place
KeysReady       True    KeysPublished  2026-11-01T12:00:00Z  the keys are published
AdminAvailable  True    ReplicasReady  2026-11-01T12:00:00Z  1 replica serves administrators

KID                                          USE      ALGORITHM  PHASE     SINCE                 REMOVED
`+kidRetiring+`  access   ES256      Retiring  2026-11-01T12:00:00Z  -
`+kidSigning+`  access   ES256      Signing   2026-11-01T12:00:00Z  -
`+kidRefresh+`  refresh  ES256      Signing   2026-11-01T12:00:00Z  -
`)
	if text := f.must("status", "-A"); !strings.HasPrefix(text, "NAMESPACE") || !strings.Contains(text, f.namespace+"  auth") {
		t.Errorf("status -A: %s", text)
	}
	var list []struct{ Name, Ready, Admin string }
	testenv.NoError(t, json.Unmarshal([]byte(f.must("status", "-o", "json")), &list))
	if len(list) != 2 || list[0].Name != "auth" || list[0].Admin != "on" || list[1].Ready != "Unknown" {
		t.Errorf("status -o json: %+v", list)
	}
	if text := f.must("keys", "-g", "auth"); !strings.HasSuffix(text, "\nThe next rotation begins at 2026-12-01T12:00:00Z.\n") {
		t.Errorf("keys: %s", text)
	}
	if text := f.must("keys", "-g", "auth", "-o", "yaml"); strings.Count(text, "kid: ") != 3 || !strings.Contains(text, "use: refresh") {
		t.Errorf("keys -o yaml: %s", text)
	}
	f.refused(f.run("keys", "-g", "new"), 1, "has no keys yet")
}

// golden compares an output with a text, whose lines may contain `\d+s` for an age.
func golden(t *testing.T, got, want string) {
	t.Helper()
	pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimPrefix(want, "\n")), regexp.QuoteMeta(`\d+s`), `\d+s`)
	if !regexp.MustCompile("^" + pattern + "$").MatchString(got) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// change changes an AuthGateway or its status.
func (f *fixture) change(t *testing.T, name string, change func(map[string]any), subresources ...string) {
	t.Helper()
	client := f.objects.Resource(gateways).Namespace(f.namespace)
	object := testenv.Must(client.Get(t.Context(), name, metav1.GetOptions{}))(t)
	change(object.Object)
	_, err := client.Update(t.Context(), object, metav1.UpdateOptions{}, subresources...)
	testenv.NoError(t, err)
}

func (f *fixture) gateway(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	return testenv.Must(f.objects.Resource(gateways).Namespace(f.namespace).Get(t.Context(), "auth", metav1.GetOptions{}))(t)
}

func TestKeysAreRotatedAndRevoked(t *testing.T) {
	t.Parallel()
	f := emptyFixture(t)
	f.createGateway(t, "auth", false)
	at := time.Date(2026, 11, 2, 10, 0, 0, 5, time.UTC)
	f.now = func() time.Time { return at }
	f.must("rotate")
	if got := f.gateway(t).GetAnnotations()["authgateway.io/rotate"]; got != "2026-11-02T10:00:00.000000005Z" {
		t.Errorf("the annotation is %q", got)
	}
	f.refused(f.run("revoke"), 2, "KID is missing")
	f.refused(f.run("revoke", "unknown"), 1, `no key of `+f.namespace+`/auth has the kid "unknown"`)
	f.refused(f.run("revoke", kidSigning), 1, "Every token that this access key", "add --yes")
	revoked := func() []string {
		list, _, err := unstructured.NestedStringSlice(f.gateway(t).Object, "spec", "keys", "revoked")
		testenv.NoError(t, err)
		return list
	}
	if got := revoked(); len(got) != 0 {
		t.Errorf("a question without an answer revokes %q", got)
	}
	if got := f.answer(t.Context(), "yes\n", "revoke", kidSigning); got.code != 0 || !strings.Contains(got.out, "kubectl rollout restart") {
		t.Errorf("revoke: %+v", got)
	}
	f.must("revoke", kidRefresh, "--yes")
	if got := revoked(); len(got) != 2 || got[0] != kidSigning || got[1] != kidRefresh {
		t.Errorf("the revoked keys are %q", got)
	}
	if text := f.must("revoke", kidRefresh, "--yes"); !strings.Contains(text, "nothing to do") {
		t.Errorf("revoked again: %s", text)
	}
	// Both uses have a key that is published already.
	f.change(t, "auth", func(o map[string]any) {
		keys := o["status"].(map[string]any)["keys"].(map[string]any)
		for _, use := range []string{"access", "refresh"} {
			list := keys[use].([]any)
			list[len(list)-1].(map[string]any)["phase"] = "Published"
		}
	}, "status")
	at = at.Add(time.Hour)
	if text := f.must("rotate"); !strings.Contains(text, "already in progress") {
		t.Errorf("rotate: %s", text)
	}
	if got := f.gateway(t).GetAnnotations()["authgateway.io/rotate"]; !strings.HasPrefix(got, "2026-11-02T10:") {
		t.Errorf("another rotation is ordered: %s", got)
	}
}

// A list of revoked keys that another person changes in the meantime is not overwritten.
func TestRevocationsAtTheSameTimeAreNotLost(t *testing.T) {
	t.Parallel()
	f := emptyFixture(t)
	f.createGateway(t, "auth", false)
	input, answer := io.Pipe()
	out, stderr := new(testenv.Output), new(testenv.Output)
	code := make(chan int)
	go func() {
		code <- f.startWith(t.Context(), input, out, stderr, "revoke", kidSigning)
	}()
	stderr.WaitFor(t, time.Minute, "Revoke it?")
	f.must("revoke", kidRefresh, "--yes")
	_, err := io.WriteString(answer, "yes\n")
	testenv.NoError(t, err)
	if got := <-code; got != 1 || !stderr.Contains("has changed in the meantime") {
		t.Errorf("exit code %d: %s", got, stderr)
	}
}

func TestVerifyNamesTheMistake(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id, access := f.person("ada")
	text := f.must("verify", access)
	for _, part := range []string{"valid for 1", "Subject: +" + id, "Username: +ada", "Issuer: +http://auth.test"} {
		if !regexp.MustCompile(part).MatchString(text) {
			t.Errorf("verify lacks %q: %s", part, text)
		}
	}
	if got := f.answer(t.Context(), access+"\n", "verify", "-", "-o", "json"); got.code != 0 || !strings.Contains(got.out, `"sub": "`+id+`"`) {
		t.Errorf("from the standard input: %+v", got)
	}
	f.refused(f.answer(t.Context(), "", "verify", "-"), 1, "the standard input has no token")
	f.refused(f.run("verify", "something"), 1, "the token is invalid: ")
	f.refused(f.run("verify", access[:len(access)-8]+"AAAAAAAA"), 1, "the token is invalid: ")
	f.refused(f.run("verify", access, "--audience", "https://shop.example.com"), 1, "AUDIENCE")
	f.now = func() time.Time { return time.Now().Add(time.Hour) }
	f.refused(f.run("verify", access), 1, "expired")
	testenv.NoError(t, f.api.CoreV1().ConfigMaps(f.namespace).Delete(t.Context(), "auth-public-keys", metav1.DeleteOptions{}))
	f.refused(f.run("verify", access), 1, "there is no ConfigMap auth-public-keys")
}

// The URL of the console opens it once, with the rights of the ServiceAccount, and nothing listens after the end.
func TestConsoleOpensOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	testenv.Until(t, time.Minute, "the API server knows the binding", func() bool { return f.run("users", "find").code == 0 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	opened := make(chan string, 1)
	f.browse = func(_ context.Context, url string) error {
		opened <- url
		return errors.New("there is no browser")
	}
	out, stderr := new(testenv.Output), new(testenv.Output)
	code := make(chan int)
	go func() { code <- f.start(ctx, "", out, stderr, "console", "--open") }()
	stderr.WaitFor(t, time.Minute, "Press Ctrl-C")
	url := <-opened
	if !out.Contains(url+"\n") || !out.Contains("with the rights of the ServiceAccount "+f.namespace+"/helpdesk") ||
		!stderr.Contains("open the URL yourself") {
		t.Errorf("the output is %s%s", out, stderr)
	}
	get := func(client *http.Client) (status int, path string) {
		response := testenv.Must(client.Get(url))(t)
		defer response.Body.Close()
		return response.StatusCode, response.Request.URL.Path
	}
	if status, path := get(&http.Client{Jar: testenv.Must(cookiejar.New(nil))(t)}); status != 200 || path != "/console/users" {
		t.Errorf("the URL opens %s: %d", path, status)
	}
	if _, path := get(&http.Client{Jar: testenv.Must(cookiejar.New(nil))(t)}); path != "/console/sign-in" {
		t.Errorf("the second time, the URL opens %s", path)
	}
	cancel()
	if got := <-code; got != 0 {
		t.Errorf("exit code %d: %s", got, stderr)
	}
	if response, err := http.Get(url); err == nil {
		response.Body.Close()
		t.Error("the port still answers")
	}
}

func TestDoctorFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	testenv.Until(t, time.Minute, "the API server knows the binding", func() bool { return f.run("users", "find").code == 0 })
	text := f.must("doctor")
	for _, check := range []string{
		"cluster", "clock", "kinds", "operator", "your rights", "references", "conditions", "pods", "issuer", "keys", "administration",
	} {
		if !regexp.MustCompile(`(?m)^ok +` + check + ` `).MatchString(text) {
			t.Errorf("the doctor does not say that %s is in order:\n%s", check, text)
		}
	}
	if strings.Contains(text, "fail") || strings.Contains(text, "warn") {
		t.Errorf("the doctor finds something in a healthy gateway:\n%s", text)
	}
	finds := func(what string, args []string, patterns ...string) {
		t.Helper()
		got := f.run(append([]string{"doctor"}, args...)...)
		if got.code != 1 || !strings.Contains(got.err, "checks failed") {
			t.Errorf("%s: %+v", what, got)
		}
		for _, pattern := range patterns {
			if !regexp.MustCompile(`(?m)` + pattern).MatchString(got.out) {
				t.Errorf("%s: the doctor does not find %s:\n%s", what, pattern, got.out)
			}
		}
	}
	ctx := t.Context()

	f.now = func() time.Time { return time.Now().Add(time.Hour) }
	if text := f.must("doctor"); !regexp.MustCompile(`(?m)^warn +clock +this machine is 1h0m\d+s ahead of the API server`).MatchString(text) {
		t.Errorf("clocks that differ: %s", text)
	}
	f.now = time.Now

	testenv.NoError(t, f.api.CoreV1().Secrets(f.namespace).Delete(ctx, "auth-db", metav1.DeleteOptions{}))
	finds("a missing Secret", nil, `^fail +references +there is no Secret auth-db, which spec\.database\.credentialsSecretRef names$`,
		`kubectl explain authgateway\.spec\.database\.credentialsSecretRef$`)
	f.secret(t, "auth-db", map[string]string{"password": plantedSecret})

	f.change(t, "auth", func(o map[string]any) {
		for _, c := range o["status"].(map[string]any)["conditions"].([]any) {
			if condition := c.(map[string]any); condition["type"] == "Ready" {
				condition["status"], condition["reason"], condition["message"] = "False", "SecretInvalid", "auth-db lacks the key username"
			}
		}
	}, "status")
	finds("a condition", nil, `^fail +conditions +Ready is False \(SecretInvalid\): auth-db lacks the key username$`,
		`Read docs/runbooks\.md#secretinvalid\.$`)

	f.change(t, "auth", func(o map[string]any) { o["status"].(map[string]any)["issuer"] = "http://other.test" }, "status")
	finds("another issuer", nil, `^fail +issuer +the pod auth-0 says that its issuer is http://auth\.test; the AuthGateway has http://other\.test$`)

	f.change(t, "auth", func(o map[string]any) { o["spec"].(map[string]any)["shutdown"] = map[string]any{"drainDelay": "7s"} })
	finds("an operator that does not run", nil, `^fail +operator +it has not seen generation 2 of auth$`)

	pod := testenv.Must(f.api.CoreV1().Pods(f.namespace).Get(ctx, "auth-admin-0", metav1.GetOptions{}))(t)
	pod.Status.Conditions[0].Status = corev1.ConditionFalse
	pod.Status.ContainerStatuses[0].Ready = false
	pod.Status.ContainerStatuses[0].RestartCount = 3
	pod.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
		ExitCode: 2, Message: "DB_HOST: is not set\n",
	}
	testenv.Must(f.api.CoreV1().Pods(f.namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}))(t)
	finds("a pod that fails", nil, `^fail +pods +auth-admin-0 is not ready: authserver ended with 2: DB_HOST: is not set$`,
		`kubectl logs --namespace `+f.namespace+` auth-admin-0 --container authserver --previous$`, `^fail +administration +no pod with the labels`)

	finds("a gateway that does not exist", []string{"--gateway", "other"}, `^fail +gateway +namespace \S+ has no AuthGateway other`)
	stranger := []string{"--as", "stranger"}
	finds("a caller without rights", stranger, `^warn +your rights +you lack some`, `patch authgateways, for rotate and revoke$`)
}

// The Role that docs/administration.md shows for people without the role admin is enough.
func TestDocumentedRoleIsEnough(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	page := string(testenv.Must(os.ReadFile("../../../docs/administration.md"))(t))
	_, text, found := strings.Cut(page, "```yaml\napiVersion: rbac.authorization.k8s.io/v1\nkind: Role\n")
	text, _, _ = strings.Cut(text, "```")
	var role rbacv1.Role
	testenv.NoError(t, yaml.UnmarshalStrict([]byte(text), &role))
	if !found || len(role.Rules) == 0 {
		t.Fatalf("docs/administration.md has no Role: %s", text)
	}
	testenv.Must(f.api.RbacV1().Roles(f.namespace).Create(t.Context(), &role, metav1.CreateOptions{}))(t)
	testenv.Must(f.api.RbacV1().RoleBindings(f.namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "carol"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "carol"}},
	}, metav1.CreateOptions{}))(t)
	testenv.Until(t, time.Minute, "the API server knows the bindings", func() bool {
		return f.run("users", "find", "--as", "carol").code == 0
	})
	text = f.must("doctor", "--as", "carol")
	for _, line := range []string{`your rights +they are enough`, `administration +the ServiceAccount \S+/helpdesk may list accounts`} {
		if !regexp.MustCompile(`(?m)^ok +` + line).MatchString(text) {
			t.Errorf("the doctor lacks %q:\n%s", line, text)
		}
	}
	f.must("status", "auth", "--as", "carol")
	f.must("rotate", "--as", "carol")
}

func TestDoctorBeforeThereIsAGateway(t *testing.T) {
	t.Parallel()
	f := emptyFixture(t)
	text := f.must("doctor")
	for _, line := range []string{
		"ok    kinds", "skip  gateway         namespace " + f.namespace + " has no AuthGateway yet", "ok    your rights",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("the doctor lacks %q:\n%s", line, text)
		}
	}
	var findings []struct{ Verdict, Check string }
	testenv.NoError(t, json.Unmarshal([]byte(f.must("doctor", "-o", "json")), &findings))
	if len(findings) != strings.Count(text, "\n")-1 {
		t.Errorf("%d findings as JSON:\n%s", len(findings), text)
	}
}

// A report has what is needed for a diagnosis, and nothing that was planted as a secret.
func TestReportHasNoSecrets(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.secret(t, "auth-keys", map[string]string{"ring.json": plantedSecret})
	f.secret(t, "of-others", map[string]string{"password": plantedSecret})
	f.change(t, "auth", func(o map[string]any) {
		o["metadata"].(map[string]any)["annotations"] = map[string]any{
			"kubectl.kubernetes.io/last-applied-configuration": plantedSecret, "authgateway.io/rotate": "an order",
		}
		o["spec"].(map[string]any)["podTemplate"] = map[string]any{
			"annotations": map[string]any{"example.com/note": plantedSecret},
			"sidecars": []any{map[string]any{
				"name": "proxy", "image": "registry.example.com/proxy:1", "env": map[string]any{"TOKEN": plantedSecret},
				"args": []any{"--password=" + plantedSecret}, "command": []any{"/proxy", plantedSecret},
			}},
		}
	})
	testenv.Must(f.api.CoreV1().Events(f.namespace).Create(t.Context(), &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "one"}, Reason: "Failed", Type: "Warning",
		Message:        "cannot reach postgres://auth:" + plantedSecret + "@postgres/auth",
		InvolvedObject: corev1.ObjectReference{Kind: "AuthGateway", Name: "auth", Namespace: f.namespace},
	}, metav1.CreateOptions{}))(t)

	path := filepath.Join(t.TempDir(), "report.tar.gz")
	if text := f.must("report", "--file", path); !strings.Contains(text, "no Secrets") {
		t.Errorf("report: %s", text)
	}
	files := unpack(t, path)
	for name, part := range map[string]string{
		"authgateway.yaml": "authgateway.io/rotate: an order", "pods/auth-0.yaml": "LOG_LEVEL", "secrets.txt": "auth-keys\n",
		"logs/auth-0.log": "a log of auth-0", "logs/auth-admin-0.log": "a log of auth-admin-0", "doctor.txt": "ok    cluster", "events.txt": "AuthGateway/auth",
		"versions.txt": "v1.2.3-test",
	} {
		if !strings.Contains(files[name], part) {
			t.Errorf("%s lacks %q:\n%s", name, part, files[name])
		}
	}
	if !strings.Contains(files["pods/auth-0.yaml"], "value: debug") {
		t.Errorf("a setting without a secret is left out:\n%s", files["pods/auth-0.yaml"])
	}
	for name, text := range files {
		if strings.Contains(text, plantedSecret) {
			t.Errorf("%s has a secret:\n%s", name, text)
		}
		if strings.Contains(text, "eyJhbGciOiJFUzI1NiJ9.") {
			t.Errorf("%s has a token", name)
		}
		if strings.Contains(text, "kind: Secret\n") || strings.Contains(text, "of-others") {
			t.Errorf("%s has a Secret", name)
		}
	}
	if info := testenv.Must(os.Stat(path))(t); info.Mode().Perm() != 0o600 {
		t.Errorf("others may read it: %v", info.Mode())
	}
	f.refused(f.run("report", "--file", path), 1, "exists already")
}

func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	file := testenv.Must(os.Open(path))(t)
	defer file.Close()
	archive := tar.NewReader(testenv.Must(gzip.NewReader(file))(t))
	files := map[string]string{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		testenv.NoError(t, err)
		files[strings.TrimPrefix(header.Name, "authgateway-report/")] = string(testenv.Must(io.ReadAll(archive))(t))
	}
}

// A report goes on if something may not be read, and says so.
func TestReportNamesWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	f := emptyFixture(t)
	f.createGateway(t, "auth", false)
	f.bindReader(t, "reader")
	path := filepath.Join(t.TempDir(), "report.tar.gz")
	got := f.run("report", "--file", path, "--as", "system:serviceaccount:"+f.namespace+":reader")
	if got.code != 0 || !strings.Contains(got.err, "left out: names of Secrets: ") || !strings.Contains(got.err, "left out: pods: ") {
		t.Errorf("got %+v", got)
	}
	files := unpack(t, path)
	if files["authgateway.yaml"] == "" || !strings.Contains(files["problems.txt"], "names of Secrets: ") {
		t.Errorf("the files are %v", files)
	}
}

func TestCommandsAreComplete(t *testing.T) {
	t.Parallel()
	f := emptyFixture(t)
	help := f.must("--help")
	for _, name := range []string{
		"status", "users", "sessions", "events", "keys", "rotate", "revoke", "verify", "doctor", "report", "console", "completion",
	} {
		if !regexp.MustCompile(`(?m)^  ` + name + ` +\S`).MatchString(help) {
			t.Errorf("the help lacks %s:\n%s", name, help)
		}
	}
	if !strings.Contains(help, "kubectl authgateway [command]") {
		t.Errorf("the help has another name:\n%s", help)
	}
	if text := f.must("--version"); text != "v1.2.3-test\n" {
		t.Errorf("the version is %q", text)
	}
	for _, args := range [][]string{
		{"dance"}, {"users", "dance"}, {"users"}, {"status", "a", "b"}, {"keys", "x"}, {"console", "--port", "70000"}, {"verify"},
	} {
		got := f.run(args...)
		f.refused(got, 2, "kubectl authgateway: ", "; see kubectl authgateway ")
		if got.out != "" {
			t.Errorf("%v prints %s", args, got.out)
		}
	}
	f.createGateway(t, "auth", false)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"status", ""}, "auth\n"}, {[]string{"revoke", ""}, kidSigning + "\taccess, Signing"}, {[]string{"users", "find", "-o", ""}, "yaml"},
		{[]string{"keys", "--gateway", ""}, "auth\n"},
	} {
		got := f.answer(t.Context(), "", append([]string{"__complete"}, append([]string{"--kubeconfig", f.kubeconf}, tc.args...)...)...)
		if !strings.Contains(got.out, tc.want) {
			t.Errorf("%q: %+v", tc.args, got)
		}
	}
}
