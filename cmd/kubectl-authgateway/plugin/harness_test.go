package plugin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/cri-streaming/pkg/streaming/portforward"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/cmd/kubectl-authgateway/plugin"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestMain(m *testing.M) { kubernetestest.Main(m) }

// fixture is a namespace of a real API server with the AuthGateway auth, whose pods are servers in this process. A
// kubelet that only forwards ports and has logs leads to them.
type fixture struct {
	t         *testing.T
	namespace string
	access    *rest.Config
	api       *kubernetes.Clientset // a cluster administrator's
	objects   dynamic.Interface
	server    *gatewaytest.Server // of the API
	admin     *gatewaytest.Server // of administrators
	client    *testenv.Client     // of the API
	kubeconf  string
	now       func() time.Time
	browse    func(context.Context, string) error
}

var gateways = v1alpha1.GroupVersion.WithResource("authgateways")

// newFixture creates an AuthGateway that is healthy, with a ServiceAccount helpdesk that is bound to its editors.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := emptyFixture(t)
	db := postgrestest.Config(t)
	start := func(settings config.Config, access *rest.Config) *gatewaytest.Server {
		s := testenv.Must(gatewaytest.Start(t, settings, authserver.Options{Log: quiet(), Version: "test", Now: time.Now, Kubernetes: access}))(t)
		t.Cleanup(func() {
			if err := s.End(); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		return s
	}
	f.server = start(gatewaytest.Environ(db).Load(t), nil)
	f.client = testenv.NewClient(t, f.server.API)
	settings := gatewaytest.Environ(db, gatewaytest.Settings{
		"ADMIN_PORT": "3", "ADMIN_KUBERNETES": f.namespace + "/auth",
		"ACCESS_PASSPHRASE": gatewaytest.Unset, "REFRESH_PASSPHRASE": gatewaytest.Unset,
	})
	f.admin = start(testenv.Must(config.LoadAdmin(settings.Lookup, os.ReadFile))(t), kubernetestest.Config(t))
	for _, s := range []*gatewaytest.Server{f.server, f.admin} {
		testenv.Until(t, time.Minute, "a server is ready", func() bool {
			status, _ := s.Probe("/readyz")
			return status == http.StatusOK
		})
	}
	f.createGateway(t, "auth", true)
	f.publish(t)
	k := newKubelet(t, f)
	k.pod("auth-0", "authserver", "http", 8080, f.server.API)
	k.pod("auth-admin-0", "authserver-admin", "admin", 8081, f.admin.Admin)
	f.bind(t, "helpdesk", "auth-user-editor")
	return f
}

// emptyFixture is a namespace without a gateway.
func emptyFixture(t *testing.T) *fixture {
	t.Helper()
	if testing.Short() {
		t.Skip("the test needs an API server")
	}
	f := &fixture{t: t, access: kubernetestest.Config(t), namespace: kubernetestest.Namespace(t), now: time.Now}
	f.api = testenv.Must(kubernetes.NewForConfig(f.access))(t)
	f.objects = testenv.Must(dynamic.NewForConfig(f.access))(t)
	f.kubeconf = filepath.Join(t.TempDir(), "kubeconfig")
	testenv.NoError(t, clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"test": {
			Server: f.access.Host, CertificateAuthorityData: f.access.CAData,
		}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"test": {
			ClientCertificateData: f.access.CertData, ClientKeyData: f.access.KeyData,
		}},
		Contexts:       map[string]*clientcmdapi.Context{"test": {Cluster: "test", AuthInfo: "test", Namespace: f.namespace}},
		CurrentContext: "test",
	}, f.kubeconf))
	return f
}

// createGateway creates an AuthGateway with a status as the operator writes it.
func (f *fixture) createGateway(t *testing.T, name string, admin bool) {
	t.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": "AuthGateway",
		"metadata": map[string]any{"name": name, "namespace": f.namespace},
		"spec": map[string]any{
			"issuer": gatewaytest.Issuer, "admin": map[string]any{"enabled": admin},
			"database": map[string]any{"host": "postgres", "name": "auth", "credentialsSecretRef": map[string]any{"name": name + "-db"}},
		},
	}}
	object = testenv.Must(f.objects.Resource(gateways).Namespace(f.namespace).Create(t.Context(), object, metav1.CreateOptions{}))(t)
	const at = "2026-11-01T12:00:00Z"
	condition := func(kind, status, reason, message string) any {
		return map[string]any{
			"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at, "observedGeneration": int64(1),
		}
	}
	key := func(kid, phase string) any {
		return map[string]any{"kid": kid, "algorithm": "ES256", "phase": phase, "lastTransitionTime": at}
	}
	object.Object["status"] = map[string]any{
		"observedGeneration": object.GetGeneration(), "replicaSummary": "2/2", "url": "http://auth." + f.namespace + ".svc",
		"issuer": gatewaytest.Issuer, "image": "registry.example.com/authserver:1.2.3",
		"conditions": []any{
			condition("Ready", "True", "Ready", "everything is in place"), condition("KeysReady", "True", "KeysPublished", "the keys are published"),
			condition("AdminAvailable", "True", "ReplicasReady", "1 replica serves administrators"),
		},
		"keys": map[string]any{
			"generation": int64(3), "nextRotationTime": "2026-12-01T12:00:00Z",
			"access": []any{key(kidRetiring, "Retiring"), key(kidSigning, "Signing")}, "refresh": []any{key(kidRefresh, "Signing")},
		},
	}
	_, err := f.objects.Resource(gateways).Namespace(f.namespace).UpdateStatus(t.Context(), object, metav1.UpdateOptions{})
	testenv.NoError(t, err)
	f.secret(t, name+"-db", map[string]string{"username": "auth", "password": plantedSecret})
}

