package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AuthGatewayStatus is what there is, as the operator has last seen it.
type AuthGatewayStatus struct {
	// The generation of the spec that this status is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Ready: it serves as the spec says. KeysReady: there are keys to sign with,
	// and they are published. Available: the API answers. DatabaseAvailable: the
	// database takes writes. Reconciling: something is still under way. Stalled:
	// nothing more happens until a person acts; the message says what to do.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`

	// Where applications in the cluster reach the API.
	//
	// +optional
	URL string `json:"url,omitempty"`

	// The ConfigMap with the public keys, for services that verify tokens.
	//
	// +optional
	PublicKeysConfigMap string `json:"publicKeysConfigMap,omitempty"`

	// The Secret whose key TRUSTED_CALLER_KEY a backend sends as X-Caller-Key to
	// see codes.
	//
	// +optional
	CallerSecret string `json:"callerSecret,omitempty"`

	// The replicas that there are.
	//
	// +optional
	Replicas int32 `json:"replicas,omitempty"`

	// The replicas that are ready.
	//
	// +optional
	ReadyReplicas int32 `json:"readyReplicas,omitempty"`

	// The label selector of the pods, for the scale subresource.
	//
	// +optional
	Selector string `json:"selector,omitempty"`

	// The image that the pods are to run.
	//
	// +optional
	Image string `json:"image,omitempty"`

	// The issuer with which the gateway was Ready last.
	//
	// +optional
	Issuer string `json:"issuer,omitempty"`

	// The database with which the gateway was Ready last: HOST/NAME, or the name of
	// the cluster.
	//
	// +optional
	Database string `json:"database,omitempty"`

	// The signing keys.
	//
	// +optional
	Keys *KeysStatus `json:"keys,omitempty"`

	// The operator that looks after this AuthGateway, by the namespace that it
	// runs in. Another one that watches it too stays out.
	//
	// +optional
	Operator string `json:"operator,omitempty"`

	// Another operator that asks whether that one still works. If there is no
	// answer within two minutes, it takes over.
	//
	// +optional
	OperatorContest *OperatorContest `json:"operatorContest,omitempty"`
}

// OperatorContest is the question of one operator to another.
type OperatorContest struct {
	// The operator that asks, by the namespace that it runs in.
	//
	// +required
	By string `json:"by"`

	// When it asked.
	//
	// +required
	Since metav1.Time `json:"since"`
}

// KeysStatus is the ring of signing keys.
type KeysStatus struct {
	// How often the ring has changed.
	//
	// +optional
	Generation int64 `json:"generation,omitempty"`

	// The keys of access tokens, oldest first.
	//
	// +optional
	// +listType=map
	// +listMapKey=kid
	Access []KeyStatus `json:"access,omitempty"`

	// The keys of refresh tokens, oldest first.
	//
	// +optional
	// +listType=map
	// +listMapKey=kid
	Refresh []KeyStatus `json:"refresh,omitempty"`

	// The kids of keys that were revoked at some time, also of those that are
	// forgotten by now. They stay revoked, whatever is restored.
	//
	// +optional
	// +listType=atomic
	Revoked []string `json:"revoked,omitempty"`

	// When the next rotation by age begins.
	//
	// +optional
	NextRotation *metav1.Time `json:"nextRotation,omitempty"`

	// The value of the annotation authgateway.io/rotate whose rotation is done.
	//
	// +optional
	ObservedRotate string `json:"observedRotate,omitempty"`
}

// KeyStatus is one key.
type KeyStatus struct {
	// The kid: the RFC 7638 thumbprint of the public half.
	//
	// +required
	KID string `json:"kid"`

	// Its JWS algorithm.
	//
	// +required
	Algorithm Algorithm `json:"algorithm"`

	// Where it is in its life. Published: verifiers get it, nobody signs with it
	// yet. Signing: exactly one of each kind. Retiring: it verifies until the
	// last token that it signed is dead. Revoked: trusted by nobody.
	//
	// +required
	Phase KeyPhase `json:"phase"`

	// Since when it is in its phase.
	//
	// +required
	Since metav1.Time `json:"since"`

	// When it is forgotten at the earliest, where that is known.
	//
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
}

// KeyPhase is where a key is in its life.
//
// +kubebuilder:validation:Enum=Published;Signing;Retiring;Revoked
type KeyPhase string
