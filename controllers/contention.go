package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// The status of a gateway names the operator that manages it. An operator that finds another one there does not manage
// the gateway. It asks, also in the status, whether the other one is still running. The question starts a reconcile of
// the other operator, which removes it and so answers. If there is no answer in time, the operator that asked takes the
// gateway over. No operator has to renew anything, and one that was installed in another namespace takes over on its
// own.
const (
	answerTime = 2 * time.Minute  // how long another operator has to answer
	askAgain   = 10 * time.Minute // after an answer
)

// identity identifies an operator. Its replicas share a lease, so they count as one.
func (r *Reconciler) identity() string { return r.Options.OperatorNamespace }

// isAnothers reports whether another operator manages a gateway and, if so, when to reconcile again.
func (r *Reconciler) isAnothers(ctx context.Context, g *v1alpha1.AuthGateway) (bool, ctrl.Result, error) {
	holder, me, now := g.Status.Operator, r.identity(), r.Now()
	if holder == "" || holder == me {
		return false, ctrl.Result{}, nil
	}
	contest := g.Status.OperatorContest
	switch {
	case contest != nil && contest.By == me && now.Sub(contest.StartTime.Time) >= answerTime:
		log.FromContext(ctx).Info("taking over an AuthGateway: its operator did not answer", "operator", holder)
		return true, ctrl.Result{RequeueAfter: time.Second}, r.contest(ctx, g, func(s *v1alpha1.AuthGatewayStatus) {
			s.Operator, s.OperatorContest = me, nil
		})
	case contest != nil && contest.By == me:
		return true, ctrl.Result{RequeueAfter: max(answerTime-now.Sub(contest.StartTime.Time), time.Second)}, nil
	case contest != nil: // a third operator asks
		return true, ctrl.Result{RequeueAfter: answerTime}, nil
	}
	if asked, ok := r.asked.Get(g.UID); ok && now.Sub(asked) < askAgain {
		return true, ctrl.Result{RequeueAfter: askAgain - now.Sub(asked)}, nil
	}
	r.asked.Add(g.UID, now)
	log.FromContext(ctx).Info("not managing an AuthGateway: another operator does; let only one watch a namespace",
		"operator", holder)
	r.event(g, corev1.EventTypeWarning, v1alpha1.ReasonOtherOperator, "Reconcile", fmt.Sprintf(
		"the operator in namespace %s manages this AuthGateway. The one in namespace %s also watches it, and does "+
			"nothing. Let only one operator watch a namespace", holder, me))
	return true, ctrl.Result{RequeueAfter: answerTime}, r.contest(ctx, g, func(s *v1alpha1.AuthGatewayStatus) {
		s.OperatorContest = &v1alpha1.OperatorContest{By: me, StartTime: metav1.NewTime(now)}
	})
}

// contest changes which operator the status names, or which one asks, if no other
// writer has changed the gateway since it was read.
func (r *Reconciler) contest(
	ctx context.Context, g *v1alpha1.AuthGateway, change func(*v1alpha1.AuthGatewayStatus),
) error {
	after := g.DeepCopy()
	change(&after.Status)
	patch := client.MergeFromWithOptions(g, client.MergeFromWithOptimisticLock{})
	err := r.Client.Status().Patch(ctx, after, patch, client.FieldOwner(FieldManager))
	if apierrors.IsConflict(err) {
		return nil // the other write starts another reconcile
	}
	return client.IgnoreNotFound(err)
}

// A damper slows the operator down when another controller or an admission webhook reverts its writes. Otherwise the
// two would revert each other without end, and the pods would be replaced again and again.
type damper struct {
	mu  sync.Mutex
	all *lru.Cache[damped, *rate.Limiter]
}

// damped identifies an object and its wanted content. A change of the spec makes another key, so it is written at once.
type damped struct {
	owner  types.UID
	gvk    schema.GroupVersionKind
	wanted [sha256.Size]byte
}

// An object is repaired at once dampedBurst times, then once every dampedInterval.
const (
	dampedBurst    = 20
	dampedInterval = 30 * time.Second
)

// allow reports whether an object may be repaired now.
func (d *damper) allow(
	owner types.UID, gvk schema.GroupVersionKind, wanted runtime.ApplyConfiguration, now time.Time,
) bool {
	text, err := json.Marshal(wanted)
	if err != nil { // the write will fail, too
		return true
	}
	key := damped{owner, gvk, sha256.Sum256(text)}
	d.mu.Lock()
	defer d.mu.Unlock()
	limiter, ok := d.all.Get(key)
	if !ok {
		limiter = rate.NewLimiter(rate.Every(dampedInterval), dampedBurst)
		d.all.Add(key, limiter)
	}
	return limiter.AllowN(now, 1)
}

// contended returns a problem that names the writer which reverts the operator's writes.
func (r *Reconciler) contended(ctx context.Context, o *managedObject, of client.Object) *problem {
	writer := "a writer that the object does not name, such as an admission webhook,"
	live := o.empty() // the cache does not hold the managedFields of other writers
	if r.Live.Get(ctx, client.ObjectKeyFromObject(of), live) == nil {
		var last time.Time
		for _, f := range live.GetManagedFields() {
			if f.Manager != FieldManager && f.Subresource == "" && f.Time != nil && f.Time.After(last) {
				writer, last = f.Manager, f.Time.Time
			}
		}
	}
	p := waiting(v1alpha1.ReasonContended, "%s repeatedly reverts what the operator writes to the %s %s, "+
		"so the operator repairs it only every %s. Stop that writer from changing it",
		writer, o.gvk.Kind, of.GetName(), dampedInterval)
	p.recheck = dampedInterval
	return p
}
