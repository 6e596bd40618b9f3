package v1alpha1_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	ac "github.com/auth-gateway/auth-gateway/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

// installed returns a CRD from the API server.
func installed(t *testing.T, plural string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	var crd apiextensionsv1.CustomResourceDefinition
	testenv.NoError(t, connect(t).Get(t.Context(), client.ObjectKey{Name: plural + ".authgateway.io"}, &crd))
	return &crd
}

// kubectl explain serves as the manual.
func TestEveryFieldIsExplained(t *testing.T) {
	t.Parallel()
	// Kubernetes documents these types.
	foreign := []string{
		"spec.resources", "spec.podTemplate.affinity", "spec.podTemplate.tolerations",
		"spec.podTemplate.topologySpreadConstraints",
		"spec.podTemplate.sidecars.resources", "spec.networkPolicy.from", "spec.publicKeys.allowedNamespaces",
		"status.conditions",
	}
	explained := 0
	var walk func(path string, schema apiextensionsv1.JSONSchemaProps)
	walk = func(path string, schema apiextensionsv1.JSONSchemaProps) {
		explained++
		if words := len(strings.Fields(schema.Description)); words < 2 {
			t.Errorf("%s has the description %q", path, schema.Description)
		}
		if slices.Contains(foreign, path) {
			return
		}
		if schema.Items != nil && schema.Items.Schema != nil {
			schema.Properties = schema.Items.Schema.Properties
		}
		for name, property := range schema.Properties {
			walk(path+"."+name, property)
		}
	}
	for _, plural := range []string{"authgateways", "publickeys"} {
		root := installed(t, plural).Spec.Versions[0].Schema.OpenAPIV3Schema
		for _, name := range []string{"spec", "status"} {
			walk(name, root.Properties[name])
		}
	}
	if explained < 100 {
		t.Errorf("only %d fields were found", explained)
	}
}

func TestKubectlGetShowsTheColumns(t *testing.T) {
	t.Parallel()
	c, namespace := connect(t), kubernetestest.Namespace(t)
	testenv.NoError(t, c.Create(t.Context(), gateway(t, namespace, "")))
	var g v1alpha1.AuthGateway
	testenv.NoError(t, c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "auth"}, &g))
	now := metav1.Now()
	next := metav1.NewTime(now.AddDate(0, 0, 30))
	g.Status = v1alpha1.AuthGatewayStatus{
		ReadyReplicas: 2, ReplicaSummary: "2/3",
		Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionKeysReady, Status: metav1.ConditionFalse, Reason: "Waiting", LastTransitionTime: now},
			{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, LastTransitionTime: now},
		},
		URL: "http://auth.shop.svc",
		Keys: &v1alpha1.KeysStatus{
			Access: []v1alpha1.KeyStatus{
				{KID: "old", Algorithm: "ES256", Phase: "Retiring", LastTransitionTime: now},
				{KID: kid, Algorithm: "ES256", Phase: "Signing", LastTransitionTime: now},
			},
			NextRotationTime: &next,
		},
	}
	testenv.NoError(t, c.Status().Update(t.Context(), &g))

	requests := testenv.Must(discovery.NewDiscoveryClientForConfig(kubernetestest.Config(t)))(t)
	text := testenv.Must(requests.RESTClient().Get().
		AbsPath("/apis/authgateway.io/v1alpha1/namespaces/"+namespace+"/authgateways").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Raw())(t)
	var table metav1.Table
	testenv.NoError(t, json.Unmarshal(text, &table))
	if len(table.Rows) != 1 {
		t.Fatalf("%d rows in the table", len(table.Rows))
	}
	var got, wide []string
	for i, column := range table.ColumnDefinitions {
		cell := fmt.Sprint(column.Name, ": ", table.Rows[0].Cells[i])
		if column.Name == "Age" {
			cell = column.Name
		}
		if column.Priority == 0 {
			got = append(got, cell)
		} else {
			wide = append(wide, cell)
		}
	}
	want := []string{"Name: auth", "Ready: True", "Status: Ready", "Replicas: 2/3", "Age"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kubectl get agw: want (-), got (+):\n%s", diff)
	}
	want = []string{"Key: " + kid, "Next rotation: " + next.UTC().Format(time.RFC3339), "URL: http://auth.shop.svc"}
	if diff := cmp.Diff(want, wide); diff != "" {
		t.Errorf("kubectl get agw -o wide, additional columns: want (-), got (+):\n%s", diff)
	}
}

