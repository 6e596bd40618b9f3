package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

// release is a Helm release in the API server.
type release struct {
	aChart
	name, namespace string
}

// do runs helm install, upgrade or uninstall for the release. It does not wait, because no pods run here.
func (r release) do(t *testing.T, command, values string, more ...string) (string, error) {
	t.Helper()
	args := []string{command, r.name, "--namespace", r.namespace}
	if command != "uninstall" {
		args = append(args, r.dir, "--wait=false", "--values", r.file(t, images), "--values", r.file(t, values))
	}
	return r.try(t, append(args, more...)...)
}

func (r release) must(t *testing.T, command, values string, more ...string) string {
	t.Helper()
	out := testenv.Must(r.do(t, command, values, more...))(t)
	return out
}

// objects returns the objects of the release.
func (r release) objects(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	return parse(t, []byte(r.run(t, "get", "manifest", r.name, "--namespace", r.namespace)))
}

// column is the part of the custom resource definition that its older version lacks in these tests.
const column = "    - description: The URL of the API inside the cluster\n      jsonPath: .status.url\n      name: URL\n" +
	"      priority: 1\n      type: string\n"

// older returns an older version of the chart.
func (c aChart) older(t *testing.T) aChart {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "auth-gateway")
	testenv.NoError(t, os.CopyFS(dir, os.DirFS(c.dir)))
	testenv.NoError(t, os.Remove(filepath.Join(dir, "templates", "crd-publickeys.yaml"))) // it had no PublicKeys
	now := c.about(t)
	for file, change := range map[string][2]string{
		"Chart.yaml":                      {now.Version, "0.0.9"},
		"templates/crd-authgateways.yaml": {column, ""},
	} {
		path := filepath.Join(dir, file)
		text := testenv.Must(os.ReadFile(path))(t)
		changed := strings.ReplaceAll(string(text), change[0], change[1])
		if changed == string(text) {
			t.Fatalf("%s has no %q", file, change[0])
		}
		testenv.NoError(t, os.WriteFile(path, []byte(changed), 0o600))
	}
	c.dir = dir
	return c
}

// hasColumn reports whether the installed definition has the column.
func (c cluster) hasColumn(t *testing.T) bool {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	testenv.NoError(t, c.Get(t.Context(), client.ObjectKey{Name: crdName}, crd))
	isURL := func(column apiextensionsv1.CustomResourceColumnDefinition) bool { return column.Name == "URL" }
	return slices.ContainsFunc(crd.Spec.Versions[0].AdditionalPrinterColumns, isURL)
}

// hasGone checks that only the custom resource definition of a release remains.
func (c cluster) hasGone(t *testing.T, objects []*unstructured.Unstructured, r release) {
	t.Helper()
	for _, o := range objects {
		kept := o.GetKind() == "CustomResourceDefinition"
		if there := c.exists(t, o); there != kept {
			t.Errorf("after the release was uninstalled, %s exists: %v", nameOf(o), there)
		}
	}
	var records corev1.SecretList
	testenv.NoError(t, c.List(t.Context(), &records, client.InNamespace(r.namespace)))
	if len(records.Items) != 0 {
		t.Errorf("there are still %d Secrets", len(records.Items))
	}
}

// gateway creates an AuthGateway.
func (c cluster) gateway(t *testing.T, namespace string) *v1alpha1.AuthGateway {
	t.Helper()
	g := &v1alpha1.AuthGateway{
		ObjectMeta: metav1.ObjectMeta{Name: "auth", Namespace: namespace},
		Spec: v1alpha1.AuthGatewaySpec{Database: v1alpha1.Database{
			Host: "postgres", Name: "auth", CredentialsSecretRef: &v1alpha1.LocalReference{Name: "auth-db"},
		}},
	}
	// The API server serves a custom resource shortly after its definition is created.
	testenv.Eventually(t, time.Minute, "the AuthGateway is created", func() error { return c.Create(t.Context(), g) })
	return g
}

