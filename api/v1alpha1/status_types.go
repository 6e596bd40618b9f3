package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AuthGatewayStatus is the observed state of an AuthGateway.
type AuthGatewayStatus struct {
	// conditions describe the state of the AuthGateway. Ready: everything that the
	// spec asks for is in place and serves. KeysReady: each kind of token has a
	// signing key, and the public keys are published. Available: at least one
	// replica serves the API. DatabaseAvailable: the database accepts writes.
	// VersionSupported: the operator supports the version of the replicas.
	// Reconciling: the operator is working, or waits for something. Stalled:
	// nothing changes until a person acts; the message says what to do.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation of the spec that this status describes.
	// It is -1 until the operator has seen the AuthGateway.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// url is the URL of the API inside the cluster.
	//
	// +optional
	URL string `json:"url,omitempty"`

	// publicKeysConfigMapRef names the ConfigMap with the public keys. Services
	// that verify tokens mount it.
	//
	// +optional
	PublicKeysConfigMapRef *LocalReference `json:"publicKeysConfigMapRef,omitempty"`

	// callerSecretRef names the Secret whose key TRUSTED_CALLER_KEY holds the
	// caller key. A backend that sends it as X-Caller-Key receives codes.
	//
	// +optional
	CallerSecretRef *LocalReference `json:"callerSecretRef,omitempty"`

	// replicas is the number of pods that exist.
	//
	// +optional
	Replicas int32 `json:"replicas,omitempty"`

	// readyReplicas is the number of pods that are ready.
	//
	// +optional
	ReadyReplicas int32 `json:"readyReplicas,omitempty"`

	// replicaSummary is the number of ready pods and the desired number, such as
	// 2/2. kubectl get shows it; programs should read the numbers.
	//
	// +optional
	ReplicaSummary string `json:"replicaSummary,omitempty"`

	// selector is the label selector of the pods. The scale subresource needs it.
	//
	// +optional
	Selector string `json:"selector,omitempty"`

	// image is the image that the server's container should run.
	//
	// +optional
	Image string `json:"image,omitempty"`

	// issuer is the issuer with which the AuthGateway was last Ready.
	//
	// +optional
	Issuer string `json:"issuer,omitempty"`

	// database is the database with which the AuthGateway was last Ready: HOST/NAME,
	// or the name of the CloudNativePG Cluster.
	//
	// +optional
	Database string `json:"database,omitempty"`

	// keys describes the signing keys.
	//
	// +optional
	Keys *KeysStatus `json:"keys,omitempty"`

	// operator is the namespace of the operator that manages this AuthGateway.
	// Another operator that watches it changes nothing.
	//
	// +optional
	Operator string `json:"operator,omitempty"`

	// operatorContest is set while another operator asks whether the managing one
	// still runs. If no answer comes within two minutes, the other one takes over.
	//
	// +optional
	OperatorContest *OperatorContest `json:"operatorContest,omitempty"`
}

// OperatorContest is one operator's question whether another still runs.
type OperatorContest struct {
	// by is the namespace of the operator that asks.
	//
	// +required
	By string `json:"by,omitempty"`

	// startTime is when the operator asked.
	//
	// +required
	StartTime metav1.Time `json:"startTime,omitzero"`
}

// KeysStatus is the observed state of the key ring.
type KeysStatus struct {
	// generation counts the changes of the key ring.
	//
	// +optional
	Generation int64 `json:"generation,omitempty"`

	// access lists the keys of access tokens, the oldest first.
	//
	// +optional
	// +listType=map
	// +listMapKey=kid
	Access []KeyStatus `json:"access,omitempty"`

	// refresh lists the keys of refresh tokens, the oldest first.
	//
	// +optional
	// +listType=map
	// +listMapKey=kid
	Refresh []KeyStatus `json:"refresh,omitempty"`

	// revoked lists the kids of all keys that were ever revoked, including those
	// that are no longer in the ring. They stay revoked when a backup is restored.
	//
	// +optional
	// +listType=atomic
	Revoked []string `json:"revoked,omitempty"`

	// nextRotationTime is when the next scheduled rotation begins.
	//
	// +optional
	NextRotationTime *metav1.Time `json:"nextRotationTime,omitempty"`

	// observedRotate is the value of the annotation authgateway.io/rotate whose
	// rotation is complete.
	//
	// +optional
	ObservedRotate string `json:"observedRotate,omitempty"`
}

// KeyStatus is the observed state of one key.
type KeyStatus struct {
	// kid is the key ID: the RFC 7638 thumbprint of the public key.
	//
	// +required
	KID string `json:"kid,omitempty"`

	// algorithm is the JWS algorithm of the key.
	//
	// +required
	Algorithm Algorithm `json:"algorithm,omitempty"`

	// phase is the key's place in its life cycle. Published: verifiers receive the
	// key, and it does not sign yet. Signing: the key signs; access tokens and
	// refresh tokens have one such key each. Retiring: the key verifies until the
	// last token that it signed has expired. Revoked: nothing trusts the key.
	//
	// +required
	Phase KeyPhase `json:"phase,omitempty"`

	// lastTransitionTime is when the key entered its phase.
	//
	// +required
	LastTransitionTime metav1.Time `json:"lastTransitionTime,omitzero"`

	// removalTime is the earliest time at which the key is removed from the ring.
	// It is not set while that is unknown.
	//
	// +optional
	RemovalTime *metav1.Time `json:"removalTime,omitempty"`
}

// KeyPhase is a key's place in its life cycle.
//
// +kubebuilder:validation:Enum=Published;Signing;Retiring;Revoked
type KeyPhase string

// The values of KeyPhase.
const (
	KeyPhasePublished KeyPhase = "Published"
	KeyPhaseSigning   KeyPhase = "Signing"
	KeyPhaseRetiring  KeyPhase = "Retiring"
	KeyPhaseRevoked   KeyPhase = "Revoked"
)
