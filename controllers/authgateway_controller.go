package controllers

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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

// What the operator may do. The tests hold this against what it does.
//
// +kubebuilder:rbac:groups=authgateway.io,resources=authgateways,verbs=list;watch
// +kubebuilder:rbac:groups=authgateway.io,resources=authgateways/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;update
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=serviceaccounts;services,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch
// +kubebuilder:rbac:groups=apps,resources=deployments,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups=apps,resources=replicasets,verbs=get
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies;ingresses,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=autoscaling,resources=horizontalpodautoscalers,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=httproutes,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=monitoring.coreos.com,resources=servicemonitors,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Reconciler makes of each AuthGateway what its spec says. Make one with New.
type Reconciler struct {
	// Client reads from a cache, and writes.
	Client client.Client

	// Live reads from the API server itself.
	Live client.Reader

	// Events tells people what has happened; nil: nobody.
	Events events.EventRecorder

	// Ask asks the server at this IP address for its state.
	Ask func(ctx context.Context, ip string) (config.State, error)

	Now     func() time.Time
	Options Options

	seals  *lru.Cache[[32]byte, keys.Encryption]
	owners *lru.Cache[types.UID, types.UID] // the Deployment of a ReplicaSet

	sightings *lru.Cache[string, time.Time] // since when something was seen; see sighted
	steps     *prometheus.CounterVec
	kinds     *lateKinds

	wake       chan event.GenericEvent // gateways that a pass is due for; see wakeUp
	databases  *databases
	upgrades   *upgrades
	watches    *watches
	damper     *damper
	asked      *lru.Cache[types.UID, time.Time] // when, whether another operator still works; see isAnothers
	configMaps *lateConfigMaps
}

// Options are what an operator is told when it starts.
type Options struct {
	ServerImage       string        // of gateways that name none
	ServerPullSecrets []string      // in the namespaces of gateways that name no image
	AllowedImages     []string      // beginnings of images that gateways may name; none: any
	OperatorNamespace string        // in which the operator's own pods run
	Namespaces        []string      // that are looked after; none: all
	Concurrency       int           // passes at a time; 0: 4
	Upgrades          int           // gateways at a time whose pods are replaced because the operator was upgraded; 0: all
	PlatformUsers     bool          // the platform assigns the users that pods run as, as OpenShift does
	OpenServerMetrics bool          // every namespace may reach the metrics of servers
	DatabaseLook      time.Duration // how often replicas are asked for their database; 0: 30 s
}

// Times after which a pass is due though nothing has changed.
const (
	recheckPods    = 10 * time.Second // a pod that is not ready is asked again
	recheckUpgrade = 5 * time.Minute  // a gateway that waits for its upgrade, in case its turn was missed
	recheckKinds   = time.Minute      // a kind that was missing may have come
	recheckAwaited = 30 * time.Second // a replica that has not loaded the keys is asked again
	recheckNames   = 20 * time.Second // a name that was taken may be free: no event tells of what is not ours
)