// isStill checks that an AuthGateway has not been deleted or replaced.
func (c cluster) isStill(t *testing.T, g *v1alpha1.AuthGateway, when string) {
	t.Helper()
	now := &v1alpha1.AuthGateway{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(g), now); err != nil || now.UID != g.UID || now.DeletionTimestamp != nil {
		t.Errorf("%s, the AuthGateway is %v, %v", when, now.ObjectMeta, err)
	}
}

func (c cluster) operator(t *testing.T, r release) (*appsv1.Deployment, error) {
	t.Helper()
	d := &appsv1.Deployment{}
	return d, c.Get(t.Context(), client.ObjectKey{Namespace: r.namespace, Name: "auth-gateway-operator"}, d)
}

func TestAReleaseIsInstalledUpgradedAndUninstalled(t *testing.T) {
	now := chart(t)
	c := now.cluster
	c.removeCRDs(t, crdName, crdCopy)
	shop, elsewhere := kubernetestest.Namespace(t), kubernetestest.Namespace(t)
	r := release{now.older(t), "auth-gateway", kubernetestest.Namespace(t)}
	account := client.ObjectKey{Namespace: r.namespace, Name: "auth-gateway-operator"}

	// Install.
	notes := r.must(t, "install", "")
	if !strings.Contains(notes, "in all namespaces") || !strings.Contains(notes, "rollout status deployment auth-gateway-operator") {
		t.Errorf("the notes are\n%s", notes)
	}
	if c.hasColumn(t) {
		t.Fatal("the older custom resource definition has the new column")
	}
	d, err := c.operator(t, r)
	if err != nil {
		t.Fatal(err)
	}
	has(t, d.Spec.Template.Spec.Containers[0].Args, "--server-image=registry.example.com/auth-gateway/authserver:0.0.9")
	g := c.gateway(t, shop)
	c.hold(t, account, []question{
		{verb: "list", resource: "secrets"},
		{verb: "create", group: "authentication.k8s.io", resource: "tokenreviews"},
		{verb: "update", group: "coordination.k8s.io", resource: "leases", namespace: r.namespace, name: "auth-gateway-operator"},
	}, []question{
		{verb: "delete", group: "authgateway.io", resource: "authgateways", namespace: shop},
		{verb: "create", resource: "pods/exec", namespace: shop},
	})

	// Upgrade, with other values.
	r.aChart = now
	notes = r.must(t, "upgrade", "{watchNamespaces: ["+shop+"], replicas: 3, metrics: {enabled: false}}")
	if !strings.Contains(notes, "in "+shop+", and has rights only there") || !strings.Contains(notes, "namespace: "+shop) {
		t.Errorf("the notes are\n%s", notes)
	}
	if !c.hasColumn(t) {
		t.Error("the custom resource definition was not upgraded")
	}
	c.isStill(t, g, "after an upgrade")
	if d, err = c.operator(t, r); err != nil || *d.Spec.Replicas != 3 {
		t.Errorf("the operator is %v, %v", d.Spec.Replicas, err)
	}
	has(t, d.Spec.Template.Spec.Containers[0].Args, "--namespaces="+shop,
		"--server-image=registry.example.com/auth-gateway/authserver:"+now.about(t).AppVersion)
	c.hold(t, account, []question{{verb: "list", resource: "secrets", namespace: shop}}, []question{
		{verb: "list", resource: "secrets"},
		{verb: "get", resource: "secrets", namespace: elsewhere},
		{verb: "get", resource: "secrets", namespace: r.namespace},
		{verb: "create", group: "authentication.k8s.io", resource: "tokenreviews"},
	})

	// The custom resource definition leaves the release and joins it again.
	r.must(t, "upgrade", "crds: {install: false}")
	c.isStill(t, g, "after crds.install was set to false")
	r.must(t, "upgrade", "")
	c.isStill(t, g, "after crds.install was set to true")

	// Uninstall.
	objects := r.objects(t)
	r.must(t, "uninstall", "")
	c.hasGone(t, objects, r)
	c.isStill(t, g, "after the release was uninstalled")

	// The same release adopts the custom resource definition.
	r.must(t, "install", "")
	c.isStill(t, g, "after the release was installed again")
	r.must(t, "uninstall", "")

	// A release with another name adopts it only on request.
	other := release{now, "another", kubernetestest.Namespace(t)}
	if _, err := other.do(t, "install", ""); err == nil || !strings.Contains(err.Error(), crdName) {
		t.Errorf("another release adopts the custom resource definition without a request: %v", err)
	}
	other.must(t, "install", "", "--take-ownership")
	c.isStill(t, g, "after another release adopted the custom resource definition")
	objects = other.objects(t)
	other.must(t, "uninstall", "")
	c.hasGone(t, objects, other)
	c.isStill(t, g, "in the end")
}

