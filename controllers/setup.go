package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
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

// Scheme returns a scheme with every type that the operator uses.
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil { // a programming error
			panic(err)
		}
	}
	return s
}

// cacheOptions limits what the operator holds in memory: every AuthGateway, the names of all Secrets, and of other
// kinds only the objects that the operator created. If namespaces are given, it watches no others.
func cacheOptions(namespaces []string) cache.Options {
	return cache.Options{
		DefaultLabelSelector: labels.SelectorFromSet(labels.Set{labelManagedBy: operatorName}),
		DefaultTransform:     ownFields,
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.AuthGateway{}: {Label: labels.Everything(), Transform: gatewayEssence},
			&corev1.Secret{}:        {Label: labels.Everything(), Transform: nameOnly},
			&corev1.Pod{}:           {Transform: podEssence},
			&v1alpha1.PublicKeys{}:  {Label: labels.Everything(), Transform: withoutManagedFields},
			namespaceNames():        {Label: labels.Everything(), Transform: withoutManagedFields},
		},
		DefaultNamespaces: cacheNamespaces(namespaces),
	}
}

// cacheNamespaces returns nil, which means all namespaces, if names is empty.
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

// nameOnly keeps only the name and the version of a Secret or a ConfigMap, because
// a cluster may have tens of thousands of them.
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

// ownFields drops the managedFields of other writers, which take up much of an object. It keeps the operator's own, and
// those from before its first apply, which it has yet to take over; see isAdopted. All objects share the labels' texts.
func ownFields(in any) (any, error) {
	if m, err := meta.Accessor(in); err == nil {
		m.SetLabels(sharedLabels(m.GetLabels()))
		m.SetManagedFields(slices.DeleteFunc(m.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool {
			return f.Manager != FieldManager && f.Manager != beforeFirstApply || f.Subresource != ""
		}))
	}
	return in, nil
}

// commonLabels are the keys and values of labels that most objects have.
var commonLabels = map[string]string{
	labelName: labelName, labelInstance: labelInstance, labelManagedBy: labelManagedBy,
	serverName: serverName, publicKeysName: publicKeysName, operatorName: operatorName,
}

func sharedLabels(in map[string]string) map[string]string {
	if in == nil {
		return nil
	}
	shared := make(map[string]string, len(in))
	for k, v := range in {
		shared[cmp.Or(commonLabels[k], k)] = cmp.Or(commonLabels[v], v)
	}
	return shared
}

// gatewayEssence drops what only the API server and kubectl need. The operator
// patches the status and never writes a whole AuthGateway back.
func gatewayEssence(in any) (any, error) {
	if g, ok := in.(*v1alpha1.AuthGateway); ok {
		g.ManagedFields = nil
		delete(g.Annotations, corev1.LastAppliedConfigAnnotation)
	}
	return in, nil
}

// podEssence drops the fields of a pod that the operator does not read.
func podEssence(in any) (any, error) {
	if p, ok := in.(*corev1.Pod); ok {
		p.Spec, p.ManagedFields, p.Labels = corev1.PodSpec{}, nil, sharedLabels(p.Labels)
	}
	return in, nil
}

// New returns a Reconciler for a manager that was created with NewCache and the same options.
func New(m manager.Manager, o Options) *Reconciler {
	r := newReconciler(m.GetClient(), m.GetAPIReader(), o)
	r.Events, r.watches = m.GetEventRecorder(operatorName), m.GetCache().(*partialCache).watches
	return r
}

func newReconciler(c client.Client, live client.Reader, o Options) *Reconciler {
	return &Reconciler{
		Client: c, Live: live, Ask: ask(), Now: o.clock(), Options: o,

		decrypts:  newLRU[[32]byte, bool](10_000),
		owners:    newLRU[types.UID, types.UID](10_000),
		sightings: newLRU[string, time.Time](20_000),
		asked:     newLRU[types.UID, time.Time](10_000),
		damper:    &damper{all: newLRU[damped, *rate.Limiter](50_000)},
		upgrades:  newUpgrades(o.Upgrades),
		wake:      make(chan event.GenericEvent, 1024),
		steps:     stepsMetric(),

		namespaces:   newLRU[string, seenNamespace](10_000),
		publications: newPublications(),

		reconcileRing: keys.Reconcile,
	}
}

// clock returns the operator's one source of time.
func (o Options) clock() func() time.Time {
	if o.Now == nil {
		return time.Now //nolint:forbidigo // every other part takes the time from here
	}
	return o.Now
}

func (o Options) concurrency() int { return cmp.Or(o.Concurrency, 4) }

func newLRU[K comparable, V any](size int) *lru.Cache[K, V] {
	all, err := lru.New[K, V](size)
	if err != nil { // only if the size is not positive
		panic(err)
	}
	return all
}

// The indices find the AuthGateways that a Secret or a ConfigMap concerns.
const (
	indexSecrets    = "secrets"
	indexConfigMaps = "configMaps"
)

