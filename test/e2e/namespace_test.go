package e2e

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/test/e2e/load"
)

// These limits end a wait that fails. They do not state how long something should take.
const (
	soon  = 30 * time.Second
	later = 2 * time.Minute
)

var everything metav1.ListOptions

// testNamespace is a namespace for one test.
type testNamespace struct {
	cluster

	name string
}

func newTestNamespace(t *testing.T) testNamespace {
	t.Helper()
	c := connect(t)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "e2e-", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	testenv.NoError(t, c.Create(t.Context(), namespace))
	p := testNamespace{c, namespace.Name}
	t.Cleanup(func() {
		if t.Failed() {
			p.tell(t, p.name)
			p.tell(t, operatorNamespace)
			if os.Getenv("E2E_KEEP") == "1" {
				t.Logf("namespace %s is kept", p.name)
				return
			}
		}
		if err := client.IgnoreNotFound(p.Delete(context.WithoutCancel(t.Context()), namespace)); err != nil {
			t.Errorf("delete namespace %s: %v", p.name, err)
		}
	})
	return p
}

func (p testNamespace) create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		o.SetNamespace(p.name)
		if err := p.Create(t.Context(), o); err != nil {
			t.Fatalf("create %T %s: %v", o, o.GetName(), err)
		}
	}
}

func (p testNamespace) get(t *testing.T, name string, into client.Object) {
	t.Helper()
	if err := p.Get(t.Context(), client.ObjectKey{Namespace: p.name, Name: name}, into); err != nil {
		t.Fatalf("read %T %s: %v", into, name, err)
	}
}

// change patches an object with a JSON merge patch.
func (p testNamespace) change(t *testing.T, o client.Object, name, patch string) {
	t.Helper()
	o.SetNamespace(p.name)
	o.SetName(name)
	if err := p.Patch(t.Context(), o, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		t.Fatalf("change %T %s: %v", o, name, err)
	}
}

// secret creates a Secret.
func (p testNamespace) secret(t *testing.T, name string, content map[string]string) {
	t.Helper()
	p.create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: content})
}

// restrictedPod returns a pod that Pod Security's standard "restricted" allows.
func restrictedPod(name string, user int64, c corev1.Container) *corev1.Pod {
	c.Name = name
	c.ImagePullPolicy = corev1.PullIfNotPresent
	c.SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: new(false),
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m"),
		corev1.ResourceMemory: resource.MustParse("32Mi")}
	c.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	c.ReadinessProbe.PeriodSeconds = 1
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: new(false), EnableServiceLinks: new(false), TerminationGracePeriodSeconds: new(int64(2)),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: new(true), RunAsUser: new(user), RunAsGroup: new(user), FSGroup: new(user),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{c},
		},
	}
}

// start creates a pod and waits until it is ready.
func (p testNamespace) start(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	p.create(t, pod)
	p.podReady(t, pod.Name)
}

func (p testNamespace) podReady(t *testing.T, name string) {
	t.Helper()
	testenv.Eventually(t, later, "pod "+name+" is ready", func() error {
		pod := &corev1.Pod{}
		if err := p.Get(t.Context(), client.ObjectKey{Namespace: p.name, Name: name}, pod); err != nil {
			return err
		}
		if !isReady(pod) {
			return fmt.Errorf("its status is %v", pod.Status)
		}
		return nil
	})
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// The names of the database and of the gateway's credentials for it.
const (
	databaseHost = "postgres"
	databaseUser = "shop"
	databaseName = "auth"
	credentials  = "auth-db"
)

// database starts a PostgreSQL, and returns the password of its user.
func (p testNamespace) database(t *testing.T) (password string) {
	t.Helper()
	password = rand.Text()
	p.secret(t, credentials, map[string]string{"username": databaseUser, "password": password})
	pod := restrictedPod(databaseHost, 999, corev1.Container{
		Image: p.postgresImage,
		Args:  []string{"-c", "max_connections=100"},
		Env: []corev1.EnvVar{
			{Name: "POSTGRES_USER", Value: databaseUser}, {Name: "POSTGRES_PASSWORD", Value: password},
			{Name: "POSTGRES_DB", Value: databaseName}, {Name: "PGDATA", Value: "/var/lib/postgresql/data/pgdata"},
		},
		Ports:          []corev1.ContainerPort{{ContainerPort: 5432}},
		ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(5432)}}},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "data", MountPath: "/var/lib/postgresql/data"}, {Name: "run", MountPath: "/var/run/postgresql"}, {Name: "tmp", MountPath: "/tmp"},
		},
	})
	// On a busy node a pod gets the CPU that it requests. Without this, a starved database would fail every test.
	pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("250m")
	for _, name := range []string{"data", "run", "tmp"} {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name,
			VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	}
	p.create(t, databaseService(databaseHost, databaseHost))
	p.start(t, pod)
	return password
}

