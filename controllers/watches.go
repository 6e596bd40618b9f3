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
	corev1 "k8s.io/api/core/v1"
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

// NewCache makes the operator's cache; see cacheOptions for what is in it. What
// the API server does not let the operator watch, a kind or a namespace, is left
// out of it until it does, and costs nothing else: the cache is synced without.
func NewCache(namespaces []string) cache.NewCacheFunc {
	return func(config *rest.Config, given cache.Options) (cache.Cache, error) {
		o := cacheOptions(namespaces)
		o.HTTPClient, o.Scheme, o.Mapper = given.HTTPClient, given.Scheme, given.Mapper
		w := &watches{scheme: given.Scheme, all: map[*watched]bool{}}
		w.into(&o)
		c, err := cache.New(config, o)
		if err != nil {
			return nil, err
		}
		return &partialCache{Cache: c, watches: w}, nil
	}
}

// partialCache is a cache that says of what it could not see that it has not
// seen it, rather than that it is not there.
type partialCache struct {
	cache.Cache
	watches *watches
}

// Get is of client.Reader.
func (c *partialCache) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if err := c.watches.denied(o, key.Namespace); err != nil {
		return err
	}
	return c.Cache.Get(ctx, key, o, opts...)
}

// List is of client.Reader. A list of all namespaces is one of those that are
// seen.
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

// watches knows which kinds and namespaces the API server lets the operator watch.
type watches struct {
	scheme *runtime.Scheme

	mu  sync.Mutex
	all map[*watched]bool
}

// watched is one kind in one namespace, or in all of them.
type watched struct {
	of       *watches
	gvk      schema.GroupVersionKind
	metadata bool // only that is watched
	informer toolscache.SharedIndexInformer

	// Guarded by watches.mu.
	namespace string
	lost      error     // what the API server said; nil: it lets the operator watch
	awaits    int       // objects that have been listed since, and have yet to be in the cache
	until     time.Time // after which they are awaited no more
}

// into has the caches of these options report to watches.
func (w *watches) into(o *cache.Options) {
	o.NewInformer = w.newInformer
	noted := *o.HTTPClient
	noted.Transport = noting{noted.Transport}
	o.HTTPClient = &noted
}

// newInformer is one that goes on without what it may not see. A reflector would
// ask for its first list for ever, and everything else would wait for it.
func (w *watches) newInformer(from toolscache.ListerWatcher, of runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
	one := &watched{of: w}
	one.gvk, _ = apiutil.GVKForObject(of, w.scheme) // the cache has found it in the same way
	_, one.metadata = of.(*metav1.PartialObjectMetadata)
	inner := toolscache.ToListerWatcherWithContext(from)
	one.informer = toolscache.NewSharedIndexInformer(&toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := inner.ListWithContext(context.WithValue(ctx, noteKey{}, one), o)
			return one.list(list, err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			initial := o.SendInitialEvents != nil // in the place of a list
			if initial {
				if err := one.isLost(); err != nil {
					return nil, err // so that it is listed; see awaits
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

// errAskForList makes a reflector ask for a list, after a while that grows to
// half a minute, and say nothing about it.
var errAskForList = apierrors.NewResourceExpired("it is to be listed again")

// list judges the answer to a request for a list. Where the first one is denied
// the cache begins with nothing; where a later one is, it keeps what it knows.
// And of a kind that the cluster does not have there is nothing.
func (o *watched) list(list runtime.Object, err error) (runtime.Object, error) {
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	switch {
	case err == nil:
		if o.lost != nil {
			o.awaits, o.until = meta.LenList(list), time.Now().Add(5*time.Second) //nolint:forbidigo // not of a pass
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

// watch judges the answer to a request for a watch. One that begins with what
// there is gives way to a list where it is denied.
func (o *watched) watch(stream watch.Interface, err error, initial bool) (watch.Interface, error) {
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	switch {
	case err != nil && initial:
		return nil, err
	case err == nil:
		if o.lost != nil {
			o.lost = nil
			o.log().Info("it may be watched again", "watched", o.gvk.Kind, "in", o.place())
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
		o.log().Info("it may not be watched, so it is left out and asked for again: grant it, or take the namespace from --namespaces",
			"watched", o.gvk.Kind, "in", o.place(), "error", err.Error())
	}
	o.lost = err
}

func (o *watched) log() logr.Logger { return log.Log.WithName("watches") }

func (o *watched) place() string { return cmp.Or(o.namespace, "all namespaces") }

// denied is what the API server said when it was last asked for what would be
// known about this object, or list; nil: it is known.
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
			if len(one.informer.GetStore().ListKeys()) < one.awaits && time.Now().Before(one.until) { //nolint:forbidigo // not of a pass
				return apierrors.NewServiceUnavailable("what there is of " + gvk.Kind + " is being read")
			}
			one.awaits = 0
		}
	}
	return nil
}

// gone reports whether the cluster does not have a kind that it had.
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

// unsynced names what has not been read yet, of what is to be watched.
func (w *watches) unsynced() (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		if !one.informer.IsStopped() && !one.informer.HasSynced() {
			all = append(all, one.gvk.Kind+" in "+one.place())
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Describe is of prometheus.Collector.
func (w *watches) Describe(to chan<- *prometheus.Desc) { to <- deniedMetric }

// Collect is of prometheus.Collector. A kind that is not installed is no loss.
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

// noting tells a watch its namespace: the caches know, and do not say. It is
// read off what they ask for.
type noting struct{ next http.RoundTripper }

type noteKey struct{}

// RoundTrip is of http.RoundTripper.
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

// Synced is a check of readiness: everything that is to be watched has been
// read, or is known to be denied.
func (r *Reconciler) Synced(*http.Request) error {
	if missing := r.watches.unsynced(); len(missing) > 0 {
		return fmt.Errorf("not read yet: %s", strings.Join(missing, ", "))
	}
	return nil
}

// secretNames is what is watched of Secrets.
func secretNames() *metav1.PartialObjectMetadata {
	names := &metav1.PartialObjectMetadata{}
	names.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	return names
}
