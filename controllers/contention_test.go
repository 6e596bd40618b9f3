package controllers_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/controllers"
)

// Two operators of different releases watch one namespace, with different images. One manages the gateway, and the
// other reports that and stays out. When the first one is gone, the other takes over.
func TestOperatorStaysOutOfAnothersGateway(t *testing.T) {
	t.Parallel()
	e := emptyEnv(t)
	holder := func() string { return e.gateway("auth").Status.Operator }
	image := func() string { return server(e.deployment("auth")).Image }
	other := func(o *controllers.Options) {
		o.OperatorNamespace, o.ServerImage = "elsewhere", "auth-gateway/authserver:other"
	}
	e.create(credentials("auth-db"))
	stop := e.startOperator()
	e.ready(smallest("auth"))
	if holder() != "auth-gateway-system" {
		t.Fatalf("the operator is %q", holder())
	}
	generation := e.deployment("auth").Generation
	e.calls.reset()
	e.startOperator(other)
	e.eventually("the other one says that it stays out", func() error {
		var all eventsv1.EventList
		if err := e.client.List(t.Context(), &all, client.InNamespace(e.namespace)); err != nil {
			return err
		}
		for _, e := range all.Items {
			if e.Reason == "OtherOperator" && strings.Contains(e.Note, "auth-gateway-system") && strings.Contains(e.Note, "elsewhere") {
				return nil
			}
		}
		return fmt.Errorf("there are %d events", len(all.Items))
	})
	becomes(e, "it is answered", nil, func() *v1alpha1.OperatorContest { return e.gateway("auth").Status.OperatorContest })
	e.rest()
	if writes := e.calls.written(); len(writes) > 4 {
		t.Errorf("the operators wrote %v", writes)
	}
	if d := e.deployment("auth"); d.Generation != generation {
		t.Errorf("the Deployment changed %d times", d.Generation-generation)
	}
	e.shows("auth", "Ready True Ready")

	stop()
	e.pass(11 * time.Minute) // after which it asks again
	e.nudge("auth")
	becomes(e, "it asks again", true, func() bool { return e.gateway("auth").Status.OperatorContest != nil })
	e.rest()
	if holder() != "auth-gateway-system" {
		t.Errorf("before the time for an answer has passed, the operator is %q", holder())
	}
	e.pass(3 * time.Minute)
	e.nudge("auth")
	becomes(e, "the other operator takes over", "auth-gateway/authserver:other", image)
	becomes(e, "the gateway names the new operator", "elsewhere", holder)
}

// Another controller reverts the operator's writes at once.
func TestContentionIsDampedAndNamed(t *testing.T) {
	t.Parallel()
	e := readyEnv(t)
	e.quiet()
	image := func() string { return server(e.deployment("auth")).Image }
	contended := func() bool {
		c := meta.FindStatusCondition(e.gateway("auth").Status.Conditions, "Ready")
		return c != nil && c.Reason == "Contended"
	}
	for range 60 {
		edit(e, "auth", &appsv1.Deployment{}, func(d *appsv1.Deployment) { server(d).Image = "other/image" })
		e.eventually("the operator writes, or reports the contest", func() error {
			if image() == "other/image" && !contended() {
				return fmt.Errorf("neither")
			}
			return nil
		})
		if contended() {
			break
		}
	}
	e.says("auth", "Ready", "Contended", "Deployment auth", "a-person")
	e.rest()
	patches := 0
	for _, c := range e.calls.written() {
		if c.resource == "deployments" && c.subresource == "" && c.verb == "patch" {
			patches++
		}
	}
	if patches > 30 {
		t.Errorf("the operator sent %d patches", patches)
	}
	// A change of the spec is written at once.
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Image = "auth-gateway/authserver:next" })
	becomes(e, "the new image is written", "auth-gateway/authserver:next", image)
	// When the other controller stops, the object is repaired.
	e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.Image = "" })
	e.pass(time.Minute)
	e.nudge("auth")
	becomes(e, "it is put right", "auth-gateway/authserver:test", image)
	e.rollOut("auth")
	e.shows("auth", "Ready True Ready")
}
