package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// indexGateway finds the PublicKeys of a gateway.
const indexGateway = "gateway"

// listCopies lists the PublicKeys of a gateway by their index.
func (r *Reconciler) listCopies(ctx context.Context, gateway types.NamespacedName) ([]v1alpha1.PublicKeys, error) {
	var all v1alpha1.PublicKeysList
	err := r.Client.List(ctx, &all, client.MatchingFields{indexGateway: gateway.String()})
	return all.Items, err
}

// gatewayIndex returns the values of indexGateway.
func gatewayIndex(o client.Object) []string {
	ref := o.(*v1alpha1.PublicKeys).Spec.GatewayRef
	return []string{types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}.String()}
}

// kindPublicKeys is the kind of the copies.
var kindPublicKeys = v1alpha1.GroupVersion.WithKind("PublicKeys")

// knowingPublicKeys returns a mapper that knows the kind PublicKeys even if the
// cluster does not have it: an operator must rotate keys even if its upgrade did not
// install the new custom resource. The watch on it is then retried, as one that is
// denied.
func knowingPublicKeys(known meta.RESTMapper) meta.RESTMapper {
	static := meta.NewDefaultRESTMapper(nil)
	plural := kindPublicKeys.GroupVersion().WithResource("publickeys")
	static.AddSpecific(kindPublicKeys, plural, plural, meta.RESTScopeNamespace)
	return meta.FirstHitRESTMapper{MultiRESTMapper: meta.MultiRESTMapper{known, static}}
}

// setUpPublicKeys registers the controller of PublicKeys.
func (r *Reconciler) setUpPublicKeys(ctx context.Context, m manager.Manager) error {
	if err := m.GetFieldIndexer().IndexField(ctx, &v1alpha1.PublicKeys{}, indexGateway, gatewayIndex); err != nil {
		return err
	}
	c, err := controller.New("publickeys", m, controller.Options{
		Reconciler:              &publicKeysReconciler{r},
		MaxConcurrentReconciles: r.Options.concurrency(),
		ReconciliationTimeout:   reconcileTimeout,
		RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](
			firstRetry, lastRetry),
	})
	if err != nil {
		return err
	}
	for _, s := range r.sourcesOfPublicKeys(m) {
		if err := c.Watch(s); err != nil {
			return fmt.Errorf("watch for PublicKeys: %w", err)
		}
	}
	r.copiesOf = r.listCopies
	return nil
}

// sourcesOfPublicKeys returns what starts a reconcile of PublicKeys.
func (r *Reconciler) sourcesOfPublicKeys(m manager.Manager) []source.Source {
	owner := handler.EnqueueRequestForOwner(m.GetScheme(), m.GetRESTMapper(), &v1alpha1.PublicKeys{},
		handler.OnlyControllerOwner())
	all := []source.Source{
		source.Kind[client.Object](m.GetCache(), &v1alpha1.PublicKeys{}, &handler.EnqueueRequestForObject{}),
		source.Kind[client.Object](m.GetCache(), &corev1.ConfigMap{}, owner),
		source.Kind[client.Object](m.GetCache(), &v1alpha1.AuthGateway{},
			handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, g client.Object) []reconcile.Request {
				return r.copyRequests(ctx, client.ObjectKeyFromObject(g))
			}), gatewayChanges),
		source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			r.publications.mu.Lock()
			defer r.publications.mu.Unlock()
			r.publications.changed = func(ctx context.Context, gateway types.NamespacedName) {
				ctx, cancel := context.WithTimeout(ctx, cacheWait) // when the cache has synced, every copy is reconciled
				defer cancel()
				for _, request := range r.copyRequests(ctx, gateway) {
					queue.Add(request)
				}
			}
			return nil
		}),
	}
	if len(r.Options.Namespaces) == 0 {
		all = append(all, source.Kind[client.Object](m.GetCache(), namespaceNames(),
			handler.EnqueueRequestsFromMapFunc(r.copiesInNamespace)))
	}
	return all
}

// gatewayChanges selects the changes of a gateway that may change what is decided
// about its copies. publications reports its keys.
var gatewayChanges = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	was, is := e.ObjectOld.(*v1alpha1.AuthGateway), e.ObjectNew.(*v1alpha1.AuthGateway)
	return was.UID != is.UID || was.Generation != is.Generation || was.Status.Operator != is.Status.Operator ||
		was.DeletionTimestamp.IsZero() != is.DeletionTimestamp.IsZero()
}}

func (r *Reconciler) copyRequests(ctx context.Context, gateway types.NamespacedName) []reconcile.Request {
	all, err := r.listCopies(ctx, gateway)
	if err != nil {
		return nil // the cache fails only when the program is shutting down
	}
	return requestsFor(all)
}

func (r *Reconciler) copiesInNamespace(ctx context.Context, namespace client.Object) []reconcile.Request {
	var all v1alpha1.PublicKeysList
	if r.Client.List(ctx, &all, client.InNamespace(namespace.GetName())) != nil {
		return nil
	}
	return requestsFor(all.Items)
}

func requestsFor(all []v1alpha1.PublicKeys) []reconcile.Request {
	var requests []reconcile.Request
	for i := range all {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&all[i])})
	}
	return requests
}

// namespaceNames returns the type by which namespaces are watched and read.
func namespaceNames() *metav1.PartialObjectMetadata {
	names := &metav1.PartialObjectMetadata{}
	names.SetGroupVersionKind(gvkNamespace)
	return names
}

func withoutManagedFields(in any) (any, error) {
	if m, err := meta.Accessor(in); err == nil {
		m.SetManagedFields(nil)
		delete(m.GetAnnotations(), corev1.LastAppliedConfigAnnotation)
	}
	return in, nil
}