// databaseService returns a Service for the pods of an app.
func databaseService(name, app string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": app}, Ports: []corev1.ServicePort{{Port: 5432, TargetPort: intstr.FromInt32(5432)}},
	}}
}

// smallest returns the AuthGateway of docs/install.md.
func smallest(name string, edits ...func(*v1alpha1.AuthGatewaySpec)) *v1alpha1.AuthGateway {
	g := &v1alpha1.AuthGateway{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.AuthGatewaySpec{
		Database: v1alpha1.Database{Host: databaseHost, Name: databaseName, CredentialsSecretRef: &v1alpha1.LocalReference{Name: credentials}},
	}}
	for _, edit := range edits {
		edit(&g.Spec)
	}
	return g
}

// cheapPasswords sets the lowest cost of a hash: hashing is not tested here, and the machine may be small.
func cheapPasswords(s *v1alpha1.AuthGatewaySpec) { s.Passwords.SaltRounds = 10 }

// serving returns a namespace with a database, a ready gateway "auth", and a probe.
func serving(t *testing.T, edits ...func(*v1alpha1.AuthGatewaySpec)) (testNamespace, probe) {
	t.Helper()
	p := newTestNamespace(t)
	p.database(t)
	p.create(t, smallest("auth", append(edits, cheapPasswords)...))
	p.ready(t, "auth", later)
	return p, p.probe(t, "auth")
}

func (c cluster) gateways(ctx context.Context, namespace string) ([]v1alpha1.AuthGateway, error) {
	var all v1alpha1.AuthGatewayList
	err := c.List(ctx, &all, client.InNamespace(namespace))
	return all.Items, err
}

func (p testNamespace) gateway(t *testing.T, name string) *v1alpha1.AuthGateway {
	t.Helper()
	g := &v1alpha1.AuthGateway{}
	p.get(t, name, g)
	return g
}

// ready waits until the gateway is ready with its current spec, and returns how long that took.
func (p testNamespace) ready(t *testing.T, name string, within time.Duration) time.Duration {
	t.Helper()
	return testenv.Eventually(t, within, "AuthGateway "+name+" is ready", func() error { return p.isReady(t, name) })
}

func (p testNamespace) isReady(t *testing.T, name string) error {
	g := &v1alpha1.AuthGateway{}
	if err := p.Get(t.Context(), client.ObjectKey{Namespace: p.name, Name: name}, g); err != nil {
		return err
	}
	c := meta.FindStatusCondition(g.Status.Conditions, "Ready")
	if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != g.Generation {
		return fmt.Errorf("generation %d, its condition is %+v", g.Generation, c)
	}
	return nil
}

// servers returns the pods of a gateway, including terminating ones.
func (p testNamespace) servers(t *testing.T, gateway string) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := p.List(t.Context(), &pods, client.InNamespace(p.name), client.MatchingLabels{
		"app.kubernetes.io/name": "authserver", "app.kubernetes.io/instance": gateway,
	})
	return pods.Items, err
}

// settled waits until there are n ready servers, none of which existed before, and the gateway is ready.
func (p testNamespace) settled(t *testing.T, gateway string, replicas int, before ...corev1.Pod) time.Duration {
	t.Helper()
	return testenv.Eventually(t, later, fmt.Sprintf("%s has settled with %d replicas", gateway, replicas), func() error {
		pods, err := p.servers(t, gateway)
		if err != nil {
			return err
		}
		var names []string
		for _, pod := range pods {
			names = append(names, pod.Name)
			if slices.ContainsFunc(before, func(b corev1.Pod) bool { return b.UID == pod.UID }) {
				return fmt.Errorf("pod %s is still there", pod.Name)
			}
			if !isReady(&pod) {
				return fmt.Errorf("pod %s is not ready", pod.Name)
			}
		}
		if len(names) != replicas {
			return fmt.Errorf("its pods are %v", names)
		}
		return p.isReady(t, gateway)
	})
}

