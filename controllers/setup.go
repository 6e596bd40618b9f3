package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

// Scheme is every type that the operator knows.
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil { // a mistake in the program
			panic(err)
		}
	}
	return s
}

// cacheOptions is what the operator keeps in memory: of its own kind all, of
// every other kind only what it has made, and of Secrets not even that, but the
// names alone. Where namespaces are given it looks nowhere else.
func cacheOptions(namespaces []string) cache.Options {
	o := cache.Options{
		DefaultLabelSelector: managed(),
		DefaultTransform:     ownFields,
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.AuthGateway{}: {Label: labels.Everything(), Transform: gatewayEssence},
			&corev1.Secret{}:        {Label: labels.Everything(), Transform: nameOnly},
			&corev1.Pod{}:           {Transform: podEssence},
		},
	}
	o.DefaultNamespaces = cacheNamespaces(namespaces)
	return o
}

// cacheNamespaces is nil, which means all, where none is given.
func cacheNamespaces(names []string) map[string]cache.Config {
	if len(names) == 0 {
		return nil
	}
	all := map[string]cache.Config{}
	for _, n := range names {
		all[n] = cache.Config{}
	}
	return all
}

// nameOnly keeps of the metadata of a Secret or a ConfigMap what tells that it
// has changed. There may be tens of thousands.
func nameOnly(in any) (any, error) {
	m, err := meta.Accessor(in)
	if err != nil {
		return in, nil //nolint:nilerr // a tombstone of the cache
	}
	out := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUID(), ResourceVersion: m.GetResourceVersion(),
	}}
	if typed, ok := in.(*metav1.PartialObjectMetadata); ok {
		out.TypeMeta = typed.TypeMeta
	}
	return out, nil
}

// ownFields drops of an object's managedFields what others have written: what we
// have applied is found in our own, and they are a good part of an object. What
// was there before our first apply is to be taken over; see isAdopted.
func ownFields(in any) (any, error) {
	if m, err := meta.Accessor(in); err == nil {
		m.SetManagedFields(slices.DeleteFunc(m.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool {
			return f.Manager != FieldManager && f.Manager != beforeFirstApply || f.Subresource != ""
		}))
	}
	return in, nil
}

// gatewayEssence drops of a gateway what is for the API server and for kubectl.
// It is never written back whole: its status is patched.
func gatewayEssence(in any) (any, error) {
	if g, ok := in.(*v1alpha1.AuthGateway); ok {
		g.ManagedFields = nil
		delete(g.Annotations, corev1.LastAppliedConfigAnnotation)
	}
	return in, nil
}

// podEssence drops of a pod what nothing here looks at.
func podEssence(in any) (any, error) {
	if p, ok := in.(*corev1.Pod); ok {
		p.Spec, p.ManagedFields = corev1.PodSpec{}, nil
	}
	return in, nil
}

// New makes a Reconciler that works for a manager, whose cache is of NewCache.
func New(m manager.Manager, o Options) *Reconciler {
	seals, err := lru.New[[32]byte, keys.Encryption](10_000)
	if err != nil { // a size that is not positive is the one way
		panic(err)
	}
	asked, err := lru.New[types.UID, time.Time](10_000)
	if err != nil { // as above
		panic(err)
	}
	owners, err := lru.New[types.UID, types.UID](10_000)
	if err != nil { // as above
		panic(err)
	}
	sightings, err := lru.New[string, time.Time](20_000)
	if err != nil {
		panic(err)
	}
	return &Reconciler{
		damper: newDamper(), asked: asked, databases: newDatabases(), upgrades: newUpgrades(o.Upgrades), wake: make(chan event.GenericEvent, 1024),
		watches: m.GetCache().(*partialCache).watches,
		Client:  m.GetClient(), Live: m.GetAPIReader(), Events: m.GetEventRecorder(operatorName),
		Ask: ask(askTransport()), Now: time.Now, //nolint:forbidigo // here the clock is taken
		Options: o, seals: seals, owners: owners, sightings: sightings, steps: stepsMetric(),
	}
}

// The indices find the AuthGateways that a Secret, or a ConfigMap of templates,
// matters to.
const (
	indexInputs    = "inputs"
	indexTemplates = "templates"
)

// SetUp has the manager call Reconcile whenever something changes that matters.
func (r *Reconciler) SetUp(ctx context.Context, m manager.Manager) error {
	err := m.GetFieldIndexer().IndexField(ctx, &v1alpha1.AuthGateway{}, indexInputs, func(o client.Object) []string {
		g := o.(*v1alpha1.AuthGateway)
		n := namesOf(g)
		return append(inputsOf(g), n.keys(), n.passphrases(), n.caller())
	})
	if err != nil {
		return err
	}
	err = m.GetFieldIndexer().IndexField(ctx, &v1alpha1.AuthGateway{}, indexTemplates, func(o client.Object) []string {
		if ref := templatesRef(o.(*v1alpha1.AuthGateway)); ref != nil {
			return []string{ref.Name}
		}
		return nil
	})
	if err != nil {
		return err
	}
	concurrency := r.Options.Concurrency
	if concurrency == 0 {
		concurrency = 4
	}
	b := ctrl.NewControllerManagedBy(m).Named("authgateway").For(&v1alpha1.AuthGateway{}).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.users(indexInputs))).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(gatewayOfPod)).
		WatchesRawSource(source.Channel(r.wake, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrency,
			ReconciliationTimeout:   passTimeout,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
		})
	for _, s := range slots {
		if s.gvk.Empty() {
			b = b.Owns(s.empty())
		}
	}
	if err := m.Add(manager.RunnableFunc(r.watchDatabases)); err != nil {
		return err
	}
	c, err := b.Build(r)
	if err != nil {
		return err
	}
	if r.configMaps, err = r.lateConfigMaps(m, c); err != nil {
		return err
	}
	r.kinds = &lateKinds{manager: m, controller: c, watches: r.watches, watched: map[schema.GroupVersionKind]bool{}}
	for _, s := range slots {
		if !s.gvk.Empty() {
			if _, err := r.kinds.watch(s, true); err != nil {
				return err
			}
		}
	}
	return registerMetrics(gatewayMetrics{m.GetClient()}, r.steps, r.watches, r.upgrades)
}

