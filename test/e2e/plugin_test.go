package e2e

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// plugin is kubectl authgateway, as a ServiceAccount runs it.
type plugin struct {
	program, kubeconfig string
}

// outcome is the result of a command.
type outcome struct {
	code     int
	out, err string
}

// pluginOf writes a kubeconfig file with a token of a ServiceAccount, and returns the plugin with it.
func (p testNamespace) pluginOf(t *testing.T, program, account string) plugin {
	t.Helper()
	access := rest.CopyConfig(p.config)
	testenv.NoError(t, rest.LoadTLSFiles(access))
	file := filepath.Join(t.TempDir(), "kubeconfig")
	testenv.NoError(t, clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"e2e": {
			Server: access.Host, CertificateAuthorityData: access.CAData,
			TLSServerName: access.ServerName, InsecureSkipTLSVerify: access.Insecure,
		}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"e2e": {Token: p.token(t, account)}},
		Contexts:       map[string]*clientcmdapi.Context{"e2e": {Cluster: "e2e", AuthInfo: "e2e", Namespace: p.name}},
		CurrentContext: "e2e",
	}, file))
	return plugin{program, file}
}

// answer runs a command with a standard input.
func (k plugin) answer(t *testing.T, input string, args ...string) outcome {
	t.Helper()
	var out, stderr bytes.Buffer
	command := exec.CommandContext(t.Context(), k.program, append([]string{"--kubeconfig", k.kubeconfig}, args...)...)
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(input), &out, &stderr
	err := command.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatalf("run %v: %v", args, err)
	}
	return outcome{command.ProcessState.ExitCode(), out.String(), stderr.String()}
}

// must runs a command that succeeds.
func (k plugin) must(t *testing.T, args ...string) string {
	t.Helper()
	got := k.answer(t, "", args...)
	if got.code != 0 {
		t.Errorf("%v: %+v", args, got)
	}
	return got.out
}

// refused runs a command that fails, with all of the texts in its error, and prints nothing else.
func (k plugin) refused(t *testing.T, args []string, texts ...string) {
	t.Helper()
	got := k.answer(t, "", args...)
	if got.code != 1 || got.out != "" {
		t.Errorf("%v: %+v", args, got)
	}
	for _, text := range texts {
		if !strings.Contains(got.err, text) {
			t.Errorf("%v: the error lacks %q: %s", args, text, got.err)
		}
	}
}

// grant creates a Role and binds it to a ServiceAccount of the namespace.
func (p testNamespace) grant(t *testing.T, account string, role *rbacv1.Role) {
	t.Helper()
	p.create(t, role, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: p.name, Name: account}},
	})
}

// documentedRole returns the Role for the plugin that docs/administration.md shows.
func documentedRole(t *testing.T, root string) *rbacv1.Role {
	t.Helper()
	page := string(testenv.Must(os.ReadFile(filepath.Join(root, "docs", "administration.md")))(t))
	for block := range strings.SplitSeq(page, "```yaml\n") {
		text, _, _ := strings.Cut(block, "```")
		role := &rbacv1.Role{}
		if strings.Contains(text, "\nkind: Role\n") {
			testenv.NoError(t, yaml.UnmarshalStrict([]byte(text), role))
			return role
		}
	}
	t.Fatal("docs/administration.md has no Role")
	return nil
}