// operatorActs deletes a NetworkPolicy and waits until the operator has restored it. A Ready status does not prove that
// the operator runs, because it may be an old one.
func (p testNamespace) operatorActs(t *testing.T, gateway string) time.Duration {
	t.Helper()
	policy := &networkingv1.NetworkPolicy{}
	p.get(t, gateway, policy)
	before := policy.UID
	testenv.NoError(t, p.Delete(t.Context(), policy))
	return testenv.Eventually(t, later, "the operator puts a NetworkPolicy back", func() error {
		policy := &networkingv1.NetworkPolicy{}
		if err := p.Get(t.Context(), client.ObjectKey{Namespace: p.name, Name: gateway}, policy); err != nil {
			return err
		}
		if policy.UID == before {
			return errors.New("the NetworkPolicy is still the old one")
		}
		return nil
	})
}

// signingKey returns the kid that signs access tokens, and kids returns all that verify them.
func signingKey(g *v1alpha1.AuthGateway) (signing string, kids []string) {
	if g.Status.Keys == nil {
		return "", nil
	}
	for _, k := range g.Status.Keys.Access {
		kids = append(kids, k.KID)
		if k.Phase == "Signing" {
			signing = k.KID
		}
	}
	return signing, kids
}

// probe is a pod that has only the public keys of a gateway, mounted.
type probe struct {
	testNamespace

	pod, url  string
	callerKey string // the additional credential of a backend
}

func (p testNamespace) probe(t *testing.T, gateway string) probe {
	t.Helper()
	return p.probeIn(t, p, gateway, p.gateway(t, gateway).Status.PublicKeysConfigMapRef.Name)
}

// probeIn starts a probe of a gateway of this namespace in another one, where a ConfigMap has the public keys.
func (p testNamespace) probeIn(t *testing.T, consumer testNamespace, gateway, configMap string) probe {
	t.Helper()
	g := p.gateway(t, gateway)
	pod := restrictedPod("probe-"+gateway, 65532, corev1.Container{
		Image: p.probeImage,
		Env:   []corev1.EnvVar{{Name: "ISSUER", Value: cmp.Or(g.Spec.Issuer, g.Status.URL)}},
		Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
		ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz",
			Port: intstr.FromInt32(8080)}}},
		VolumeMounts: []corev1.VolumeMount{{Name: "keys", MountPath: "/keys", ReadOnly: true}},
	})
	pod.Spec.Volumes = []corev1.Volume{{Name: "keys", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: configMap},
	}}}}
	consumer.start(t, pod)
	a := probe{consumer, pod.Name, g.Status.URL, p.callerKey(t, g)}
	a.reaches(t)
	return a
}

// reaches waits until the gateway replies to the probe: nodes learn of a new Service shortly after its pods are ready.
func (a probe) reaches(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, soon, "the probe reaches the gateway", func() error {
		code, text, err := a.ask(t.Context(), http.MethodPost, "/requests",
			asJSON(t, map[string]any{"method": http.MethodGet, "url": a.url + "/tokens/keys"}))
		if err == nil && (code != http.StatusOK || !bytes.Contains(text, []byte(`access_token`))) {
			err = fmt.Errorf("%d: %.300s", code, text)
		}
		return err
	})
}

func (p testNamespace) callerKey(t *testing.T, g *v1alpha1.AuthGateway) string {
	t.Helper()
	secret := &corev1.Secret{}
	p.get(t, g.Status.CallerSecretRef.Name, secret)
	return string(secret.Data["TRUSTED_CALLER_KEY"])
}

// ask sends a request to the probe through the API server, which works in every cluster.
func (a probe) ask(ctx context.Context, method, path string, body []byte) (status int, reply []byte, err error) {
	url := fmt.Sprintf("%s/api/v1/namespaces/%s/pods/%s:8080/proxy%s", strings.TrimSuffix(a.config.Host, "/"), a.name, a.pod, path)
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	response, err := a.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	reply, err = io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, err
	}
	if response.Header.Get("X-Probe") == "" {
		return 0, nil, fmt.Errorf("the API server's proxy answers %s: %.500s", response.Status, reply)
	}
	return response.StatusCode, reply, nil
}

