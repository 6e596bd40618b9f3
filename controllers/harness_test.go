package controllers_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/controllers"
	serverconfig "github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
	"github.com/auth-gateway/auth-gateway/keys"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	kubernetestest.Main(m, roleEqualsUse)
}

// env is a namespace of a real API server with an operator. It stands in for the controllers and the kubelet, which do
// not run: it creates the pods of Deployments and answers for them.
type env struct {
	t         *testing.T
	namespace string
	client    client.Client           // an administrator's
	calls     *recorder               // the operator's requests to the API server
	offset    atomic.Int64            // of the operator's clock
	operator  *controllers.Reconciler // the last that was started
	stops     []func()                // of all that were started
	direct    bool                    // the env calls Reconcile itself; see directEnv

	mu      sync.Mutex
	answers map[string]func() (serverconfig.State, error) // the answers of pods, by IP address
}

// readyEnv is newEnv with a gateway auth that is Ready.
func readyEnv(t *testing.T, options ...func(*controllers.Options)) *env {
	t.Helper()
	return newEnv(t, options...).withReadyGateway()
}

// readyDirectEnv is newDirectEnv with a gateway auth that is Ready.
func readyDirectEnv(t *testing.T) *env {
	t.Helper()
	return newDirectEnv(t).withReadyGateway()
}

func (e *env) withReadyGateway() *env {
	e.t.Helper()
	e.create(credentials("auth-db"))
	e.ready(smallest("auth"))
	e.rest()
	return e
}

// newEnv starts an operator for a new namespace.
func newEnv(t *testing.T, options ...func(*controllers.Options)) *env {
	t.Helper()
	e := emptyEnv(t)
	e.startOperator(options...)
	return e
}

// directEnv is an emptyEnv whose operators have no manager, no cache and no watches: while the env waits for something,
// it calls Reconcile. That is much faster. Tests of what starts a reconcile, or how often, need newEnv.
func directEnv(t *testing.T) *env {
	t.Helper()
	e := emptyEnv(t)
	e.direct = true
	return e
}

// newDirectEnv starts a direct operator.
func newDirectEnv(t *testing.T, options ...func(*controllers.Options)) *env {
	t.Helper()
	e := directEnv(t)
	e.startOperator(options...)
	return e
}

// emptyEnv has no operator yet. Every test with an API server begins here.
func emptyEnv(t *testing.T) *env {
	t.Helper()
	if testing.Short() {
		t.Skip("the test needs an API server")
	}
	e := &env{t: t, namespace: kubernetestest.Namespace(t), calls: &recorder{}, answers: map[string]func() (serverconfig.State, error){}}
	c := testenv.Must(client.New(kubernetestest.Config(t), client.Options{Scheme: controllers.Scheme()}))(t)
	e.client = c
	return e
}

// startOperator starts an operator. It is stopped by stop or when the test ends.
func (e *env) startOperator(options ...func(*controllers.Options)) (stop func()) {
	e.t.Helper()
	return e.startOperatorAs(kubernetestest.Config(e.t), options...)
}

func (e *env) startOperatorAs(as *rest.Config, options ...func(*controllers.Options)) (stop func()) {
	e.t.Helper()
	o := controllers.Options{ServerImage: "auth-gateway/authserver:test", OperatorNamespace: "auth-gateway-system",
		Namespaces: []string{e.namespace}, Now: e.now}
	for _, change := range options {
		change(&o)
	}
	kubernetes := rest.CopyConfig(as)
	kubernetes.QPS, kubernetes.Burst = -1, 0
	kubernetes.Wrap(func(next http.RoundTripper) http.RoundTripper { return &recording{e.calls, next} })
	if e.direct {
		return e.startDirect(kubernetes, o)
	}
	skip := true
	m, err := ctrl.NewManager(kubernetes, ctrl.Options{
		Scheme:     controllers.Scheme(),
		NewCache:   controllers.NewCache(o),
		Client:     client.Options{Cache: &client.CacheOptions{Unstructured: true}},
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: &skip},
	})
	if err != nil {
		e.t.Fatal(err)
	}
	r := controllers.New(m, o)
	r.Ask = e.ask
	r.EncryptCheaply()
	e.operator = r
	ctx, cancel := context.WithCancel(context.Background())
	if err := r.SetUp(ctx, m); err != nil {
		e.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.Start(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					e.t.Errorf("the operator failed: %v", err)
				}
			case <-time.After(time.Minute):
				e.t.Error("the operator does not stop")
			}
		})
	}
	e.t.Cleanup(stop)
	e.stops = append(e.stops, stop)
	return stop
}

