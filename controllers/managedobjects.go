package controllers

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	acautoscaling "k8s.io/client-go/applyconfigurations/autoscaling/v2"
	accore "k8s.io/client-go/applyconfigurations/core/v1"
	acnetworking "k8s.io/client-go/applyconfigurations/networking/v1"
	acpolicy "k8s.io/client-go/applyconfigurations/policy/v1"
	acrbac "k8s.io/client-go/applyconfigurations/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// A managedObject describes one object that the operator applies for a gateway.
// The Secrets are not among them: see keys.go.
type managedObject struct {
	gvk      schema.GroupVersionKind
	variant  string // distinguishes objects of one kind
	optional bool   // the cluster may lack the kind

	// ofKeys marks the public keys. They are read before the ring, and always from the API server: a key must not sign
	// because a stale cache shows it as published. publish applies them.
	ofKeys bool

	wantedBy func(*v1alpha1.AuthGateway) bool
	empty    func() client.Object

	// render returns the apply configuration. It is pure.
	render func(rendering) runtime.ApplyConfiguration

	// applied returns the fields of a live object that the operator applied and that no other writer has changed since.
	applied func(client.Object) (any, error)
}

var (
	gvkConfigMap        = corev1.SchemeGroupVersion.WithKind("ConfigMap")
	gvkDeployment       = appsv1.SchemeGroupVersion.WithKind("Deployment")
	gvkHTTPRoute        = schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "HTTPRoute"}
	gvkServiceMonitor   = schema.GroupVersionKind{Group: "monitoring.coreos.com", Version: "v1", Kind: "ServiceMonitor"}
	gvkAutoscaler       = autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler")
	gvkDisruptionBudget = policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget")
	gvkService          = corev1.SchemeGroupVersion.WithKind("Service")
	gvkServiceAccount   = corev1.SchemeGroupVersion.WithKind("ServiceAccount")
	gvkNetworkPolicy    = networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy")
	gvkIngress          = networkingv1.SchemeGroupVersion.WithKind("Ingress")
	gvkRole             = rbacv1.SchemeGroupVersion.WithKind("Role")
	gvkReplicaSet       = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
	gvkNamespace        = corev1.SchemeGroupVersion.WithKind("Namespace")
	gvkSecret           = corev1.SchemeGroupVersion.WithKind("Secret")
)

// An objectID identifies a managed object of a gateway.
type objectID struct {
	gvk     schema.GroupVersionKind
	variant string
}

func (o *managedObject) id() objectID { return objectID{o.gvk, o.variant} }

var (
	idPublicKeys        = objectID{gvk: gvkConfigMap}
	idRefreshPublicKeys = objectID{gvk: gvkConfigMap, variant: "refresh"}
	idDeployment        = objectID{gvk: gvkDeployment}
	idAdminDeployment   = objectID{gvk: gvkDeployment, variant: variantAdmin}
)

// The variants of the objects that serve administrators.
const (
	variantAdmin  = "admin"
	variantViewer = "user-viewer"
	variantEditor = "user-editor"
)

// The objects that the reconciler treats specially. The Deployment waits for the objects that protect its pods.
var (
	objectPublicKeys        = publicKeysObject(idPublicKeys, renderPublicKeys)
	objectRefreshPublicKeys = publicKeysObject(idRefreshPublicKeys, renderRefreshPublicKeys)
	objectDeployment        = typedObject(gvkDeployment, always, renderDeployment, extractDeployment)
)

// managedObjects are in the order in which they are applied. The Deployment
// follows the objects without which its pods must not start; see apply.
var managedObjects = []*managedObject{
	objectPublicKeys,
	objectRefreshPublicKeys,
	typedObject(gvkServiceAccount, always, renderServiceAccount, accore.ExtractServiceAccount),
	typedObject(gvkService, always, renderService, accore.ExtractService),
	typedObject(gvkNetworkPolicy, wantsPolicy, renderNetworkPolicy, acnetworking.ExtractNetworkPolicy),
	typedObject(gvkDisruptionBudget, always, renderDisruptionBudget, acpolicy.ExtractPodDisruptionBudget),
	objectDeployment,
	adminObject(gvkRole, variantViewer, renderUserViewer, acrbac.ExtractRole),
	adminObject(gvkRole, variantEditor, renderUserEditor, acrbac.ExtractRole),
	adminObject(gvkServiceAccount, variantAdmin, renderAdminAccount, accore.ExtractServiceAccount),
	adminObject(gvkService, variantAdmin, renderAdminService, accore.ExtractService),
	withPolicy(adminObject(gvkNetworkPolicy, variantAdmin, renderAdminNetworkPolicy, acnetworking.ExtractNetworkPolicy)),
	adminObject(gvkDisruptionBudget, variantAdmin, renderAdminBudget, acpolicy.ExtractPodDisruptionBudget),
	adminObject(gvkDeployment, variantAdmin, renderAdminDeployment, extractDeployment),
	typedObject(gvkAutoscaler, func(g *v1alpha1.AuthGateway) bool { return g.Spec.Autoscaling != nil },
		renderAutoscaler, acautoscaling.ExtractHorizontalPodAutoscaler),
	typedObject(gvkIngress, func(g *v1alpha1.AuthGateway) bool { return g.Spec.Ingress != nil },
		renderIngress, acnetworking.ExtractIngress),
	untypedObject(gvkHTTPRoute, func(g *v1alpha1.AuthGateway) bool { return g.Spec.HTTPRoute != nil }, renderHTTPRoute),
	untypedObject(gvkServiceMonitor, func(g *v1alpha1.AuthGateway) bool { return g.Spec.Monitoring.ServiceMonitor != nil },
		renderServiceMonitor),
}

