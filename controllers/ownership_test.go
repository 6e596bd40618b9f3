package controllers_test

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// A backup tool restores objects under its own field manager, in one of these ways.
// A field that the spec drops afterwards is removed nevertheless.
func TestRestoredObjectLosesWhatTheSpecDrops(t *testing.T) {
	t.Parallel()
	tool := client.FieldOwner("a-restore")
	for what, restore := range map[string]func(*env, *appsv1.Deployment) error{
		"created": func(e *env, d *appsv1.Deployment) error { return e.client.Create(e.t.Context(), d, tool) },
		"applied": func(e *env, d *appsv1.Deployment) error {
			m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(d)
			if err != nil {
				return err
			}
			u := &unstructured.Unstructured{Object: m}
			u.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind("Deployment"))
			unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
			unstructured.RemoveNestedField(u.Object, "spec", "template", "metadata", "creationTimestamp")
			unstructured.RemoveNestedField(u.Object, "status")
			return e.client.Apply(e.t.Context(), client.ApplyConfigurationFromUnstructured(u), tool)
		},
		"of no manager": func(e *env, d *appsv1.Deployment) error {
			if err := e.client.Create(e.t.Context(), d, tool); err != nil {
				return err
			}
			return e.client.Patch(e.t.Context(), d, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"managedFields":[{}]}}`)), tool)
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			e := directEnv(t)
			stop := e.startOperator()
			g := smallest("auth")
			g.Spec.TrustedProxyHops = 2
			g.Spec.PodTemplate = &v1alpha1.PodTemplate{
				Sidecars: []v1alpha1.Sidecar{{Name: "proxy", Image: "registry.example.com/proxy:1"}}, PriorityClassName: "system-cluster-critical",
			}
			e.create(credentials("auth-db"), g)
			backup := e.made("auth")
			stop()
			e.remove(backup.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground))
			backup.ResourceVersion, backup.UID, backup.ManagedFields = "", "", nil
			testenv.NoError(t, restore(e, backup))
			e.change("auth", func(g *v1alpha1.AuthGateway) { g.Spec.TrustedProxyHops, g.Spec.PodTemplate = 0, nil })
			e.startOperator()
			e.eventually("the Deployment is as the spec says", func() error {
				d := e.deployment("auth")
				if hops, there := variables(d)["TRUSTED_PROXY_HOPS"]; there || len(pod(d).Containers) != 1 || pod(d).PriorityClassName != "" {
					return fmt.Errorf("TRUSTED_PROXY_HOPS is %q, there are %d containers, priority %q", hops,
						len(pod(d).Containers), pod(d).PriorityClassName)
				}
				return nil
			})
			e.rollOut("auth")
			e.shows("auth", "Ready True Ready")
			e.secondPassWritesNothing("auth")
		})
	}
}

// Anyone can write names and labels. The operator deletes only objects whose owner reference names this gateway.
func TestDeletionIsOfOwnObjectsOnly(t *testing.T) {
	t.Parallel()
	e := newDirectEnv(t)
	other := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	e.create(credentials("auth-db"), other)
	e.ready(smallest("ours"))
	e.change("ours", func(g *v1alpha1.AuthGateway) { g.Spec.NetworkPolicy.Enabled = new(false) })
	e.gone("ours", &networkingv1.NetworkPolicy{})
	e.secondPassWritesNothing("ours")
	for name, owners := range map[string][]metav1.OwnerReference{
		"ours":    nil, // another writer creates one in the place of that which was deleted
		"nobodys": nil, "anothers": {{APIVersion: "v1", Kind: "ConfigMap", Name: "other", UID: other.UID, Controller: new(true)}},
	} {
		policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners, Labels: map[string]string{
			"app.kubernetes.io/name": "authserver", "app.kubernetes.io/instance": name, "app.kubernetes.io/managed-by": "auth-gateway-operator",
		}}}
		e.create(policy)
		if name != "ours" {
			g := smallest(name)
			g.Spec.NetworkPolicy.Enabled = new(false)
			e.ready(g)
		}
		e.nudge(name)
		e.rest()
		if is := get(e, name, &networkingv1.NetworkPolicy{}); is.DeletionTimestamp != nil || is.UID != policy.UID {
			t.Errorf("the NetworkPolicy is %+v", is.ObjectMeta)
		}
		e.shows(name, "Ready True Ready")
	}
}
