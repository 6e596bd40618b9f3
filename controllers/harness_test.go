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

// bed is a namespace of a real API server with an operator. It stands in for the
// controllers and the kubelet, which do not run: it creates the pods of Deployments
// and answers for them.
type bed struct {
	t         *testing.T
	namespace string
	client    client.Client           // an administrator's
	calls     *recorder               // the operator's requests to the API server
	offset    atomic.Int64            // of the operator's clock
	operator  *controllers.Reconciler // the last that was started
	stops     []func()                // of all that were started
	direct    bool                    // the bed calls Reconcile itself; see directBed

	mu      sync.Mutex
	answers map[string]func() (serverconfig.State, error) // the answers of pods, by IP address
}

// newBed starts an operator for a new namespace.
func newBed(t *testing.T, options ...func(*controllers.Options)) *bed {
	t.Helper()
	b := emptyBed(t)
	b.startOperator(options...)
	return b
}

// directBed is an emptyBed whose operators have no manager, no cache and no watches:
// while the bed waits for something, it calls Reconcile. That is much faster.
// Tests of what starts a reconcile, or how often, need newBed.
func directBed(t *testing.T) *bed {
	t.Helper()
	b := emptyBed(t)
	b.direct = true
	return b
}

// newDirectBed starts a direct operator.
func newDirectBed(t *testing.T, options ...func(*controllers.Options)) *bed {
	t.Helper()
	b := directBed(t)
	b.startOperator(options...)
	return b
}

// emptyBed has no operator yet. Every test with an API server begins here.
func emptyBed(t *testing.T) *bed {
	t.Helper()
	if testing.Short() {
		t.Skip("the test needs an API server")
	}
	b := &bed{t: t, namespace: kubernetestest.Namespace(t), calls: &recorder{}, answers: map[string]func() (serverconfig.State, error){}}
	c, err := client.New(kubernetestest.Config(t), client.Options{Scheme: controllers.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	b.client = c
	return b
}

// startOperator starts an operator. It is stopped by stop or when the test ends.
func (b *bed) startOperator(options ...func(*controllers.Options)) (stop func()) {
	b.t.Helper()
	return b.startOperatorAs(kubernetestest.Config(b.t), options...)
}

func (b *bed) startOperatorAs(as *rest.Config, options ...func(*controllers.Options)) (stop func()) {
	b.t.Helper()
	o := controllers.Options{ServerImage: "auth-gateway/authserver:test", OperatorNamespace: "auth-gateway-system",
		Namespaces: []string{b.namespace}, Now: b.now}
	for _, change := range options {
		change(&o)
	}
	kubernetes := rest.CopyConfig(as)
	kubernetes.QPS, kubernetes.Burst = -1, 0
	kubernetes.Wrap(func(next http.RoundTripper) http.RoundTripper { return &recording{b.calls, next} })
	if b.direct {
		return b.startDirect(kubernetes, o)
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
		b.t.Fatal(err)
	}
	r := controllers.New(m, o)
	r.Ask = b.ask
	b.operator = r
	ctx, cancel := context.WithCancel(context.Background())
	if err := r.SetUp(ctx, m); err != nil {
		b.t.Fatal(err)
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
					b.t.Errorf("the operator failed: %v", err)
				}
			case <-time.After(time.Minute):
				b.t.Error("the operator does not stop")
			}
		})
	}
	b.t.Cleanup(stop)
	b.stops = append(b.stops, stop)
	return stop
}

func (b *bed) startDirect(kubernetes *rest.Config, o controllers.Options) (stop func()) {
	b.t.Helper()
	c, err := client.New(kubernetes, client.Options{Scheme: controllers.Scheme()})
	if err != nil {
		b.t.Fatal(err)
	}
	r := controllers.NewDirect(&directClient{c, b}, o)
	r.Ask = b.ask
	b.operator = r
	stop = func() {
		if b.operator == r {
			b.operator = nil
		}
	}
	b.stops = append(b.stops, stop)
	return stop
}

// directClient reads as the cache would: only in the namespace that is watched, and
// AuthGateways without a request that is recorded.
type directClient struct {
	client.Client
	b *bed
}

