// Package v1alpha1 is the AuthGateway custom resource. The comments of its
// fields are the manual that `kubectl explain` shows, the rules beside them are
// what the API server refuses, and docs/reference/authgateway.md is made of both.
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
	// GroupVersion is the group and version of every type here.
	GroupVersion = schema.GroupVersion{Group: "authgateway.io", Version: "v1alpha1"}

	// SchemeGroupVersion is GroupVersion under the name that generated code uses.
	SchemeGroupVersion = GroupVersion

	schemeBuilder = runtime.NewSchemeBuilder(func(scheme *runtime.Scheme) error {
		scheme.AddKnownTypes(GroupVersion, &AuthGateway{}, &AuthGatewayList{})
		metav1.AddToGroupVersion(scheme, GroupVersion)
		return nil
	})

	// AddToScheme makes a scheme know the types.
	AddToScheme = schemeBuilder.AddToScheme
)
