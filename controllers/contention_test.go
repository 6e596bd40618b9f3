package controllers_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/controllers"
)

func (b *bed) holder(name string) string {
	b.t.Helper()
	return get(b, name, &v1alpha1.AuthGateway{}).Status.Operator
}

// Two operators of different releases watch one namespace, with different images. One
// manages the gateway, and the other reports that and stays out. When the first one
// is gone, the other takes over.
func TestOfTwoOperatorsOneStaysOut(t *testing.T) {
	t.Parallel()
	b := emptyBed(t)
	other := func(o *controllers.Options) {
		o.OperatorNamespace, o.ServerImage = "elsewhere", "auth-gateway/authserver:other"
	}
	b.create(credentials("auth-db"))
	stop := b.startOperator()
	b.ready(smallest("auth"))
	if holder := b.holder("auth"); holder != "auth-gateway-system" {
		t.Fatalf("the operator is %q", holder)
	}
	generation := get(b, "auth", &appsv1.Deployment{}).Generation
	b.calls.reset()
	b.startOperator(other)
	b.eventually("the other one says that it stays out", func() error {
		var all eventsv1.EventList
		if err := b.client.List(t.Context(), &all, client.InNamespace(b.namespace)); err != nil {
			return err
		}
		for _, e := range all.Items {
			if e.Reason == "OtherOperator" && strings.Contains(e.Note, "auth-gateway-system") && strings.Contains(e.Note, "elsewhere") {
				return nil
			}
		}
		return fmt.Errorf("there are %d events", len(all.Items))
	})
	b.eventually("it is answered", func() error {
		if c := get(b, "auth", &v1alpha1.AuthGateway{}).Status.OperatorContest; c != nil {
			return fmt.Errorf("the contest is %+v", c)
		}
		return nil
	})
	b.rest()
	if writes := b.calls.written(); len(writes) > 4 {
		t.Errorf("the operators wrote %v", writes)
	}
	if d := get(b, "auth", &appsv1.Deployment{}); d.Generation != generation {
		t.Errorf("the Deployment changed %d times", d.Generation-generation)
	}
	b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")

	stop()
	b.pass(11 * time.Minute) // after which it asks again
	b.nudge("auth")
	b.eventually("it asks again", func() error {
		if get(b, "auth", &v1alpha1.AuthGateway{}).Status.OperatorContest == nil {
			return fmt.Errorf("there is no contest")
		}
		return nil
	})
	b.rest()
	if holder := b.holder("auth"); holder != "auth-gateway-system" {
		t.Errorf("before the time for an answer has passed, the operator is %q", holder)
	}
	b.pass(3 * time.Minute)
	b.nudge("auth")
	b.eventually("the other operator takes over", func() error {
		if image := server(get(b, "auth", &appsv1.Deployment{})).Image; image != "auth-gateway/authserver:other" {
			return fmt.Errorf("the image is %s, the operator %s", image, b.holder("auth"))
		}
		return nil
	})
	b.eventually("the gateway names the new operator", func() error {
		if holder := b.holder("auth"); holder != "elsewhere" {
			return fmt.Errorf("the operator is %q", holder)
		}
		return nil
	})
}

// Another controller reverts the operator's writes at once.
func TestAFightWithAnotherControllerIsDampedAndNamed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.create(credentials("auth-db"))
	b.ready(smallest("auth"))
	b.quiet()
	image := func() string { return server(get(b, "auth", &appsv1.Deployment{})).Image }
	contended := func() bool {
		c := meta.FindStatusCondition(get(b, "auth", &v1alpha1.AuthGateway{}).Status.Conditions, "Ready")
		return c != nil && c.Reason == "Contended"
	}
	for range 60 {
		edit(b, "auth", &appsv1.Deployment{}, func(d *appsv1.Deployment) { server(d).Image = "other/image" })
		b.eventually("the operator writes, or reports the contest", func() error {
			if image() == "other/image" && !contended() {
				return fmt.Errorf("neither")
			}
			return nil
		})
		if contended() {
			break
		}
	}
	b.says("auth", "Ready", "Contended", "Deployment auth", "a-person")
	b.rest()
	patches := 0
	for _, c := range b.calls.written() {
		if c.resource == "deployments" && c.subresource == "" && c.verb == "patch" {
			patches++
		}
	}
	if patches > 30 {
		t.Errorf("the operator sent %d patches", patches)
	}
	// A change of the spec is written at once.
	edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Image = "auth-gateway/authserver:next" })
	b.eventually("the new image is written", func() error {
		if now := image(); now != "auth-gateway/authserver:next" {
			return fmt.Errorf("the image is %s", now)
		}
		return nil
	})
	// When the other controller stops, the object is repaired.
	edit(b, "auth", &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Image = "" })
	b.pass(time.Minute)
	b.nudge("auth")
	b.eventually("it is put right", func() error {
		if now := image(); now != "auth-gateway/authserver:test" {
			return fmt.Errorf("the image is %s", now)
		}
		return nil
	})
	b.rollOut("auth")
	b.condition("auth", "Ready", metav1.ConditionTrue, "Ready")
}