// A ServiceAccount with the rights that docs/administration.md names, and with no others, administers a gateway with the
// plugin. One that lacks a right learns which.
func TestThePluginAdministersAGateway(t *testing.T) {
	t.Parallel()
	lead := connect(t).lead(t)
	p, a := serving(t, func(s *v1alpha1.AuthGatewaySpec) { s.Keys.PublishLead = v1alpha1.Duration(seconds(lead)) })
	spammer, other := a.drive(t), a.drive(t)
	p.bind(t, "ClusterRole", "system:auth-delegator", "auth-admin")
	p.change(t, &v1alpha1.AuthGateway{}, "auth", `{"spec": {"admin": {"enabled": true}}}`)
	p.ready(t, "auth", later)

	program := filepath.Join(t.TempDir(), "kubectl-authgateway")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = filepath.Join(p.root, "cmd", "kubectl-authgateway")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, text)
	}
	for _, account := range []string{"helpdesk", "viewer", "stranger"} {
		p.create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}})
	}
	p.bind(t, "Role", "auth-user-editor", "helpdesk")
	p.bind(t, "Role", "auth-user-viewer", "viewer")
	role := documentedRole(t, p.root)
	p.grant(t, "helpdesk", role)
	copied := role.DeepCopy()
	copied.ObjectMeta = metav1.ObjectMeta{Name: "plugin-viewer"}
	for i := range copied.Rules {
		for j, name := range copied.Rules[i].ResourceNames {
			copied.Rules[i].ResourceNames[j] = strings.Replace(name, "helpdesk", "viewer", 1)
		}
	}
	p.grant(t, "viewer", copied)
	p.grant(t, "stranger", &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"authgateway.io"}, Resources: []string{"authgateways"}, Verbs: []string{"get", "list"},
	}}})
	desk := p.pluginOf(t, program, "helpdesk")
	testenv.Eventually(t, soon, "the plugin lists accounts", func() error {
		if got := desk.answer(t, "", "users", "find"); got.code != 0 {
			return errors.New(got.err)
		}
		return nil
	})

	if text := desk.must(t, "status"); !strings.Contains(text, "auth  True   Ready") {
		t.Errorf("status: %s", text)
	}
	p.administersAccounts(t, a, desk, spammer)
	p.rotates(t, a, desk, other, untilItSigns(lead))
	if text := desk.must(t, "doctor"); !strings.Contains(text, "they are enough for all commands") ||
		strings.Contains(text, "fail ") || !strings.Contains(text, "may list accounts") {
		t.Errorf("doctor: %s", text)
	}
	p.reports(t, desk, spammer, other)

	viewer, stranger := p.pluginOf(t, program, "viewer"), p.pluginOf(t, program, "stranger")
	testenv.Eventually(t, soon, "the viewer and the stranger are known", func() error {
		got, second := viewer.answer(t, "", "users", "find", other.name), stranger.answer(t, "", "status")
		if got.code != 0 || second.code != 0 {
			return errors.New(got.err + second.err)
		}
		return nil
	})
	viewer.refused(t, []string{"users", "suspend", other.name},
		"system:serviceaccount:"+p.name+":viewer may not update authgateways/users of auth")
	a.signsIn(t, other)
	stranger.refused(t, []string{"users", "find"}, "you may not create a token of the ServiceAccount "+p.name+"/stranger",
		"create of serviceaccounts/token")
	stranger.refused(t, []string{"rotate"}, `cannot patch resource "authgateways"`)
	stranger.refused(t, []string{"verify", other.access}, `cannot get resource "configmaps"`)
	if got := stranger.answer(t, "", "doctor"); !strings.Contains(got.out, "patch authgateways, for rotate and revoke") {
		t.Errorf("the doctor does not tell the stranger what is missing: %+v", got)
	}
}

// administersAccounts finds and suspends an account, and looks at what is left of it.
func (p testNamespace) administersAccounts(t *testing.T, a probe, desk plugin, u person) {
	t.Helper()
	if text := desk.must(t, "users", "find", u.name); strings.Count(text, "\n") != 2 || !strings.Contains(text, "active") {
		t.Errorf("find: %s", text)
	}
	got := desk.answer(t, u.access+"\n", "verify", "-")
	if got.code != 0 || !strings.Contains(got.out, u.name) {
		t.Errorf("verify: %+v", got)
	}
	sessions := strings.Count(desk.must(t, "sessions", "list", u.name), "\n") - 1
	if sessions < 1 {
		t.Errorf("%d sessions", sessions)
	}
	desk.must(t, "users", "suspend", u.name, "--reason", "spam")
	body := map[string]string{"username": u.name, "password": u.password}
	if status, reply := a.call(t, http.MethodPost, "/tokens/signin", a.callerKey, "", body); status != http.StatusUnauthorized {
		t.Errorf("a suspended account signs in: %d %v", status, reply)
	}
	if status, _ := a.call(t, http.MethodGet, "/users", a.callerKey, u.access, nil); status != http.StatusUnauthorized {
		t.Errorf("the token of a suspended account: %d", status)
	}
	if got := desk.answer(t, "", "sessions", "list", u.name); got.code != 0 || !strings.Contains(got.err, "has no sessions") {
		t.Errorf("the sessions of a suspended account: %+v", got)
	}
	events := desk.must(t, "events", u.name, "--event", "account suspended")
	if strings.Count(events, "\n") != 2 || !strings.Contains(events, "system:serviceaccount:"+p.name+":helpdesk") ||
		!strings.Contains(events, "reason=spam") {
		t.Errorf("events: %s", events)
	}
}

