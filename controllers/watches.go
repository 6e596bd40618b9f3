package controllers

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// NewCache returns a constructor of the operator's cache; see cacheOptions for its content. If the operator may not
// watch a kind or a namespace, the cache syncs without it, and asks for it again until it may.
func NewCache(options Options) cache.NewCacheFunc {
	return func(config *rest.Config, given cache.Options) (cache.Cache, error) {
		o := cacheOptions(options.Namespaces)
		o.HTTPClient, o.Scheme, o.Mapper = given.HTTPClient, given.Scheme, knowingPublicKeys(given.Mapper)
		w := &watches{scheme: given.Scheme, now: options.clock(), all: map[*watched]bool{}}
		w.into(&o)
		c, err := cache.New(config, o)
		if err != nil {
			return nil, err
		}
		return &partialCache{Cache: c, watches: w}, nil
	}
}

// partialCache is a cache that returns an error, rather than NotFound, for objects that the operator may not watch.
type partialCache struct {
	cache.Cache
	watches *watches
}

func (c *partialCache) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if err := c.watches.denied(o, key.Namespace); err != nil {
		return err
	}
	return c.Cache.Get(ctx, key, o, opts...)
}

// List of all namespaces has only those that are watched.
func (c *partialCache) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(opts)
	if o.Namespace != "" {
		if err := c.watches.denied(list, o.Namespace); err != nil {
			return err
		}
	}
	return c.Cache.List(ctx, list, opts...)
}

// watches records which kinds and namespaces the operator may watch.
type watches struct {
	scheme *runtime.Scheme
	now    func() time.Time

	mu  sync.Mutex
	all map[*watched]bool
}

// watched is a kind in one namespace or in all of them.
type watched struct {
	of       *watches
	gvk      schema.GroupVersionKind
	metadata bool // only metadata is watched
	informer toolscache.SharedIndexInformer

	// Guarded by watches.mu.
	namespace string
	lost      error     // why the operator may not watch it; nil: it may
	awaits    int       // how many objects were listed since, and must reach the cache
	until     time.Time // when to stop waiting for them
}

// into makes the caches of these options report to watches.
func (w *watches) into(o *cache.Options) {
	o.NewInformer = w.newInformer
	noted := *o.HTTPClient
	noted.Transport = noting{noted.Transport}
	o.HTTPClient = &noted
}

// newInformer returns an informer that syncs even if it may not list its kind. An
// ordinary one would retry its first list forever, and the cache would never sync.
func (w *watches) newInformer(
	from toolscache.ListerWatcher, of runtime.Object, resync time.Duration, indexers toolscache.Indexers,
) toolscache.SharedIndexInformer {
	one := &watched{of: w}
	one.gvk, _ = apiutil.GVKForObject(of, w.scheme) // the cache did the same before
	_, one.metadata = of.(*metav1.PartialObjectMetadata)
	inner := toolscache.ToListerWatcherWithContext(from)
	one.informer = toolscache.NewSharedIndexInformer(&toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := inner.ListWithContext(context.WithValue(ctx, noteKey{}, one), o)
			return one.list(list, err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			initial := o.SendInitialEvents != nil // a watch that replaces the list
			if initial {
				if err := one.isLost(); err != nil {
					return nil, err // to make the reflector list; see awaits
				}
			}
			stream, err := inner.WatchWithContext(context.WithValue(ctx, noteKey{}, one), o)
			return one.watch(stream, err, initial)
		},
	}, of, resync, indexers)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[one] = true
	return one.informer
}

// errAskForList makes a reflector list again, with a backoff of up to half a minute, and without logging.
var errAskForList = apierrors.NewResourceExpired("list again")

// list handles the answer to a list request. If the first one is denied, the cache starts empty. If a later one is
// denied, the cache keeps what it has. If the cluster does not have the kind, the cache is empty.
func (o *watched) list(list runtime.Object, err error) (runtime.Object, error) {
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	switch {
	case err == nil:
		if o.lost != nil {
			o.awaits, o.until = meta.LenList(list), o.of.now().Add(cacheWait)
		}
		return list, nil
	case apierrors.IsNotFound(err) || apierrors.IsForbidden(err) && !o.informer.HasSynced():
		o.lose(err)
		return &metav1.PartialObjectMetadataList{}, nil
	case apierrors.IsForbidden(err):
		o.lose(err)
		return nil, errAskForList
	}
	return nil, err
}

