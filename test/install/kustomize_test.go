package install

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

// build does what `kubectl kustomize` does.
func build(t *testing.T, dir string) []*unstructured.Unstructured {
	t.Helper()
	options := krusty.MakeDefaultOptions()
	options.Reorder = krusty.ReorderOptionUnspecified // the default of kubectl
	resources := testenv.Must(krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), filepath.Join(root, dir)))(t)
	text := testenv.Must(resources.AsYaml())(t)
	return parse(t, text)
}

// overlay is the kustomization of docs/install.md. It sets the images of config/default.
const overlay = "test/install/testdata/kustomize"

func TestTheTestedKustomizationIsThatOfTheManual(t *testing.T) {
	tested := testenv.Must(os.ReadFile(filepath.Join(root, overlay, "kustomization.yaml")))(t)
	manual := testenv.Must(os.ReadFile(filepath.Join(root, "docs", "install.md")))(t)
	want := strings.Replace(string(tested), "../../../../config/default", "auth-gateway/config/default", 1)
	if !strings.Contains(string(manual), "```yaml\n"+want+"```\n") {
		t.Errorf("docs/install.md does not contain this kustomization:\n%s", want)
	}
}

// applyDefault applies config/default with images, and deletes the cluster-wide objects at the end of the test.
func (c cluster) applyDefault(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	objects := build(t, overlay)
	for _, o := range objects { // in the order of kubectl
		if err := c.apply(t.Context(), o); err != nil {
			t.Fatalf("the API server rejects %s: %v", nameOf(o), err)
		}
		if o.GetNamespace() == "" && o.GetKind() != "CustomResourceDefinition" && o.GetKind() != "Namespace" {
			t.Cleanup(func() {
				if err := c.Delete(context.WithoutCancel(t.Context()), o); err != nil {
					t.Error(err)
				}
			})
		}
	}
	return objects
}

func TestTheDefaultConfigurationCanBeApplied(t *testing.T) {
	c := connect(t)
	objects := c.applyDefault(t)
	const in = "auth-gateway-system"
	for _, o := range objects {
		if n := o.GetNamespace(); n != "" && n != in {
			t.Errorf("%s is not in %s", nameOf(o), in)
		}
		if !strings.HasPrefix(o.GetName(), "auth-gateway-") && o.GetKind() != "CustomResourceDefinition" {
			t.Errorf("%s lacks the prefix auth-gateway-", nameOf(o))
		}
	}
	enforced := one(t, objects, "Namespace")
	if enforced.GetName() != in || enforced.GetLabels()["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Errorf("%s has the labels %v", nameOf(enforced), enforced.GetLabels())
	}
	for _, pod := range pods(t, objects) {
		if err := c.admits(t, in, pod); err != nil {
			t.Errorf("the API server rejects the operator's pods: %v", err)
		}
	}
	checkWorkload(t, objects)

	other := kubernetestest.Namespace(t)
	c.hold(t, client.ObjectKey{Namespace: in, Name: "auth-gateway-controller-manager"}, []question{
		{verb: "list", resource: "secrets"},
		{verb: "patch", group: "apps", resource: "deployments", namespace: other},
		{verb: "patch", group: "authgateway.io", resource: "authgateways/status", namespace: other},
		{verb: "create", group: "coordination.k8s.io", resource: "leases", namespace: in},
		{verb: "update", group: "coordination.k8s.io", resource: "leases", namespace: in, name: "auth-gateway-operator"},
		{verb: "create", group: "authentication.k8s.io", resource: "tokenreviews"},
		{verb: "create", group: "authorization.k8s.io", resource: "subjectaccessreviews"},
	}, []question{
		{verb: "update", group: "coordination.k8s.io", resource: "leases", namespace: in, name: "of-another"},
		{verb: "create", group: "coordination.k8s.io", resource: "leases", namespace: other},
		{verb: "update", group: "authgateway.io", resource: "authgateways", namespace: other},
		{verb: "create", resource: "pods", namespace: other},
		{verb: "create", resource: "pods/exec", namespace: other},
		{verb: "create", resource: "serviceaccounts/token", namespace: other},
		{verb: "impersonate", resource: "users"},
		{verb: "create", group: "rbac.authorization.k8s.io", resource: "rolebindings", namespace: in},
		{verb: "update", resource: "namespaces", name: in},
	})
}

