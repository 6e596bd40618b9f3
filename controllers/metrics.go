package controllers

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

func stepsMetric() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "authgateway_key_steps_total", Help: "Steps of key rotations and revocations that the operator took.",
	}, []string{"action", "reason"})
}

// gatewayMetrics exports the status of every AuthGateway, from the cache.
type gatewayMetrics struct{ client client.Reader }

// The labels that name an AuthGateway. They are not called namespace and name:
// without honorLabels, Prometheus overwrites labels that its service discovery sets.
const (
	labelOfNamespace = "gateway_namespace"
	labelOfName      = "gateway_name"
)

var (
	perGateway = []string{labelOfNamespace, labelOfName}

	conditionMetric = prometheus.NewDesc("authgateway_condition",
		"1 if the condition of an AuthGateway has this status, else 0.",
		[]string{labelOfNamespace, labelOfName, "type", "status"}, nil)
	awaitingMetric = prometheus.NewDesc("authgateway_keys_awaiting_replicas",
		"1 while a key of an AuthGateway waits for replicas that have not loaded it or do not answer.", perGateway, nil)
	rotationMetric = prometheus.NewDesc("authgateway_next_rotation_timestamp_seconds",
		"When the next scheduled rotation of an AuthGateway's keys begins.", perGateway, nil)
	leadMetric = prometheus.NewDesc("authgateway_key_publish_lead_seconds",
		"spec.keys.publishLead of an AuthGateway. A rotation takes twice as long plus a few minutes.", perGateway, nil)
	suspendedMetric = prometheus.NewDesc("authgateway_suspended",
		"1 while spec.suspend of an AuthGateway is true.", perGateway, nil)
	upgradesMetric = prometheus.NewDesc("authgateway_operator_upgrades",
		"AuthGateways whose pods an operator's upgrade replaces, by state: waiting, under_way.", []string{"state"}, nil)
	upgradeFailingMetric = prometheus.NewDesc("authgateway_operator_upgrade_failing",
		"1 for an AuthGateway that was Ready before its upgrade and is not now. It stops further upgrades.",
		perGateway, nil)
	deniedMetric = prometheus.NewDesc("authgateway_operator_watch_denied",
		"1 while the operator may not watch a kind in a namespace. An empty namespace means all of them.",
		[]string{"kind", "watched_namespace"}, nil)
)

// copyMetrics exports the state of every PublicKeys, from the cache.
type copyMetrics struct{ client client.Reader }

var copyMetric = prometheus.NewDesc("authgateway_public_keys_ready",
	"1 if the ConfigMap of a PublicKeys has the present keys of its AuthGateway, else 0.",
	[]string{"public_keys_namespace", "public_keys_name"}, nil)

// Describe implements prometheus.Collector.
func (copyMetrics) Describe(to chan<- *prometheus.Desc) { to <- copyMetric }

// Collect implements prometheus.Collector.
func (m copyMetrics) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var all v1alpha1.PublicKeysList
	if m.client.List(ctx, &all) != nil {
		return // the cache has not synced yet
	}
	for _, k := range all.Items {
		ready := meta.IsStatusConditionTrue(k.Status.Conditions, v1alpha1.ConditionReady)
		to <- prometheus.MustNewConstMetric(copyMetric, prometheus.GaugeValue, oneIf(ready), k.Namespace, k.Name)
	}
}

func registerMetrics(all ...prometheus.Collector) error {
	for _, collector := range all {
		err := metrics.Registry.Register(collector)
		if known := (prometheus.AlreadyRegisteredError{}); err != nil && !errors.As(err, &known) {
			return err
		}
	}
	return nil
}

func (gatewayMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{conditionMetric, awaitingMetric, rotationMetric, leadMetric, suspendedMetric} {
		to <- d
	}
}

func (m gatewayMetrics) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var all v1alpha1.AuthGatewayList
	if m.client.List(ctx, &all) != nil {
		return // the cache has not synced yet
	}
	for _, g := range all.Items {
		gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
			labels = append([]string{g.Namespace, g.Name}, labels...)
			to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
		}
		for _, c := range g.Status.Conditions {
			statuses := []metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown}
			for _, status := range statuses {
				gauge(conditionMetric, oneIf(c.Status == status), c.Type, string(status))
			}
		}
		gauge(suspendedMetric, oneIf(g.Spec.Suspend))
		gauge(leadMetric, g.Spec.Keys.PublishLead.Value().Seconds())
		c := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionKeysReady)
		gauge(awaitingMetric, oneIf(c != nil && c.Reason == v1alpha1.ReasonAwaitingReplicas))
		if k := g.Status.Keys; k != nil && k.NextRotationTime != nil {
			gauge(rotationMetric, float64(k.NextRotationTime.Unix()))
		}
	}
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