func (e *env) startDirect(kubernetes *rest.Config, o controllers.Options) (stop func()) {
	e.t.Helper()
	c, err := client.New(kubernetes, client.Options{Scheme: controllers.Scheme()})
	if err != nil {
		e.t.Fatal(err)
	}
	r := controllers.NewDirect(&directClient{c, e}, o)
	r.Ask = e.ask
	r.EncryptCheaply()
	e.operator = r
	stop = func() {
		if e.operator == r {
			e.operator = nil
		}
	}
	e.stops = append(e.stops, stop)
	return stop
}

// directClient reads as the cache would: only in the namespace that is watched, and
// AuthGateways without a request that is recorded.
type directClient struct {
	client.Client
	e *env
}

func (c *directClient) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if _, is := o.(*v1alpha1.AuthGateway); is {
		return c.e.client.Get(ctx, key, o, opts...)
	}
	return c.Client.Get(ctx, key, o, opts...)
}

func (c *directClient) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return c.Client.List(ctx, list, append(opts, client.InNamespace(c.e.namespace))...)
}

// reconcile calls a direct operator for every gateway.
func (e *env) reconcile() {
	e.t.Helper()
	if !e.direct || e.operator == nil {
		return
	}
	var all v1alpha1.AuthGatewayList
	if err := e.client.List(e.t.Context(), &all, client.InNamespace(e.namespace)); err != nil {
		e.t.Fatal(err)
	}
	for i := range all.Items { // errors show in the conditions
		_, _ = e.operator.Reconcile(e.t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&all.Items[i])})
	}
}

func (e *env) now() time.Time { return time.Now().Add(time.Duration(e.offset.Load())) }

// pass moves the operator's clock forward.
func (e *env) pass(d time.Duration) { e.offset.Add(int64(d)) }

func (e *env) ask(_ context.Context, ip string) (serverconfig.State, error) {
	e.mu.Lock()
	answer := e.answers[ip]
	e.mu.Unlock()
	if answer == nil {
		return serverconfig.State{}, fmt.Errorf("no pod has the address %s", ip)
	}
	return answer()
}

func (e *env) key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: e.namespace, Name: name}
}

func (e *env) create(objects ...client.Object) {
	e.t.Helper()
	for _, o := range objects {
		o.SetNamespace(e.namespace)
		if err := e.client.Create(e.t.Context(), o); err != nil {
			e.t.Fatalf("create %T %s: %v", o, o.GetName(), err)
		}
	}
}

func get[T client.Object](e *env, name string, into T) T {
	e.t.Helper()
	if err := e.client.Get(e.t.Context(), e.key(name), into); err != nil {
		e.t.Fatalf("%T %s: %v", into, name, err)
	}
	return into
}

// edit changes an object as a person does.
func edit[T client.Object](e *env, name string, into T, change func(T)) {
	e.t.Helper()
	e.eventually(fmt.Sprintf("%T %s can be edited", into, name), func() error {
		if err := e.client.Get(e.t.Context(), e.key(name), into); err != nil {
			return err
		}
		change(into)
		return e.client.Update(e.t.Context(), into, client.FieldOwner("a-person"))
	})
}

// change edits a gateway as a person does.
func (e *env) change(name string, change func(*v1alpha1.AuthGateway)) {
	e.t.Helper()
	edit(e, name, &v1alpha1.AuthGateway{}, change)
}

func (e *env) gateway(name string) *v1alpha1.AuthGateway {
	e.t.Helper()
	return get(e, name, &v1alpha1.AuthGateway{})
}

func (e *env) deployment(name string) *appsv1.Deployment {
	e.t.Helper()
	return get(e, name, &appsv1.Deployment{})
}

