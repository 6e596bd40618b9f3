package v1alpha1_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

// publicKeys returns a PublicKeys with a spec.
func publicKeys(t *testing.T, namespace, name, spec string) *unstructured.Unstructured {
	t.Helper()
	u := object(t, "{apiVersion: authgateway.io/v1alpha1, kind: PublicKeys, spec: "+spec+"}")
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

func TestPublicKeysThatAreInvalidAreRefused(t *testing.T) {
	t.Parallel()
	c, namespace := connect(t), kubernetestest.Namespace(t)
	const valid = `{gatewayRef: {namespace: shop, name: auth}}`
	for _, is := range []struct{ what, name, spec, field, says string }{
		{"no gateway", "a", `{}`, "spec.gatewayRef", "Required value"},
		{"no namespace", "a", `{gatewayRef: {name: auth}}`, "spec.gatewayRef.namespace", "Required value"},
		{"no name", "a", `{gatewayRef: {namespace: shop}}`, "spec.gatewayRef.name", "Required value"},
		{"an empty namespace", "a", `{gatewayRef: {namespace: "", name: auth}}`, "spec.gatewayRef.namespace", "at least 1 chars"},
		{"an invalid namespace", "a", `{gatewayRef: {namespace: a.b, name: auth}}`, "spec.gatewayRef.namespace", "write lower-case letters"},
		{"an invalid name", "a", `{gatewayRef: {namespace: shop, name: shop/auth}}`, "spec.gatewayRef.name", "the name of an AuthGateway"},
		{"a name that is too long", strings.Repeat("a", 64), valid, "<nil>", "at most 63"},
		{"a name with a dot", "a.b", valid, "<nil>", "lower-case letters, digits and dashes"},
	} {
		t.Run(is.what, func(t *testing.T) {
			t.Parallel()
			refused(t, c.Create(t.Context(), publicKeys(t, namespace, is.name, is.spec)), is.field, is.says)
		})
	}
	testenv.NoError(t, c.Create(t.Context(), publicKeys(t, namespace, strings.Repeat("a", 63), valid)))
	selectors := `publicKeys: {allowedNamespaces: {matchLabels: {a: b}, matchExpressions: [{key: c, operator: Exists}]}}`
	testenv.NoError(t, c.Create(t.Context(), gateway(t, namespace, selectors)))
}

func TestPublicKeysHaveTheirColumns(t *testing.T) {
	t.Parallel()
	c, namespace := connect(t), kubernetestest.Namespace(t)
	testenv.NoError(t, c.Create(t.Context(), publicKeys(t, namespace, "auth", `{gatewayRef: {namespace: shop, name: login}}`)))
	var k v1alpha1.PublicKeys
	testenv.NoError(t, c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "auth"}, &k))
	if k.Status.ObservedGeneration != -1 { // kstatus treats an object without observedGeneration as current
		t.Errorf("before the first reconcile observedGeneration is %d", k.Status.ObservedGeneration)
	}
	k.Status = v1alpha1.PublicKeysStatus{
		ConfigMapRef: &v1alpha1.LocalReference{Name: "auth-public-keys"}, KeysGeneration: 7,
		Conditions: []metav1.Condition{
			{Type: "Ready", Status: metav1.ConditionFalse, Reason: "NotAllowed", LastTransitionTime: metav1.Now()},
		},
	}
	testenv.NoError(t, c.Status().Update(t.Context(), &k))
	requests := testenv.Must(discovery.NewDiscoveryClientForConfig(kubernetestest.Config(t)))(t)
	text := testenv.Must(requests.RESTClient().Get().
		AbsPath("/apis/authgateway.io/v1alpha1/namespaces/"+namespace+"/publickeys").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Raw())(t)
	var table metav1.Table
	testenv.NoError(t, json.Unmarshal(text, &table))
	var got []string
	for i, column := range table.ColumnDefinitions {
		if column.Name != "Age" {
			got = append(got, fmt.Sprint(column.Name, ": ", table.Rows[0].Cells[i]))
		}
	}
	want := []string{
		"Name: auth", "Ready: False", "Status: NotAllowed", "Gateway namespace: shop", "Gateway: login",
		"ConfigMap: auth-public-keys", "Generation: 7",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	if names := installed(t, "publickeys").Spec.Names; names.ShortNames[0] != "agpk" || len(names.Categories) > 0 {
		t.Errorf("the names are %+v", names)
	}
}
