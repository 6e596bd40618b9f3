package controllers

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	acautoscaling "k8s.io/client-go/applyconfigurations/autoscaling/v2"
	acmeta "k8s.io/client-go/applyconfigurations/meta/v1"
	acpolicy "k8s.io/client-go/applyconfigurations/policy/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// replicasWanted returns the number of replicas to apply. nil leaves it to the autoscaler. The operator keeps the field
// until the autoscaler has taken it over, because a field without an owner falls back to one replica. It hands over at
// least one replica, because zero switches an autoscaler off.
func replicasWanted(g *v1alpha1.AuthGateway, live *appsv1.Deployment) *int32 {
	a := g.Spec.Autoscaling
	if a == nil {
		return g.Spec.Replicas
	}
	if live == nil {
		return &a.MinReplicas
	}
	applied, err := extractDeployment(live, FieldManager)
	switch {
	case err != nil || applied.Spec == nil || applied.Spec.Replicas == nil:
		return nil
	case *applied.Spec.Replicas == 0:
		return &a.MinReplicas
	}
	return applied.Spec.Replicas
}

func renderAutoscaler(r rendering) *acautoscaling.HorizontalPodAutoscalerApplyConfiguration {
	a := r.gateway.Spec.Autoscaling
	return acautoscaling.HorizontalPodAutoscaler(r.names.workload(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).
		WithSpec(acautoscaling.HorizontalPodAutoscalerSpec().
			WithScaleTargetRef(acautoscaling.CrossVersionObjectReference().
				WithAPIVersion(gvkDeployment.GroupVersion().String()).WithKind(gvkDeployment.Kind).
				WithName(r.names.workload())).
			WithMinReplicas(a.MinReplicas).WithMaxReplicas(a.MaxReplicas).
			WithMetrics(acautoscaling.MetricSpec().WithType(autoscalingv2.ResourceMetricSourceType).
				WithResource(acautoscaling.ResourceMetricSource().WithName(corev1.ResourceCPU).
					WithTarget(acautoscaling.MetricTarget().WithType(autoscalingv2.UtilizationMetricType).
						WithAverageUtilization(a.TargetCPUUtilizationPercentage)))))
}

// renderDisruptionBudget renders a budget under which nodes can be drained one
// replica at a time, even if there is only one replica or a replica is broken.
func renderDisruptionBudget(r rendering) *acpolicy.PodDisruptionBudgetApplyConfiguration {
	return acpolicy.PodDisruptionBudget(r.names.workload(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).WithSpec(budgetSpec(r.names.selector()))
}

func budgetSpec(selector map[string]string) *acpolicy.PodDisruptionBudgetSpecApplyConfiguration {
	return acpolicy.PodDisruptionBudgetSpec().
		WithMaxUnavailable(intstr.FromInt32(1)).
		WithSelector(acmeta.LabelSelector().WithMatchLabels(selector)).
		WithUnhealthyPodEvictionPolicy(policyv1.AlwaysAllow)
}