func (e *env) secret(name string) *corev1.Secret {
	e.t.Helper()
	return get(e, name, &corev1.Secret{})
}

// publicKeys returns the content of a gateway's ConfigMap.
func (e *env) publicKeys(name string) map[string]string {
	e.t.Helper()
	return get(e, name+"-public-keys", &corev1.ConfigMap{}).Data
}

// remove deletes an object.
func (e *env) remove(o client.Object, options ...client.DeleteOption) {
	e.t.Helper()
	o.SetNamespace(e.namespace)
	if err := e.client.Delete(e.t.Context(), o, options...); err != nil {
		e.t.Fatal(err)
	}
}

// collectGarbage deletes what the gateway auth owns, as the garbage collector does.
func (e *env) collectGarbage() {
	e.t.Helper()
	for _, o := range objects {
		if made := get(e, o.name, o.empty()); len(made.GetOwnerReferences()) > 0 {
			e.remove(made)
		}
	}
}

// becomes waits until something has a value.
func becomes[T comparable](e *env, what string, want T, is func() T) {
	e.t.Helper()
	e.eventually(what, func() error {
		if now := is(); now != want {
			return fmt.Errorf("it is\n%v\nwant\n%v", now, want)
		}
		return nil
	})
}

// eventually waits until a condition holds.
func (e *env) eventually(what string, holds func() error) {
	e.t.Helper()
	e.eventuallyWithin(time.Minute, what, holds)
}

func (e *env) eventuallyWithin(limit time.Duration, what string, holds func() error) {
	e.t.Helper()
	testenv.Eventually(e.t, limit, what, func() error {
		err := holds()
		if err != nil && e.direct {
			e.reconcile()
			err = holds()
		}
		return err
	})
}

func credentials(name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name},
		StringData: map[string]string{"username": "auth", "password": "a database password"}}
}

// smallest returns the smallest valid AuthGateway.
func smallest(name string) *v1alpha1.AuthGateway {
	return &v1alpha1.AuthGateway{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.AuthGatewaySpec{Database: v1alpha1.Database{
			Host: "postgres.shop.svc", Name: "auth", CredentialsSecretRef: &v1alpha1.LocalReference{Name: "auth-db"},
		}},
	}
}

// condition waits until a condition of an AuthGateway's present generation has a status and a reason, and returns it.
func (e *env) condition(name, kind string, status metav1.ConditionStatus, reason string) metav1.Condition {
	e.t.Helper()
	var c metav1.Condition
	e.eventually(fmt.Sprintf("%s of %s is %s (%s)", kind, name, status, reason), func() error {
		var g v1alpha1.AuthGateway
		if err := e.client.Get(e.t.Context(), e.key(name), &g); err != nil {
			return err
		}
		found := meta.FindStatusCondition(g.Status.Conditions, kind)
		current := found != nil && (found.ObservedGeneration == g.Generation || kind == "KeysReady" && status == metav1.ConditionFalse)
		if !current || found.Status != status || found.Reason != reason {
			return fmt.Errorf("the conditions of generation %d are %+v", g.Generation, g.Status.Conditions)
		}
		c = *found
		return nil
	})
	return c
}

// autoscaled asks for an autoscaler.
func autoscaled(g *v1alpha1.AuthGateway) {
	g.Spec.Replicas, g.Spec.Autoscaling = nil, &v1alpha1.Autoscaling{MaxReplicas: 3}
}

// shows waits until a gateway has conditions, each as "Type Status Reason".
func (e *env) shows(name string, conditions ...string) {
	e.t.Helper()
	for _, c := range conditions {
		words := strings.Fields(c)
		e.condition(name, words[0], metav1.ConditionStatus(words[1]), words[2])
	}
}

// made waits for the Deployment, which the operator creates last.
func (e *env) made(name string) *appsv1.Deployment {
	e.t.Helper()
	d := &appsv1.Deployment{}
	e.eventually("the Deployment "+name+" is made", func() error { return e.client.Get(e.t.Context(), e.key(name), d) })
	return d
}

