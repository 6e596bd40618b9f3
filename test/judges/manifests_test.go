package judges

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
)

// TestManifestsOfTheDocumentationAreValid has an API server validate the manifests of docs/consumers with the CRDs of
// the projects that they are for.
func TestManifestsOfTheDocumentationAreValid(t *testing.T) {
	if testing.Short() {
		t.Skip("this test downloads CRDs and starts an API server")
	}
	t.Parallel()
	for _, page := range []struct{ name, module, crds string }{
		{"envoy-gateway.md", "github.com/envoyproxy/gateway@v1.9.1",
			"charts/gateway-helm/charts/crds/crds/generated/gateway.envoyproxy.io_securitypolicies.yaml"},
		{"istio.md", "istio.io/api@v1.32.0", "kubernetes/customresourcedefinitions.gen.yaml"},
		{"traefik.md", "github.com/traefik/traefik/v3@v3.7.13",
			"docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml"},
	} {
		t.Run(page.name, func(t *testing.T) {
			config := kubernetestest.Config(t)
			testenv.NoError(t, testenv.Err(envtest.InstallCRDs(config, envtest.CRDInstallOptions{
				Paths: []string{filepath.Join(moduleDir(t, page.module), page.crds)}, ErrorIfPathMissing: true,
			})))
			// Unknown fields are an error, so a typing error is found.
			c := testenv.Must(client.New(config, client.Options{}))(t)
			c = client.WithFieldValidation(c, metav1.FieldValidationStrict)
			namespace := kubernetestest.Namespace(t)
			objects := manifests(t, page.name)
			if len(objects) == 0 {
				t.Fatal("the page has no manifest")
			}
			for _, object := range objects {
				object.SetNamespace(namespace)
				if err := c.Create(t.Context(), object); err != nil {
					t.Errorf("%s: %v", object.GetKind(), err)
				}
			}
		})
	}
}

// moduleDir downloads a Go module and returns its folder.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module).Output()
	var found struct{ Dir, Error string }
	if err := errors.Join(err, json.Unmarshal(out, &found)); err != nil || found.Dir == "" {
		t.Fatalf("download %s: %v %s", module, err, found.Error)
	}
	return found.Dir
}

// manifests returns the objects in the YAML blocks of a page.
func manifests(t *testing.T, page string) (objects []*unstructured.Unstructured) {
	t.Helper()
	for _, block := range blocks(t, page) {
		decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(block), 4096)
		for {
			object := &unstructured.Unstructured{}
			if err := decoder.Decode(object); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			objects = append(objects, object)
		}
	}
	return objects
}

// block returns the code block of a page of docs/consumers that begins with a text.
func block(t *testing.T, page, begin string) string {
	t.Helper()
	for _, block := range blocks(t, page) {
		if strings.HasPrefix(block, begin) {
			return block
		}
	}
	t.Fatalf("%s has no block that begins with %q", page, begin)
	return ""
}

// blocks returns the code blocks of a page of docs/consumers.
func blocks(t *testing.T, page string) (blocks []string) {
	t.Helper()
	text := testenv.Must(os.ReadFile(filepath.Join(testenv.Root(), "docs", "consumers", page)))(t)
	for i, part := range strings.Split(string(text), "```") {
		if i%2 == 1 {
			_, block, _ := strings.Cut(part, "\n") // the first line is the language
			blocks = append(blocks, block)
		}
	}
	return blocks
}
