package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Autoscaling configures a HorizontalPodAutoscaler.
//
// +kubebuilder:validation:XValidation:rule="self.minReplicas <= self.maxReplicas",fieldPath=".minReplicas",message="write at most maxReplicas; the default is 2"
type Autoscaling struct {
	// minReplicas is the minimum number of replicas.
	//
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MinReplicas int32 `json:"minReplicas,omitempty"`

	// maxReplicas is the maximum number of replicas.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxReplicas int32 `json:"maxReplicas,omitempty"`

	// targetCPUUtilizationPercentage is the target CPU usage, as a percentage of
	// the requested CPU.
	//
	// +optional
	// +kubebuilder:default=80
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	TargetCPUUtilizationPercentage int32 `json:"targetCPUUtilizationPercentage,omitempty"`
}

// Admin configures the pods that serve administrators. They have no signing keys,
// and their routes are on no other port.
type Admin struct {
	// enabled serves administrators at the Service NAME-admin. Kubernetes decides what
	// they may do: the Roles NAME-user-viewer and NAME-user-editor are for binding. The
	// ServiceAccount NAME-admin must be bound to the ClusterRole system:auth-delegator
	// once, by a person who may. If it is turned off, all of these are deleted.
	//
	// +optional
	Enabled bool `json:"enabled,omitempty"`

	// replicas is the number of replicas.
	//
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	Replicas int32 `json:"replicas,omitempty"`

	// resources are the resource requirements of one replica. If they are not set, a
	// replica requests 20m CPU and 64Mi of memory, and its memory limit is 256Mi.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.claims)",fieldPath=".claims",message="resource claims are not supported: remove claims"
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
}

// Shutdown configures how a replica stops when it is replaced or its node is
// drained.
//
// +kubebuilder:validation:XValidation:rule="!has(self.drainDelay) || !has(self.gracePeriod) || ![self.drainDelay, self.gracePeriod].all(d, d.matches('^([0-9]{1,6}[hms])+$')) || duration(self.gracePeriod) >= duration(self.drainDelay) + duration('15s')",fieldPath=".gracePeriod",message="open requests need time after the drain: write at least drainDelay plus 15s"
type Shutdown struct {
	// drainDelay is how long a replica keeps accepting requests after it is asked
	// to stop, until load balancers have noticed. A load balancer outside the cluster
	// may need 30s.
	//
	// +optional
	// +kubebuilder:default="5s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || duration(self) <= duration('2m')",message="write 0s to 2m"
	DrainDelay Duration `json:"drainDelay,omitempty"`

	// gracePeriod is how long the whole shutdown may take: the drain, the open
	// requests, and the sidecars. After that the pod is killed.
	//
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('15s') && duration(self) <= duration('10m'))",message="write 15s to 10m"
	GracePeriod Duration `json:"gracePeriod,omitempty"`
}

// PodTemplate is merged into the pods that the operator creates.
type PodTemplate struct {
	// labels are added to the pods. The operator's own labels take precedence.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('app.kubernetes.io/') && !k.startsWith('authgateway.io/'))",message="the prefixes app.kubernetes.io and authgateway.io are reserved for the operator: choose another prefix"
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$') && self[k].size() <= 63)",message="a label is invalid: write [PREFIX/]NAME: VALUE with letters, digits, dashes, underscores and dots, and at most 63 characters each in NAME and VALUE"
	Labels map[string]string `json:"labels,omitempty"`

	// annotations are added to the pods. The operator's own annotations take
	// precedence.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('authgateway.io/'))",message="the prefix authgateway.io is reserved for the operator: choose another prefix"
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",message="an annotation name is invalid: write [PREFIX/]NAME with letters, digits, dashes, underscores and dots, and at most 63 characters in NAME"
	Annotations map[string]string `json:"annotations,omitempty"`

	// nodeSelector lists the labels of the nodes that the pods may run on.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$') && self[k].size() <= 63)",message="a label is invalid: write [PREFIX/]NAME: VALUE with letters, digits, dashes, underscores and dots, and at most 63 characters each in NAME and VALUE"
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// affinity sets scheduling rules about nodes and about other pods.
	//
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`

	// tolerations lists the taints that the pods tolerate.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// topologySpreadConstraints determine how the pods are spread. A constraint
	// without a labelSelector selects these pods. If they are not set, the pods
	// prefer different nodes.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints,omitempty"`

	// priorityClassName is the PriorityClass of the pods.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="write the name of a PriorityClass: lower-case letters, digits, dashes and dots"
	PriorityClassName string `json:"priorityClassName,omitempty"`

	// sidecars are containers that run beside the server, such as a database proxy.
	// They get no volumes and the same security context as the server.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	Sidecars []Sidecar `json:"sidecars,omitempty"`
}