// verifies has the probe verify a token with the mounted keys.
func (a probe) verifies(t *testing.T, token string) error {
	status, reply, err := a.ask(t.Context(), http.MethodPost, "/verify", []byte(token))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("the probe answers %d: %s", status, reply)
	}
	return err
}

// call has the probe send a request to the gateway, with a caller key if one is given.
func (a probe) call(t *testing.T, method, path, callerKey, token string, body map[string]string) (status int, reply map[string]any) {
	t.Helper()
	content := ""
	header := map[string]string{}
	if callerKey != "" {
		header["X-Caller-Key"] = callerKey
	}
	if token != "" {
		header["Authorization"] = "Bearer " + token
	}
	if body != nil {
		header["Content-Type"] = "application/json"
		content = string(asJSON(t, body))
	}
	code, text, err := a.ask(t.Context(), http.MethodPost, "/requests",
		asJSON(t, map[string]any{"method": method, "url": a.url + path, "header": header, "body": content}))
	if err != nil || code != http.StatusOK {
		t.Fatalf("%s %s by the probe: %d, %v: %s", method, path, code, err, text)
	}
	var answer struct {
		Status int
		Body   string
	}
	testenv.NoError(t, json.Unmarshal(text, &answer))
	if answer.Body != "" {
		if err := json.Unmarshal([]byte(answer.Body), &reply); err != nil {
			t.Fatalf("%s %s is answered %d with invalid JSON: %v", method, path, answer.Status, err)
		}
	}
	return answer.Status, reply
}

func (a probe) must(t *testing.T, want int, method, path, token string, body map[string]string) map[string]any {
	t.Helper()
	status, reply := a.call(t, method, path, a.callerKey, token, body)
	if status != want {
		t.Fatalf("%s %s is answered %d, not %d: %v", method, path, status, want, reply["error_description"])
	}
	return reply
}

func asJSON(t *testing.T, content any) []byte {
	t.Helper()
	text := testenv.Must(json.Marshal(content))(t)
	return text
}

// person is a user who has signed up and in.
type person struct {
	name, password  string
	access, refresh string
}

func newPerson() person {
	return person{name: "ada-" + strings.ToLower(rand.Text()[:12]), password: rand.Text()}
}

// signUp is the body of a sign-up.
func (u person) signUp() map[string]string {
	return map[string]string{"username": u.name, "email": u.name + "@example.com", "first_name": "Ada",
		"last_name": "Lovelace", "password": u.password}
}

// drive runs a sign-up, a verification with the code that the caller key reveals, a sign-in, a renewal, and has the
// probe verify the token.
func (a probe) drive(t *testing.T) person {
	t.Helper()
	u := newPerson()
	code, _ := a.must(t, http.StatusCreated, http.MethodPost, "/users", "", u.signUp())["code"].(string)
	a.must(t, http.StatusOK, http.MethodPost, "/users/verify-user", "", map[string]string{"code": code})
	tokens := a.must(t, http.StatusOK, http.MethodPost, "/tokens/signin", "", map[string]string{"username": u.name, "password": u.password})
	refresh, _ := tokens["refresh_token"].(string)
	tokens = a.must(t, http.StatusOK, http.MethodPost, "/tokens", "", map[string]string{"refresh_token": refresh})
	u.access, _ = tokens["access_token"].(string)
	u.refresh, _ = tokens["refresh_token"].(string)
	if profile := a.must(t, http.StatusOK, http.MethodGet, "/users", u.access, nil); profile["username"] != u.name ||
		profile["is_verified"] != true {
		t.Errorf("the profile is %v", profile)
	}
	if err := a.verifies(t, u.access); err != nil {
		t.Errorf("with the mounted keys: %v", err)
	}
	return u
}

// loading is a load in progress.
type loading struct {
	probe

	id   string
	rate int // requests a second
}

// load starts a load of 50 requests a second on the gateway.
func (a probe) load(t *testing.T, retries int, keep time.Duration) loading {
	t.Helper()
	return a.begin(t, load.Order{Rate: 50, Retries: retries, Keep: keep})
}

