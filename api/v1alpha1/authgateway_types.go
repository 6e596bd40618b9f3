package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AuthGateway is an identity service: sign-up, sign-in, tokens and account
// recovery. The operator runs the server, creates and rotates its signing keys,
// and publishes the public keys in the ConfigMap that
// status.publicKeysConfigMapRef names.
//
// To rotate the signing keys now, set the annotation authgateway.io/rotate to a
// new value, such as the time. status.keys.observedRotate shows the value when
// the rotation is complete.
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
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="the name is used for a Service and in other names: write at most 40 lower-case letters, digits and dashes, beginning with a letter"
// +kubebuilder:validation:XValidation:rule="!has(self.spec) || !has(self.spec.database) || !has(self.spec.database.cloudNativePG) || self.spec.database.cloudNativePG.cluster != self.metadata.name",fieldPath=".spec.database.cloudNativePG",message="CloudNativePG creates a ServiceAccount and a PodDisruptionBudget with the name of the Cluster, and this AuthGateway needs the same two names: give the AuthGateway another name"
type AuthGateway struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard metadata of an object.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec defines the desired state of the AuthGateway.
	//
	// +required
	Spec AuthGatewaySpec `json:"spec,omitzero"`

	// status is the observed state of the AuthGateway. Its observedGeneration is -1
	// until the operator has seen the AuthGateway.
	//
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status AuthGatewayStatus `json:"status,omitzero"`
}

// AuthGatewayList is a list of AuthGateways.
//
// +kubebuilder:object:root=true
type AuthGatewayList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AuthGateway `json:"items"`
}

