// Package v1alpha1 defines the custom resources AuthGateway and PublicKeys.
// `kubectl explain` shows the comments of their fields, and the API server enforces
// the rules beside them. The pages in docs/reference are generated from both.
//
// +kubebuilder:object:generate=true
// +kubebuilder:ac:generate=true
// +groupName=authgateway.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

//go:generate go tool -modfile=../../hack/tools/kubernetes/go.mod controller-gen object crd applyconfiguration paths=. output:crd:dir=../../config/crd/bases output:applyconfiguration:dir=.

var (
	// GroupVersion is the group and version of the types in this package.
	GroupVersion = schema.GroupVersion{Group: "authgateway.io", Version: "v1alpha1"}

	// SchemeGroupVersion is GroupVersion under the name that generated code uses.
	SchemeGroupVersion = GroupVersion

	schemeBuilder = runtime.NewSchemeBuilder(func(scheme *runtime.Scheme) error {
		scheme.AddKnownTypes(GroupVersion, &AuthGateway{}, &AuthGatewayList{}, &PublicKeys{}, &PublicKeysList{})
		metav1.AddToGroupVersion(scheme, GroupVersion)
		return nil
	})

	// AddToScheme adds the types to a scheme.
	AddToScheme = schemeBuilder.AddToScheme
)