// Sidecar is a container that runs beside the server.
type Sidecar struct {
	// name is the name of the container.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && self != 'authserver'",message="write lower-case letters, digits and dashes; authserver is reserved for the server"
	Name string `json:"name,omitempty"`

	// image is the image of the container.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^([a-zA-Z0-9][-a-zA-Z0-9.]*(:[0-9]{1,5})?/)?[a-z0-9][-a-z0-9._/]*(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?(@sha256:[a-f0-9]{64})?$')",message="the image reference is invalid: write one such as registry.example.com/proxy:1.2.3"
	Image string `json:"image,omitempty"`

	// command is the command of the container. If it is not set, it is that of the
	// image.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=32768
	Command []string `json:"command,omitempty"`

	// args are the arguments of the command. If they are not set, they are those of
	// the image.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=32768
	Args []string `json:"args,omitempty"`

	// env contains environment variables by name.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^[-._a-zA-Z][-._a-zA-Z0-9]*$'))",message="the name of a variable is invalid: write letters, digits, dashes, underscores and dots, and do not begin with a digit"
	Env map[string]string `json:"env,omitempty"`

	// resources are the resource requirements of the container.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.claims)",fieldPath=".claims",message="resource claims are not supported: remove claims"
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`

	// native makes the container an init container with restartPolicy Always. It
	// then starts before the server and stops after it, as a database proxy should.
	//
	// +optional
	Native bool `json:"native,omitempty"`
}

// Ingress configures an Ingress for the Service.
//
// +kubebuilder:validation:XValidation:rule="has(self.tlsSecretRef) || (has(self.tls) && self.tls == 'Elsewhere')",fieldPath=".tlsSecretRef",message="passwords and tokens would be sent unencrypted: set tlsSecretRef to a Secret of type kubernetes.io/tls, or write tls: Elsewhere if a load balancer or the Ingress controller provides TLS"
type Ingress struct {
	// host is the host name of the gateway.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="write a DNS name without a scheme, a port or a path, such as auth.example.com"
	Host string `json:"host,omitempty"`

	// className is the IngressClass. If it is not set, it is the cluster's default.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="write the name of an IngressClass: lower-case letters, digits, dashes and dots"
	ClassName string `json:"className,omitempty"`

	// tlsSecretRef names the Secret in this namespace with the certificate of the
	// host. It is required unless tls is Elsewhere.
	//
	// +optional
	TLSSecretRef *LocalReference `json:"tlsSecretRef,omitempty"`

	// tls determines where TLS is terminated. Ingress: at the Ingress, with the
	// certificate of tlsSecretRef. Elsewhere: at a load balancer in front of it, or
	// at the Ingress with a certificate that its controller provides.
	//
	// +optional
	// +kubebuilder:default=Ingress
	TLS IngressTLS `json:"tls,omitempty"`

	// annotations are added to the Ingress, for its controller.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",message="an annotation name is invalid: write [PREFIX/]NAME with letters, digits, dashes, underscores and dots, and at most 63 characters in NAME"
	Annotations map[string]string `json:"annotations,omitempty"`
}

// IngressTLS determines where TLS is terminated.
//
// +kubebuilder:validation:Enum=Ingress;Elsewhere
type IngressTLS string

// The values of IngressTLS.
const (
	IngressTLSHere      IngressTLS = "Ingress"
	IngressTLSElsewhere IngressTLS = "Elsewhere"
)

// HTTPRoute configures an HTTPRoute of the Gateway API for the Service.
type HTTPRoute struct {
	// parentRefs lists the Gateways that the route is attached to.
	//
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	ParentRefs []GatewayReference `json:"parentRefs,omitempty"`

	// hostnames lists the host names of the gateway. If it is not set, they are
	// those of the Gateways' listeners.
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
	// name is the name of the Gateway.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="write the name of a Gateway: lower-case letters, digits, dashes and dots"
	Name string `json:"name,omitempty"`

	// namespace is the namespace of the Gateway. If it is not set, it is that of
	// the AuthGateway. The Gateway's listener must allow routes from the namespace
	// of the AuthGateway.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="write the name of a namespace: lower-case letters, digits and dashes"
	Namespace string `json:"namespace,omitempty"`

	// sectionName is the listener of the Gateway. If it is not set, the route is
	// attached to all listeners.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="write the name of a listener of the Gateway: lower-case letters, digits, dashes and dots"
	SectionName string `json:"sectionName,omitempty"`
}

// Service configures the Service of the pods.
type Service struct {
	// annotations are added to the Service, such as for a service mesh.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('authgateway.io/'))",message="the prefix authgateway.io is reserved for the operator: choose another prefix"
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",message="an annotation name is invalid: write [PREFIX/]NAME with letters, digits, dashes, underscores and dots, and at most 63 characters in NAME"
	Annotations map[string]string `json:"annotations,omitempty"`

	// ipFamilyPolicy determines whether the Service has IPv4 addresses, IPv6
	// addresses or both. If it is not set, the cluster decides. If it is removed
	// later, the Service keeps its addresses; write SingleStack to give up one of
	// two.
	//
	// +optional
	IPFamilyPolicy IPFamilyPolicy `json:"ipFamilyPolicy,omitempty"`

	// trafficDistribution prefers replicas near the client. If it is not set,
	// requests are spread over all replicas. PreferSameZone and PreferSameNode
	// require Kubernetes 1.34.
	//
	// +optional
	TrafficDistribution TrafficDistribution `json:"trafficDistribution,omitempty"`
}

// IPFamilyPolicy is the IP family policy of a Service.
//
// +kubebuilder:validation:Enum=SingleStack;PreferDualStack;RequireDualStack
type IPFamilyPolicy string

// TrafficDistribution is the traffic distribution of a Service.
//
// +kubebuilder:validation:Enum=PreferClose;PreferSameZone;PreferSameNode
type TrafficDistribution string

// ServiceAccount configures the ServiceAccount of the pods. It has no
// permissions, and its token is not mounted.
type ServiceAccount struct {
	// annotations are added to the ServiceAccount, such as a cloud role that a
	// sidecar uses to reach the database.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('authgateway.io/'))",message="the prefix authgateway.io is reserved for the operator: choose another prefix"
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",message="an annotation name is invalid: write [PREFIX/]NAME with letters, digits, dashes, underscores and dots, and at most 63 characters in NAME"
	Annotations map[string]string `json:"annotations,omitempty"`
}

// NetworkPolicy configures which pods may connect to the server. The operator's
// pods always may, because the operator asks each replica which keys it has
// loaded.
type NetworkPolicy struct {
	// enabled determines whether the operator creates a NetworkPolicy.
	//
	// +optional
	// +kubebuilder:default=true
	Enabled *bool `json:"enabled,omitempty"`

	// from lists the peers that may call the API. If it is not set, these are the
	// pods in this namespace and in namespaces with the label
	// authgateway.io/client: "true".
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:XValidation:rule="has(self.ipBlock) != (has(self.podSelector) || has(self.namespaceSelector))",message="write podSelector, namespaceSelector or both, or write only ipBlock"
	From []networkingv1.NetworkPolicyPeer `json:"from,omitempty"`
}

// Monitoring configures how Prometheus scrapes the gateway.
type Monitoring struct {
	// serviceMonitor adds a ServiceMonitor for the Prometheus operator, whose CRDs
	// must be installed. By default there is no ServiceMonitor.
	//
	// +optional
	ServiceMonitor *ServiceMonitor `json:"serviceMonitor,omitempty"`
}

// ServiceMonitor configures a ServiceMonitor of the Prometheus operator.
type ServiceMonitor struct {
	// interval is the time between two scrapes.
	//
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}[hms])+$') || (duration(self) >= duration('1s') && duration(self) <= duration('1h'))",message="write 1s to 1h"
	Interval Duration `json:"interval,omitempty"`

	// labels are added to the ServiceMonitor, so that a Prometheus selects it.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$') && self[k].size() <= 63)",message="a label is invalid: write [PREFIX/]NAME: VALUE with letters, digits, dashes, underscores and dots, and at most 63 characters each in NAME and VALUE"
	Labels map[string]string `json:"labels,omitempty"`
}

// Tracing configures an OpenTelemetry collector. Traces contain no personal data.
//
// +kubebuilder:validation:XValidation:rule="!has(self.caSecretRef) || !self.endpoint.startsWith('http://')",fieldPath=".caSecretRef",message="only https uses a certificate authority: write an endpoint with https, or remove caSecretRef"
type Tracing struct {
	// endpoint is the URL of a collector that accepts OTLP over HTTP, usually at
	// port 4318. /v1/traces is appended to it.
	//
	// +required
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^/?#@\\\\s]+(/[^?#\\\\s]*)?$')",message="write an absolute URL without a user, a query or a fragment, such as http://collector.monitoring.svc:4318"
	Endpoint string `json:"endpoint,omitempty"`

	// samplingRatePerMillion is how many of a million requests are recorded: 10000
	// is 1%. A trusted caller that sends traceparent decides for its requests.
	//
	// +optional
	// +kubebuilder:default=10000
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	SamplingRatePerMillion *int32 `json:"samplingRatePerMillion,omitempty"`

	// headersSecretRef names the Secret in this namespace whose key headers holds
	// the header fields of each export, such as authorization=Bearer%20TOKEN,
	// separated by commas. When it changes, the pods are replaced one at a time.
	//
	// +optional
	HeadersSecretRef *LocalReference `json:"headersSecretRef,omitempty"`

	// caSecretRef names the Secret in this namespace whose key ca.crt holds the
	// certificates that the collector's certificate is verified with. If it is not
	// set, the public authorities in the server's image are used. When it changes,
	// the pods are replaced one at a time.
	//
	// +optional
	CASecretRef *LocalReference `json:"caSecretRef,omitempty"`
}
