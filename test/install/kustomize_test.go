package install

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

// build is `kubectl kustomize`.
func build(t *testing.T, dir string) []*unstructured.Unstructured {
	t.Helper()
	options := krusty.MakeDefaultOptions()
	options.Reorder = krusty.ReorderOptionUnspecified // as where nobody says anything
	resources, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), filepath.Join(root, dir))
	if err != nil {
		t.Fatal(err)
	}
	text, err := resources.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

// overlay is a kustomization over config/default that names the images, as
// docs/install.md has it.
const overlay = "test/install/testdata/kustomize"

func TestTheKustomizationOfTheManualIsTheOneThatIsTested(t *testing.T) {
	tested, err := os.ReadFile(filepath.Join(root, overlay, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	manual, err := os.ReadFile(filepath.Join(root, "docs", "install.md"))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(string(tested), "../../../../config/default", "auth-gateway/config/default", 1)
	if !strings.Contains(string(manual), "```yaml\n"+want+"```\n") {
		t.Errorf("docs/install.md has another kustomization than\n%s", want)
	}
}

// applyDefault applies config/default with images, and takes away what is of the cluster when
// the test is done.
func (c cluster) applyDefault(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	objects := build(t, overlay)
	for _, o := range objects { // in the order in which kubectl gets them
		if err := c.apply(t.Context(), o); err != nil {
			t.Fatalf("%s is refused: %v", nameOf(o), err)
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
			t.Errorf("%s does not say whose it is", nameOf(o))
		}
	}
	enforced := one(t, objects, "Namespace")
	if enforced.GetName() != in || enforced.GetLabels()["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Errorf("%s has the labels %v", nameOf(enforced), enforced.GetLabels())
	}
	for _, pod := range pods(t, objects) {
		if err := c.admits(t, in, pod); err != nil {
			t.Errorf("the operator's pods are refused: %v", err)
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

// A check that lets everything pass is none.
func TestAPodThatIsNotRestrictedIsRefused(t *testing.T) {
	c := connect(t)
	namespace := kubernetestest.Namespace(t)
	good := pods(t, build(t, "config/default"))[0]
	if err := c.admits(t, namespace, good); err != nil {
		t.Fatal(err)
	}
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

func TestTheConfigurationForPrometheusIsAccepted(t *testing.T) {
	c := connect(t)
	installPrometheusKinds(t, c)
	namespace := kubernetestest.Namespace(t)
	for _, o := range build(t, "config/prometheus") {
		o.SetNamespace(namespace)
		c.accepts(t, o)
	}
}

// installPrometheusKinds installs the kinds of the Prometheus operator.
func installPrometheusKinds(t *testing.T, c cluster) {
	t.Helper()
	_, err := envtest.InstallCRDs(c.config, envtest.CRDInstallOptions{Paths: []string{"testdata/prometheus-operator.yaml"}, ErrorIfPathMissing: true})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEverySampleIsAccepted(t *testing.T) {
	c := connect(t)
	namespace := kubernetestest.Namespace(t)
	samples := build(t, "config/samples")
	files, err := filepath.Glob(filepath.Join(root, "config", "samples", "v1alpha1_*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(samples) != len(files) {
		t.Errorf("config/samples/kustomization.yaml lists %d samples, there are %d files", len(samples), len(files))
	}
	told := map[string]bool{}
	for _, sample := range samples {
		if sample.GetKind() != "AuthGateway" || sample.GetNamespace() != "" {
			t.Errorf("%s: a sample is an AuthGateway, for any namespace", nameOf(sample))
		}
		sample.SetNamespace(namespace)
		c.accepts(t, sample)
		tell("spec", sample.Object["spec"], told)
	}
	for _, field := range fields("spec", reflect.TypeFor[v1alpha1.AuthGatewaySpec]()) {
		if !told[field] {
			t.Errorf("no sample shows %s", field)
		}
	}
}

// tell notes the paths that an object has.
func tell(path string, value any, told map[string]bool) {
	told[path] = true
	switch value := value.(type) {
	case map[string]any:
		for key, v := range value {
			tell(path+"."+key, v, told)
		}
	case []any:
		for _, v := range value {
			tell(path, v, told)
		}
	}
}

// fields are the paths that a type of ours has.
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

// It is what everybody starts from.
func TestTheSmallestSampleIsTheSmallest(t *testing.T) {
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
			t.Errorf("it is accepted without spec.database.%s too", field)
		}
	}
}

// The operator of config/ is of the version of the chart.
func TestAllNameOneVersion(t *testing.T) {
	about := chart(t).about(t)
	unnamed := pods(t, build(t, "config/default"))[0].Spec.Containers[0]
	if want := "registry.invalid/auth-gateway/operator:" + about.AppVersion; unnamed.Image != want || unnamed.Args[0] != "--server-image=" {
		t.Errorf("config/default has the image %s and the arguments %v", unnamed.Image, unnamed.Args)
	}
	deployment := pods(t, build(t, overlay))[0].Spec.Containers[0]
	if want := "registry.example.com/auth-gateway/operator:" + about.AppVersion; deployment.Image != want {
		t.Errorf("config/manager has the image %s, the chart %s", deployment.Image, want)
	}
	if want := "--server-image=registry.example.com/auth-gateway/authserver:" + about.AppVersion; len(deployment.Args) == 0 || deployment.Args[0] != want {
		t.Errorf("config/manager has the arguments %v, the chart %s", deployment.Args, want)
	}
}

func TestTheProjectFileTellsWhatThereIs(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "PROJECT"))
	if err != nil {
		t.Fatal(err)
	}
	project := parse(t, append([]byte("apiVersion: v1\nkind: PROJECT\n"), text...))[0].Object
	crd := as[apiextensionsv1.CustomResourceDefinition](t, one(t, build(t, "config/crd"), "CustomResourceDefinition"))
	resource := project["resources"].([]any)[0].(map[string]any)
	for key, want := range map[string]any{
		"domain": crd.Spec.Group, "group": nil, "kind": crd.Spec.Names.Kind, "version": crd.Spec.Versions[0].Name,
		"path": reflect.TypeFor[v1alpha1.AuthGateway]().PkgPath(), "controller": true,
	} {
		if resource[key] != want {
			t.Errorf("PROJECT: %s is %v, want %v", key, resource[key], want)
		}
	}
	if project["domain"] != v1alpha1.GroupVersion.Group || project["version"] != "3" {
		t.Errorf("PROJECT: %v", project)
	}
}