// ring returns the ring in the Secret of the keys.
func (e *env) ring(name string) keys.Ring {
	e.t.Helper()
	ring, err := keys.FromFiles(e.secret(name + "-keys").Data)
	if err != nil {
		e.t.Fatal(err)
	}
	return ring
}

// rollOut acts as the controllers and the kubelet do: it replaces all pods of a Deployment with ready ones of its
// present template, which have loaded the present keys.
func (e *env) rollOut(name string) {
	e.t.Helper()
	d := e.made(name)
	old := e.pods(client.MatchingLabels(d.Spec.Selector.MatchLabels))
	for i := range int(*d.Spec.Replicas) {
		e.startPod(d, i, true)
	}
	for i := range old {
		e.remove(&old[i], client.GracePeriodSeconds(0))
	}
	e.report(name, *d.Spec.Replicas)
}

var podCount atomic.Int64

// startPod creates a pod from a Deployment's template.
func (e *env) startPod(d *appsv1.Deployment, i int, ready bool) *corev1.Pod {
	e.t.Helper()
	n := podCount.Add(1)
	p := &corev1.Pod{ObjectMeta: *d.Spec.Template.ObjectMeta.DeepCopy(), Spec: *d.Spec.Template.Spec.DeepCopy()}
	p.Name = fmt.Sprintf("%s-%d-%d", d.Name, n, i)
	set := e.replicaSet(d)
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	e.create(p)
	p.Status.PodIP = fmt.Sprintf("10.1.%d.%d", n/250, n%250+1)
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	p.Status.Phase = corev1.PodRunning
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	if err := e.client.Status().Update(e.t.Context(), p); err != nil {
		e.t.Fatal(err)
	}
	e.answer(p, func() (serverconfig.State, error) { return e.holdsAll(d.Name), nil })
	return p
}

// answer sets what a pod answers.
func (e *env) answer(p *corev1.Pod, with func() (serverconfig.State, error)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answers[p.Status.PodIP] = with
}

// silence makes a pod give no answer.
func (e *env) silence(p *corev1.Pod, err error) {
	e.answer(p, func() (serverconfig.State, error) { return serverconfig.State{}, err })
}

// pods returns the pods of the namespace.
func (e *env) pods(options ...client.ListOption) []corev1.Pod {
	e.t.Helper()
	var pods corev1.PodList
	if err := e.client.List(e.t.Context(), &pods, append(options, client.InNamespace(e.namespace))...); err != nil {
		e.t.Fatal(err)
	}
	return pods.Items
}

// replicaSet creates the ReplicaSet that a Deployment's pods belong to, unless there is one.
func (e *env) replicaSet(d *appsv1.Deployment) *appsv1.ReplicaSet {
	e.t.Helper()
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: d.Name + "-" + string(d.UID)[:8], Labels: d.Spec.Template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{Selector: d.Spec.Selector, Template: d.Spec.Template},
	}
	set.Namespace = e.namespace
	if err := e.client.Create(e.t.Context(), set); apierrors.IsAlreadyExists(err) {
		return get(e, set.Name, set)
	} else if err != nil {
		e.t.Fatal(err)
	}
	return set
}

// holdsAll returns the answer of a server that has loaded the present ring.
func (e *env) holdsAll(name string) serverconfig.State {
	var s serverconfig.State
	var secret corev1.Secret
	if err := e.client.Get(context.Background(), e.key(name+"-keys"), &secret); err != nil {
		return s
	}
	ring, err := keys.FromFiles(secret.Data)
	if err != nil {
		return s
	}
	s.Ready, s.Keys.Generation = true, ring.Generation
	for _, k := range ring.Keys {
		if k.Phase != keys.Revoked {
			s.Keys.Held, s.Keys.Ready = append(s.Keys.Held, k.ID), append(s.Keys.Ready, k.ID)
		}
	}
	return s
}

