package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Autoscaling lets the load decide how many replicas there are.
//
// +kubebuilder:validation:XValidation:rule="self.minReplicas <= self.maxReplicas",fieldPath=".minReplicas",message="write at most maxReplicas; left out, it is 2"
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

// Shutdown says how a replica ends, when it is replaced or its node is drained.
//
// +kubebuilder:validation:XValidation:rule="!has(self.drainDelay) || !has(self.gracePeriod) || ![self.drainDelay, self.gracePeriod].all(d, d.matches('^([0-9]{1,6}[hms])+$')) || duration(self.gracePeriod) >= duration(self.drainDelay) + duration('15s')",fieldPath=".gracePeriod",message="requests that have begun need time after the drain: write at least drainDelay plus 15s"
type Shutdown struct {
	// How long it goes on serving once it is told to end, until whoever balances
	// the load has noticed. A load balancer outside of the cluster may need 30s.
	//
	// +optional
	// +kubebuilder:default="5s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || duration(self) <= duration('2m')",message="write 0s to 2m"
	DrainDelay Duration `json:"drainDelay,omitempty"`

	// How long all of it may take: the drain, then the requests that have begun,
	// then its sidecars. The pod is killed afterwards.
	//
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('15s') && duration(self) <= duration('10m'))",message="write 15s to 10m"
	GracePeriod Duration `json:"gracePeriod,omitempty"`
}