func TestTheScaleSubresourceSetsReplicas(t *testing.T) {
	t.Parallel()
	c, namespace := connect(t), kubernetestest.Namespace(t)
	u := gateway(t, namespace, "")
	testenv.NoError(t, c.Create(t.Context(), u))
	var g v1alpha1.AuthGateway
	key := client.ObjectKeyFromObject(u)
	testenv.NoError(t, c.Get(t.Context(), key, &g))
	g.Status.Replicas, g.Status.Selector = 1, "app.kubernetes.io/instance=auth"
	testenv.NoError(t, c.Status().Update(t.Context(), &g))

	var scale autoscalingv1.Scale
	testenv.NoError(t, c.SubResource("scale").Get(t.Context(), &g, &scale))
	if scale.Spec.Replicas != 2 || scale.Status.Replicas != 1 || scale.Status.Selector != g.Status.Selector {
		t.Errorf("got %+v, %+v", scale.Spec, scale.Status)
	}
	scale.Spec.Replicas = 5
	testenv.NoError(t, c.SubResource("scale").Update(t.Context(), &g, client.WithSubResourceBody(&scale)))
	generation := g.Generation
	testenv.NoError(t, c.Get(t.Context(), key, &g))
	if *g.Spec.Replicas != 5 || g.Generation != generation+1 {
		t.Errorf("%d replicas in generation %d, after generation %d", *g.Spec.Replicas, g.Generation, generation)
	}

	testenv.NoError(t, c.SubResource("scale").Get(t.Context(), &g, &scale))
	scale.Spec.Replicas = 101
	err := c.SubResource("scale").Update(t.Context(), &g, client.WithSubResourceBody(&scale))
	refused(t, err, "spec.replicas", "less than or equal to 100")
}

func TestOnlyTheStatusSubresourceWritesTheStatus(t *testing.T) {
	t.Parallel()
	c, namespace := connect(t), kubernetestest.Namespace(t)
	u := gateway(t, namespace, "")
	u.Object["status"] = map[string]any{"url": "http://liar"}
	testenv.NoError(t, c.Create(t.Context(), u))
	var g v1alpha1.AuthGateway
	testenv.NoError(t, c.Get(t.Context(), client.ObjectKeyFromObject(u), &g))
	if g.Status.URL != "" {
		t.Errorf("create sets status.url: %s", g.Status.URL)
	}
	g.Status.URL, g.Spec.Suspend = "http://auth.shop.svc", true
	testenv.NoError(t, c.Status().Update(t.Context(), &g))
	if g.Status.URL == "" || g.Spec.Suspend || g.Generation != 1 {
		t.Errorf("the status was written: %+v", g)
	}
}

func TestServerSideApplyUsesTheGeneratedConfiguration(t *testing.T) {
	t.Parallel()
	c, namespace := connect(t), kubernetestest.Namespace(t)
	wanted := func(replicas int32) *ac.AuthGatewayApplyConfiguration {
		return ac.AuthGateway("auth", namespace).WithSpec(ac.AuthGatewaySpec().
			WithReplicas(replicas).
			WithAudiences("shop").
			WithDatabase(ac.Database().WithCloudNativePG(ac.CloudNativePG().WithCluster("pg"))))
	}
	type configuration = *ac.AuthGatewayApplyConfiguration
	apply := func(owner client.FieldOwner, wanted configuration, options ...client.ApplyOption) (v1alpha1.AuthGateway, error) {
		t.Helper()
		err := c.Apply(t.Context(), wanted, append(options, owner)...)
		var g v1alpha1.AuthGateway
		if getErr := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "auth"}, &g); getErr != nil {
			t.Fatal(getErr, err)
		}
		return g, err
	}

	first, err := apply("first", wanted(3))
	if err != nil {
		t.Fatal(err)
	}
	if s := first.Spec; *s.Replicas != 3 || s.Database.CloudNativePG.Cluster != "pg" || s.Exposure != v1alpha1.ExposureInternal {
		t.Errorf("got %+v", first.Spec)
	}
	// kstatus treats an object without observedGeneration as current.
	if first.Status.ObservedGeneration != -1 {
		t.Errorf("before the first reconcile observedGeneration is %d", first.Status.ObservedGeneration)
	}
	if first, err = apply("first", wanted(3)); err != nil { // this also stores that default
		t.Fatal(err)
	}
	same, err := apply("first", wanted(3))
	if err != nil || same.ResourceVersion != first.ResourceVersion {
		t.Errorf("applying the same configuration again is a write: %v", err)
	}
	extracted := testenv.Must(ac.ExtractAuthGateway(&first, "first"))(t)
	if diff := cmp.Diff(wanted(3), extracted); diff != "" {
		t.Errorf("applied (-), extracted (+):\n%s", diff)
	}

	// Sets and lists of two owners are merged; a value conflicts.
	second := ac.AuthGateway("auth", namespace).WithSpec(ac.AuthGatewaySpec().WithAudiences("till").WithReplicas(4))
	_, err = apply("second", second)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "first": .spec.replicas`) {
		t.Errorf("a value that another owner has set: %v", err)
	}
	both := testenv.Must(apply("second", second, client.ForceOwnership))(t)
	if *both.Spec.Replicas != 4 || !slices.Equal(both.Spec.Audiences, []string{"shop", "till"}) {
		t.Errorf("got %+v", both.Spec)
	}
	_, err = apply("second", second.WithSpec(second.Spec.WithReplicas(101)), client.ForceOwnership)
	refused(t, err, "spec.replicas", "less than or equal to 100")
}
