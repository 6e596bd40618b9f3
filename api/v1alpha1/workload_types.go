package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Autoscaling lets the load decide how many replicas there are.
//
// +kubebuilder:validation:XValidation:rule="self.minReplicas <= self.maxReplicas",fieldPath=".minReplicas",message="write at most maxReplicas"
type Autoscaling struct {
	// The fewest replicas.
	//
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MinReplicas int32 `json:"minReplicas,omitempty"`

	// The most replicas.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxReplicas int32 `json:"maxReplicas"`

	// The use of the requested CPU, in percent, that is aimed at.
	//
	// +optional
	// +kubebuilder:default=80
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	TargetCPUUtilizationPercentage int32 `json:"targetCPUUtilizationPercentage,omitempty"`
}

// PodTemplate is laid over the pods that the operator makes.
type PodTemplate struct {
	// Labels that the pods get besides the operator's own, which win.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('app.kubernetes.io/') && !k.startsWith('authgateway.io/'))",message="labels of app.kubernetes.io and authgateway.io are the operator's: choose another prefix"
	Labels map[string]string `json:"labels,omitempty"`

	// Annotations that the pods get besides the operator's own, which win.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('authgateway.io/'))",message="annotations of authgateway.io are the operator's: choose another prefix"
	Annotations map[string]string `json:"annotations,omitempty"`

	// The nodes that the pods may run on, by their labels.
	//
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// Rules about the nodes, and about the pods they are shared with.
	//
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`

	// The taints that the pods tolerate.
	//
	// +optional
	// +listType=atomic
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// How the pods are spread. Left out, they prefer different nodes.
	//
	// +optional
	// +listType=atomic
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints,omitempty"`

	// The PriorityClass of the pods.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	PriorityClassName string `json:"priorityClassName,omitempty"`

	// Containers that run beside the server, such as a proxy to a database. They
	// get no volumes, and run under the same restrictions as the server.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	Sidecars []Sidecar `json:"sidecars,omitempty"`
}

// Sidecar is a container beside the server.
type Sidecar struct {
	// Its name in the pod.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && self != 'authserver'",message="write lower-case letters, digits and dashes; authserver is the server's own name"
	Name string `json:"name"`

	// Its image.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image"`

	// Its command; left out, the image's.
	//
	// +optional
	// +listType=atomic
	Command []string `json:"command,omitempty"`

	// Its arguments; left out, the image's.
	//
	// +optional
	// +listType=atomic
	Args []string `json:"args,omitempty"`

	// Its environment, by name.
	//
	// +optional
	Env map[string]string `json:"env,omitempty"`

	// What it may use.
	//
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
}

// Ingress is an Ingress in front of the Service.
type Ingress struct {
	// The host under which the gateway is reached.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="write a DNS name without a scheme, a port or a path, such as auth.example.com"
	Host string `json:"host"`

	// The IngressClass; left out, the cluster's default.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ClassName string `json:"className,omitempty"`

	// The Secret of this namespace with the certificate of the host.
	//
	// +optional
	TLSSecretRef *LocalReference `json:"tlsSecretRef,omitempty"`

	// Annotations for the controller that serves the Ingress.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Annotations map[string]string `json:"annotations,omitempty"`
}

// HTTPRoute is an HTTPRoute of the Gateway API in front of the Service.
type HTTPRoute struct {
	// The Gateways that the route is attached to.
	//
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	ParentRefs []GatewayReference `json:"parentRefs"`

	// The hosts under which the gateway is reached; left out, those of the
	// Gateways' listeners.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=253
	Hostnames []string `json:"hostnames,omitempty"`
}

// GatewayReference names a Gateway.
type GatewayReference struct {
	// The name of the Gateway.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// Its namespace; left out, that of the AuthGateway. The Gateway's listener
	// decides whether it takes routes from here.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`

	// The listener of the Gateway; left out, all of them.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	SectionName string `json:"sectionName,omitempty"`
}

// NetworkPolicy says who may reach the pods. The operator itself always may, for
// it asks each replica which keys it has loaded.
type NetworkPolicy struct {
	// Whether there is a NetworkPolicy.
	//
	// +optional
	// +kubebuilder:default=true
	Enabled *bool `json:"enabled,omitempty"`

	// Who may call the API. Left out: the pods of this namespace, and those of
	// namespaces with the label authgateway.io/client: "true".
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	From []networkingv1.NetworkPolicyPeer `json:"from,omitempty"`
}

// Monitoring says how the gateway is watched.
type Monitoring struct {
	// A ServiceMonitor for the Prometheus operator; it needs that operator's
	// CRDs. Left out, there is none.
	//
	// +optional
	ServiceMonitor *ServiceMonitor `json:"serviceMonitor,omitempty"`
}

// ServiceMonitor is a ServiceMonitor of the Prometheus operator.
type ServiceMonitor struct {
	// How often metrics are read.
	//
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') || (duration(self) >= duration('1s') && duration(self) <= duration('1h'))",message="write 1s to 1h"
	Interval Duration `json:"interval,omitempty"`

	// Labels by which a Prometheus finds it.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Labels map[string]string `json:"labels,omitempty"`
}
