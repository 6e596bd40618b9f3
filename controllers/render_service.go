package controllers

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	accore "k8s.io/client-go/applyconfigurations/core/v1"
)

func renderService(r rendering) *accore.ServiceApplyConfiguration {
	wanted := r.gateway.Spec.Service
	spec := accore.ServiceSpec().WithType(corev1.ServiceTypeClusterIP).WithSelector(r.names.selector()).WithPorts(
		accore.ServicePort().WithName(portAPI).WithPort(servicePort).WithProtocol(corev1.ProtocolTCP).
			WithTargetPort(intstr.FromString(portAPI)).WithAppProtocol("http"),
		accore.ServicePort().WithName(portOperations).WithPort(operationsPort).WithProtocol(corev1.ProtocolTCP).
			WithTargetPort(intstr.FromString(portOperations)).WithAppProtocol("http"),
	)
	if port := r.gateway.Spec.Authz.Port; port != 0 {
		spec.WithPorts(accore.ServicePort().WithName(portAuthz).WithPort(port).WithProtocol(corev1.ProtocolTCP).
			WithTargetPort(intstr.FromString(portAuthz)).WithAppProtocol("http"))
	}
	if wanted.IPFamilyPolicy != "" {
		spec.WithIPFamilyPolicy(corev1.IPFamilyPolicy(wanted.IPFamilyPolicy))
	}
	if wanted.TrafficDistribution != "" {
		spec.WithTrafficDistribution(string(wanted.TrafficDistribution))
	}
	service := accore.Service(r.names.workload(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).WithSpec(spec)
	if len(wanted.Annotations) > 0 {
		service.WithAnnotations(wanted.Annotations)
	}
	return service
}

// renderServiceAccount renders an account without rights, whose token is not
// mounted: the server does not use the Kubernetes API.
func renderServiceAccount(r rendering) *accore.ServiceAccountApplyConfiguration {
	account := accore.ServiceAccount(r.names.workload(), r.names.namespace).
		WithLabels(r.names.labels()).WithOwnerReferences(r.owner()).WithAutomountServiceAccountToken(false)
	if annotations := r.gateway.Spec.ServiceAccount.Annotations; len(annotations) > 0 {
		account.WithAnnotations(annotations)
	}
	return account
}
