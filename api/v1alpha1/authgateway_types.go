package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AuthGateway is an identity service: sign-up, sign-in, tokens, recovery. The
// operator runs its server, makes and rotates its signing keys, and publishes
// the public halves in the ConfigMap that status.publicKeysConfigMapRef names.
//
// Annotate it with authgateway.io/rotate and any new value, such as the time,
// to rotate the signing keys now; status.keys.observedRotate echoes the value
// when that is done.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.replicas,selectorpath=.status.selector
// +kubebuilder:resource:shortName=agw
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether everything that the spec asks for is in place"
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="The reason of the condition Ready"
// +kubebuilder:printcolumn:name="Replicas",type=string,JSONPath=`.status.replicaSummary`,description="The ready replicas and the desired replicas"
// +kubebuilder:printcolumn:name="Key",type=string,priority=1,JSONPath=`.status.keys.access[?(@.phase=="Signing")].kid`,description="The kid of the key that signs access tokens"
// +kubebuilder:printcolumn:name="Next rotation",type=string,format=date-time,priority=1,JSONPath=`.status.keys.nextRotationTime`,description="When the next scheduled rotation begins"
// +kubebuilder:printcolumn:name="URL",type=string,priority=1,JSONPath=`.status.url`,description="The URL of the API inside the cluster"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="the name becomes that of a Service and a part of other names: write at most 40 lower-case letters, digits and dashes, and begin with a letter"
// +kubebuilder:validation:XValidation:rule="!has(self.spec) || !has(self.spec.database) || !has(self.spec.database.cloudNativePG) || self.spec.database.cloudNativePG.cluster != self.metadata.name",fieldPath=".spec.database.cloudNativePG",message="CloudNativePG makes a ServiceAccount and a PodDisruptionBudget of the Cluster's name, and an AuthGateway has them by its own: give the AuthGateway another name"
type AuthGateway struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What is wanted.
	//
	// +required
	Spec AuthGatewaySpec `json:"spec"`

	// What there is, as the operator has last seen it. Its observedGeneration is
	// -1 until the operator has looked.
	//
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status AuthGatewayStatus `json:"status,omitempty"`
}

// AuthGatewayList is a list of AuthGateways.
//
// +kubebuilder:object:root=true
type AuthGatewayList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AuthGateway `json:"items"`
}