// Keys of the status.
var (
	kidRetiring = strings.Repeat("A", 43)
	kidSigning  = strings.Repeat("B", 43)
	kidRefresh  = strings.Repeat("C", 43)
)

// plantedSecret must be in no output.
const plantedSecret = "the-planted-secret-4711"

func (f *fixture) secret(t *testing.T, name string, data map[string]string) {
	t.Helper()
	_, err := f.api.CoreV1().Secrets(f.namespace).Create(t.Context(),
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data}, metav1.CreateOptions{})
	testenv.NoError(t, err)
}

// publish creates the ConfigMap of the public keys, with those of the server.
func (f *fixture) publish(t *testing.T) {
	t.Helper()
	jwks := f.client.Do("GET", "/.well-known/jwks.json", nil, nil)
	state := testenv.Must(json.Marshal(map[string]any{"issuer": gatewaytest.Issuer, "generation": 3, "keys": []any{}, "revoked": []any{}}))(t)
	_, err := f.api.CoreV1().ConfigMaps(f.namespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "auth-public-keys"},
		Data:       map[string]string{"jwks.json": string(jwks.Body), "keys.json": string(state)},
	}, metav1.CreateOptions{})
	testenv.NoError(t, err)
}

// bind creates a ServiceAccount and binds it to a Role, which the operator would create.
func (f *fixture) bind(t *testing.T, account, role string) {
	t.Helper()
	ctx := t.Context()
	_, err := f.api.CoreV1().ServiceAccounts(f.namespace).Create(ctx,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
	testenv.NoError(t, err)
	verbs := []string{"get", "list"}
	if strings.HasSuffix(role, "editor") {
		verbs = append(verbs, "create", "update", "delete")
	}
	_, _ = f.api.RbacV1().Roles(f.namespace).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: role}, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"authgateway.io"}, Resources: []string{"authgateways/users", "authgateways/sessions", "authgateways/events"},
		ResourceNames: []string{"auth"}, Verbs: verbs,
	}}}, metav1.CreateOptions{})
	_, err = f.api.RbacV1().RoleBindings(f.namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: account}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: f.namespace, Name: account}},
	}, metav1.CreateOptions{})
	testenv.NoError(t, err)
}

// bindReader creates a ServiceAccount that may read AuthGateways and nothing else.
func (f *fixture) bindReader(t *testing.T, account string) {
	t.Helper()
	f.bind(t, account, "reader-user-viewer")
	role := testenv.Must(f.api.RbacV1().Roles(f.namespace).Get(t.Context(), "reader-user-viewer", metav1.GetOptions{}))(t)
	role.Rules = []rbacv1.PolicyRule{{
		APIGroups: []string{"authgateway.io"}, Resources: []string{"authgateways"}, Verbs: []string{"get", "list"},
	}}
	testenv.Must(f.api.RbacV1().Roles(f.namespace).Update(t.Context(), role, metav1.UpdateOptions{}))(t)
	user := "system:serviceaccount:" + f.namespace + ":" + account
	testenv.Until(t, time.Minute, "the API server knows the binding", func() bool { return f.run("status", "--as", user).code == 0 })
}

// outcome is the result of a command.
type outcome struct {
	code     int
	out, err string
}

func (f *fixture) answer(ctx context.Context, input string, args ...string) outcome {
	f.t.Helper()
	out, stderr := new(testenv.Output), new(testenv.Output)
	code := f.start(ctx, input, out, stderr, args...)
	for _, text := range []string{out.String(), stderr.String()} {
		if strings.Contains(text, plantedSecret) {
			f.t.Errorf("%v prints a secret: %s", args, text)
		}
	}
	return outcome{code, out.String(), stderr.String()}
}

func (f *fixture) start(ctx context.Context, input string, out, stderr io.Writer, args ...string) int {
	return f.startWith(ctx, strings.NewReader(input), out, stderr, args...)
}