// begin starts a load.
func (a probe) begin(t *testing.T, o load.Order) loading {
	t.Helper()
	o.Gateway, o.CallerKey = a.url, a.callerKey
	status, reply, err := a.ask(t.Context(), http.MethodPost, "/loads", asJSON(t, o))
	if err != nil || status != http.StatusCreated {
		t.Fatalf("begin a load: %d, %v: %s", status, err, reply)
	}
	var begun struct{ ID string }
	testenv.NoError(t, json.Unmarshal(reply, &begun))
	l := loading{a, begun.ID, o.Rate}
	t.Cleanup(func() { // in case the test ends before the load
		_, _, _ = a.ask(context.WithoutCancel(t.Context()), http.MethodDelete, "/loads/"+l.id, nil)
	})
	l.flows(t)
	return l
}

// report returns the progress of the load, or with DELETE its result.
func (l loading) report(t *testing.T, method string) load.Report {
	t.Helper()
	var r load.Report
	testenv.Eventually(t, later, "the probe reports", func() error {
		status, reply, err := l.ask(t.Context(), method, "/loads/"+l.id, nil)
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("the probe answers %d: %s", status, reply)
		}
		return json.Unmarshal(reply, &r)
	})
	return r
}

// flows waits until three seconds' worth of requests have succeeded from now on.
func (l loading) flows(t *testing.T) {
	t.Helper()
	from := l.report(t, http.MethodGet)
	testenv.Eventually(t, later, "requests are answered", func() error {
		if r := l.report(t, http.MethodGet); r.Good < from.Good+3*l.rate {
			return errors.New(r.String() + "\n" + r.Details())
		}
		return nil
	})
}

// truthful ends a load, and fails if a reply was wrong or a token was refused.
func (l loading) truthful(t *testing.T, what string) load.Report {
	t.Helper()
	r := l.report(t, http.MethodDelete)
	figure(t, "%s: %s", what, r)
	if r.Wrong > 0 || r.Refused() > 0 {
		t.Errorf("%s: %d answers were wrong, and %d valid tokens were refused\n%s", what, r.Wrong, r.Refused(), r.Details())
	}
	if float64(r.Sent) < 0.9*float64(l.rate)*r.Seconds || r.Good == 0 {
		t.Errorf("%s: too few requests were sent or answered: %s", what, r)
	}
	for _, name := range []string{"directory, go-jose", "directory, verify", "URL, go-jose", "URL, verify"} {
		if c := r.Checks[name]; c == nil || c.Verified == 0 {
			t.Errorf("%s: the consumer %s verified no token: %s", what, name, r)
		}
	}
	return r
}

// perfect ends a load, and also fails if a request failed.
func (l loading) perfect(t *testing.T, what string) load.Report {
	t.Helper()
	r := l.truthful(t, what)
	if r.Failed > 0 || r.Good != r.Sent {
		t.Errorf("%s: %d of %d requests failed\n%s", what, r.Failed, r.Sent, r.Details())
	}
	return r
}

// operators returns the operator's pods that are not terminating.
func (c cluster) operators(t *testing.T) []corev1.Pod {
	t.Helper()
	var pods corev1.PodList
	testenv.NoError(t, c.List(t.Context(), &pods, client.InNamespace(operatorNamespace),
		client.MatchingLabels{"app.kubernetes.io/name": operatorName}))
	return slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// operatorRuns waits until all replicas of the operator are ready.
func (c cluster) operatorRuns(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, later, "the operator runs", func() error {
		d := &appsv1.Deployment{}
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: operatorNamespace, Name: operatorName}, d); err != nil {
			return err
		}
		if d.Spec.Replicas == nil || d.Status.AvailableReplicas != *d.Spec.Replicas || d.Status.Replicas != *d.Spec.Replicas {
			return fmt.Errorf("its status is %+v", d.Status)
		}
		return nil
	})
}

// sameKeys reports whether Secrets have the same keys, without printing them.
func sameKeys(a, b *corev1.Secret) bool {
	return maps.EqualFunc(a.Data, b.Data, func(x, y []byte) bool { return bytes.Equal(x, y) })
}
