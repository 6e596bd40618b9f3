package install

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// rights expands rules to one line for each verb on each resource.
func rights(rules []rbacv1.PolicyRule) []string {
	all := map[string]bool{}
	for _, r := range rules {
		for _, verb := range r.Verbs {
			for _, url := range r.NonResourceURLs {
				all[verb+" "+url] = true
			}
			for _, group := range r.APIGroups {
				for _, resource := range r.Resources {
					right := verb + " " + resource + "." + group
					if len(r.ResourceNames) > 0 {
						right += " " + strings.Join(r.ResourceNames, ",")
					}
					all[right] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// rightsOf returns the rights of a Role or a ClusterRole.
func rightsOf(t *testing.T, role *unstructured.Unstructured) []string {
	t.Helper()
	if role.GetKind() == "Role" {
		return rights(as[rbacv1.Role](t, role).Rules)
	}
	return rights(as[rbacv1.ClusterRole](t, role).Rules)
}

// marked returns the rights that the markers in controllers/ request.
func marked(t *testing.T) []string {
	t.Helper()
	sources := testenv.Must(filepath.Glob(filepath.Join(root, "controllers", "*.go")))(t)
	marker := regexp.MustCompile(`(?m)^\s*// \+kubebuilder:rbac:(.*)$`)
	var rules []rbacv1.PolicyRule
	for _, source := range sources {
		text := testenv.Must(os.ReadFile(source))(t)
		for _, match := range marker.FindAllStringSubmatch(string(text), -1) {
			var rule rbacv1.PolicyRule
			for field := range strings.SplitSeq(match[1], ",") {
				key, value, _ := strings.Cut(field, "=")
				values := strings.Split(strings.Trim(value, `"`), ";")
				switch key {
				case "groups":
					rule.APIGroups = values
				case "resources":
					rule.Resources = values
				case "verbs":
					rule.Verbs = values
				default:
					t.Fatalf("%s: unknown field %q", source, field)
				}
			}
			rules = append(rules, rule)
		}
	}
	if len(rules) == 0 {
		t.Fatal("there are no markers")
	}
	return rights(rules)
}

// operatorRights returns the rights in config/rbac/role.yaml.
func operatorRights(t *testing.T) []string {
	t.Helper()
	return rightsOf(t, one(t, readObjects(t, filepath.Join(root, "config", "rbac", "role.yaml")), "ClusterRole"))
}

func TestTheRulesMatchTheMarkers(t *testing.T) {
	if diff := cmp.Diff(marked(t), operatorRights(t)); diff != "" {
		t.Errorf("config/rbac/role.yaml (+) differs from the markers in controllers/ (-): run make generate\n%s", diff)
	}
}

func TestTheChartHasTheSameCustomResources(t *testing.T) {
	inChart := kind(chart(t).template(t, "defaults", ""), "CustomResourceDefinition")
	inConfig := kind(build(t, "config/crd"), "CustomResourceDefinition")
	for _, name := range []string{crdName, crdCopy} {
		if diff := cmp.Diff(named(t, inConfig, name).Object["spec"], named(t, inChart, name).Object["spec"]); diff != "" {
			t.Errorf("%s in the chart (+) differs from config/crd (-): run make generate\n%s", name, diff)
		}
	}
	if len(inChart) != 2 || len(inConfig) != 2 {
		t.Errorf("the chart has %d definitions, and config/crd has %d: compare all of them", len(inChart), len(inConfig))
	}
}

// An attacker with the operator's token must not be able to gain further rights. The operator may create Roles, but not
// bind them, and the API server refuses a Role that grants more than its creator has (without the verb escalate).
func TestTheRulesDoNotAllowPrivilegeEscalation(t *testing.T) {
	objects := build(t, "config/default")
	objects = append(objects, chart(t).template(t, "everything", everything)...)
	for _, role := range kind(objects, "Role", "ClusterRole") {
		for _, right := range rightsOf(t, role) {
			verb, object, _ := strings.Cut(right, " ")
			resource, _, _ := strings.Cut(object, ".")
			if slices.Contains([]string{"*", "escalate", "bind", "impersonate", "approve", "sign"}, verb) || strings.Contains(object, "*") {
				t.Errorf("%s may %s", nameOf(role), right)
			}
			for _, never := range []string{
				"pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers", "serviceaccounts/token",
				"nodes", "nodes/proxy", "clusterroles", "rolebindings", "clusterrolebindings",
				"customresourcedefinitions", "mutatingwebhookconfigurations", "validatingwebhookconfigurations",
			} {
				if resource == never {
					t.Errorf("%s may %s", nameOf(role), right)
				}
			}
		}
	}
}

// Kustomize and Helm grant the same rights under different names.
func TestKustomizeAndHelmGrantTheSameRights(t *testing.T) {
	byKustomize := kind(build(t, "config/default"), "Role", "ClusterRole")
	byHelm := kind(chart(t).template(t, "defaults", ""), "Role", "ClusterRole")
	for inConfig, inChart := range map[string]string{
		"auth-gateway-manager-role":                namespace + ":auth-gateway-operator:manager",
		"auth-gateway-leader-election-role":        "auth-gateway-operator-lease",
		"auth-gateway-metrics-auth-role":           namespace + ":auth-gateway-operator:metrics-auth",
		"auth-gateway-metrics-reader":              namespace + ":auth-gateway-operator:metrics-reader",
		"auth-gateway-authgateway-editor-role":     namespace + ":auth-gateway-operator:editor",
		"auth-gateway-authgateway-viewer-role":     namespace + ":auth-gateway-operator:viewer",
		"auth-gateway-authgateway-user-admin-role": namespace + ":auth-gateway-operator:user-admin",
	} {
		a, b := named(t, byKustomize, inConfig), named(t, byHelm, inChart)
		if diff := cmp.Diff(rightsOf(t, a), rightsOf(t, b)); diff != "" {
			t.Errorf("%s (-) and %s (+) differ\n%s", nameOf(a), nameOf(b), diff)
		}
		if diff := cmp.Diff(aggregated(a), aggregated(b)); diff != "" {
			t.Errorf("%s (-) and %s (+) aggregate to different roles\n%s", nameOf(a), nameOf(b), diff)
		}
	}
	if len(byKustomize) != 7 || len(byHelm) != 7 {
		t.Errorf("config/ has %d roles and the chart has %d: compare all of them", len(byKustomize), len(byHelm))
	}
}

func named(t *testing.T, objects []*unstructured.Unstructured, name string) *unstructured.Unstructured {
	t.Helper()
	for _, o := range objects {
		if o.GetName() == name {
			return o
		}
	}
	t.Fatalf("there is no %s", name)
	return nil
}

func aggregated(role *unstructured.Unstructured) []string {
	var to []string
	for _, label := range slices.Sorted(maps.Keys(role.GetLabels())) {
		if strings.HasPrefix(label, "rbac.authorization.k8s.io/aggregate-to-") {
			to = append(to, label)
		}
	}
	return to
}