// rotates orders a rotation, and waits until the new key signs. Tokens of the old key stay valid.
func (p testNamespace) rotates(t *testing.T, a probe, desk plugin, u person, within time.Duration) {
	t.Helper()
	old, _ := signingKey(p.gateway(t, "auth"))
	if text := desk.must(t, "keys"); !strings.Contains(text, old) {
		t.Errorf("keys lacks %s: %s", old, text)
	}
	desk.must(t, "rotate")
	fresh := ""
	took := testenv.Eventually(t, within, "a new key signs", func() error {
		var keys []struct{ KID, Use, Phase string }
		testenv.NoError(t, json.Unmarshal([]byte(desk.must(t, "keys", "-o", "json")), &keys))
		for _, k := range keys {
			if k.Use == "access" && k.Phase == "Signing" && k.KID != old {
				fresh = k.KID
				return nil
			}
		}
		return fmt.Errorf("the keys are %+v", keys)
	})
	figure(t, "a rotation that the plugin orders: the new key signs after %.0f s", took.Seconds())
	body := map[string]string{"username": u.name, "password": u.password}
	testenv.Eventually(t, later, "tokens have the new key", func() error { // the mounts of the pods are updated late
		token, _ := a.must(t, http.StatusOK, http.MethodPost, "/tokens/signin", "", body)["access_token"].(string)
		if got := desk.answer(t, token, "verify", "-"); got.code != 0 || !strings.Contains(got.out, "signed by "+fresh) {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	if got := desk.answer(t, u.access, "verify", "-"); got.code != 0 && !strings.Contains(got.err, "expired") {
		t.Errorf("a token of the old key: %+v", got)
	}
}

// reports writes a report, which must have no value of a Secret of the namespace and no token.
func (p testNamespace) reports(t *testing.T, desk plugin, people ...person) {
	t.Helper()
	secrets := map[string]string{}
	for _, u := range people {
		secrets["the password of "+u.name], secrets["the access token of "+u.name] = u.password, u.access
		secrets["the refresh token of "+u.name] = u.refresh
	}
	var all corev1.SecretList
	testenv.NoError(t, p.List(t.Context(), &all, client.InNamespace(p.name)))
	for _, s := range all.Items {
		for name, value := range s.Data {
			if len(value) >= 12 { // the name of the database is no secret
				secrets[s.Name+"/"+name] = string(value)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "report.tar.gz")
	desk.must(t, "report", "--file", path)
	file := testenv.Must(os.Open(path))(t)
	defer file.Close()
	archive := tar.NewReader(testenv.Must(gzip.NewReader(file))(t))
	logs := 0
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		testenv.NoError(t, err)
		text := string(testenv.Must(io.ReadAll(archive))(t))
		if strings.Contains(header.Name, "/logs/auth-") && text != "" {
			logs++
		}
		for what, secret := range secrets {
			if strings.Contains(text, cmp.Or(secret, "\x00")) {
				t.Errorf("%s of the report has %s", header.Name, what)
			}
		}
	}
	if logs < 2 || len(secrets) < 10 {
		t.Errorf("the report has %d logs, and was searched for %d secrets", logs, len(secrets))
	}
}