// watch handles the answer to a watch request. If a watch that would replace the
// list is denied, the reflector lists instead.
func (o *watched) watch(stream watch.Interface, err error, initial bool) (watch.Interface, error) {
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	switch {
	case err != nil && initial:
		return nil, err
	case err == nil:
		if o.lost != nil {
			o.lost = nil
			o.log().Info("watching again", "kind", o.gvk.Kind, "namespace", o.namespaceName())
		}
		return stream, nil
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		o.lose(err)
		return nil, errAskForList
	}
	return nil, err
}

func (o *watched) isLost() error {
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	return o.lost
}

func (o *watched) lose(err error) {
	if o.lost == nil {
		message := "watch denied and retried: grant the permission, or remove the namespace from --namespaces"
		if apierrors.IsNotFound(err) {
			message = "watch retried: the cluster does not have the kind; install its CustomResourceDefinition"
		}
		o.log().Info(message, "kind", o.gvk.Kind, "namespace", o.namespaceName(), "error", err.Error())
	}
	o.lost = err
}

func (o *watched) log() logr.Logger { return log.Log.WithName("watches") }

func (o *watched) namespaceName() string { return cmp.Or(o.namespace, "all namespaces") }

// denied returns why the cache does not have an object or a list: the operator may
// not watch it, or has not read it since it may. It returns nil if the cache has it.
func (w *watches) denied(o runtime.Object, namespace string) error {
	gvk, err := apiutil.GVKForObject(o, w.scheme)
	if err != nil {
		return err
	}
	gvk.Kind = strings.TrimSuffix(gvk.Kind, "List")
	_, metadata := o.(*metav1.PartialObjectMetadata)
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		if one.gvk != gvk || one.metadata != metadata || one.namespace != "" && one.namespace != namespace {
			continue
		}
		if one.lost != nil {
			return one.lost
		}
		if one.awaits > 0 {
			if len(one.informer.GetStore().ListKeys()) < one.awaits && w.now().Before(one.until) {
				return apierrors.NewServiceUnavailable("the cache of " + gvk.Kind + " is being filled")
			}
			one.awaits = 0
		}
	}
	return nil
}

// gone reports whether the cluster no longer has a kind.
func (w *watches) gone(gvk schema.GroupVersionKind) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		if one.gvk == gvk && apierrors.IsNotFound(one.lost) {
			return true
		}
	}
	return false
}

// unsynced returns what has not been read yet.
func (w *watches) unsynced() (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		if !one.informer.IsStopped() && !one.informer.HasSynced() {
			all = append(all, one.gvk.Kind+" in "+one.namespaceName())
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (w *watches) Describe(to chan<- *prometheus.Desc) { to <- deniedMetric }

// Collect does not count a kind as denied that the cluster does not have.
func (w *watches) Collect(to chan<- prometheus.Metric) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[[2]string]bool{}
	for one := range w.all {
		if label := [2]string{one.gvk.Kind, one.namespace}; apierrors.IsForbidden(one.lost) && !seen[label] {
			seen[label] = true
			to <- prometheus.MustNewConstMetric(deniedMetric, prometheus.GaugeValue, 1, label[:]...)
		}
	}
}

// noting records the namespace of each watch. The caches do not pass it on, so it is
// taken from the URL of their requests.
type noting struct{ next http.RoundTripper }

type noteKey struct{}

func (n noting) RoundTrip(q *http.Request) (*http.Response, error) {
	if one, ok := q.Context().Value(noteKey{}).(*watched); ok {
		_, rest, _ := strings.Cut(q.URL.Path, "/namespaces/")
		namespace, _, _ := strings.Cut(rest, "/")
		one.of.mu.Lock()
		one.namespace = namespace
		one.of.mu.Unlock()
	}
	next := n.next
	if next == nil {
		next = http.DefaultTransport
	}
	return next.RoundTrip(q)
}

// Synced is a readiness check. It returns nil once everything that the operator may watch has been read.
func (r *Reconciler) Synced(*http.Request) error {
	if missing := r.watches.unsynced(); len(missing) > 0 {
		return fmt.Errorf("not read yet: %s", strings.Join(missing, ", "))
	}
	return nil
}

// metadataOf returns the type by which only the metadata of a kind is read.
func metadataOf(gvk schema.GroupVersionKind) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(gvk)
	return o
}