// name returns the name of the object of a gateway.
func (o *managedObject) name(n names) string {
	switch o.id() {
	case idPublicKeys:
		return n.publicKeys()
	case idRefreshPublicKeys:
		return n.refreshPublicKeys()
	}
	switch o.variant {
	case variantAdmin:
		return n.admin()
	case variantViewer:
		return n.userViewer()
	case variantEditor:
		return n.userEditor()
	}
	return n.workload()
}

func always(*v1alpha1.AuthGateway) bool { return true }

func wantsPolicy(g *v1alpha1.AuthGateway) bool {
	return g.Spec.NetworkPolicy.Enabled == nil || *g.Spec.NetworkPolicy.Enabled
}

func wantsAdmin(g *v1alpha1.AuthGateway) bool { return g.Spec.Admin.Enabled }

// typedObject returns the managedObject of a kind that has a Go type.
func typedObject[O any, P interface {
	*O
	client.Object
}, C runtime.ApplyConfiguration](
	gvk schema.GroupVersionKind, wanted func(*v1alpha1.AuthGateway) bool, render func(rendering) C,
	extract func(P, string) (C, error),
) *managedObject {
	return &managedObject{
		gvk: gvk, wantedBy: wanted,
		empty:   func() client.Object { return P(new(O)) },
		render:  func(r rendering) runtime.ApplyConfiguration { return render(r) },
		applied: func(o client.Object) (any, error) { return extract(o.(P), FieldManager) },
	}
}

// adminObject returns the managedObject of one that serves administrators.
func adminObject[O any, P interface {
	*O
	client.Object
}, C runtime.ApplyConfiguration](
	gvk schema.GroupVersionKind, variant string, render func(rendering) C, extract func(P, string) (C, error),
) *managedObject {
	o := typedObject(gvk, wantsAdmin, render, extract)
	o.variant = variant
	return o
}

func withPolicy(o *managedObject) *managedObject {
	o.wantedBy = func(g *v1alpha1.AuthGateway) bool { return wantsAdmin(g) && wantsPolicy(g) }
	return o
}

func publicKeysObject(
	id objectID, render func(rendering) *accore.ConfigMapApplyConfiguration,
) *managedObject {
	o := typedObject(id.gvk, always, render, accore.ExtractConfigMap)
	o.variant, o.ofKeys = id.variant, true
	return o
}

// untypedObject returns the managedObject of another project's custom resource. It has
// no Go type here, so that the operator does not depend on that project's module.
func untypedObject(
	gvk schema.GroupVersionKind, wanted func(*v1alpha1.AuthGateway) bool, render func(rendering) map[string]any,
) *managedObject {
	empty := func() *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(gvk)
		return u
	}
	return &managedObject{
		gvk: gvk, optional: true, wantedBy: wanted,
		empty: func() client.Object { return empty() },
		render: func(r rendering) runtime.ApplyConfiguration {
			u := empty()
			u.Object["metadata"] = render(r)["metadata"]
			u.Object["spec"] = render(r)["spec"]
			u.SetName(r.names.workload())
			u.SetNamespace(r.names.namespace)
			return client.ApplyConfigurationFromUnstructured(u)
		},
		applied: func(o client.Object) (any, error) {
			live, found := o.(*unstructured.Unstructured), empty()
			if err := managedfields.ExtractInto(live, typed.DeducedParseableType, FieldManager, found, ""); err != nil {
				return nil, fmt.Errorf("extract the applied fields of %s %s: %w", gvk.Kind, live.GetName(), err)
			}
			found.SetName(live.GetName())
			found.SetNamespace(live.GetNamespace())
			// ownerReferences is a list with keys. Only a schema names them, so the
			// deduced type does not extract the entry.
			if c := metav1.GetControllerOf(live); c != nil {
				found.SetOwnerReferences([]metav1.OwnerReference{{
					APIVersion: c.APIVersion, Kind: c.Kind, Name: c.Name, UID: c.UID, Controller: c.Controller,
				}})
			}
			return found, nil
		},
	}
}
