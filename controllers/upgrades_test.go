package controllers_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/controllers"
	serverconfig "github.com/auth-gateway/auth-gateway/internal/config"
)

// failingUpgrades returns the gateways that stop upgrades, according to the metric.
func (b *bed) failingUpgrades() (names []string) {
	b.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(b.operator.Upgrades())
	families, err := registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "authgateway_operator_upgrade_failing" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "gateway_name" {
					names = append(names, l.GetValue())
				}
			}
		}
	}
	return names
}

// fleet returns the gateways before, during and after their upgrade to an image.
func (b *bed) fleet(image string) (before, underWay, after []string) {
	b.t.Helper()
	var all appsv1.DeploymentList
	if err := b.client.List(b.t.Context(), &all, client.InNamespace(b.namespace)); err != nil {
		b.t.Fatal(err)
	}
	for i := range all.Items {
		switch d := &all.Items[i]; {
		case server(d).Image != image:
			before = append(before, d.Name)
		case d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas < *d.Spec.Replicas:
			underWay = append(underWay, d.Name)
		default:
			after = append(after, d.Name)
		}
	}
	return before, underWay, after
}

// An upgrade of the operator replaces the pods of a few gateways at a time, and stops
// when one fails. Changes of a spec do not wait.
func TestAnUpgradeGoesInWaves(t *testing.T) {
	t.Parallel()
	const many, wave, next = 30, 3, "auth-gateway/authserver:next"
	b := emptyBed(t)
	stop := b.startOperator(func(o *controllers.Options) { o.Upgrades = wave })
	b.create(credentials("auth-db"))
	name := func(i int) string { return fmt.Sprintf("auth-%02d", i) }
	for i := range many {
		g := smallest(name(i))
		g.Spec.Replicas = new(int32(1))
		b.create(g)
	}
	for i := range many { // all at once, because no pods are replaced
		b.rollOut(name(i))
	}
	for i := range many {
		b.condition(name(i), "Ready", metav1.ConditionTrue, "Ready")
	}
	stop()

	upgraded := func(o *controllers.Options) { o.Upgrades, o.ServerImage = wave, next }
	stop = b.startOperator(upgraded)
	full := func(want int) (before, underWay []string) {
		b.eventually(fmt.Sprintf("the pods of %d gateways are being replaced", want), func() error {
			before, underWay, _ = b.fleet(next)
			if len(underWay) != want {
				return fmt.Errorf("they are those of %v", underWay)
			}
			return nil
		})
		b.rest()
		if before, underWay, _ = b.fleet(next); len(underWay) != want {
			t.Fatalf("the pods of %v are replaced at the same time", underWay)
		}
		return before, underWay
	}
	before, underWay := full(wave)
	waits := before[0]
	b.condition(waits, "Ready", metav1.ConditionTrue, "Ready")
	b.condition(waits, "Reconciling", metav1.ConditionTrue, "UpgradeWaiting")

	// A change of a spec does not wait for its turn.
	edit(b, waits, &v1alpha1.AuthGateway{}, func(g *v1alpha1.AuthGateway) { g.Spec.Tokens.AccessTokenTTL = "5m" })
	b.eventually("the change is there", func() error {
		if v := variables(get(b, waits, &appsv1.Deployment{})); v["ACCESS_TOKEN_EXPIRY"] != "300" {
			return fmt.Errorf("it has %v", v)
		}
		return nil
	})
	b.rollOut(waits)
	b.condition(waits, "Reconciling", metav1.ConditionFalse, "Ready")

	// One fails. Those that have started finish, and no other one starts.
	fails := underWay[0]
	d := get(b, fails, &appsv1.Deployment{})
	p := b.startPod(d, 1, false)
	b.mu.Lock()
	b.answers[p.Status.PodIP] = func() (serverconfig.State, error) {
		return serverconfig.State{Reason: "SETTING is not known"}, nil
	}
	b.mu.Unlock()
	b.eventually("the status of the Deployment can be written", func() error {
		d := get(b, fails, &appsv1.Deployment{})
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 2, UpdatedReplicas: 1,
			ReadyReplicas: 1, AvailableReplicas: 1}
		return b.client.Status().Update(t.Context(), d)
	})
	b.pass(31 * time.Second)
	b.nudge(fails)
	b.says(fails, "Ready", "PodsFailing", "SETTING is not known")
	b.eventually("the metric names it", func() error {
		if names := b.failingUpgrades(); !slices.Equal(names, []string{fails}) {
			return fmt.Errorf("it names %v", names)
		}
		return nil
	})
	for _, name := range underWay[1:] {
		b.rollOut(name)
		b.condition(name, "Ready", metav1.ConditionTrue, "Ready")
	}
	stopped := func() {
		b.rest()
		if before, _, _ := b.fleet(next); len(before) != many-wave-1 {
			t.Fatalf("%d gateways have not been upgraded, want %d", len(before), many-wave-1)
		}
	}
	stopped()
	stop() // a new process finds it failing, too
	b.startOperator(upgraded)
	b.eventually("the metric names it", func() error {
		if names := b.failingUpgrades(); !slices.Equal(names, []string{fails}) {
			return fmt.Errorf("it names %v", names)
		}
		return nil
	})
	stopped()

	// It recovers, and the upgrade continues to the end.
	b.rollOut(fails)
	for left := many - wave - 1; left > 0; left -= wave {
		_, underWay = full(min(wave, left))
		for _, name := range underWay {
			b.rollOut(name)
		}
	}
	for i := range many {
		b.condition(name(i), "Ready", metav1.ConditionTrue, "Ready")
		b.condition(name(i), "Reconciling", metav1.ConditionFalse, "Ready")
	}
	if before, underWay, _ := b.fleet(next); len(before)+len(underWay) > 0 {
		t.Errorf("%v were not upgraded, and the upgrade of %v is not complete", before, underWay)
	}
	b.eventually("no Deployment is marked as being upgraded", func() error {
		var marked appsv1.DeploymentList
		if err := b.client.List(t.Context(), &marked, client.InNamespace(b.namespace),
			client.HasLabels{"authgateway.io/upgrading"}); err != nil {
			return err
		}
		if n := len(marked.Items); n > 0 {
			return fmt.Errorf("%d are marked", n)
		}
		return nil
	})
}
