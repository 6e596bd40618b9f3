package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const root = "../.."

func (r resource) read(t *testing.T) apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	text := testenv.Must(os.ReadFile(filepath.Join(root, r.definition)))(t)
	var crd apiextensionsv1.CustomResourceDefinition
	testenv.NoError(t, yaml.UnmarshalStrict(text, &crd))
	return crd
}

func (r resource) mustGenerate(t *testing.T) string {
	t.Helper()
	text := testenv.Must(r.generate(root))(t)
	return text
}

func TestThePagesAreUpToDate(t *testing.T) {
	for _, r := range resources {
		have := testenv.Must(os.ReadFile(filepath.Join(root, r.reference)))(t)
		if string(have) != r.mustGenerate(t) {
			t.Errorf("%s does not match %s: run go generate ./hack/crddoc", r.reference, r.definition)
		}
	}
}

func TestTheSameDefinitionGivesTheSamePage(t *testing.T) {
	gateway := resources[0]
	first := gateway.mustGenerate(t)
	for range 10 {
		if gateway.mustGenerate(t) != first {
			t.Fatal("two runs gave two pages")
		}
	}
}

// TestEveryFieldAndEveryRefusalIsOnThePage walks the definition on its own, so that
// it does not repeat a mistake of the generator. Types of Kubernetes are only linked.
func TestEveryFieldAndEveryRefusalIsOnThePage(t *testing.T) {
	kubernetes := map[string]string{ // the linked type by path
		"spec.resources":                               "ResourceRequirements",
		"spec.admin.resources":                         "ResourceRequirements",
		"spec.podTemplate.affinity":                    "Affinity",
		"spec.podTemplate.tolerations[]":               "Toleration",
		"spec.podTemplate.topologySpreadConstraints[]": "TopologySpreadConstraint",
		"spec.podTemplate.sidecars[].resources":        "ResourceRequirements",
		"spec.networkPolicy.from[]":                    "NetworkPolicyPeer",
		"spec.publicKeys.allowedNamespaces":            "LabelSelector",
		"status.conditions[]":                          "Condition",
	}
	seen, fields, rules := map[string]bool{}, 0, 0
	text := ""
	var walk func(path string, s apiextensionsv1.JSONSchemaProps)
	walk = func(path string, s apiextensionsv1.JSONSchemaProps) {
		if name, ok := kubernetes[path]; ok {
			seen[path] = true
			if !strings.Contains(text, "["+name+"](https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.") {
				t.Errorf("%s: there is no link to Kubernetes' %s", path, name)
			}
			return
		}
		for _, rule := range s.XValidations {
			rules++
			if !strings.Contains(text, "| `"+rule.Message+"` |") {
				t.Errorf("%s: the page does not contain the message %q", path, rule.Message)
			}
		}
		if s.Items != nil {
			walk(path+"[]", *s.Items.Schema)
		}
		for name, below := range s.Properties {
			if path == "" && (name == "apiVersion" || name == "kind" || name == "metadata") {
				continue
			}
			fields++
			if path != "" && !strings.Contains(text, "\n| `"+name+"` | ") {
				t.Errorf("%s.%s is not on the page", path, name)
			}
			description := strings.Join(strings.Fields(below.Description), " ")
			if !strings.Contains(text, strings.ReplaceAll(description, "|", `\|`)) {
				t.Errorf("%s.%s: its description is not on the page", path, name)
			}
			walk(strings.TrimPrefix(path+"."+name, "."), below)
		}
	}
	for _, r := range resources {
		text = r.mustGenerate(t)
		walk("", *r.read(t).Spec.Versions[0].Schema.OpenAPIV3Schema)
	}
	if fields < 80 || rules < 50 {
		t.Errorf("only %d fields and %d rules were found; this test looks in the wrong place", fields, rules)
	}
	for path := range kubernetes {
		if !seen[path] {
			t.Errorf("%s is no longer in the definition", path)
		}
	}
	if strings.Contains(text, "requiredDuringSchedulingIgnoredDuringExecution") {
		t.Error("the page describes a type of Kubernetes")
	}
}

