package controllers_test

import (
	"errors"
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
func TestDatabaseOutageIsACondition(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(o *controllers.Options) { o.DatabaseLook = 50 * time.Millisecond })
	e.create(credentials("auth-db"), smallest("auth"))
	d := e.made("auth")
	one, two := e.startPod(d, 0, true), e.startPod(d, 1, true)
	e.report("auth", 2)
	e.shows("auth", "Ready True Ready", "DatabaseAvailable True DatabaseAnswers")

	problem := "the database \"auth\" takes no writes:\nit is a standby\x07 " + strings.Repeat("x", 2000)
	report := func(problem string, pods ...*corev1.Pod) {
		for _, p := range pods {
			e.answer(p, func() (serverconfig.State, error) {
				s := e.holdsAll("auth")
				s.Database.Problem = problem
				return s, nil
			})
		}
	}
	// One replica is enough, although a reconcile asks only one in the steady state.
	for _, lost := range [][]*corev1.Pod{{one}, {two}, {one, two}} {
		report(problem, lost...)
		e.says("auth", "DatabaseAvailable", "DatabaseUnavailable", fmt.Sprintf("%d of 2 replicas", len(lost)),
			lost[0].Name, `the database "auth" takes no writes: it is a standby`, "still serve the public keys")
		c := e.condition("auth", "Ready", metav1.ConditionFalse, "DatabaseUnavailable")
		if strings.ContainsAny(c.Message, "\n\x07") || len(c.Message) > 1000 {
			t.Errorf("the message has %d bytes: %q", len(c.Message), c.Message)
		}
		e.shows("auth", "Available True ReplicasReady", "KeysReady True KeysPublished")
		report("", lost...)
		e.shows("auth", "Ready True Ready", "DatabaseAvailable True DatabaseAnswers")
	}

	// A replica that does not answer does not change the condition.
	e.silence(one, errors.New("no route"))
	e.silence(two, errors.New("no route"))
	e.nudge("auth")
	e.rest()
	e.shows("auth", "DatabaseAvailable True DatabaseAnswers")
	e.quiet()
	time.Sleep(300 * time.Millisecond) // no event announces that nothing happens
	if writes := e.calls.written(); len(writes) > 0 {
		t.Errorf("in the steady state the operator wrote %v", writes)
	}
}