// The check of other tests is useless if it admits every pod.
func TestAPodThatIsNotRestrictedIsRejected(t *testing.T) {
	c := connect(t)
	namespace := kubernetestest.Namespace(t)
	good := pods(t, build(t, "config/default"))[0]
	testenv.NoError(t, c.admits(t, namespace, good))
	for name, spoil := range map[string]func(*corev1.Pod){
		"seccomp":      func(p *corev1.Pod) { p.Spec.SecurityContext.SeccompProfile = nil },
		"capabilities": func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext.Capabilities = nil },
		"root": func(p *corev1.Pod) {
			p.Spec.SecurityContext.RunAsNonRoot, p.Spec.Containers[0].SecurityContext.RunAsNonRoot = nil, nil
		},
		"escalation": func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = nil },
	} {
		bad := good.DeepCopy()
		spoil(bad)
		if err := c.admits(t, namespace, bad); err == nil || !strings.Contains(err.Error(), "restricted") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheConfigurationForMonitoringIsAccepted(t *testing.T) {
	const dir = "test/install/testdata/kustomize-monitoring"
	tested := testenv.Must(os.ReadFile(filepath.Join(root, dir, "kustomization.yaml")))(t)
	manual := testenv.Must(os.ReadFile(filepath.Join(root, "docs", "monitoring.md")))(t)
	want := strings.ReplaceAll(string(tested), "../../../../config", "auth-gateway/config")
	if !strings.Contains(string(manual), "```yaml\n"+want+"```\n") {
		t.Errorf("docs/monitoring.md does not contain this kustomization:\n%s", want)
	}
	objects := build(t, dir)
	text := testenv.Must(os.ReadFile(filepath.Join(root, "docs", "alerts.yaml")))(t)
	var rules map[string]any
	testenv.NoError(t, yaml.Unmarshal(text, &rules))
	if diff := cmp.Diff(rules, one(t, objects, "PrometheusRule").Object["spec"]); diff != "" {
		t.Errorf("the rules differ from docs/alerts.yaml:\n%s", diff)
	}
	checkDashboard(t, one(t, objects, "ConfigMap"))

	c := connect(t)
	installPrometheusKinds(t, c)
	namespace := kubernetestest.Namespace(t)
	for _, o := range objects {
		if o.GetNamespace() != "auth-gateway-system" {
			t.Errorf("%s is in the namespace %s", nameOf(o), o.GetNamespace())
		}
		o.SetNamespace(namespace)
		c.accepts(t, o)
	}
}

// checkDashboard checks that a ConfigMap has docs/dashboard.json, and the label that Grafana's sidecar looks for.
func checkDashboard(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	dashboard := testenv.Must(os.ReadFile(filepath.Join(root, "docs", "dashboard.json")))(t)
	got := fmt.Sprint(o.Object["data"].(map[string]any)["auth-gateway.json"])
	if strings.TrimSpace(got) != strings.TrimSpace(string(dashboard)) {
		t.Error("the ConfigMap differs from docs/dashboard.json")
	}
	if got := o.GetLabels()["grafana_dashboard"]; got != "1" {
		t.Errorf("the label grafana_dashboard is %q", got)
	}
}

// installPrometheusKinds installs the CRDs of the Prometheus operator.
func installPrometheusKinds(t *testing.T, c cluster) {
	t.Helper()
	options := envtest.CRDInstallOptions{Paths: []string{"testdata/prometheus-operator.yaml"}, ErrorIfPathMissing: true}
	testenv.NoError(t, testenv.Err(envtest.InstallCRDs(c.config, options)))
}

func TestEverySampleIsAccepted(t *testing.T) {
	c := connect(t)
	namespace := kubernetestest.Namespace(t)
	samples := build(t, "config/samples")
	files := testenv.Must(filepath.Glob(filepath.Join(root, "config", "samples", "v1alpha1_*.yaml")))(t)
	if len(samples) != len(files) {
		t.Errorf("config/samples/kustomization.yaml lists %d samples, there are %d files", len(samples), len(files))
	}
	seen := map[string]bool{}
	for _, sample := range samples {
		if sample.GetAPIVersion() != v1alpha1.GroupVersion.String() || sample.GetNamespace() != "" {
			t.Errorf("%s: a sample must be an AuthGateway or a PublicKeys without a namespace", nameOf(sample))
		}
		sample.SetNamespace(namespace)
		c.accepts(t, sample)
		collectPaths(sample.GetKind(), sample.Object["spec"], seen)
	}
	for _, field := range append(fields("AuthGateway", reflect.TypeFor[v1alpha1.AuthGatewaySpec]()),
		fields("PublicKeys", reflect.TypeFor[v1alpha1.PublicKeysSpec]())...) {
		if !seen[field] {
			t.Errorf("no sample sets %s", field)
		}
	}
}

// collectPaths records the paths of the fields in an object.
func collectPaths(path string, value any, seen map[string]bool) {
	seen[path] = true
	switch value := value.(type) {
	case map[string]any:
		for key, v := range value {
			collectPaths(path+"."+key, v, seen)
		}
	case []any:
		for _, v := range value {
			collectPaths(path, v, seen)
		}
	}
}

// fields returns the paths of the fields in a type.
func fields(path string, of reflect.Type) []string {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
		of = of.Elem()
	}
	all := []string{path}
	if of.Kind() != reflect.Struct || of.PkgPath() != reflect.TypeFor[v1alpha1.AuthGateway]().PkgPath() {
		return all
	}
	for field := range of.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		all = append(all, fields(path+"."+name, field.Type)...)
	}
	return all
}

