package controllers

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

//go:generate go tool -modfile=../hack/tools/kubernetes/go.mod controller-gen rbac:roleName=manager-role paths=. output:rbac:dir=../config/rbac

// The operator's permissions. A test compares them with the requests that it makes.
//
// +kubebuilder:rbac:groups=authgateway.io,resources=authgateways,verbs=list;watch
// +kubebuilder:rbac:groups=authgateway.io,resources=authgateways/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;update
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=serviceaccounts;services,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch
// +kubebuilder:rbac:groups=apps,resources=deployments,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=apps,resources=replicasets,verbs=get
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies;ingresses,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=autoscaling,resources=horizontalpodautoscalers,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=httproutes,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=monitoring.coreos.com,resources=servicemonitors,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=roles,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=authgateway.io,resources=authgateways/users;authgateways/sessions;authgateways/events;authgateways/keys,verbs=get;list;create;update;delete
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Reconciler brings each AuthGateway to what its spec asks for. Create one with New.
type Reconciler struct {
	// Client reads from a cache, and writes.
	Client client.Client

	// Live reads from the API server.
	Live client.Reader

	// Events records events. If it is nil, there are none.
	Events events.EventRecorder

	// Ask asks the server at an IP address for its state.
	Ask func(ctx context.Context, ip string) (config.State, error)

	Now     func() time.Time
	Options Options

	decrypts  *lru.Cache[[32]byte, bool]       // whether a passphrase decrypts a key; see inspect
	owners    *lru.Cache[types.UID, types.UID] // the Deployment of a ReplicaSet
	sightings *lru.Cache[string, time.Time]    // when this process first saw something; see sighted
	asked     *lru.Cache[types.UID, time.Time] // when another operator was asked; see isAnothers

	namespaces   *lru.Cache[string, seenNamespace] // see namespaceOf
	publications *publications
	copiesOf     func(context.Context, types.NamespacedName) ([]v1alpha1.PublicKeys, error) // nil in tests

	wake     chan event.GenericEvent // gateways to reconcile; see wakeUp
	steps    *prometheus.CounterVec
	damper   *damper
	suspects sync.Map // the gateways whose replicas contradict the condition of the database
	upgrades *upgrades
	watches  *watches

	reconcileRing func(keys.Input) (keys.Result, error) // keys.Reconcile; tests encrypt with less cost

	// SetUp sets these; see optionalKinds and lateConfigMaps.
	watchOptional   func(o *managedObject, look bool) (bool, error)
	watchConfigMaps func() error
}

// Options are the settings of an operator.
type Options struct {
	Version           string        // of the operator, such as v1.2.3
	ServerImage       string        // for gateways that set no image
	ServerPullSecrets []string      // for gateways that set no image; they are in the gateway's namespace
	AllowedImages     []string      // prefixes of the images that gateways may set; empty: any image
	OperatorNamespace string        // where the operator's own pods run
	Namespaces        []string      // to watch; empty: all of them
	Concurrency       int           // how many gateways are reconciled at a time; 0: 4
	Upgrades          int           // how many gateways an operator's upgrade reaches at a time; 0: all
	PlatformUsers     bool          // the platform assigns the users that pods run as, as OpenShift does
	OpenServerMetrics bool          // every namespace may reach the metrics of servers
	DatabaseLook      time.Duration // how often replicas are asked about their database; 0: 30 s

	Now func() time.Time // the clock; nil: time.Now
}

// When to reconcile again although no event announces a change.
const (
	recheckPods    = 10 * time.Second // a pod that is not ready is asked again
	recheckUpgrade = 5 * time.Minute  // a gateway may have missed its turn to be upgraded
	recheckKinds   = time.Minute      // a missing CRD may have been installed
	recheckAwaited = 30 * time.Second // a replica may have loaded the keys
	recheckNames   = 20 * time.Second // another owner's object, which is not watched, may be gone
)

// Reconcile brings one AuthGateway to what its spec asks for; see doc.go.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	g := &v1alpha1.AuthGateway{}
	if err := r.Client.Get(ctx, request.NamespacedName, g); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(request.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if g.DeletionTimestamp != nil {
		r.forget(request.NamespacedName)
		return ctrl.Result{}, nil // the garbage collector deletes what it owns; see ownerReference
	}
	if others, result, err := r.isAnothers(ctx, g); others {
		return result, err
	}
	cs, t := newClusterState(g, r.Now()), keyResult{}
	cs.operatorVersion = r.Options.Version
	inKeys := r.reconcileKeys(ctx, cs, &t)
	if isLost(inKeys) {
		return ctrl.Result{RequeueAfter: time.Second}, nil
	}
	r.notePublication(ctx, cs, t, inKeys)
	inObjects := joined([]*problem{r.reconcileObjects(ctx, cs, &t, inKeys), t.unpublished})
	return r.finish(ctx, cs, t, inKeys, inObjects)
}

