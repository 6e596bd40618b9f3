package controllers_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	serverconfig "github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/keys"
)

// A replica that does not answer is named, without a status write each time. It
// delays a rotation by at most the time in which a mounted Secret is updated.
func TestReplicaThatCannotBeAskedHoldsARotationUpForABoundedTime(t *testing.T) {
	t.Parallel()
	e := readyDirectEnv(t)
	silent := e.pods()[0]
	e.silence(&silent, errors.New("connection refused"))
	annotate(e, "auth", v1alpha1.AnnotationRotate, "now")
	next := e.published("auth", keys.Access)
	c := e.condition("auth", "KeysReady", metav1.ConditionTrue, "AwaitingReplicas")
	for _, w := range []string{"pod " + silent.Name + " cannot be asked: connection refused", next} {
		if !strings.Contains(c.Message, w) {
			t.Errorf("%q is missing in %q", w, c.Message)
		}
	}
	e.shows("auth", "Reconciling True AwaitingReplicas", "Ready True Ready")
	e.quiet()
	for range 5 {
		e.pass(time.Minute) // in total less than the limit
		e.nudge("auth")
		e.rest()
	}
	for _, call := range e.calls.written() {
		t.Errorf("the operator writes while it waits: %v", call)
	}
	if k, _ := e.ring("auth").Key(next); k.Phase != keys.Generated {
		t.Errorf("the lead of the key has begun, although a replica may not have it: %+v", k)
	}
	e.wait("auth")
	e.phase("auth", next, keys.Signing)
	e.pass(2 * lead) // the ring has changed, so the wait begins again
	e.nudge("auth")
	e.says("auth", "KeysReady", "KeysPublished", "not confirmed", silent.Name)
}

// A pod with the operator's labels that does not belong to the Deployment is neither asked nor waited for.
func TestReplicasAreOnlyThePodsOfTheDeployment(t *testing.T) {
	t.Parallel()
	e := readyDirectEnv(t)
	liar, d := e.pods()[0], e.made("auth")
	other := d.DeepCopy()
	other.ObjectMeta = metav1.ObjectMeta{Name: "other", Labels: d.Labels}
	e.create(other)
	for i, owner := range []*appsv1.Deployment{nil, other} {
		p := &corev1.Pod{ObjectMeta: *d.Spec.Template.ObjectMeta.DeepCopy(), Spec: *d.Spec.Template.Spec.DeepCopy()}
		p.Name = fmt.Sprintf("stranger-%d", i)
		if owner != nil {
			p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(e.replicaSet(owner),
				appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
		}
		e.create(p)
		p.Status.PodIP = fmt.Sprintf("10.9.9.%d", i+1)
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		testenv.NoError(t, e.client.Status().Update(t.Context(), p))
		e.answer(p, func() (serverconfig.State, error) {
			t.Errorf("the operator asked pod %s", p.Name)
			return serverconfig.State{Keys: serverconfig.KeysState{Generation: 1 << 30}}, nil
		})
	}
	// A pod of ours that reports an impossible generation does not affect the keys. trace_test.go has more of this.
	lies := func(generation int64) func() (serverconfig.State, error) {
		return func() (serverconfig.State, error) {
			s := e.holdsAll("auth")
			s.Keys.Generation = generation
			return s, nil
		}
	}
	e.answer(&liar, lies(1<<62))
	e.rotate("auth")
	stolen := e.signing("auth", keys.Access).ID
	// A compromised pod stops a rotation, is named, and cannot stop a revocation.
	e.answer(&liar, lies(1<<39))
	annotate(e, "auth", v1alpha1.AnnotationRotate, "once more")
	e.says("auth", "KeysReady", "KeysRolledBack", "pod "+liar.Name)
	e.revoke("auth", stolen)
	e.says("auth", "KeysReady", "KeysRolledBack", "pod "+liar.Name)
}