// Reconcile is one pass over one AuthGateway; doc.go explains it.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	g := &v1alpha1.AuthGateway{}
	if err := r.Client.Get(ctx, request.NamespacedName, g); err != nil {
		if apierrors.IsNotFound(err) {
			r.endUpgrade(request.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if g.DeletionTimestamp != nil {
		r.endUpgrade(request.NamespacedName)
		return ctrl.Result{}, nil // what it owns goes with it; see ownerReference
	}
	if others, result, err := r.isAnothers(ctx, g); others {
		return result, err
	}
	w, t := newWorld(g, r.Now()), tended{}
	inKeys := r.pursueKeys(ctx, w, &t)
	if isLost(inKeys) { // somebody else was faster, and all is read anew
		return ctrl.Result{RequeueAfter: time.Second}, nil
	}
	return r.conclude(ctx, w, t, inKeys, r.pursueRest(ctx, w, &t, inKeys))
}

// isLost says that a pass ends because another writer was faster.
func isLost(p *problem) bool {
	return p != nil && (errors.Is(p.cause, errSwapLost) || apierrors.IsConflict(p.cause))
}

// pursueKeys does what is due of the keys, and publishes them. It comes first and
// needs nothing else: a revocation must not wait for anything.
func (r *Reconciler) pursueKeys(ctx context.Context, w *world, t *tended) *problem {
	if err := r.observeKeys(ctx, w); err != nil {
		return classify(err)
	}
	t.custody = w.custody
	if w.passphrases != nil && len(w.passphrases.Data[secretDigestKey]) >= sha256.Size {
		t.digestKey = w.passphrases.Data[secretDigestKey]
	}
	if p := w.takenKeys(); p != nil {
		return p
	}
	if w.gateway.Spec.Suspend {
		if p := r.rolledBack(w, t.digestKey, w.trace(w.ring)); p != nil {
			return p
		}
		t.ring = w.ring
		return nil
	}
	err := r.tendKeys(ctx, w, t)
	if err != nil && len(t.ring.Keys) == 0 {
		return classify(err)
	}
	published := r.publish(ctx, w, t)
	switch {
	case err != nil:
		return classify(err)
	case t.aside != nil && t.aside.reason == v1alpha1.ReasonPassphrasesLost:
		return t.aside
	case t.idle.Reason == keys.PolicyInvalid:
		return stalled(v1alpha1.ReasonInvalidSpec, "what is wanted of the keys: %s", t.idle.Message)
	case t.idle.Reason == keys.Unopenable && len(t.ring.Keys) == 0:
		return stalled(v1alpha1.ReasonKeysUnopenable, "%s", t.idle.Message)
	case published != nil:
		return published
	}
	t.through = true
	return nil
}

// publish brings the ConfigMap of public keys to what the ring holds.
func (r *Reconciler) publish(ctx context.Context, w *world, t *tended) *problem {
	if len(t.ring.Keys) == 0 {
		return nil
	}
	if err := w.unread[kindConfigMap]; err != nil {
		return classify(err)
	}
	if p := w.taken(slotPublicKeys); p != nil {
		return p
	}
	if err := r.applyPublicKeys(ctx, w, rendering{world: w, ring: t.ring}); err != nil {
		return classify(err)
	}
	return nil
}

// pursueRest does what is wanted besides the keys, each object by itself. Where
// something is amiss with the keys no pod is started: what it would be given is
// not known, or not to be used.
func (r *Reconciler) pursueRest(ctx context.Context, w *world, t *tended, inKeys *problem) *problem {
	err := r.observeRest(ctx, w)
	if w.gateway.Spec.Suspend {
		return firstOf(w.takenNames(), classifyOrNil(err))
	}
	if inKeys != nil && len(t.ring.Keys) == 0 && w.publicKeys() == nil { // nothing is there yet, and nothing is begun
		return w.takenNames()
	}
	if err != nil {
		return classify(err)
	}
	if p := w.takenCaller(); p != nil {
		return p
	}
	if err := r.keepCaller(ctx, w, t); err != nil {
		return classify(err)
	}
	if p := firstOf(imageRefused(w.gateway, r.Options.AllowedImages), w.missingInputs(), t.aside); p != nil {
		return p
	}
	if inKeys == nil {
		if err := check(w, t.custody, t.callerKey); err != nil {
			return stalled(v1alpha1.ReasonInvalidSpec, "%s", err.Error())
		}
	}
	unaccepted := notAccepted(w.gateway)
	found := r.apply(ctx, w, r.rendering(w, *t), inKeys == nil && unaccepted == nil)
	found = append(found, unaccepted, classifyOrNil(w.podsErr))
	if t.idle.Reason == keys.Unopenable { // the servers that run go on; what they serve is as wanted
		found = append(found, stalled(v1alpha1.ReasonKeysUnopenable, "%s", t.idle.Message))
	}
	return joined(append(found, rotateRefused(w.gateway)))
}

func firstOf(problems ...*problem) *problem {
	for _, p := range problems {
		if p != nil {
			return p
		}
	}
	return nil
}

// rendering adds to the world what objects are rendered from besides.
func (r *Reconciler) rendering(w *world, t tended) rendering {
	secrets := []string{t.callerKey}
	for _, input := range []struct {
		ref  *v1alpha1.LocalReference
		keys []string
	}{
		{credentialsRef(w.gateway), []string{credentialsUsername, credentialsPassword}},
		{w.gateway.Spec.Database.CASecretRef, []string{caCertificate}},
		{mailCredentialsRef(w.gateway), []string{credentialsUsername, credentialsPassword}},
		{mailCARef(w.gateway), []string{caCertificate}},
		{webhookRef(w.gateway), []string{webhookSecret}},
	} {
		for _, key := range input.keys {
			if input.ref != nil && w.inputs[input.ref.Name] != nil {
				secrets = append(secrets, string(w.inputs[input.ref.Name].Data[key]))
			}
		}
	}
	return rendering{
		world: w, ring: t.ring, image: r.image(w.gateway), operatorNamespace: r.Options.OperatorNamespace,
		platformUsers: r.Options.PlatformUsers, openMetrics: r.Options.OpenServerMetrics,
		pullSecrets: r.Options.ServerPullSecrets,
		inputs:      digest(t.digestKey, secrets...), passphrases: passphrasesDigest(t.digestKey, t.custody.Current),
		templates: contentDigest(w.templates),
	}
}

func (r *Reconciler) image(g *v1alpha1.AuthGateway) string {
	if g.Spec.Image != "" {
		return g.Spec.Image
	}
	return r.Options.ServerImage
}

// conclude writes the status, tells people of what has changed, and says when to
// look again.
func (r *Reconciler) conclude(ctx context.Context, w *world, t tended, inKeys, inRest *problem) (ctrl.Result, error) {
	found := joined([]*problem{inKeys, inRest})
	before := w.gateway
	status := summarize(w, t, inKeys, found, r.image(w.gateway))
	status.Operator, status.OperatorContest = r.identity(), nil // an answer, where another one asks
	if !equality.Semantic.DeepEqual(before.Status, status) {
		after := before.DeepCopy()
		after.Status = status
		err := client.IgnoreNotFound(r.Client.Status().Patch(ctx, after, client.MergeFrom(before), client.FieldOwner(FieldManager)))
		if err != nil {
			return ctrl.Result{}, fmt.Errorf("write the status: %w", err)
		}
		r.tell(before, status)
	}
	r.noteUpgrade(ctx, w, status)
	if isLost(inRest) {
		return ctrl.Result{RequeueAfter: time.Second}, nil
	}
	if found != nil && found.cause != nil && found.isTheirs() {
		return ctrl.Result{RequeueAfter: lastRetry}, nil
	}
	if found != nil && found.cause != nil {
		log.FromContext(ctx).Info("a pass could not be finished; it is tried again", "reason", found.reason, "error", found.cause.Error())
		return ctrl.Result{}, found.cause // with a while that grows
	}
	return ctrl.Result{RequeueAfter: r.lookAgain(w, t, found, status)}, nil
}

// tell makes an event of a condition that has turned, so that it is found in
// `kubectl describe`, and later in whatever collects events.
func (r *Reconciler) tell(before *v1alpha1.AuthGateway, status v1alpha1.AuthGatewayStatus) {
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionKeysReady} {
		is, was := meta.FindStatusCondition(status.Conditions, kind), meta.FindStatusCondition(before.Status.Conditions, kind)
		if was != nil && was.Status == is.Status && was.Reason == is.Reason {
			continue
		}
		severity := corev1.EventTypeNormal
		if is.Status == metav1.ConditionFalse && is.Reason != v1alpha1.ReasonProgressing {
			severity = corev1.EventTypeWarning
		}
		if kind == v1alpha1.ConditionReady || severity == corev1.EventTypeWarning && is.Message != meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady).Message {
			r.event(before, severity, is.Reason, "Reconcile", is.Message)
		}
	}
}