// AuthGatewaySpec is what is wanted. Only database is needed.
//
// +kubebuilder:validation:XValidation:rule="!has(self.autoscaling) || self.replicas == 2",fieldPath=".replicas",message="autoscaling decides how many replicas there are: leave replicas out, or leave autoscaling out"
// +kubebuilder:validation:XValidation:rule="self.exposure != 'Public' || has(self.email)",fieldPath=".exposure",message="Public hands out codes by mail alone, so it needs email: write email.smtp or email.webhook too, or write exposure: Internal"
// +kubebuilder:validation:XValidation:rule="!has(self.ingress) || self.exposure == 'Public'",fieldPath=".ingress",message="an Ingress leads from the outside to a gateway that shows codes to its callers: write exposure: Public too, or leave ingress out"
// +kubebuilder:validation:XValidation:rule="!has(self.httpRoute) || self.exposure == 'Public'",fieldPath=".httpRoute",message="an HTTPRoute leads from the outside to a gateway that shows codes to its callers: write exposure: Public too, or leave httpRoute out"
// +kubebuilder:validation:XValidation:rule="!has(self.ingress) || !has(self.httpRoute)",fieldPath=".httpRoute",message="both lead to the same gateway: write ingress or httpRoute, not both"
// +kubebuilder:validation:XValidation:rule="!(has(self.ingress) || has(self.httpRoute)) || (has(self.trustedProxyHops) && self.trustedProxyHops > 0)",fieldPath=".trustedProxyHops",message="behind an Ingress or a Gateway all clients have the address of the proxy, and would use up each other's limits: write trustedProxyHops: 1, and one more for each proxy in front of it that speaks HTTP"
// +kubebuilder:validation:XValidation:rule="!(has(self.ingress) || has(self.httpRoute)) || (has(self.issuer) && self.issuer.startsWith('https://'))",fieldPath=".issuer",message="consumers outside of the cluster know this gateway by a URL that they can reach: write issuer with the public host, such as https://auth.example.com"
// +kubebuilder:validation:XValidation:rule="!(has(self.ingress) || has(self.httpRoute)) || !has(self.networkPolicy) || has(self.networkPolicy.from) || (has(self.networkPolicy.enabled) && !self.networkPolicy.enabled)",fieldPath=".networkPolicy",message="the NetworkPolicy keeps out the proxies of an Ingress or a Gateway: name their pods in networkPolicy.from, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}], or write networkPolicy: {enabled: false}"
// +kubebuilder:validation:XValidation:rule="![self.keys.rotationInterval, self.tokens.accessTokenTTL, self.keys.publishLead].all(d, d.matches('^([0-9]{1,6}[hms])+$')) || duration(self.keys.rotationInterval) >= duration(self.tokens.accessTokenTTL) + duration(self.keys.publishLead) + duration(self.keys.publishLead)",fieldPath=".keys.rotationInterval",message="a key would be replaced before its own tokens are dead: write at least tokens.accessTokenTTL plus twice keys.publishLead, such as 720h"
// +kubebuilder:validation:XValidation:rule="![self.keys.rotationInterval, self.tokens.refreshTokenTTL].all(d, d.matches('^([0-9]{1,6}[hms])+$')) || duration(self.tokens.refreshTokenTTL).getSeconds() <= 4 * duration(self.keys.rotationInterval).getSeconds()",fieldPath=".keys.rotationInterval",message="too many old keys would have to be kept for refresh tokens that live so long: write at least a quarter of tokens.refreshTokenTTL"
type AuthGatewaySpec struct {
	// How many replicas of the server run. With autoscaling it must be left out.
	//
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Replicas *int32 `json:"replicas,omitempty"`

	// Lets a HorizontalPodAutoscaler decide how many replicas there are.
	//
	// +optional
	Autoscaling *Autoscaling `json:"autoscaling,omitempty"`

	// The image of the server. Left out, it is the one that belongs to the
	// operator's version; status.image shows it. The operator may be set up to
	// allow only certain images.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^([a-zA-Z0-9][-a-zA-Z0-9.]*(:[0-9]{1,5})?/)?[a-z0-9][-a-z0-9._/]*(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?(@sha256:[a-f0-9]{64})?$')",message="this is no image reference: write one such as registry.example.com/authserver:1.2.3"
	Image string `json:"image,omitempty"`

	// Secrets of this namespace with which the image is pulled. If image is left
	// out, the operator may be set up to add the names of others.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	ImagePullSecrets []LocalReference `json:"imagePullSecrets,omitempty"`

	// What one replica may use. Left out: requests of 100m CPU and 64Mi, and a
	// memory limit of 256Mi. Passwords are hashed by as many threads as the CPU
	// limit allows.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.claims)",fieldPath=".claims",message="the pods have no devices to claim: leave claims out"
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`

	// How a replica ends.
	//
	// +optional
	// +kubebuilder:default={}
	Shutdown Shutdown `json:"shutdown,omitempty"`

	// What is laid over the pods that the operator makes. It cannot touch the
	// server's container, its volumes or its security.
	//
	// +optional
	PodTemplate *PodTemplate `json:"podTemplate,omitempty"`

	// The iss of every token: the URL by which consumers know this gateway. Left
	// out: the Service's URL, http://NAME.NAMESPACE.svc. Changing it ends every
	// session, so the pods of a gateway that has been Ready keep the former one
	// until the annotation authgateway.io/accept-issuer has the new one.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://([A-Za-z0-9._-]+|\\\\[[0-9A-Fa-f:.]+\\\\])(:[0-9]{1,5})?(/[^?#,\\\\s]*)?$')",message="write an absolute URL without user, query and fragment, such as https://auth.example.com"
	Issuer string `json:"issuer,omitempty"`

	// The aud of access tokens: who they are for. Left out: the issuer.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[^,\\\\s]*$')",message="an audience has a space or a comma: write one audience an entry, without spaces and commas"
	Audiences []string `json:"audiences,omitempty"`

	// Who calls the API. Internal: your own backends; those that send the key in
	// the Secret NAME-caller as X-Caller-Key see codes and mail them. Public:
	// browsers and apps; codes leave by mail alone, so it needs email, and who has
	// an account is told to nobody.
	//
	// +optional
	// +kubebuilder:default=Internal
	Exposure Exposure `json:"exposure,omitempty"`

	// Which pages in browsers may call the API. Left out: none of any origin but
	// the gateway's own.
	//
	// +optional
	CORS *CORS `json:"cors,omitempty"`

	// How many proxies every request passes on its way to the pods: 1 behind an
	// Ingress or a Gateway, one more for a load balancer in front of it that
	// speaks HTTP. The client's address is then the one that the outermost of
	// them saw, as Forwarded or X-Forwarded-For says. Left out: 0, the address
	// from which the connection comes. With more than 0, let networkPolicy.from
	// name the last proxy alone: whoever else gets in writes what they like.
	// Limits go by the address. Behind a proxy that is not counted here all
	// clients have one address, and use up each other's limits.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	TrustedProxyHops int32 `json:"trustedProxyHops,omitempty"`

	// The field that your proxies write: Forwarded (RFC 7239) or XForwardedFor;
	// the other is not looked at. Any takes either, and then your proxies have to
	// remove the one that they do not write. It means something with
	// trustedProxyHops alone.
	//
	// +optional
	// +kubebuilder:default=Any
	TrustedProxyField ProxyField `json:"trustedProxyField,omitempty"`

	// How often something may be done.
	//
	// +optional
	// +kubebuilder:default={}
	Limits Limits `json:"limits,omitempty"`

	// The PostgreSQL in which everything but the keys is kept. Another one may have
	// other users in it, so the pods of a gateway that has been Ready keep the
	// former one until the annotation authgateway.io/accept-database has the new
	// one, as HOST/NAME or as the name of the cluster.
	//
	// +required
	Database Database `json:"database"`

	// How long tokens live, and when they are renewed.
	//
	// +optional
	// +kubebuilder:default={}
	Tokens Tokens `json:"tokens,omitempty"`

	// signUp configures what a person has to give at sign-up.
	//
	// +optional
	// +kubebuilder:default={}
	SignUp SignUp `json:"signUp,omitempty"`

	// What a password may be, and how it is kept.
	//
	// +optional
	// +kubebuilder:default={}
	Passwords Passwords `json:"passwords,omitempty"`

	// What is kept of what has happened.
	//
	// +optional
	// +kubebuilder:default={}
	Audit Audit `json:"audit,omitempty"`

	// The signing keys.
	//
	// +optional
	// +kubebuilder:default={}
	Keys Keys `json:"keys,omitempty"`

	// How mail is sent. Left out, none is: with exposure Internal your backends
	// mail the codes.
	//
	// +optional
	Email *Email `json:"email,omitempty"`

	// An Ingress in front of the Service. Needs exposure: Public.
	//
	// +optional
	Ingress *Ingress `json:"ingress,omitempty"`

	// An HTTPRoute of the Gateway API in front of the Service. Needs exposure:
	// Public, and the Gateway API in the cluster.
	//
	// +optional
	HTTPRoute *HTTPRoute `json:"httpRoute,omitempty"`

	// service configures the Service through which the pods are reached.
	//
	// +optional
	// +kubebuilder:default={}
	Service Service `json:"service,omitempty"`

	// serviceAccount configures the ServiceAccount of the pods.
	//
	// +optional
	// +kubebuilder:default={}
	ServiceAccount ServiceAccount `json:"serviceAccount,omitempty"`

	// Who may reach the pods.
	//
	// +optional
	// +kubebuilder:default={}
	NetworkPolicy NetworkPolicy `json:"networkPolicy,omitempty"`

	// How it is watched.
	//
	// +optional
	// +kubebuilder:default={}
	Monitoring Monitoring `json:"monitoring,omitempty"`

	// While true the operator changes nothing: pods go on serving with the keys
	// that they have, keys do not rotate, and edits of the spec wait.
	//
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// What becomes of the keys and their passphrases when the AuthGateway is
	// deleted. Retain: the Secrets NAME-keys and NAME-passphrases stay, and an
	// AuthGateway of the same name takes them up again. Delete: they go, and every
	// token dies.
	//
	// +optional
	// +kubebuilder:default=Retain
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
}

// LocalReference names an object in the namespace of the AuthGateway.
type LocalReference struct {
	// The name of the object.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="this is no name of a Kubernetes object: write lower-case letters, digits, dashes and dots; only objects of the same namespace can be named"
	Name string `json:"name"`
}

// Exposure says who calls the API.
//
// +kubebuilder:validation:Enum=Internal;Public
type Exposure string

// The values of Exposure.
const (
	ExposureInternal Exposure = "Internal"
	ExposurePublic   Exposure = "Public"
)

// DeletionPolicy says what becomes of the keys.
//
// +kubebuilder:validation:Enum=Delete;Retain
type DeletionPolicy string

// The values of DeletionPolicy.
const (
	DeletionDelete DeletionPolicy = "Delete"
	DeletionRetain DeletionPolicy = "Retain"
)