// Users start from this sample.
func TestTheSmallestSampleHasOnlyRequiredFields(t *testing.T) {
	c := connect(t)
	namespace := kubernetestest.Namespace(t)
	smallest := one(t, readObjects(t, filepath.Join(root, "config", "samples", "v1alpha1_authgateway.yaml")), "AuthGateway")
	smallest.SetNamespace(namespace)
	database, _, err := unstructured.NestedMap(smallest.Object, "spec", "database")
	if err != nil || len(database) == 0 {
		t.Fatalf("%v, %v", database, err)
	}
	for field := range database {
		less := smallest.DeepCopy()
		unstructured.RemoveNestedField(less.Object, "spec", "database", field)
		if err := c.apply(t.Context(), less, client.DryRunAll); err == nil {
			t.Errorf("the API server accepts it without spec.database.%s", field)
		}
	}
}

// config/ and the chart install the same version.
func TestVersionsAreTheSame(t *testing.T) {
	about := chart(t).about(t)
	unnamed := pods(t, build(t, "config/default"))[0].Spec.Containers[0]
	if want := "registry.invalid/auth-gateway/operator:" + about.AppVersion; unnamed.Image != want || unnamed.Args[0] != "--server-image=" {
		t.Errorf("config/default has the image %s and the arguments %v", unnamed.Image, unnamed.Args)
	}
	deployment := pods(t, build(t, overlay))[0].Spec.Containers[0]
	if want := "registry.example.com/auth-gateway/operator:" + about.AppVersion; deployment.Image != want {
		t.Errorf("config/manager has the image %s, the chart %s", deployment.Image, want)
	}
	want := "--server-image=registry.example.com/auth-gateway/authserver:" + about.AppVersion
	if len(deployment.Args) == 0 || deployment.Args[0] != want {
		t.Errorf("config/manager has the arguments %v, the chart %s", deployment.Args, want)
	}
}

func TestTheProjectFileIsUpToDate(t *testing.T) {
	text := testenv.Must(os.ReadFile(filepath.Join(root, "PROJECT")))(t)
	project := parse(t, append([]byte("apiVersion: v1\nkind: PROJECT\n"), text...))[0].Object
	definitions, resources := kind(build(t, "config/crd"), "CustomResourceDefinition"), project["resources"].([]any)
	if len(resources) != len(definitions) {
		t.Fatalf("PROJECT has %d resources, config/crd has %d", len(resources), len(definitions))
	}
	for i, definition := range definitions {
		crd, resource := as[apiextensionsv1.CustomResourceDefinition](t, definition), resources[i].(map[string]any)
		for key, want := range map[string]any{
			"domain": crd.Spec.Group, "group": nil, "kind": crd.Spec.Names.Kind, "version": crd.Spec.Versions[0].Name,
			"path": reflect.TypeFor[v1alpha1.AuthGateway]().PkgPath(), "controller": true,
		} {
			if resource[key] != want {
				t.Errorf("PROJECT: %s is %v, want %v", key, resource[key], want)
			}
		}
	}
	if project["domain"] != v1alpha1.GroupVersion.Group || project["version"] != "3" {
		t.Errorf("PROJECT: %v", project)
	}
}
