package controllers_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/controllers"
	serverconfig "github.com/auth-gateway/auth-gateway/internal/config"
)

// failingUpgrades returns the gateways that stop upgrades, according to the metric.
func (e *env) failingUpgrades() (names []string) {
	e.t.Helper()
	for _, labels := range e.metric(e.operator.Upgrades(), "authgateway_operator_upgrade_failing") {
		names = append(names, labels["gateway_name"])
	}
	return names
}

// metric returns the labels of each value of a metric.
func (e *env) metric(of prometheus.Collector, name string) (all []map[string]string) {
	e.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(of)
	families, err := registry.Gather()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if f.GetName() == name {
				all = append(all, labels)
			}
		}
	}
	return all
}

// fleet returns the gateways before, during and after their upgrade to an image.
func (e *env) fleet(image string) (before, underWay, after []string) {
	e.t.Helper()
	var all appsv1.DeploymentList
	if err := e.client.List(e.t.Context(), &all, client.InNamespace(e.namespace)); err != nil {
		e.t.Fatal(err)
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
func TestUpgradeGoesInWaves(t *testing.T) {
	t.Parallel()
	const many, wave, next = 9, 2, "auth-gateway/authserver:next"
	e := emptyEnv(t)
	stop := e.startOperator(func(o *controllers.Options) { o.Upgrades = wave })
	e.create(credentials("auth-db"))
	name := func(i int) string { return fmt.Sprintf("auth-%02d", i) }
	for i := range many {
		g := smallest(name(i))
		g.Spec.Replicas = new(int32(1))
		e.create(g)
	}
	for i := range many { // all at once, because no pods are replaced
		e.rollOut(name(i))
	}
	for i := range many {
		e.shows(name(i), "Ready True Ready")
	}
	stop()

	upgraded := func(o *controllers.Options) { o.Upgrades, o.ServerImage = wave, next }
	stop = e.startOperator(upgraded)
	full := func(want int) (before, underWay []string) {
		e.eventually(fmt.Sprintf("the pods of %d gateways are being replaced", want), func() error {
			before, underWay, _ = e.fleet(next)
			if len(underWay) != want {
				return fmt.Errorf("they are those of %v", underWay)
			}
			return nil
		})
		e.rest()
		if before, underWay, _ = e.fleet(next); len(underWay) != want {
			t.Fatalf("the pods of %v are replaced at the same time", underWay)
		}
		return before, underWay
	}
	before, underWay := full(wave)
	waits := before[0]
	e.shows(waits, "Ready True Ready", "Reconciling True UpgradeWaiting")

	// A change of a spec does not wait for its turn.
	e.change(waits, func(g *v1alpha1.AuthGateway) { g.Spec.Tokens.AccessTokenTTL = "5m" })
	becomes(e, "the change is there", "300", func() string { return variables(e.deployment(waits))["ACCESS_TOKEN_EXPIRY"] })
	e.rollOut(waits)
	e.shows(waits, "Reconciling False Ready")

	// One fails. Those that have started finish, and no other one starts.
	fails := underWay[0]
	d := e.deployment(fails)
	p := e.startPod(d, 1, false)
	e.answer(p, func() (serverconfig.State, error) { return serverconfig.State{Reason: "SETTING is not known"}, nil })
	e.eventually("the status of the Deployment can be written", func() error {
		d := e.deployment(fails)
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 2, UpdatedReplicas: 1,
			ReadyReplicas: 1, AvailableReplicas: 1}
		return e.client.Status().Update(t.Context(), d)
	})
	e.pass(31 * time.Second)
	e.nudge(fails)
	e.says(fails, "Ready", "PodsFailing", "SETTING is not known")
	becomes(e, "the metric names it", fails, func() string { return strings.Join(e.failingUpgrades(), " ") })
	for _, name := range underWay[1:] {
		e.rollOut(name)
		e.shows(name, "Ready True Ready")
	}
	stopped := func() {
		e.rest()
		if before, _, _ := e.fleet(next); len(before) != many-wave-1 {
			t.Fatalf("%d gateways have not been upgraded, want %d", len(before), many-wave-1)
		}
	}
	stopped()
	stop() // a new process finds it failing, too
	e.startOperator(upgraded)
	becomes(e, "the metric names it", fails, func() string { return strings.Join(e.failingUpgrades(), " ") })
	stopped()

	// It recovers, and the upgrade continues to the end.
	e.rollOut(fails)
	for left := many - wave - 1; left > 0; left -= wave {
		_, underWay = full(min(wave, left))
		for _, name := range underWay {
			e.rollOut(name)
		}
	}
	for i := range many {
		e.shows(name(i), "Ready True Ready", "Reconciling False Ready")
	}
	if before, underWay, _ := e.fleet(next); len(before)+len(underWay) > 0 {
		t.Errorf("%v were not upgraded, and the upgrade of %v is not complete", before, underWay)
	}
	e.eventually("no Deployment is marked as being upgraded", func() error {
		var marked appsv1.DeploymentList
		if err := e.client.List(t.Context(), &marked, client.InNamespace(e.namespace),
			client.HasLabels{"authgateway.io/upgrading"}); err != nil {
			return err
		}
		if n := len(marked.Items); n > 0 {
			return fmt.Errorf("%d are marked", n)
		}
		return nil
	})
}
