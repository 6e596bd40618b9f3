package controllers

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	acapps "k8s.io/client-go/applyconfigurations/apps/v1"
	acautoscaling "k8s.io/client-go/applyconfigurations/autoscaling/v2"
	accore "k8s.io/client-go/applyconfigurations/core/v1"
	acnetworking "k8s.io/client-go/applyconfigurations/networking/v1"
	acpolicy "k8s.io/client-go/applyconfigurations/policy/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// slot is a place for one object of a gateway, other than its Secrets. There is
// one of each kind.
type slot struct {
	kind     string
	gvk      schema.GroupVersionKind // of a kind that a cluster may not have
	nameIn   func(names) string
	wantedBy func(*v1alpha1.AuthGateway) bool
	empty    func() client.Object

	// render gives the apply configuration; it is pure.
	render func(rendering) runtime.ApplyConfiguration

	// applied gives what of a live object the operator has applied, and nobody
	// has changed since.
	applied func(client.Object) (any, error)
}

// The kinds that are looked for by name.
const (
	kindConfigMap  = "ConfigMap"
	kindDeployment = "Deployment"
)

// The slots, in the order in which they are applied: see doc.go.
var (
	slotPublicKeys = &slot{
		kind: kindConfigMap, nameIn: names.publicKeys, wantedBy: always,
		empty:   func() client.Object { return &corev1.ConfigMap{} },
		render:  func(r rendering) runtime.ApplyConfiguration { return renderPublicKeys(r) },
		applied: extract(accore.ExtractConfigMap),
	}
	slotServiceAccount = &slot{
		kind: "ServiceAccount", nameIn: names.workload, wantedBy: always,
		empty:   func() client.Object { return &corev1.ServiceAccount{} },
		render:  func(r rendering) runtime.ApplyConfiguration { return renderServiceAccount(r) },
		applied: extract(accore.ExtractServiceAccount),
	}
	slotService = &slot{
		kind: "Service", nameIn: names.workload, wantedBy: always,
		empty:   func() client.Object { return &corev1.Service{} },
		render:  func(r rendering) runtime.ApplyConfiguration { return renderService(r) },
		applied: extract(accore.ExtractService),
	}
	slotNetworkPolicy = &slot{
		kind: "NetworkPolicy", nameIn: names.workload,
		wantedBy: func(g *v1alpha1.AuthGateway) bool {
			return g.Spec.NetworkPolicy.Enabled == nil || *g.Spec.NetworkPolicy.Enabled
		},
		empty:   func() client.Object { return &networkingv1.NetworkPolicy{} },
		render:  func(r rendering) runtime.ApplyConfiguration { return renderNetworkPolicy(r) },
		applied: extract(acnetworking.ExtractNetworkPolicy),
	}
	slotDisruptionBudget = &slot{
		kind: "PodDisruptionBudget", nameIn: names.workload, wantedBy: always,
		empty:   func() client.Object { return &policyv1.PodDisruptionBudget{} },
		render:  func(r rendering) runtime.ApplyConfiguration { return renderDisruptionBudget(r) },
		applied: extract(acpolicy.ExtractPodDisruptionBudget),
	}
	slotDeployment = &slot{
		kind: kindDeployment, nameIn: names.workload, wantedBy: always,
		empty:   func() client.Object { return &appsv1.Deployment{} },
		render:  func(r rendering) runtime.ApplyConfiguration { return renderDeployment(r) },
		applied: extract(acapps.ExtractDeployment),
	}
	slotAutoscaler = &slot{
		kind: "HorizontalPodAutoscaler", nameIn: names.workload,
		wantedBy: func(g *v1alpha1.AuthGateway) bool { return g.Spec.Autoscaling != nil },
		empty:    func() client.Object { return &autoscalingv2.HorizontalPodAutoscaler{} },
		render:   func(r rendering) runtime.ApplyConfiguration { return renderAutoscaler(r) },
		applied:  extract(acautoscaling.ExtractHorizontalPodAutoscaler),
	}
	slotIngress = &slot{
		kind: "Ingress", nameIn: names.workload,
		wantedBy: func(g *v1alpha1.AuthGateway) bool { return g.Spec.Ingress != nil },
		empty:    func() client.Object { return &networkingv1.Ingress{} },
		render:   func(r rendering) runtime.ApplyConfiguration { return renderIngress(r) },
		applied:  extract(acnetworking.ExtractIngress),
	}
	slotHTTPRoute = foreign(schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "HTTPRoute"},
		func(g *v1alpha1.AuthGateway) bool { return g.Spec.HTTPRoute != nil }, renderHTTPRoute)
	slotServiceMonitor = foreign(schema.GroupVersionKind{Group: "monitoring.coreos.com", Version: "v1", Kind: "ServiceMonitor"},
		func(g *v1alpha1.AuthGateway) bool { return g.Spec.Monitoring.ServiceMonitor != nil }, renderServiceMonitor)

	slots = []*slot{
		slotPublicKeys, slotServiceAccount, slotService, slotNetworkPolicy, slotDisruptionBudget,
		slotDeployment, slotAutoscaler, slotIngress, slotHTTPRoute, slotServiceMonitor,
	}
)

func always(*v1alpha1.AuthGateway) bool { return true }

// extract makes one of client-go's Extract functions serve a slot.
func extract[T client.Object, C any](from func(T, string) (C, error)) func(client.Object) (any, error) {
	return func(o client.Object) (any, error) { return from(o.(T), FieldManager) }
}

// foreign is a slot of a kind that is a custom resource of others. Its objects
// have no types here, so that the operator needs none of their modules.
func foreign(gvk schema.GroupVersionKind, wanted func(*v1alpha1.AuthGateway) bool, render func(rendering) map[string]any) *slot {
	empty := func() *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(gvk)
		return u
	}
	return &slot{
		kind: gvk.Kind, gvk: gvk, nameIn: names.workload, wantedBy: wanted,
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
				return nil, fmt.Errorf("what was applied to %s %s: %w", gvk.Kind, live.GetName(), err)
			}
			found.SetName(live.GetName())
			found.SetNamespace(live.GetNamespace())
			// A reference to an owner is a list whose keys only a schema knows.
			if c := metav1.GetControllerOf(live); c != nil {
				found.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: c.APIVersion, Kind: c.Kind, Name: c.Name, UID: c.UID, Controller: c.Controller}})
			}
			return found, nil
		},
	}
}