// wakeUp asks for a pass over a gateway, as an event of Kubernetes would. If too
// many are asked for, this one is dropped; its caller asks again later.
func (r *Reconciler) wakeUp(key types.NamespacedName) {
	select {
	case r.wake <- event.GenericEvent{Object: &v1alpha1.AuthGateway{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}}:
	default:
	}
}

// lookAgain is after how long a pass is due though nothing has told of a change;
// zero: never.
func (r *Reconciler) lookAgain(w *world, t tended, found *problem, status v1alpha1.AuthGatewayStatus) time.Duration {
	var after time.Duration
	consider := func(d time.Duration) {
		if after == 0 || d < after {
			after = max(d, time.Second)
		}
	}
	if found != nil && found.recheck != 0 {
		consider(found.recheck)
	}
	if w.gateway.Spec.Suspend {
		return after
	}
	if !t.idle.When.IsZero() {
		consider(t.idle.When.Sub(w.now))
	}
	if len(t.custody.Former[keys.Access])+len(t.custody.Former[keys.Refresh]) > 0 {
		consider(recheckPods)
	}
	ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
	// The end of an outage of the database is noticed by watchDatabases.
	if ready.Status != metav1.ConditionTrue && ready.Reason != v1alpha1.ReasonDatabaseUnavailable && len(w.pods) > 0 {
		consider(recheckPods)
	}
	if w.upgradeWaits { // it is woken in its turn; this is in case a wake-up was dropped
		consider(recheckUpgrade)
	}
	if w.kindMissing() != nil {
		consider(recheckKinds)
	}
	if w.awaitedReplicas(t.ring) != "" { // a mounted Secret that arrives brings no event
		consider(recheckAwaited)
	}
	if r.watches.denied(secretNames(), w.names.namespace) != nil { // nothing tells of their changes
		consider(recheckKinds)
	}
	return after
}
