package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// PublicKeys copies the public keys of an AuthGateway into its own namespace, so
// that pods there can mount them and verify access tokens. The operator writes
// the copy to the ConfigMap NAME-public-keys, which status.configMapRef names, and
// updates it whenever the gateway's keys change. It has the same entries as the
// ConfigMap of the gateway. Private keys and keys of refresh tokens are never
// copied.
//
// The AuthGateway must allow the namespace, in spec.publicKeys.allowedNamespaces.
// If it no longer does, or if it is deleted, the operator replaces the keys in the
// ConfigMap by an empty set, and pods that mount it accept no token. If the
// PublicKeys is deleted, the ConfigMap is deleted too. Running pods keep the files
// of a deleted ConfigMap, so delete those pods as well.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=publickeys,shortName=agpk
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether the ConfigMap has the gateway's present keys"
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="The reason of the condition Ready"
// +kubebuilder:printcolumn:name="Gateway namespace",type=string,JSONPath=`.spec.gatewayRef.namespace`,description="The namespace of the AuthGateway"
// +kubebuilder:printcolumn:name="Gateway",type=string,JSONPath=`.spec.gatewayRef.name`,description="The name of the AuthGateway"
// +kubebuilder:printcolumn:name="ConfigMap",type=string,priority=1,JSONPath=`.status.configMapRef.name`,description="The ConfigMap that pods mount"
// +kubebuilder:printcolumn:name="Generation",type=integer,priority=1,JSONPath=`.status.keysGeneration`,description="The generation of the key ring that the ConfigMap was written from"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="the name is used as a label: write at most 63 lower-case letters, digits and dashes"
type PublicKeys struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard metadata of an object.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec defines the desired state of the PublicKeys.
	//
	// +required
	Spec PublicKeysSpec `json:"spec,omitzero"`

	// status is the observed state of the PublicKeys. Its observedGeneration is -1
	// until the operator has seen the PublicKeys.
	//
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status PublicKeysStatus `json:"status,omitzero"`
}

// PublicKeysList is a list of PublicKeys.
//
// +kubebuilder:object:root=true
type PublicKeysList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []PublicKeys `json:"items"`
}

// PublicKeysSpec is the desired state of a PublicKeys.
type PublicKeysSpec struct {
	// gatewayRef names the AuthGateway whose public keys are copied. After a change,
	// the ConfigMap has the keys of the other gateway.
	//
	// +required
	GatewayRef AuthGatewayReference `json:"gatewayRef,omitzero"`
}

// AuthGatewayReference names an AuthGateway, which may be in another namespace.
type AuthGatewayReference struct {
	// namespace is the namespace of the AuthGateway.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="the namespace is invalid: write lower-case letters, digits and dashes"
	Namespace string `json:"namespace,omitempty"`

	// name is the name of the AuthGateway.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="the name is invalid: write the name of an AuthGateway: lower-case letters, digits and dashes, beginning with a letter"
	Name string `json:"name,omitempty"`
}

// PublicKeysStatus is the observed state of a PublicKeys.
type PublicKeysStatus struct {
	// conditions describe the state of the PublicKeys. Ready: the ConfigMap has the
	// gateway's present keys. Reconciling: the operator is working, or waits for
	// something. Stalled: nothing changes until a person acts; the message says what
	// to do.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation of the spec that this status describes.
	// It is -1 until the operator has seen the PublicKeys.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// configMapRef names the ConfigMap with the copy. Pods mount it as a whole. It is
	// not set before the operator has written the ConfigMap.
	//
	// +optional
	ConfigMapRef *LocalReference `json:"configMapRef,omitempty"`

	// keysGeneration is the generation of the key ring that the ConfigMap was last
	// written from: status.keys.generation of the AuthGateway at that time.
	//
	// +optional
	KeysGeneration int64 `json:"keysGeneration,omitempty"`

	// gatewayUID is the UID of the AuthGateway whose keys the ConfigMap has. It is
	// not set while the ConfigMap has no keys.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	GatewayUID string `json:"gatewayUID,omitempty"`

	// operator is the namespace of the operator that maintains the copy: the one
	// that manages the AuthGateway.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Operator string `json:"operator,omitempty"`
}

// PublicKeysSharing configures which other namespaces may have copies of the
// public keys.
type PublicKeysSharing struct {
	// allowedNamespaces selects, by their labels, the namespaces in which a
	// PublicKeys may copy the public keys of this gateway. To select a namespace by
	// its name, use its label kubernetes.io/metadata.name. The empty selector {}
	// selects every namespace. If it is not set, no other namespace is allowed. A
	// rotation waits for these copies, as it does for replicas, but not without
	// limit.
	//
	// +optional
	AllowedNamespaces *metav1.LabelSelector `json:"allowedNamespaces,omitempty"`
}
