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
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// Who looks after a gateway stands in its status. An operator that finds another
// one there stays out, and asks, in the status too, whether that one still works:
// one that does takes the question away in its next pass, which the question
// brings about. One that does not answer in time has lost the gateway. So nobody
// has to write that they are alive, and an operator that was installed anew
// elsewhere takes over by itself.
const (
	answerTime = 2 * time.Minute  // that another operator has to answer in
	askAgain   = 10 * time.Minute // after an answer
)

// identity is by what operators are told apart: their replicas, which share a
// lease, are one.
func (r *Reconciler) identity() string { return r.Options.OperatorNamespace }

// isAnothers reports whether another operator looks after a gateway, and if so
// when to look again.
func (r *Reconciler) isAnothers(ctx context.Context, g *v1alpha1.AuthGateway) (bool, ctrl.Result, error) {
	holder, me, now := g.Status.Operator, r.identity(), r.Now()
	if holder == "" || holder == me {
		return false, ctrl.Result{}, nil
	}
	contest := g.Status.OperatorContest
	switch {
	case contest != nil && contest.By == me && now.Sub(contest.StartTime.Time) >= answerTime:
		log.FromContext(ctx).Info("the operator that looked after this AuthGateway does not answer; this one takes over", "operator", holder)
		return true, ctrl.Result{RequeueAfter: time.Second}, r.contest(ctx, g, func(s *v1alpha1.AuthGatewayStatus) {
			s.Operator, s.OperatorContest = me, nil
		})
	case contest != nil && contest.By == me:
		return true, ctrl.Result{RequeueAfter: max(answerTime-now.Sub(contest.StartTime.Time), time.Second)}, nil
	case contest != nil: // a third one asks
		return true, ctrl.Result{RequeueAfter: answerTime}, nil
	}
	if asked, ok := r.asked.Get(g.UID); ok && now.Sub(asked) < askAgain {
		return true, ctrl.Result{RequeueAfter: askAgain - now.Sub(asked)}, nil
	}
	r.asked.Add(g.UID, now)
	log.FromContext(ctx).Info("another operator looks after this AuthGateway, so this one stays out: let no two operators watch one namespace", "operator", holder)
	r.event(g, corev1.EventTypeWarning, v1alpha1.ReasonOtherOperator, "Reconcile", fmt.Sprintf(
		"the operator in namespace %s looks after this AuthGateway; the one in namespace %s watches it too, and stays out: let no two operators watch one namespace", holder, me))
	return true, ctrl.Result{RequeueAfter: answerTime}, r.contest(ctx, g, func(s *v1alpha1.AuthGatewayStatus) {
		s.OperatorContest = &v1alpha1.OperatorContest{By: me, StartTime: metav1.NewTime(now)}
	})
}

// contest writes who looks after a gateway, if nobody has written it since.
func (r *Reconciler) contest(ctx context.Context, g *v1alpha1.AuthGateway, change func(*v1alpha1.AuthGatewayStatus)) error {
	after := g.DeepCopy()
	change(&after.Status)
	err := r.Client.Status().Patch(ctx, after, client.MergeFromWithOptions(g, client.MergeFromWithOptimisticLock{}), client.FieldOwner(FieldManager))
	if apierrors.IsConflict(err) {
		return nil // what was written brings the next pass
	}
	return client.IgnoreNotFound(err)
}

// A damper slows down the operator where another controller, or an admission
// webhook, undoes what it writes as soon as it is written: each would answer the
// other for ever, and the pods would be replaced all the while.
type damper struct {
	mu  sync.Mutex
	all *lru.Cache[damped, *rate.Limiter]
}

// damped is one object as one state of the spec wants it. What a person changes
// in the spec is another, and is written at once.
type damped struct {
	owner  types.UID
	kind   string
	wanted [sha256.Size]byte
}

// So often an object is put right at once; then every dampedInterval.
const (
	dampedBurst    = 20
	dampedInterval = 30 * time.Second
)

func newDamper() *damper {
	all, err := lru.New[damped, *rate.Limiter](50_000)
	if err != nil { // a size that is not positive is the one way
		panic(err)
	}
	return &damper{all: all}
}

// allow reports whether an object may be written over again now.
func (d *damper) allow(owner types.UID, kind string, wanted runtime.ApplyConfiguration, now time.Time) bool {
	text, err := json.Marshal(wanted)
	if err != nil { // it is marshalled to be written, too
		return true
	}
	key := damped{owner, kind, sha256.Sum256(text)}
	d.mu.Lock()
	defer d.mu.Unlock()
	limiter, ok := d.all.Get(key)
	if !ok {
		limiter = rate.NewLimiter(rate.Every(dampedInterval), dampedBurst)
		d.all.Add(key, limiter)
	}
	return limiter.AllowN(now, 1)
}

// contended names who undoes what the operator writes.
func (r *Reconciler) contended(ctx context.Context, s *slot, of client.Object) *problem {
	who := "something that the object does not name, such as an admission webhook,"
	live := s.empty() // the cache does not have what others wrote
	if r.Live.Get(ctx, client.ObjectKeyFromObject(of), live) == nil {
		var last time.Time
		for _, f := range live.GetManagedFields() {
			if f.Manager != FieldManager && f.Subresource == "" && f.Time != nil && f.Time.After(last) {
				who, last = f.Manager, f.Time.Time
			}
		}
	}
	p := waiting(v1alpha1.ReasonContended, "the %s %s is changed again and again: %s undoes what the operator writes, so it is put right only every %s: find out who that is, and keep them from it", s.kind, of.GetName(), who, dampedInterval)
	p.recheck = dampedInterval
	return p
}