// PodTemplate is laid over the pods that the operator makes.
type PodTemplate struct {
	// Labels that the pods get besides the operator's own, which win.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('app.kubernetes.io/') && !k.startsWith('authgateway.io/'))",message="labels of app.kubernetes.io and authgateway.io are the operator's: choose another prefix"
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$') && self[k].size() <= 63)",message="a label is none: write [PREFIX/]NAME: VALUE, with letters, digits, dashes, underscores and dots, and at most 63 of them in NAME and in VALUE"
	Labels map[string]string `json:"labels,omitempty"`

	// Annotations that the pods get besides the operator's own, which win.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('authgateway.io/'))",message="annotations of authgateway.io are the operator's: choose another prefix"
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",message="the annotation name is invalid: write [PREFIX/]NAME, with letters, digits, dashes, underscores and dots, and at most 63 of them in NAME"
	Annotations map[string]string `json:"annotations,omitempty"`

	// The nodes that the pods may run on, by their labels.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$') && self[k].size() <= 63)",message="a label is none: write [PREFIX/]NAME: VALUE, with letters, digits, dashes, underscores and dots, and at most 63 of them in NAME and in VALUE"
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

	// How the pods are spread; a constraint without a labelSelector means them.
	// Left out, they prefer different nodes.
	//
	// +optional
	// +listType=atomic
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints,omitempty"`

	// The PriorityClass of the pods.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="write the name of a PriorityClass: lower-case letters, digits, dashes and dots"
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
	// +kubebuilder:validation:XValidation:rule="self.matches('^([a-zA-Z0-9][-a-zA-Z0-9.]*(:[0-9]{1,5})?/)?[a-z0-9][-a-z0-9._/]*(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?(@sha256:[a-f0-9]{64})?$')",message="this is no image reference: write one such as registry.example.com/proxy:1.2.3"
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
	// +kubebuilder:validation:MaxProperties=64
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^[-._a-zA-Z][-._a-zA-Z0-9]*$'))",message="the name of a variable is none: write letters, digits, dashes, underscores and dots, and begin with no digit"
	Env map[string]string `json:"env,omitempty"`

	// What it may use.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.claims)",fieldPath=".claims",message="the pods have no devices to claim: leave claims out"
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`

	// Whether it starts before the server and ends after it, as a proxy to the
	// database should: it is then an init container with restartPolicy Always.
	//
	// +optional
	Native bool `json:"native,omitempty"`
}

// Ingress is an Ingress in front of the Service.
//
// +kubebuilder:validation:XValidation:rule="has(self.tlsSecretRef) || (has(self.tls) && self.tls == 'Elsewhere')",fieldPath=".tlsSecretRef",message="passwords and tokens would go over the network in clear text: write tlsSecretRef with the name of a Secret of type kubernetes.io/tls, or tls: Elsewhere where a load balancer or the Ingress controller's own certificate sees to it"
type Ingress struct {
	// The host under which the gateway is reached.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="write a DNS name without a scheme, a port or a path, such as auth.example.com"
	Host string `json:"host"`

	// The IngressClass; left out, the cluster's default.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="write the name of an IngressClass: lower-case letters, digits, dashes and dots"
	ClassName string `json:"className,omitempty"`

	// The Secret of this namespace with the certificate of the host. It is needed,
	// unless tls is Elsewhere.
	//
	// +optional
	TLSSecretRef *LocalReference `json:"tlsSecretRef,omitempty"`

	// Where TLS ends. Ingress: there, with the certificate of tlsSecretRef.
	// Elsewhere: at a load balancer in front of it, or there with a certificate
	// that its controller has by itself.
	//
	// +optional
	// +kubebuilder:default=Ingress
	TLS IngressTLS `json:"tls,omitempty"`

	// Annotations for the controller that serves the Ingress.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",message="the annotation name is invalid: write [PREFIX/]NAME, with letters, digits, dashes, underscores and dots, and at most 63 of them in NAME"
	Annotations map[string]string `json:"annotations,omitempty"`
}

// IngressTLS says where TLS ends.
//
// +kubebuilder:validation:Enum=Ingress;Elsewhere
type IngressTLS string

// The values of IngressTLS.
const (
	IngressTLSHere      IngressTLS = "Ingress"
	IngressTLSElsewhere IngressTLS = "Elsewhere"
)

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
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^(\\\\*\\\\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="write a DNS name without a scheme, a port or a path, such as auth.example.com or *.example.com"
	Hostnames []string `json:"hostnames,omitempty"`
}

// GatewayReference names a Gateway.
type GatewayReference struct {
	// The name of the Gateway.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="write the name of a Gateway: lower-case letters, digits, dashes and dots"
	Name string `json:"name"`

	// Its namespace; left out, that of the AuthGateway. The Gateway's listener
	// decides whether it takes routes from here.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="write the name of a namespace: lower-case letters, digits, dashes"
	Namespace string `json:"namespace,omitempty"`

	// The listener of the Gateway; left out, all of them.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="write the name of a listener of the Gateway: lower-case letters, digits, dashes and dots"
	SectionName string `json:"sectionName,omitempty"`
}

// Service configures the Service through which the pods are reached.
type Service struct {
	// annotations are added to the Service, such as those of a mesh.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('authgateway.io/'))",message="annotations of authgateway.io are the operator's: choose another prefix"
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",message="the annotation name is invalid: write [PREFIX/]NAME, with letters, digits, dashes, underscores and dots, and at most 63 of them in NAME"
	Annotations map[string]string `json:"annotations,omitempty"`

	// ipFamilyPolicy sets whether the Service has addresses of IPv4, of IPv6 or of
	// both. If it is left out, the cluster decides. If it is removed later, the
	// Service keeps its addresses; write SingleStack to give up one of two.
	//
	// +optional
	IPFamilyPolicy IPFamilyPolicy `json:"ipFamilyPolicy,omitempty"`

	// trafficDistribution prefers replicas near the client. If it is left out,
	// requests are spread over all replicas. PreferSameZone and PreferSameNode need
	// Kubernetes 1.34.
	//
	// +optional
	TrafficDistribution TrafficDistribution `json:"trafficDistribution,omitempty"`
}

// IPFamilyPolicy is that of a Service.
//
// +kubebuilder:validation:Enum=SingleStack;PreferDualStack;RequireDualStack
type IPFamilyPolicy string

// TrafficDistribution is that of a Service.
//
// +kubebuilder:validation:Enum=PreferClose;PreferSameZone;PreferSameNode
type TrafficDistribution string

// ServiceAccount configures the ServiceAccount of the pods. It has no rights, and
// the pods get no token of it.
type ServiceAccount struct {
	// annotations are added to the ServiceAccount, such as the role of a cloud
	// that a sidecar uses to reach the database.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('authgateway.io/'))",message="annotations of authgateway.io are the operator's: choose another prefix"
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",message="the annotation name is invalid: write [PREFIX/]NAME, with letters, digits, dashes, underscores and dots, and at most 63 of them in NAME"
	Annotations map[string]string `json:"annotations,omitempty"`
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
	// +kubebuilder:validation:items:XValidation:rule="has(self.ipBlock) != (has(self.podSelector) || has(self.namespaceSelector))",message="write podSelector, namespaceSelector or both of them, or ipBlock alone"
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
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('1s') && duration(self) <= duration('1h'))",message="write 1s to 1h"
	Interval Duration `json:"interval,omitempty"`

	// Labels by which a Prometheus finds it.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$') && self[k].size() <= 63)",message="a label is none: write [PREFIX/]NAME: VALUE, with letters, digits, dashes, underscores and dots, and at most 63 of them in NAME and in VALUE"
	Labels map[string]string `json:"labels,omitempty"`
}