// SetUp registers the reconciler with the manager, with everything that it watches.
func (r *Reconciler) SetUp(ctx context.Context, m manager.Manager) error {
	for index, names := range map[string]func(*v1alpha1.AuthGateway) []string{
		indexSecrets: func(g *v1alpha1.AuthGateway) []string {
			n := namesOf(g)
			return append(inputNames(g, gvkSecret), n.keys(), n.passphrases(), n.caller())
		},
		indexConfigMaps: func(g *v1alpha1.AuthGateway) []string { return inputNames(g, gvkConfigMap) },
	} {
		err := m.GetFieldIndexer().IndexField(ctx, &v1alpha1.AuthGateway{}, index, func(o client.Object) []string {
			return names(o.(*v1alpha1.AuthGateway))
		})
		if err != nil {
			return err
		}
	}
	b := ctrl.NewControllerManagedBy(m).Named("authgateway").For(&v1alpha1.AuthGateway{}).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.users(indexSecrets))).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(gatewayOfPod)).
		WatchesRawSource(source.Channel(r.wake, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: r.Options.concurrency(),
			ReconciliationTimeout:   reconcileTimeout,
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](
				firstRetry, lastRetry),
		})
	owned := map[schema.GroupVersionKind]bool{}
	for _, o := range managedObjects {
		if !o.optional && !owned[o.gvk] {
			b, owned[o.gvk] = b.Owns(o.empty()), true
		}
	}
	if err := m.Add(manager.RunnableFunc(r.watchDatabases)); err != nil {
		return err
	}
	c, err := b.Build(r)
	if err != nil {
		return err
	}
	if r.watchConfigMaps, err = r.lateConfigMaps(m, c); err != nil {
		return err
	}
	r.watchOptional = r.optionalKinds(m, c)
	for _, o := range managedObjects {
		if o.optional {
			if _, err := r.watchOptional(o, true); err != nil {
				return err
			}
		}
	}
	if err := r.setUpPublicKeys(ctx, m); err != nil {
		return err
	}
	return registerMetrics(gatewayMetrics{m.GetClient()}, copyMetrics{m.GetClient()}, r.steps, r.watches, r.upgrades)
}

// reconcileTimeout ends a reconcile that the API server keeps waiting. It is
// retried, and its worker takes the next AuthGateway.
const reconcileTimeout = 2 * time.Minute

// A failed reconcile is retried after a delay that doubles. The longest is short,
// so that the operator soon notices when the cause was fixed.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 20 * time.Second
)

// users maps an object to the gateways that it concerns, by an index.
func (r *Reconciler) users(index string) handler.MapFunc {
	return func(ctx context.Context, o client.Object) []reconcile.Request {
		var users v1alpha1.AuthGatewayList
		err := r.Client.List(ctx, &users, client.InNamespace(o.GetNamespace()), client.MatchingFields{index: o.GetName()})
		if err != nil {
			return nil // the cache fails only when the program is shutting down
		}
		var requests []reconcile.Request
		for i := range users.Items {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&users.Items[i])})
		}
		return requests
	}
}

func gatewayOfPod(_ context.Context, pod client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{
		Namespace: pod.GetNamespace(), Name: pod.GetLabels()[labelInstance],
	}}}
}

// lateConfigMaps returns a function that watches the ConfigMaps of users, from the first gateway that
// refers to one. It has a separate cache with their names, because the manager's cache
// holds the operator's own ConfigMaps, and caches a kind in one way only.
func (r *Reconciler) lateConfigMaps(m manager.Manager, c controller.Controller) (watch func() error, err error) {
	o := cache.Options{
		HTTPClient: m.GetHTTPClient(), Scheme: m.GetScheme(), Mapper: m.GetRESTMapper(),
		DefaultTransform: nameOnly, DefaultNamespaces: cacheNamespaces(r.Options.Namespaces),
	}
	r.watches.into(&o)
	names, err := cache.New(m.GetConfig(), o)
	if err != nil {
		return nil, fmt.Errorf("create the cache of ConfigMap names: %w", err)
	}
	if err := m.Add(names); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	watched := false
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		if watched {
			return nil
		}
		err := c.Watch(source.Kind[client.Object](names, metadataOf(gvkConfigMap),
			handler.EnqueueRequestsFromMapFunc(r.users(indexConfigMaps))))
		if err != nil {
			return fmt.Errorf("watch ConfigMaps: %w", err)
		}
		watched = true
		return nil
	}, nil
}

// optionalKinds returns a function that watches kinds whose CRD may be installed while the operator runs. It starts to
// watch a kind once the cluster has it, and reports whether the cluster has it now: a CRD may be removed again. It asks
// the API server about a kind that it does not watch yet only if look is true.
func (r *Reconciler) optionalKinds(
	m manager.Manager, c controller.Controller,
) (watch func(o *managedObject, look bool) (bool, error)) {
	var mu sync.Mutex
	watched := map[schema.GroupVersionKind]bool{}
	return func(o *managedObject, look bool) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		if watched[o.gvk] || !look {
			return watched[o.gvk] && !r.watches.gone(o.gvk), nil
		}
		_, err := m.GetRESTMapper().RESTMapping(o.gvk.GroupKind(), o.gvk.Version)
		if meta.IsNoMatchError(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("look up the kind %s: %w", o.gvk.Kind, err)
		}
		object := o.empty().(*unstructured.Unstructured)
		owner := handler.TypedEnqueueRequestForOwner[*unstructured.Unstructured](
			m.GetScheme(), m.GetRESTMapper(), &v1alpha1.AuthGateway{}, handler.OnlyControllerOwner())
		if err := c.Watch(source.Kind(m.GetCache(), object, owner)); err != nil {
			return false, fmt.Errorf("watch the kind %s: %w", o.gvk.Kind, err)
		}
		watched[o.gvk] = true
		return true, nil
	}
}
