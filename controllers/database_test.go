package controllers_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/controllers"
	serverconfig "github.com/auth-gateway/auth-gateway/internal/config"
)

// Replicas stay ready during an outage of the database. Their gateway does not.
func TestAnOutageOfTheDatabaseIsACondition(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(o *controllers.Options) { o.DatabaseLook = 50 * time.Millisecond })
	b.create(credentials("auth-db"), smallest("auth"))
	d := b.made("auth")
	one, two := b.startPod(d, 0, true), b.startPod(d, 1, true)
	b.report("auth", 2)
	b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")
	b.condition("auth", "DatabaseAvailable", metav1.ConditionTrue, "DatabaseAnswers")

	problem := "the database \"auth\" takes no writes:\nit is a standby\x07 " + strings.Repeat("x", 2000)
	lose := func(pods ...*corev1.Pod) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, p := range pods {
			b.answers[p.Status.PodIP] = func() (serverconfig.State, error) {
				s := b.holdsAll("auth")
				s.Database.Problem = problem
				return s, nil
			}
		}
	}
	find := func(pods ...*corev1.Pod) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, p := range pods {
			b.answers[p.Status.PodIP] = func() (serverconfig.State, error) { return b.holdsAll("auth"), nil }
		}
	}
	// One replica is enough, although a reconcile asks only one in the steady state.
	for _, lost := range [][]*corev1.Pod{{one}, {two}, {one, two}} {
		lose(lost...)
		b.says("auth", "DatabaseAvailable", "DatabaseUnavailable", fmt.Sprintf("%d of 2 replicas", len(lost)),
			lost[0].Name, `the database "auth" takes no writes: it is a standby`, "still serve the public keys")
		c := b.condition("auth", "Ready", metav1.ConditionFalse, "DatabaseUnavailable")
		if strings.ContainsAny(c.Message, "\n\x07") || len(c.Message) > 1000 {
			t.Errorf("the message has %d bytes: %q", len(c.Message), c.Message)
		}
		b.condition("auth", "Available", metav1.ConditionTrue, "ReplicasReady")
		b.condition("auth", "KeysReady", metav1.ConditionTrue, "KeysPublished")
		find(lost...)
		b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")
		b.condition("auth", "DatabaseAvailable", metav1.ConditionTrue, "DatabaseAnswers")
	}

	// A replica that does not answer does not change the condition.
	b.mu.Lock()
	for _, p := range []*corev1.Pod{one, two} {
		b.answers[p.Status.PodIP] = func() (serverconfig.State, error) { return serverconfig.State{}, fmt.Errorf("no route") }
	}
	b.mu.Unlock()
	b.nudge("auth")
	b.rest()
	b.condition("auth", "DatabaseAvailable", metav1.ConditionTrue, "DatabaseAnswers")
	b.quiet()
	time.Sleep(300 * time.Millisecond) // no event announces that nothing happens
	if writes := b.calls.written(); len(writes) > 0 {
		t.Errorf("in the steady state the operator wrote %v", writes)
	}
}
