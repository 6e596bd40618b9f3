package controllers

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	acmeta "k8s.io/client-go/applyconfigurations/meta/v1"
	acnetworking "k8s.io/client-go/applyconfigurations/networking/v1"
)

// renderNetworkPolicy admits the clients of the API to its port and that of decisions, and the operator and Prometheus
// to the operations port. It does not restrict egress: that would cut the server off from its database and from the mail
// server.
func renderNetworkPolicy(r rendering) *acnetworking.NetworkPolicyApplyConfiguration {
	api := acnetworking.NetworkPolicyIngressRule().WithPorts(policyPort(apiPort))
	if authz := r.gateway.Spec.Authz.Port; authz != 0 {
		api.WithPorts(policyPort(authz))
	}
	for _, peer := range r.gateway.Spec.NetworkPolicy.From {
		api.WithFrom(convert[acnetworking.NetworkPolicyPeerApplyConfiguration](peer))
	}
	if len(r.gateway.Spec.NetworkPolicy.From) == 0 {
		api.WithFrom(
			acnetworking.NetworkPolicyPeer().WithPodSelector(acmeta.LabelSelector()),
			acnetworking.NetworkPolicyPeer().WithNamespaceSelector(labelled(labelClient, "true")),
		)
	}
	return acnetworking.NetworkPolicy(r.names.workload(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).
		WithSpec(policySpec(r, r.names.selector(), api))
}

// policySpec admits what a rule admits, and the operator and Prometheus to the operations port.
func policySpec(
	r rendering, selector map[string]string, admitted *acnetworking.NetworkPolicyIngressRuleApplyConfiguration,
) *acnetworking.NetworkPolicySpecApplyConfiguration {
	operations := acnetworking.NetworkPolicyIngressRule().WithPorts(policyPort(operationsPort)).WithFrom(
		acnetworking.NetworkPolicyPeer().
			WithNamespaceSelector(labelled(corev1.LabelMetadataName, r.operatorNamespace)).
			WithPodSelector(labelled(labelName, operatorName)),
	)
	// A Prometheus may run in any namespace, and this port serves no secrets.
	if r.gateway.Spec.Monitoring.ServiceMonitor != nil || r.openMetrics {
		operations.WithFrom(acnetworking.NetworkPolicyPeer().WithNamespaceSelector(acmeta.LabelSelector()))
	}
	return acnetworking.NetworkPolicySpec().
		WithPodSelector(acmeta.LabelSelector().WithMatchLabels(selector)).
		WithPolicyTypes(networkingv1.PolicyTypeIngress).
		WithIngress(admitted, operations)
}

func policyPort(n int32) *acnetworking.NetworkPolicyPortApplyConfiguration {
	return acnetworking.NetworkPolicyPort().WithProtocol(corev1.ProtocolTCP).WithPort(intstr.FromInt32(n))
}

func labelled(label, value string) *acmeta.LabelSelectorApplyConfiguration {
	return acmeta.LabelSelector().WithMatchLabels(map[string]string{label: value})
}