func (c *directClient) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if _, is := o.(*v1alpha1.AuthGateway); is {
		return c.b.client.Get(ctx, key, o, opts...)
	}
	return c.Client.Get(ctx, key, o, opts...)
}

func (c *directClient) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return c.Client.List(ctx, list, append(opts, client.InNamespace(c.b.namespace))...)
}

// reconcile calls a direct operator for every gateway.
func (b *bed) reconcile() {
	b.t.Helper()
	if !b.direct || b.operator == nil {
		return
	}
	var all v1alpha1.AuthGatewayList
	if err := b.client.List(b.t.Context(), &all, client.InNamespace(b.namespace)); err != nil {
		b.t.Fatal(err)
	}
	for i := range all.Items { // errors show in the conditions
		_, _ = b.operator.Reconcile(b.t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&all.Items[i])})
	}
}

func (b *bed) now() time.Time { return time.Now().Add(time.Duration(b.offset.Load())) }

// pass moves the operator's clock forward.
func (b *bed) pass(d time.Duration) { b.offset.Add(int64(d)) }

func (b *bed) ask(_ context.Context, ip string) (serverconfig.State, error) {
	b.mu.Lock()
	answer := b.answers[ip]
	b.mu.Unlock()
	if answer == nil {
		return serverconfig.State{}, fmt.Errorf("no pod has the address %s", ip)
	}
	return answer()
}

func (b *bed) key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: b.namespace, Name: name}
}

func (b *bed) create(objects ...client.Object) {
	b.t.Helper()
	for _, o := range objects {
		o.SetNamespace(b.namespace)
		if err := b.client.Create(b.t.Context(), o); err != nil {
			b.t.Fatalf("create %T %s: %v", o, o.GetName(), err)
		}
	}
}

func get[T client.Object](b *bed, name string, into T) T {
	b.t.Helper()
	if err := b.client.Get(b.t.Context(), b.key(name), into); err != nil {
		b.t.Fatalf("%T %s: %v", into, name, err)
	}
	return into
}

// edit changes an object as a person does.
func edit[T client.Object](b *bed, name string, into T, change func(T)) {
	b.t.Helper()
	b.eventually(fmt.Sprintf("%T %s can be edited", into, name), func() error {
		if err := b.client.Get(b.t.Context(), b.key(name), into); err != nil {
			return err
		}
		change(into)
		return b.client.Update(b.t.Context(), into, client.FieldOwner("a-person"))
	})
}

// eventually waits until a condition holds.
func (b *bed) eventually(what string, holds func() error) {
	b.t.Helper()
	b.eventuallyWithin(time.Minute, what, holds)
}

