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
	conditionMetric = prometheus.NewDesc("authgateway_condition",
		"1 if the condition of an AuthGateway has this status, else 0.", []string{labelOfNamespace, labelOfName, "type", "status"}, nil)
	awaitingMetric = prometheus.NewDesc("authgateway_keys_awaiting_replicas",
		"1 while a key of an AuthGateway waits for replicas that have not loaded it or do not answer.", []string{labelOfNamespace, labelOfName}, nil)
	rotationMetric = prometheus.NewDesc("authgateway_next_rotation_timestamp_seconds",
		"When the next scheduled rotation of an AuthGateway's keys begins.", []string{labelOfNamespace, labelOfName}, nil)
	leadMetric = prometheus.NewDesc("authgateway_key_publish_lead_seconds",
		"spec.keys.publishLead of an AuthGateway. A rotation takes twice as long plus a few minutes.", []string{labelOfNamespace, labelOfName}, nil)
	suspendedMetric = prometheus.NewDesc("authgateway_suspended",
		"1 while spec.suspend of an AuthGateway is true.", []string{labelOfNamespace, labelOfName}, nil)
	upgradesMetric = prometheus.NewDesc("authgateway_operator_upgrades",
		"AuthGateways whose pods an operator's upgrade replaces, by state: waiting, under_way.", []string{"state"}, nil)
	upgradeFailingMetric = prometheus.NewDesc("authgateway_operator_upgrade_failing",
		"1 for an AuthGateway that was Ready before its upgrade and is not now. It stops further upgrades.", []string{labelOfNamespace, labelOfName}, nil)
	deniedMetric = prometheus.NewDesc("authgateway_operator_watch_denied",
		"1 while the operator may not watch a kind in a namespace. An empty namespace means all of them.",
		[]string{"kind", "watched_namespace"}, nil)
)

func registerMetrics(all ...prometheus.Collector) error {
	for _, collector := range all {
		err := metrics.Registry.Register(collector)
		if known := (prometheus.AlreadyRegisteredError{}); err != nil && !errors.As(err, &known) {
			return err
		}
	}
	return nil
}

// Describe implements prometheus.Collector.
func (gatewayMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- conditionMetric
	to <- awaitingMetric
	to <- rotationMetric
	to <- leadMetric
	to <- suspendedMetric
}

// Collect implements prometheus.Collector.
func (m gatewayMetrics) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var all v1alpha1.AuthGatewayList
	if m.client.List(ctx, &all) != nil {
		return // the cache has not synced yet
	}
	for _, g := range all.Items {
		for _, c := range g.Status.Conditions {
			for _, status := range []metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown} {
				value := 0.0
				if c.Status == status {
					value = 1
				}
				to <- prometheus.MustNewConstMetric(conditionMetric, prometheus.GaugeValue, value, g.Namespace, g.Name, c.Type, string(status))
			}
		}
		suspended := 0.0
		if g.Spec.Suspend {
			suspended = 1
		}
		to <- prometheus.MustNewConstMetric(suspendedMetric, prometheus.GaugeValue, suspended, g.Namespace, g.Name)
		to <- prometheus.MustNewConstMetric(leadMetric, prometheus.GaugeValue, g.Spec.Keys.PublishLead.Value().Seconds(), g.Namespace, g.Name)
		awaiting := 0.0
		if c := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionKeysReady); c != nil && c.Reason == v1alpha1.ReasonAwaitingReplicas {
			awaiting = 1
		}
		to <- prometheus.MustNewConstMetric(awaitingMetric, prometheus.GaugeValue, awaiting, g.Namespace, g.Name)
		if k := g.Status.Keys; k != nil && k.NextRotationTime != nil {
			to <- prometheus.MustNewConstMetric(rotationMetric, prometheus.GaugeValue, float64(k.NextRotationTime.Unix()), g.Namespace, g.Name)
		}
	}
}
