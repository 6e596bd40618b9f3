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
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	serverconfig "github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// pods returns the pods of the namespace.
func (b *bed) pods() []corev1.Pod {
	b.t.Helper()
	var pods corev1.PodList
	if err := b.client.List(b.t.Context(), &pods, client.InNamespace(b.namespace)); err != nil {
		b.t.Fatal(err)
	}
	return pods.Items
}

// silence makes a pod give no answer.
func (b *bed) silence(p corev1.Pod, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[p.Status.PodIP] = func() (serverconfig.State, error) { return serverconfig.State{}, err }
}

// A replica that does not answer is named, without a status write each time. It
// delays a rotation by at most the time in which a mounted Secret is updated.
func TestAReplicaThatCannotBeAskedIsNamedAndHoldsARotationUpForABoundedTime(t *testing.T) {
	t.Parallel()
	b := newDirectBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.rest()
	silent := b.pods()[0]
	b.silence(silent, errors.New("connection refused"))
	annotate(b, "auth", v1alpha1.AnnotationRotate, "now")
	next := b.published("auth", keys.Access)
	c := b.condition("auth", "KeysReady", metav1.ConditionTrue, "AwaitingReplicas")
	for _, w := range []string{"pod " + silent.Name + " cannot be asked: connection refused", next} {
		if !strings.Contains(c.Message, w) {
			t.Errorf("%q is missing in %q", w, c.Message)
		}
	}
	b.condition("auth", "Reconciling", metav1.ConditionTrue, "AwaitingReplicas")
	b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")
	b.quiet()
	for range 5 {
		b.pass(time.Minute) // in total less than the limit
		b.nudge("auth")
		b.rest()
	}
	for _, call := range b.calls.written() {
		t.Errorf("the operator writes while it waits: %v", call)
	}
	if k, _ := b.ring("auth").Key(next); k.Phase != keys.Generated {
		t.Errorf("the lead of the key has begun, although a replica may not have it: %+v", k)
	}
	b.wait("auth")
	b.phase("auth", next, keys.Signing)
	b.pass(2 * lead) // the ring has changed, so the wait begins again
	b.nudge("auth")
	b.eventually("what is not confirmed is named", func() error {
		for _, c := range b.gateway("auth").Status.Conditions {
			if c.Type == "KeysReady" && strings.Contains(c.Message, "not confirmed") && strings.Contains(c.Message, silent.Name) {
				return nil
			}
		}
		return fmt.Errorf("%+v", b.gateway("auth").Status.Conditions)
	})
}

// A pod with the operator's labels that does not belong to the Deployment is neither
// asked nor waited for.
func TestOnlyPodsOfOurDeploymentAreAsked(t *testing.T) {
	t.Parallel()
	b := newDirectBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.rest()
	d := b.made("auth")
	other := d.DeepCopy()
	other.ObjectMeta = metav1.ObjectMeta{Name: "other", Labels: d.Labels}
	b.create(other)
	for i, owner := range []*appsv1.Deployment{nil, other} {
		p := &corev1.Pod{ObjectMeta: *d.Spec.Template.ObjectMeta.DeepCopy(), Spec: *d.Spec.Template.Spec.DeepCopy()}
		p.Name = fmt.Sprintf("stranger-%d", i)
		if owner != nil {
			p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(b.replicaSet(owner),
				appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
		}
		b.create(p)
		p.Status.PodIP = fmt.Sprintf("10.9.9.%d", i+1)
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if err := b.client.Status().Update(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		b.mu.Lock()
		b.answers[p.Status.PodIP] = func() (serverconfig.State, error) {
			t.Errorf("the operator asked pod %s", p.Name)
			return serverconfig.State{Keys: serverconfig.KeysState{Generation: 1 << 30}}, nil
		}
		b.mu.Unlock()
	}
	b.rotate("auth")
}

// answer makes a pod report something else than it has loaded.
func (b *bed) answer(p corev1.Pod, change func(*serverconfig.State)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[p.Status.PodIP] = func() (serverconfig.State, error) {
		s := b.holdsAll("auth")
		change(&s)
		return s, nil
	}
}

// A pod that reports an impossible generation does not affect the keys.
func TestAPodThatLiesDoesNotStopTheKeys(t *testing.T) {
	t.Parallel()
	b := newDirectBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.rest()
	b.answer(b.pods()[0], func(s *serverconfig.State) { s.Keys.Generation = 1 << 62 })
	b.rotate("auth")
}

// A compromised pod knows the key that signs. If it claims to have later keys, it
// stops a rotation and is named. It cannot stop the revocation of the key.
func TestAPodThatPretendsToHaveLaterKeysIsNamedAndDoesNotStopARevocation(t *testing.T) {
	t.Parallel()
	b := newDirectBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.rest()
	liar, stolen := b.pods()[0], b.signing("auth", keys.Access).ID
	b.answer(liar, func(s *serverconfig.State) { s.Keys.Generation = 1 << 39 })
	annotate(b, "auth", v1alpha1.AnnotationRotate, "now")
	b.says("auth", "KeysReady", "KeysRolledBack", "pod "+liar.Name)
	b.revoke("auth", stolen)
	b.says("auth", "KeysReady", "KeysRolledBack", "pod "+liar.Name)
	if err := b.client.Delete(t.Context(), &liar, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	b.rollOut("auth")
	b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")
}