func (b *bed) eventuallyWithin(limit time.Duration, what string, holds func() error) {
	b.t.Helper()
	testenv.Eventually(b.t, limit, what, func() error {
		err := holds()
		if err != nil && b.direct {
			b.reconcile()
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

// condition waits until a condition of an AuthGateway's present generation has a
// status and a reason, and returns it.
func (b *bed) condition(name, kind string, status metav1.ConditionStatus, reason string) metav1.Condition {
	b.t.Helper()
	var c metav1.Condition
	b.eventually(fmt.Sprintf("%s of %s is %s (%s)", kind, name, status, reason), func() error {
		var g v1alpha1.AuthGateway
		if err := b.client.Get(b.t.Context(), b.key(name), &g); err != nil {
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

// made waits for the Deployment, which the operator creates last.
func (b *bed) made(name string) *appsv1.Deployment {
	b.t.Helper()
	d := &appsv1.Deployment{}
	b.eventually("the Deployment "+name+" is made", func() error { return b.client.Get(b.t.Context(), b.key(name), d) })
	return d
}

// ring returns the ring in the Secret of the keys.
func (b *bed) ring(name string) keys.Ring {
	b.t.Helper()
	ring, err := keys.FromFiles(get(b, name+"-keys", &corev1.Secret{}).Data)
	if err != nil {
		b.t.Fatal(err)
	}
	return ring
}

// rollOut acts as the controllers and the kubelet do: it replaces all pods of a
// Deployment with ready ones of its present template, which have loaded the present
// keys.
func (b *bed) rollOut(name string) {
	b.t.Helper()
	d := b.made(name)
	var old corev1.PodList
	if err := b.client.List(b.t.Context(), &old, client.InNamespace(b.namespace),
		client.MatchingLabels(d.Spec.Selector.MatchLabels)); err != nil {
		b.t.Fatal(err)
	}
	for i := range int(*d.Spec.Replicas) {
		b.startPod(d, i, true)
	}
	for i := range old.Items {
		if err := b.client.Delete(b.t.Context(), &old.Items[i], client.GracePeriodSeconds(0)); err != nil {
			b.t.Fatal(err)
		}
	}
	b.report(name, *d.Spec.Replicas)
}

var podCount atomic.Int64

// startPod creates a pod from a Deployment's template.
func (b *bed) startPod(d *appsv1.Deployment, i int, ready bool) *corev1.Pod {
	b.t.Helper()
	n := podCount.Add(1)
	p := &corev1.Pod{ObjectMeta: *d.Spec.Template.ObjectMeta.DeepCopy(), Spec: *d.Spec.Template.Spec.DeepCopy()}
	p.Name = fmt.Sprintf("%s-%d-%d", d.Name, n, i)
	set := b.replicaSet(d)
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	b.create(p)
	p.Status.PodIP = fmt.Sprintf("10.1.%d.%d", n/250, n%250+1)
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	p.Status.Phase = corev1.PodRunning
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	if err := b.client.Status().Update(b.t.Context(), p); err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[p.Status.PodIP] = func() (serverconfig.State, error) { return b.holdsAll(d.Name), nil }
	return p
}

// replicaSet creates the ReplicaSet that a Deployment's pods belong to, unless there
// is one.
func (b *bed) replicaSet(d *appsv1.Deployment) *appsv1.ReplicaSet {
	b.t.Helper()
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: d.Name + "-" + string(d.UID)[:8], Labels: d.Spec.Template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{Selector: d.Spec.Selector, Template: d.Spec.Template},
	}
	set.Namespace = b.namespace
	if err := b.client.Create(b.t.Context(), set); apierrors.IsAlreadyExists(err) {
		return get(b, set.Name, set)
	} else if err != nil {
		b.t.Fatal(err)
	}
	return set
}

// holdsAll returns the answer of a server that has loaded the present ring.
func (b *bed) holdsAll(name string) serverconfig.State {
	var s serverconfig.State
	var secret corev1.Secret
	if err := b.client.Get(context.Background(), b.key(name+"-keys"), &secret); err != nil {
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
func (b *bed) report(name string, ready int32) {
	b.t.Helper()
	b.eventually("the status of the Deployment can be written", func() error {
		d := &appsv1.Deployment{}
		if err := b.client.Get(b.t.Context(), b.key(name), d); err != nil {
			return err
		}
		d.Status.ObservedGeneration = d.Generation
		d.Status.Replicas, d.Status.UpdatedReplicas = *d.Spec.Replicas, *d.Spec.Replicas
		d.Status.ReadyReplicas, d.Status.AvailableReplicas = ready, ready
		return b.client.Status().Update(b.t.Context(), d)
	})
}

// ready creates a gateway and brings it to Ready.
func (b *bed) ready(g *v1alpha1.AuthGateway) {
	b.t.Helper()
	b.create(g)
	b.rollOut(g.Name)
	b.condition(g.Name, "Ready", metav1.ConditionTrue, "Ready")
}

// quiet waits until the operator is at rest, and clears the recorded requests.
func (b *bed) quiet() {
	b.t.Helper()
	b.rest()
	b.calls.reset()
}

// rest waits until the operator has sent no request for a while.
func (b *bed) rest() {
	b.t.Helper()
	if b.direct {
		b.eventually("the operator is at rest", func() error {
			before := len(b.calls.succeeded())
			b.reconcile()
			if after := len(b.calls.succeeded()); after != before {
				return fmt.Errorf("the operator sent %d writes", after-before)
			}
			return nil
		})
		return
	}
	b.eventually("the operator is at rest", func() error {
		before := b.calls.count()
		time.Sleep(300 * time.Millisecond) // no event announces that nothing happens
		if after := b.calls.count(); after != before {
			return fmt.Errorf("the operator sent %d requests", after-before)
		}
		return nil
	})
}

func atLeast(have, want int) error {
	if have < want {
		return fmt.Errorf("there are %d, want %d", have, want)
	}
	return nil
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