// passTimeout ends a pass that an API server keeps waiting, so that it is tried
// again, and the others go on.
const passTimeout = 2 * time.Minute

// A pass that failed is tried again after a while that doubles. The longest is
// short enough that nobody waits long for what they have just mended.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 20 * time.Second
)

// users maps an object to the gateways that it matters to, by an index.
func (r *Reconciler) users(index string) handler.MapFunc {
	return func(ctx context.Context, o client.Object) []reconcile.Request {
		var users v1alpha1.AuthGatewayList
		if err := r.Client.List(ctx, &users, client.InNamespace(o.GetNamespace()), client.MatchingFields{index: o.GetName()}); err != nil {
			return nil // the cache's one error here is that the program is ending
		}
		var requests []reconcile.Request
		for i := range users.Items {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&users.Items[i])})
		}
		return requests
	}
}

func gatewayOfPod(_ context.Context, pod client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: pod.GetNamespace(), Name: pod.GetLabels()[labelInstance]}}}
}

// lateConfigMaps watches the ConfigMaps of others once a gateway names one. They
// have a cache of their own, with their names alone: the manager's cache has those
// that the operator has made, and a kind is cached in one way only.
type lateConfigMaps struct {
	cache      cache.Cache
	controller controller.Controller
	users      handler.MapFunc

	mu      sync.Mutex
	watched bool
}

func (r *Reconciler) lateConfigMaps(m manager.Manager, c controller.Controller) (*lateConfigMaps, error) {
	o := cache.Options{
		HTTPClient: m.GetHTTPClient(), Scheme: m.GetScheme(), Mapper: m.GetRESTMapper(),
		DefaultTransform: nameOnly, DefaultNamespaces: cacheNamespaces(r.Options.Namespaces),
	}
	r.watches.into(&o)
	names, err := cache.New(m.GetConfig(), o)
	if err != nil {
		return nil, fmt.Errorf("make the cache of the names of ConfigMaps: %w", err)
	}
	if err := m.Add(names); err != nil {
		return nil, err
	}
	return &lateConfigMaps{cache: names, controller: c, users: r.users(indexTemplates)}, nil
}

func (l *lateConfigMaps) watch() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watched {
		return nil
	}
	names := &metav1.PartialObjectMetadata{}
	names.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	if err := l.controller.Watch(source.Kind[client.Object](l.cache, names, handler.EnqueueRequestsFromMapFunc(l.users))); err != nil {
		return fmt.Errorf("watch ConfigMaps: %w", err)
	}
	l.watched = true
	return nil
}

// lateKinds watches kinds that a cluster may get only after the operator runs.
type lateKinds struct {
	manager    manager.Manager
	controller controller.Controller
	watches    *watches

	mu      sync.Mutex
	watched map[schema.GroupVersionKind]bool
}

// watch begins to watch the kind of a slot, once it is there, and reports
// whether it is: what was there may have gone again. Only where look is set is
// the API server asked again.
func (k *lateKinds) watch(s *slot, look bool) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.watched[s.gvk] || !look {
		return k.watched[s.gvk] && !k.watches.gone(s.gvk), nil
	}
	_, err := k.manager.GetRESTMapper().RESTMapping(s.gvk.GroupKind(), s.gvk.Version)
	if meta.IsNoMatchError(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the kind %s: %w", s.kind, err)
	}
	object := s.empty().(*unstructured.Unstructured)
	owner := handler.TypedEnqueueRequestForOwner[*unstructured.Unstructured](k.manager.GetScheme(), k.manager.GetRESTMapper(), &v1alpha1.AuthGateway{}, handler.OnlyControllerOwner())
	if err := k.controller.Watch(source.Kind(k.manager.GetCache(), object, owner)); err != nil {
		return false, fmt.Errorf("watch the kind %s: %w", s.kind, err)
	}
	k.watched[s.gvk] = true
	return true, nil
}

// convert makes an apply configuration of what a person wrote in a spec: both
// have the same JSON.
func convert[C any](from any) *C {
	into := new(C)
	text, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil { // the types are generated from the same source
		panic(fmt.Sprintf("controllers: %s as %s: %v", reflect.TypeOf(from), reflect.TypeOf(into), err))
	}
	return into
}