// forget drops what this process knows about a gateway that is gone.
func (r *Reconciler) forget(gateway types.NamespacedName) {
	r.endUpgrade(gateway)
	r.publications.forget(gateway)
}

// isLost reports whether another writer was faster. The reconcile then ends, and the next one reads everything again.
func isLost(p *problem) bool {
	return p != nil && (errors.Is(p.cause, errSwapLost) || apierrors.IsConflict(p.cause))
}

// reconcileKeys takes the steps that the keys are due, and publishes them. It comes
// first and depends on no other object, because nothing may delay a revocation.
func (r *Reconciler) reconcileKeys(ctx context.Context, cs *clusterState, t *keyResult) *problem {
	if err := r.observeKeys(ctx, cs); err != nil {
		return classify(err)
	}
	t.passphraseState = cs.passphraseState
	if cs.passphrases != nil && len(cs.passphrases.Data[secretDigestKey]) >= sha256.Size {
		t.digestKey = cs.passphrases.Data[secretDigestKey]
	}
	if p := cs.secretConflict(cs.keys, cs.passphrases); p != nil {
		return p
	}
	if cs.gateway.Spec.Suspend {
		if p := r.rolledBack(cs, t.digestKey, cs.trace(cs.ring)); p != nil {
			return p
		}
		t.ring = cs.ring
		return nil
	}
	err := r.advanceKeys(ctx, cs, t)
	if err != nil && len(t.ring.Keys) == 0 {
		return classify(err)
	}
	published := r.publish(ctx, cs, t, objectPublicKeys)
	t.unpublished = r.publish(ctx, cs, t, objectRefreshPublicKeys)
	switch {
	case err != nil:
		return classify(err)
	case t.minor != nil && t.minor.reason == v1alpha1.ReasonPassphrasesLost:
		return t.minor
	case t.next.Reason == keys.PolicyInvalid:
		return stalled(v1alpha1.ReasonInvalidSpec, "spec.keys or spec.tokens is invalid: %s", t.next.Message)
	case t.next.Reason == keys.Unopenable && len(t.ring.Keys) == 0:
		return stalled(v1alpha1.ReasonKeysUnopenable, "%s", t.next.Message)
	case published != nil:
		return published
	}
	t.complete = true
	return nil
}

// publish writes public keys of the ring to their ConfigMap.
func (r *Reconciler) publish(ctx context.Context, cs *clusterState, t *keyResult, o *managedObject) *problem {
	if len(t.ring.Keys) == 0 {
		return nil
	}
	if err := cs.unread[o.id()]; err != nil {
		return classify(err)
	}
	if p := cs.nameConflict(o); p != nil {
		return p
	}
	return classifyOrNil(r.applyPublicKeys(ctx, cs, rendering{clusterState: cs, ring: t.ring}, o))
}

// reconcileObjects brings every other object to what the spec asks for. If there is a problem with the keys, it leaves
// the Deployment as it is: the pods would start with keys that are unknown or must not be used.
func (r *Reconciler) reconcileObjects(ctx context.Context, cs *clusterState, t *keyResult, inKeys *problem) *problem {
	err := r.observeRest(ctx, cs)
	if cs.gateway.Spec.Suspend {
		return firstOf(cs.nameConflicts(), classifyOrNil(err))
	}
	if inKeys != nil && len(t.ring.Keys) == 0 && cs.publicKeys() == nil { // a new gateway: create nothing yet
		return cs.nameConflicts()
	}
	if err != nil {
		return classify(err)
	}
	if p := cs.secretConflict(cs.caller); p != nil {
		return p
	}
	if err := r.writeCaller(ctx, cs, t); err != nil {
		return classify(err)
	}
	if p := cs.blocked(r.Options.AllowedImages, *t, inKeys == nil); p != nil {
		return p
	}
	unaccepted := notAccepted(cs.gateway)
	found := r.apply(ctx, cs, r.rendering(cs, *t), inKeys == nil && unaccepted == nil)
	found = append(found, unaccepted, classifyOrNil(cs.podsErr))
	if t.next.Reason == keys.Unopenable { // the running servers serve on with what they have loaded
		found = append(found, stalled(v1alpha1.ReasonKeysUnopenable, "%s", t.next.Message))
	}
	return joined(append(found, rotateRefused(cs.gateway), selectorRefused(cs.gateway)))
}

func (r *Reconciler) rendering(cs *clusterState, t keyResult) rendering {
	return rendering{
		clusterState: cs, ring: t.ring, image: cmp.Or(cs.gateway.Spec.Image, r.Options.ServerImage),
		operatorNamespace: r.Options.OperatorNamespace,
		platformUsers:     r.Options.PlatformUsers, openMetrics: r.Options.OpenServerMetrics,
		pullSecrets:       r.Options.ServerPullSecrets,
		inputsDigest:      digest(t.digestKey, append([]string{t.callerKey}, cs.inputSecrets()...)...),
		passphrasesDigest: passphrasesDigest(t.digestKey, t.passphraseState.Current),
		configMapsDigest:  contentDigest(cs.inputConfigMaps()...),
	}
}