func (f *fixture) startWith(ctx context.Context, input io.Reader, out, stderr io.Writer, args ...string) int {
	p := plugin.New(genericiooptions.IOStreams{In: input, Out: out, ErrOut: stderr}, "v1.2.3-test")
	p.Now = f.now
	if f.browse != nil {
		p.Browse = f.browse
	}
	if args[0] == "__complete" { // it must be the first argument
		return p.Run(ctx, args)
	}
	return p.Run(ctx, append([]string{"--kubeconfig", f.kubeconf}, args...))
}

func (f *fixture) run(args ...string) outcome {
	f.t.Helper()
	return f.answer(f.t.Context(), "", args...)
}

// must runs a command that succeeds.
func (f *fixture) must(args ...string) string {
	f.t.Helper()
	got := f.run(args...)
	if got.code != 0 || got.err != "" {
		f.t.Errorf("%v: %+v", args, got)
	}
	return got.out
}

// refused checks that a command fails, with all of the texts in its error.
func (f *fixture) refused(got outcome, code int, texts ...string) {
	f.t.Helper()
	if got.code != code {
		f.t.Errorf("exit code %d instead of %d: %+v", got.code, code, got)
	}
	for _, text := range texts {
		if !strings.Contains(got.err, text) {
			f.t.Errorf("the error lacks %q: %s", text, got.err)
		}
	}
}

// kubelet forwards ports of pods to servers of this process, and has their logs.
type kubelet struct {
	f    *fixture
	node string

	mu      sync.Mutex
	targets map[string]string // addresses, by pod and port
}

func newKubelet(t *testing.T, f *fixture) *kubelet {
	t.Helper()
	k := &kubelet{f: f, node: f.namespace, targets: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/portForward/{namespace}/{pod}", func(rw http.ResponseWriter, r *http.Request) {
		portforward.ServePortForward(rw, r, k, r.PathValue("pod"), "", nil, time.Minute, 10*time.Second, portforward.SupportedProtocols)
	})
	mux.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(rw, "a log of %s\nwith the token eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl\n", r.PathValue("pod"))
	})
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	testenv.NoError(t, err)
	number := testenv.Must(strconv.ParseInt(port, 10, 32))(t)
	node := testenv.Must(f.api.CoreV1().Nodes().Create(t.Context(),
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.node}}, metav1.CreateOptions{}))(t)
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(number)
	_, err = f.api.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{})
	testenv.NoError(t, err)
	return k
}

// PortForward implements portforward.PortForwarder.
func (k *kubelet) PortForward(_ context.Context, pod, _ string, port int32, stream io.ReadWriteCloser) error {
	k.mu.Lock()
	target, known := k.targets[fmt.Sprintf("%s:%d", pod, port)]
	k.mu.Unlock()
	if !known {
		return fmt.Errorf("no such port of %s: %d", pod, port)
	}
	conn, err := net.Dial("tcp", target)
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() { _, _ = io.Copy(conn, stream); _ = conn.Close() }()
	_, _ = io.Copy(stream, conn)
	return nil
}

// pod creates a pod that is ready, whose port leads to a URL.
func (k *kubelet) pod(name, of, portName string, port int32, to string) *corev1.Pod {
	t := k.f.t
	t.Helper()
	k.mu.Lock()
	k.targets[fmt.Sprintf("%s:%d", name, port)] = testenv.Must(url.Parse(to))(t).Host
	k.mu.Unlock()
	yes, no := true, false
	pod := testenv.Must(k.f.api.CoreV1().Pods(k.f.namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"app.kubernetes.io/name": of, "app.kubernetes.io/instance": "auth"},
			Annotations: map[string]string{"example.com/note": plantedSecret},
		},
		Spec: corev1.PodSpec{
			NodeName: k.node, AutomountServiceAccountToken: &no,
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "authserver", Image: "registry.example.com/authserver:1.2.3",
				Ports: []corev1.ContainerPort{{Name: portName, ContainerPort: port}},
				Env: []corev1.EnvVar{
					{Name: "LOG_LEVEL", Value: "debug"}, {Name: "OWN", Value: plantedSecret}, {Name: "DB_PASSWORD", Value: plantedSecret},
				},
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}, metav1.CreateOptions{}))(t)
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "authserver", Ready: true, ContainerID: "test://1"}},
	}
	return testenv.Must(k.f.api.CoreV1().Pods(k.f.namespace).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}))(t)
}

// person signs up, verifies an address, and returns a token.
func (f *fixture) person(name string) (id, access string) {
	f.t.Helper()
	signedUp := f.client.Do("POST", "/users", nil, map[string]string{
		"username": name, "email": name + "@example.com", "first_name": "Ada", "last_name": "Lovelace", "password": "note G of 1843",
	})
	testenv.Expect(f.t, signedUp, 201)
	tokens := f.client.Do("POST", "/users/verify-user", nil, map[string]string{"code": signedUp.Text("code")})
	testenv.Expect(f.t, tokens, 200)
	return signedUp.Text("id"), tokens.Text("access_token")
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