func TestReleasesInTwoNamespacesAreIndependent(t *testing.T) {
	ch := chart(t)
	c := ch.cluster
	c.removeCRDs(t, crdName, crdCopy)
	shop, orders := kubernetestest.Namespace(t), kubernetestest.Namespace(t)
	// Two releases with the same name collide first at the custom resource definition.
	first := release{ch, "auth-gateway", kubernetestest.Namespace(t)}
	second := release{ch, "auth-gateway", kubernetestest.Namespace(t)}
	first.must(t, "install", "watchNamespaces: ["+shop+"]")
	c.gateway(t, shop)
	if _, err := second.do(t, "install", "watchNamespaces: ["+orders+"]"); err == nil || !strings.Contains(err.Error(), crdName) {
		t.Errorf("both releases own the custom resource definition: %v", err)
	}
	// Helm records the failed release.
	if _, err := second.do(t, "uninstall", ""); err != nil && !strings.Contains(err.Error(), "not found") {
		t.Fatal(err)
	}
	notes := second.must(t, "install", "{watchNamespaces: ["+orders+"], crds: {install: false}}")
	if !strings.Contains(notes, "kubectl get crd "+crdName) {
		t.Errorf("the notes are\n%s", notes)
	}
	for _, test := range []struct{ operator, its, notIts string }{{first.namespace, shop, orders}, {second.namespace, orders, shop}} {
		c.hold(t, client.ObjectKey{Namespace: test.operator, Name: "auth-gateway-operator"}, []question{
			{verb: "list", resource: "secrets", namespace: test.its},
			{verb: "patch", group: "authgateway.io", resource: "authgateways/status", namespace: test.its},
			{verb: "create", group: "authorization.k8s.io", resource: "subjectaccessreviews"},
		}, []question{
			{verb: "get", resource: "secrets", namespace: test.notIts},
			{verb: "get", group: "authgateway.io", resource: "authgateways", namespace: test.notIts},
		})
	}

	// A third release that would share the lease of the first one is rejected.
	third := release{ch, "third", first.namespace}
	_, err := third.do(t, "install", "{watchNamespaces: ["+orders+"], crds: {install: false}}")
	if err == nil || !strings.Contains(err.Error(), "auth-gateway-operator-lease") {
		t.Errorf("two releases in one namespace share one lease: %v", err)
	}

	// Uninstalling one release does not affect the other.
	goes, stays := second.objects(t), first.objects(t)
	second.must(t, "uninstall", "")
	c.hasGone(t, goes, second)
	for _, o := range stays {
		if !c.exists(t, o) {
			t.Errorf("%s was deleted with the other release", nameOf(o))
		}
	}
	first.must(t, "uninstall", "")
	c.hasGone(t, stays, first)
}

func TestAMissingNamespaceIsReported(t *testing.T) {
	ch := chart(t)
	r := release{ch, "auth-gateway", kubernetestest.Namespace(t)}
	_, err := r.do(t, "install", "{watchNamespaces: [nowhere], crds: {install: false}}", "--atomic=false")
	if err == nil || !strings.Contains(err.Error(), `namespaces "nowhere" not found`) {
		t.Error(err)
	}
	err = ch.cluster.Get(t.Context(), client.ObjectKey{Name: "nowhere"}, &corev1.Namespace{})
	if !apierrors.IsNotFound(err) {
		t.Error(errors.Join(err, fmt.Errorf("the namespace was created")))
	}
	if _, err := r.do(t, "uninstall", ""); err != nil {
		t.Error(err)
	}
}