// report writes the status of a Deployment whose pods are all up to date.
func (e *env) report(name string, ready int32) {
	e.t.Helper()
	e.eventually("the status of the Deployment can be written", func() error {
		d := &appsv1.Deployment{}
		if err := e.client.Get(e.t.Context(), e.key(name), d); err != nil {
			return err
		}
		d.Status.ObservedGeneration = d.Generation
		d.Status.Replicas, d.Status.UpdatedReplicas = *d.Spec.Replicas, *d.Spec.Replicas
		d.Status.ReadyReplicas, d.Status.AvailableReplicas = ready, ready
		return e.client.Status().Update(e.t.Context(), d)
	})
}

// ready creates a gateway and brings it to Ready.
func (e *env) ready(g *v1alpha1.AuthGateway) {
	e.t.Helper()
	e.create(g)
	e.rollOut(g.Name)
	e.shows(g.Name, "Ready True Ready")
}

// quiet waits until the operator is at rest, and clears the recorded requests.
func (e *env) quiet() {
	e.t.Helper()
	e.rest()
	e.calls.reset()
}

// rest waits until the operator has sent no request for a while.
func (e *env) rest() {
	e.t.Helper()
	if e.direct {
		e.eventually("the operator is at rest", func() error {
			before := len(e.calls.succeeded())
			e.reconcile()
			if after := len(e.calls.succeeded()); after != before {
				return fmt.Errorf("the operator sent %d writes", after-before)
			}
			return nil
		})
		return
	}
	e.eventually("the operator is at rest", func() error {
		before := e.calls.count()
		time.Sleep(300 * time.Millisecond) // no event announces that nothing happens
		if after := e.calls.count(); after != before {
			return fmt.Errorf("the operator sent %d requests", after-before)
		}
		return nil
	})
}

// call is a request to the API server, as its authorization sees it.
type call struct {
	verb, group, resource, subresource, namespace, name string
	status                                              int
}

func (c call) String() string {
	resource := c.resource
	if c.subresource != "" {
		resource += "/" + c.subresource
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", c.verb, resource, c.name, c.group))
}

// writes reports whether a request changes an object other than an event.
func (c call) writes() bool {
	return !slices.Contains([]string{"get", "list", "watch"}, c.verb) && c.group != "events.k8s.io"
}

type recorder struct {
	mu    sync.Mutex
	calls []call
}

func (r *recorder) add(c call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, c)
}

func (r *recorder) count() int { r.mu.Lock(); defer r.mu.Unlock(); return len(r.calls) }
func (r *recorder) reset()     { r.mu.Lock(); defer r.mu.Unlock(); r.calls = nil }

// written returns the requests that change an object.
func (r *recorder) written() (all []call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.calls {
		if c.writes() {
			all = append(all, c)
		}
	}
	return all
}

// succeeded returns the writes that the API server accepted.
func (r *recorder) succeeded() []call {
	return slices.DeleteFunc(r.written(), func(c call) bool { return c.status == 0 || c.status >= http.StatusBadRequest })
}

// everything has the requests of every operator of every test, for roleEqualsUse.
var everything = struct {
	mu    sync.Mutex
	calls map[call]bool
}{calls: map[call]bool{}}

func allCalls() []call {
	everything.mu.Lock()
	defer everything.mu.Unlock()
	return slices.Collect(maps.Keys(everything.calls))
}

// recording is a RoundTripper that records requests.
type recording struct {
	to   *recorder
	next http.RoundTripper
}

var requests = request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}

func (r *recording) RoundTrip(q *http.Request) (*http.Response, error) {
	response, err := r.next.RoundTrip(q)
	info, parseErr := requests.NewRequestInfo(q)
	if parseErr == nil && info.IsResourceRequest {
		c := call{verb: info.Verb, group: info.APIGroup, resource: info.Resource, subresource: info.Subresource,
			namespace: info.Namespace, name: info.Name}
		if response != nil {
			c.status = response.StatusCode
		}
		r.to.add(c)
		kind := call{verb: c.verb, group: c.group, resource: c.resource, subresource: c.subresource}
		everything.mu.Lock()
		everything.calls[kind] = true
		if c.verb == "patch" && c.status == http.StatusCreated { // an apply that creates an object needs both rights
			kind.verb = "create"
			everything.calls[kind] = true
		}
		everything.mu.Unlock()
	}
	return response, err
}