func TestTheTableHasBoundsDefaultsAndValues(t *testing.T) {
	text := resources[0].mustGenerate(t)
	for _, row := range []string{
		"| `replicas` | integer | `2` | 0 to 100 | ",
		"| `exposure` | string | `Internal` | `Internal`, `Public` | ",
		"| `database` | [Database](#specdatabase) | required |  | ",
		"| `accessTokenTTL` | duration | `15m` | 10s to 24h | ",
		"| `imagePullSecrets` | list of [LocalReference](#localreference) |  | at most 16 entries; no `name` twice | ",
		"| `revoked` | list of strings |  | at most 64 entries; no entry twice; at most 64 characters each | ",
		"| `labels` | map of strings |  | at most 32 entries | ",
		"| `lastTransitionTime` | time | required |  | ",
		"| `AuthGateway` | `the name is used for a Service",
		"| `keys.rotationInterval` | `a key would be replaced before its tokens expire",
	} {
		if !strings.Contains(text, row) {
			t.Errorf("there is no row that begins with %s", row)
		}
	}
}

// Markdown shows a table only if each row has as many cells as the header.
func TestEveryRowHasItsCells(t *testing.T) {
	cells := func(line string) int {
		return strings.Count(strings.ReplaceAll(line, `\|`, ""), "|")
	}
	want := 0
	for i, line := range strings.Split(resources[0].mustGenerate(t)+resources[1].mustGenerate(t), "\n") {
		switch {
		case !strings.HasPrefix(line, "|"):
			want = 0
		case want == 0:
			want = cells(line)
		case cells(line) != want:
			t.Errorf("line %d has %d bars, and its table %d: %s", i+1, cells(line), want, line)
		}
	}
}

func TestTypesAndDefinitionThatDifferAreRefused(t *testing.T) {
	gateway := resources[0]
	for name, change := range map[string]func(*apiextensionsv1.JSONSchemaProps){
		"spec.replicas is in the types and not in the definition": func(spec *apiextensionsv1.JSONSchemaProps) {
			delete(spec.Properties, "replicas")
		},
		"spec.colour is in the definition and not in the types": func(spec *apiextensionsv1.JSONSchemaProps) {
			spec.Properties["colour"] = apiextensionsv1.JSONSchemaProps{Type: "string"}
		},
		"but the definition has different rules for them": func(spec *apiextensionsv1.JSONSchemaProps) {
			keys := spec.Properties["keys"]
			ref := keys.Properties["passphraseSecretRef"]
			ref.Required = nil
			keys.Properties["passphraseSecretRef"] = ref
			spec.Properties["keys"] = keys
		},
	} {
		crd := gateway.read(t)
		spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		change(&spec)
		crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"] = spec
		if _, err := gateway.page(crd, "v1.37"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("wanted an error with %q, got %v", name, err)
		}
	}
}

func TestTextThatWouldBreakATableIsEscaped(t *testing.T) {
	if got, want := code("a|b"), "`a\\|b`"; got != want {
		t.Errorf("code: got %s, want %s", got, want)
	}
	if got, want := code("a`b"), "`` a`b ``"; got != want {
		t.Errorf("code: got %s, want %s", got, want)
	}
	if got, want := cell("<n>-keys | or"), `&lt;n>-keys \| or`; got != want {
		t.Errorf("cell: got %s, want %s", got, want)
	}
	if got, want := slug("spec.podTemplate.sidecars[]"), "specpodtemplatesidecars"; got != want {
		t.Errorf("slug: got %s, want %s", got, want)
	}
	if !isKubernetes(reflect.TypeFor[metav1.Time]()) || isKubernetes(reflect.TypeFor[v1alpha1.Keys]()) {
		t.Error("isKubernetes confuses our types and those of Kubernetes")
	}
}