// finish writes the status, records events, and returns when to reconcile again.
func (r *Reconciler) finish(
	ctx context.Context, cs *clusterState, t keyResult, inKeys, inObjects *problem,
) (ctrl.Result, error) {
	found, before := joined([]*problem{inKeys, inObjects}), cs.gateway
	status := summarize(cs, t, inKeys, found, cmp.Or(cs.gateway.Spec.Image, r.Options.ServerImage))
	status.Operator, status.OperatorContest = r.identity(), nil // also answers another operator's question
	if !equality.Semantic.DeepEqual(before.Status, status) {
		after := before.DeepCopy()
		after.Status = status
		err := r.Client.Status().Patch(ctx, after, client.MergeFrom(before), client.FieldOwner(FieldManager))
		if client.IgnoreNotFound(err) != nil {
			return ctrl.Result{}, fmt.Errorf("write the status: %w", err)
		}
		r.recordTransitions(before, status)
	}
	r.noteUpgrade(ctx, cs, status)
	switch {
	case isLost(inObjects):
		return ctrl.Result{RequeueAfter: time.Second}, nil
	case found != nil && found.cause != nil && found.isTheirs():
		return ctrl.Result{RequeueAfter: lastRetry}, nil
	case found != nil && found.cause != nil:
		log.FromContext(ctx).Info("reconcile failed and is retried", "reason", found.reason, "error", found.cause.Error())
		return ctrl.Result{}, found.cause // with backoff
	}
	denied := r.watches.denied(metadataOf(gvkSecret), cs.names.namespace) != nil
	return ctrl.Result{RequeueAfter: requeueAfter(cs, t, found, status, denied)}, nil
}

// recordTransitions records an event for a condition whose status or reason has changed.
func (r *Reconciler) recordTransitions(before *v1alpha1.AuthGateway, status v1alpha1.AuthGatewayStatus) {
	ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
	for _, conditionType := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionKeysReady} {
		is := meta.FindStatusCondition(status.Conditions, conditionType)
		was := meta.FindStatusCondition(before.Status.Conditions, conditionType)
		if was != nil && was.Status == is.Status && was.Reason == is.Reason {
			continue
		}
		severity := corev1.EventTypeNormal
		if is.Status == metav1.ConditionFalse && is.Reason != v1alpha1.ReasonProgressing {
			severity = corev1.EventTypeWarning
		}
		// KeysReady often has the message of Ready, which then has the one event.
		if is == ready || severity == corev1.EventTypeWarning && is.Message != ready.Message {
			r.event(before, severity, is.Reason, "Reconcile", is.Message)
		}
	}
}

// wakeUp queues a gateway, as an event of Kubernetes would. If the queue is full,
// it does nothing: its callers call it again later.
func (r *Reconciler) wakeUp(key types.NamespacedName) {
	g := &v1alpha1.AuthGateway{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	select {
	case r.wake <- event.GenericEvent{Object: g}:
	default:
	}
}

// requeueAfter returns when to reconcile again although no event announces a change; zero means never. secretsDenied
// means that Secrets cannot be watched. It is pure.
func requeueAfter(
	cs *clusterState, t keyResult, found *problem, status v1alpha1.AuthGatewayStatus, secretsDenied bool,
) time.Duration {
	var after time.Duration
	consider := func(d time.Duration) {
		if after == 0 || d < after {
			after = max(d, time.Second)
		}
	}
	if found != nil && found.recheck != 0 {
		consider(found.recheck)
	}
	if cs.gateway.Spec.Suspend {
		return after
	}
	if !t.next.When.IsZero() {
		consider(t.next.When.Sub(cs.now))
	}
	if len(t.passphraseState.Former[keys.Access])+len(t.passphraseState.Former[keys.Refresh]) > 0 {
		consider(recheckPods)
	}
	ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
	// watchDatabases notices the end of a database outage.
	outage := ready.Reason == v1alpha1.ReasonDatabaseUnavailable
	if ready.Status != metav1.ConditionTrue && !outage && len(cs.pods) > 0 {
		consider(recheckPods)
	}
	if cs.upgradeWaits { // normally it is woken; a wake-up may have been dropped
		consider(recheckUpgrade)
	}
	if cs.kindMissing() != nil || secretsDenied {
		consider(recheckKinds)
	}
	// The kubelet updates a mounted Secret without an event, and copies are not watched.
	if cs.awaitedReplicas(t.ring) != "" || !cs.copiesAssumed() && cs.behind(t.ring) != "" {
		consider(recheckAwaited)
	}
	return after
}
