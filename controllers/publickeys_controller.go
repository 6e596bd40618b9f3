package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// +kubebuilder:rbac:groups=authgateway.io,resources=publickeys,verbs=list;watch
// +kubebuilder:rbac:groups=authgateway.io,resources=publickeys/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch

// publicKeysReconciler brings the copy of each PublicKeys to what its gateway
// publishes. It reconciles as the Reconciler does: it observes, decides
// (publickeys_decide.go), applies, and writes the status once.
type publicKeysReconciler struct{ *Reconciler }

// Reconcile brings one PublicKeys to what its gateway publishes.
func (r *publicKeysReconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	object := &v1alpha1.PublicKeys{}
	if err := r.Client.Get(ctx, request.NamespacedName, object); err != nil {
		if apierrors.IsNotFound(err) && r.watches.gone(kindPublicKeys) {
			return r.retryInstalled(ctx, request)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	cs := r.observe(ctx, object)
	d := cs.decide()
	if d.leave || object.DeletionTimestamp != nil && cs.configMap == nil {
		return ctrl.Result{RequeueAfter: r.recheckLabels()}, nil
	}
	wrote := false
	if d.entries != nil {
		switch err := r.applyCopy(ctx, cs, d.entries); {
		case apierrors.IsConflict(err):
			return ctrl.Result{RequeueAfter: time.Second}, nil
		case err != nil:
			d.found = classify(err)
		default:
			wrote = true
		}
	}
	return r.finish(ctx, cs, d, wrote)
}

// retryInstalled looks again soon if a PublicKeys exists although the cache says that
// the cluster does not have the kind: the kind was just installed, and the event of
// the object came before its watch was established.
func (r *publicKeysReconciler) retryInstalled(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var all v1alpha1.PublicKeysList
	err := r.Live.List(ctx, &all, client.InNamespace(request.Namespace),
		client.MatchingFields{metav1.ObjectNameField: request.Name})
	if apierrors.IsNotFound(err) || err == nil && len(all.Items) == 0 {
		return ctrl.Result{}, nil
	}
	return ctrl.Result{RequeueAfter: time.Second}, err
}

// observe reads what the decision needs. In the steady state everything comes from
// the caches.
func (r *publicKeysReconciler) observe(ctx context.Context, object *v1alpha1.PublicKeys) *copyState {
	ref := object.Spec.GatewayRef
	gateway := types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
	cs := &copyState{keys: object, now: r.Now(), me: r.identity(), unwatched: !r.watchesNamespace(ref.Namespace)}
	cached, cancel := context.WithTimeout(ctx, cacheWait)
	defer cancel()
	if !cs.unwatched {
		if cs.gateway, cs.unread = r.gatewayOf(cached, gateway); cs.unread != nil {
			return cs
		}
	}
	if cs.gateway != nil && ref.Namespace != object.Namespace {
		var namespace *metav1.PartialObjectMetadata
		if namespace, cs.unread = r.namespaceOf(cached, object.Namespace); cs.unread != nil {
			return cs
		}
		cs.labels = namespace.Labels
	}
	cs.published, cs.known = r.publications.of(gateway)
	cs.configMap, cs.unread = r.copyOf(cached, object)
	return cs
}

// gatewayOf returns a gateway, or nil if there is certainly none. A gateway that is
// being deleted counts as none: its keys are no longer maintained.
func (r *Reconciler) gatewayOf(ctx context.Context, key types.NamespacedName) (*v1alpha1.AuthGateway, error) {
	g := &v1alpha1.AuthGateway{}
	err := r.Client.Get(ctx, key, g)
	if apierrors.IsNotFound(err) {
		// The cache may lag, or the cluster may have lost the kind. A copy loses its keys
		// only if the API server says that there is no such gateway.
		var all v1alpha1.AuthGatewayList
		err = r.Live.List(ctx, &all, client.InNamespace(key.Namespace), client.MatchingFields{metav1.ObjectNameField: key.Name})
		if err == nil && len(all.Items) == 0 {
			return nil, nil
		}
		if err == nil {
			g = &all.Items[0]
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read the AuthGateway of spec.gatewayRef: %w", err)
	}
	if g.DeletionTimestamp != nil {
		return nil, nil
	}
	return g, nil
}

// copyOf returns the object that has the name of the copy, or nil if there is none.
// The cache holds only objects with the operator's label.
func (r *Reconciler) copyOf(ctx context.Context, object *v1alpha1.PublicKeys) (*corev1.ConfigMap, error) {
	c := &corev1.ConfigMap{}
	key := client.ObjectKey{Namespace: object.Namespace, Name: copyName(object)}
	err := r.Client.Get(ctx, key, c)
	if err != nil {
		c = &corev1.ConfigMap{}
		err = r.Live.Get(ctx, key, c)
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ConfigMap %s: %w", key.Name, err)
	}
	return c, nil
}

// applyCopy brings the ConfigMap to the wanted entries. It writes only if it differs.
func (r *publicKeysReconciler) applyCopy(ctx context.Context, cs *copyState, entries map[string]string) error {
	wanted, live := cs.render(entries), cs.configMap
	if live == nil {
		if err := r.Client.Apply(ctx, wanted, client.FieldOwner(FieldManager), client.ForceOwnership); err != nil {
			return fmt.Errorf("create ConfigMap %s: %w", copyName(cs.keys), err)
		}
		return nil
	}
	if same, err := hasExactly(live, wanted); same || err != nil {
		return err
	}
	if !r.damper.allow(cs.keys.UID, gvkConfigMap, wanted, cs.now) {
		return r.contended(ctx, objectPublicKeys, live)
	}
	return r.updatePublicKeys(ctx, live, wanted, cs.keys)
}

// finish writes the status, records an event, and returns when to reconcile again.
func (r *publicKeysReconciler) finish(ctx context.Context, cs *copyState, d copyDecision, wrote bool) (ctrl.Result, error) {
	before := cs.keys
	status := cs.summarize(d, wrote)
	if !equality.Semantic.DeepEqual(before.Status, status) {
		after := before.DeepCopy()
		after.Status = status
		err := r.Client.Status().Patch(ctx, after, client.MergeFrom(before), client.FieldOwner(FieldManager))
		if client.IgnoreNotFound(err) != nil {
			return ctrl.Result{}, fmt.Errorf("write the status: %w", err)
		}
		r.recordTransition(before, status)
	}
	switch found := d.found; {
	case found == nil:
	case found.cause != nil && found.isTheirs():
		return ctrl.Result{RequeueAfter: lastRetry}, nil
	case found.cause != nil:
		log.FromContext(ctx).Info("reconcile failed and is retried", "reason", found.reason, "error", found.cause.Error())
		return ctrl.Result{}, found.cause // with backoff
	case found.recheck != 0:
		return ctrl.Result{RequeueAfter: found.recheck}, nil
	}
	return ctrl.Result{RequeueAfter: r.recheckLabels()}, nil
}

// recordTransition records an event if the reason of Ready has changed.
func (r *publicKeysReconciler) recordTransition(before *v1alpha1.PublicKeys, status v1alpha1.PublicKeysStatus) {
	is := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
	was := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionReady)
	if r.Events == nil || was != nil && was.Status == is.Status && was.Reason == is.Reason {
		return
	}
	severity := corev1.EventTypeNormal
	if is.Status == metav1.ConditionFalse && is.Reason != v1alpha1.ReasonProgressing {
		severity = corev1.EventTypeWarning
	}
	r.Events.Eventf(before, nil, severity, is.Reason, "Reconcile", "%s", clipTo(is.Message, mostOfEvent))
}

// watchesNamespace reports whether this operator watches a namespace.
func (r *Reconciler) watchesNamespace(name string) bool {
	return len(r.Options.Namespaces) == 0 || slices.Contains(r.Options.Namespaces, name)
}

// namespaceOf returns the metadata of a namespace. An operator for the whole cluster
// watches them. A Role cannot grant that: an operator for some namespaces gets each
// of them, and again after a while.
func (r *Reconciler) namespaceOf(ctx context.Context, name string) (*metav1.PartialObjectMetadata, error) {
	n := namespaceNames()
	key := client.ObjectKey{Name: name}
	watched := len(r.Options.Namespaces) == 0
	if watched {
		if err := r.Client.Get(ctx, key, n); err == nil || !apierrors.IsNotFound(err) {
			return n, err
		}
	} else if known, ok := r.namespaces.Get(name); ok && r.Now().Sub(known.at).Abs() < recheckKinds {
		return known.namespace, nil
	}
	if err := r.Live.Get(ctx, key, n); err != nil {
		return nil, fmt.Errorf("read the labels of the namespace: %w", err)
	}
	if !watched {
		r.namespaces.Add(name, seenNamespace{n, r.Now()})
	}
	return n, nil
}

// seenNamespace is a namespace that was read from the API server, and when.
type seenNamespace struct {
	namespace *metav1.PartialObjectMetadata
	at        time.Time
}

// recheckLabels returns when to look at the labels of a namespace again. It returns
// zero if namespaces are watched.
func (r *Reconciler) recheckLabels() time.Duration {
	if len(r.Options.Namespaces) > 0 {
		return recheckKinds
	}
	return 0
}