// AuthGatewaySpec is the desired state of an AuthGateway. Only database is
// required.
//
// +kubebuilder:validation:XValidation:rule="!has(self.autoscaling) || self.replicas == 2",fieldPath=".replicas",message="autoscaling sets the number of replicas: remove replicas, or remove autoscaling"
// +kubebuilder:validation:XValidation:rule="self.exposure != 'Public' || has(self.email)",fieldPath=".exposure",message="a Public gateway sends codes only by mail: set email.smtp or email.webhook, or write exposure: Internal"
// +kubebuilder:validation:XValidation:rule="!has(self.ingress) || self.exposure == 'Public'",fieldPath=".ingress",message="an Ingress would expose a gateway that returns codes to its callers: write exposure: Public, or remove ingress"
// +kubebuilder:validation:XValidation:rule="!has(self.httpRoute) || self.exposure == 'Public'",fieldPath=".httpRoute",message="an HTTPRoute would expose a gateway that returns codes to its callers: write exposure: Public, or remove httpRoute"
// +kubebuilder:validation:XValidation:rule="!has(self.ingress) || !has(self.httpRoute)",fieldPath=".httpRoute",message="ingress and httpRoute exclude each other: remove one of them"
// +kubebuilder:validation:XValidation:rule="!(has(self.ingress) || has(self.httpRoute)) || (has(self.trustedProxyHops) && self.trustedProxyHops > 0)",fieldPath=".trustedProxyHops",message="behind an Ingress or a Gateway all clients would share the proxy's address and its rate limits: write trustedProxyHops: 1, plus 1 for each proxy in front of it that speaks HTTP"
// +kubebuilder:validation:XValidation:rule="!(has(self.ingress) || has(self.httpRoute)) || (has(self.issuer) && self.issuer.startsWith('https://'))",fieldPath=".issuer",message="services outside the cluster must be able to reach the issuer: set issuer to the public URL, such as https://auth.example.com"
// +kubebuilder:validation:XValidation:rule="!(has(self.ingress) || has(self.httpRoute)) || !has(self.networkPolicy) || has(self.networkPolicy.from) || (has(self.networkPolicy.enabled) && !self.networkPolicy.enabled)",fieldPath=".networkPolicy",message="the NetworkPolicy would block the proxies of the Ingress or the Gateway: name their pods in networkPolicy.from, such as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}], or write networkPolicy: {enabled: false}"
// +kubebuilder:validation:XValidation:rule="![self.keys.rotationInterval, self.tokens.accessTokenTTL, self.keys.publishLead].all(d, d.matches('^([0-9]{1,6}[hms])+$')) || duration(self.keys.rotationInterval) >= duration(self.tokens.accessTokenTTL) + duration(self.keys.publishLead) + duration(self.keys.publishLead)",fieldPath=".keys.rotationInterval",message="a key would be replaced before its tokens expire: write at least tokens.accessTokenTTL plus twice keys.publishLead, such as 720h"
// +kubebuilder:validation:XValidation:rule="![self.keys.rotationInterval, self.tokens.refreshTokenTTL].all(d, d.matches('^([0-9]{1,6}[hms])+$')) || duration(self.tokens.refreshTokenTTL).getSeconds() <= 4 * duration(self.keys.rotationInterval).getSeconds()",fieldPath=".keys.rotationInterval",message="refresh tokens that live this long would need too many old keys: write at least a quarter of tokens.refreshTokenTTL"
type AuthGatewaySpec struct {
	// replicas is the number of replicas of the server. It must not be set together
	// with autoscaling.
	//
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Replicas *int32 `json:"replicas,omitempty"`

	// autoscaling lets a HorizontalPodAutoscaler set the number of replicas.
	//
	// +optional
	Autoscaling *Autoscaling `json:"autoscaling,omitempty"`

	// image is the image of the server. If it is not set, the operator uses the
	// image of its own version, which status.image shows. The operator may be
	// configured to allow only certain images.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^([a-zA-Z0-9][-a-zA-Z0-9.]*(:[0-9]{1,5})?/)?[a-z0-9][-a-z0-9._/]*(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?(@sha256:[a-f0-9]{64})?$')",message="the image reference is invalid: write one such as registry.example.com/authserver:1.2.3"
	Image string `json:"image,omitempty"`

	// imagePullSecrets names the Secrets in this namespace that are used to pull
	// the image. If image is not set, the operator may be configured to add more.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	ImagePullSecrets []LocalReference `json:"imagePullSecrets,omitempty"`

	// resources are the resource requirements of one replica. If they are not set,
	// a replica requests 100m CPU and 64Mi of memory, and its memory limit is
	// 256Mi. The CPU limit determines how many threads hash passwords.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.claims)",fieldPath=".claims",message="resource claims are not supported: remove claims"
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`

	// shutdown configures how a replica stops.
	//
	// +optional
	// +kubebuilder:default={}
	Shutdown Shutdown `json:"shutdown,omitzero"`

	// podTemplate is merged into the pods that the operator creates. It cannot
	// change the server's container, the volumes or the security context.
	//
	// +optional
	PodTemplate *PodTemplate `json:"podTemplate,omitempty"`

	// issuer is the iss claim of every token: the URL by which other services know
	// this gateway. If it is not set, it is the URL of the Service,
	// http://NAME.NAMESPACE.svc. A change ends every session. Once the gateway has
	// been Ready, its pods therefore keep the previous issuer until the annotation
	// authgateway.io/accept-issuer contains the new one.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^https?://([A-Za-z0-9._-]+|\\\\[[0-9A-Fa-f:.]+\\\\])(:[0-9]{1,5})?(/[^?#,\\\\s]*)?$')",message="write an absolute URL without a user, a query or a fragment, such as https://auth.example.com"
	Issuer string `json:"issuer,omitempty"`

	// audiences is the aud claim of access tokens: the services that they are for.
	// If it is not set, it is the issuer.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[^,\\\\s]*$')",message="an audience contains a space or a comma: write one audience per entry, without spaces or commas"
	Audiences []string `json:"audiences,omitempty"`

	// exposure is the kind of clients that call the API. Internal: your own
	// backends. A backend that sends the key in the Secret NAME-caller as
	// X-Caller-Key receives verification and reset codes, and sends them to the
	// user. Public: browsers and apps. Codes are only sent by mail, so email is
	// required, and responses do not reveal whether an account exists.
	//
	// +optional
	// +kubebuilder:default=Internal
	Exposure Exposure `json:"exposure,omitempty"`

	// cors configures which web pages may call the API from a browser. If it is not
	// set, only pages from the gateway's own origin may.
	//
	// +optional
	CORS *CORS `json:"cors,omitempty"`

	// trustedProxyHops is the number of proxies between clients and the pods: 1
	// behind an Ingress or a Gateway, plus 1 for each load balancer in front of it
	// that speaks HTTP. The client's address is then the one that the outermost of
	// these proxies wrote to Forwarded or X-Forwarded-For. If it is 0 or not set,
	// it is the address of the connection. Rate limits and the audit trail use this
	// address: behind a proxy that is not counted, all clients share one address
	// and its limits. With a number above 0, let networkPolicy.from allow only the
	// last proxy, because any other client could forge its address.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	TrustedProxyHops int32 `json:"trustedProxyHops,omitempty"`

	// trustedProxyField is the header field that your proxies write: Forwarded (RFC
	// 7239) or XForwardedFor. The server ignores the other one. With Any it accepts
	// both, and your proxies must remove the one that they do not write. It has no
	// effect while trustedProxyHops is 0.
	//
	// +optional
	// +kubebuilder:default=Any
	TrustedProxyField ProxyField `json:"trustedProxyField,omitempty"`

	// limits are the rate limits of the API.
	//
	// +optional
	// +kubebuilder:default={}
	Limits Limits `json:"limits,omitzero"`

	// authz configures the decisions that proxies such as NGINX, Envoy and Traefik
	// can ask for at /authz/NAME.
	//
	// +optional
	// +kubebuilder:default={}
	Authz Authz `json:"authz,omitzero"`

	// database is the PostgreSQL database that holds all data except the signing
	// keys. Another database may have other users in it. Once the gateway has been
	// Ready, its pods therefore keep the previous database until the annotation
	// authgateway.io/accept-database contains the new one, as HOST/NAME or as the
	// name of the CloudNativePG Cluster.
	//
	// +required
	Database Database `json:"database,omitzero"` //nolint:kubeapilinter // its rules require host or cloudNativePG

	// tokens configures how long tokens are valid and when they are replaced.
	//
	// +optional
	// +kubebuilder:default={}
	Tokens Tokens `json:"tokens,omitzero"`

	// signUp configures what a user must provide at sign-up.
	//
	// +optional
	// +kubebuilder:default={}
	SignUp SignUp `json:"signUp,omitzero"`

	// passwords configures which passwords are allowed and how they are hashed.
	//
	// +optional
	// +kubebuilder:default={}
	Passwords Passwords `json:"passwords,omitzero"`

	// audit configures the audit trail.
	//
	// +optional
	// +kubebuilder:default={}
	Audit Audit `json:"audit,omitzero"`

	// keys configures the signing keys.
	//
	// +optional
	// +kubebuilder:default={}
	Keys Keys `json:"keys,omitzero"`

	// publicKeys configures which other namespaces may have copies of the public
	// keys.
	//
	// +optional
	// +kubebuilder:default={}
	PublicKeys PublicKeysSharing `json:"publicKeys,omitzero"`

	// email configures how the server sends mail. If it is not set, the server
	// sends none; with exposure Internal your backends send the codes.
	//
	// +optional
	Email *Email `json:"email,omitempty"`

	// eventWebhook announces what happens to accounts, such as a suspension or a
	// deletion, to a service of yours. If it is not set, nothing is announced.
	//
	// +optional
	EventWebhook *EventWebhook `json:"eventWebhook,omitempty"`

	// ingress adds an Ingress for the Service. It requires exposure Public.
	//
	// +optional
	Ingress *Ingress `json:"ingress,omitempty"`

	// httpRoute adds an HTTPRoute of the Gateway API for the Service. It requires
	// exposure Public, and the Gateway API in the cluster.
	//
	// +optional
	HTTPRoute *HTTPRoute `json:"httpRoute,omitempty"`

	// service configures the Service of the pods.
	//
	// +optional
	// +kubebuilder:default={}
	Service Service `json:"service,omitzero"`

	// serviceAccount configures the ServiceAccount of the pods.
	//
	// +optional
	// +kubebuilder:default={}
	ServiceAccount ServiceAccount `json:"serviceAccount,omitzero"`

	// networkPolicy configures which pods may connect to the server.
	//
	// +optional
	// +kubebuilder:default={}
	NetworkPolicy NetworkPolicy `json:"networkPolicy,omitzero"`

	// monitoring configures how Prometheus scrapes the gateway.
	//
	// +optional
	// +kubebuilder:default={}
	Monitoring Monitoring `json:"monitoring,omitzero"`

	// tracing exports traces to an OpenTelemetry collector. If it is not set, no
	// traces are recorded.
	//
	// +optional
	Tracing *Tracing `json:"tracing,omitempty"`

	// admin configures the pods that serve administrators of accounts.
	//
	// +optional
	// +kubebuilder:default={}
	Admin Admin `json:"admin,omitzero"`

	// suspend stops the operator from changing anything. While it is true, the pods
	// serve with the keys that they have, keys do not rotate, and changes of the
	// spec have no effect.
	//
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// deletionPolicy determines what happens to the signing keys when the
	// AuthGateway is deleted. Retain: the Secrets NAME-keys and NAME-passphrases
	// remain, and a new AuthGateway of the same name uses them. Delete: the Secrets
	// are deleted, and every token becomes invalid.
	//
	// +optional
	// +kubebuilder:default=Retain
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
}

// LocalReference names an object in the namespace of the AuthGateway.
type LocalReference struct {
	// name is the name of the object.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="the name is invalid: write lower-case letters, digits, dashes and dots; the object must be in the same namespace"
	Name string `json:"name,omitempty"`
}

// Exposure is the kind of clients that call the API.
//
// +kubebuilder:validation:Enum=Internal;Public
type Exposure string

// The values of Exposure.
const (
	ExposureInternal Exposure = "Internal"
	ExposurePublic   Exposure = "Public"
)

// DeletionPolicy determines what happens to the signing keys.
//
// +kubebuilder:validation:Enum=Delete;Retain
type DeletionPolicy string

// The values of DeletionPolicy.
const (
	DeletionDelete DeletionPolicy = "Delete"
	DeletionRetain DeletionPolicy = "Retain"
)
