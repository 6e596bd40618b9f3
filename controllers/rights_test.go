package controllers_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/auth-gateway/auth-gateway/controllers"
)

// roleEqualsUse compares the operator's role with the requests of all tests: it must grant those and nothing else. It
// runs after all tests have passed, and does nothing if only some of them ran.
func roleEqualsUse() error {
	for name, whole := range map[string]string{"test.run": "", "test.skip": "", "test.list": "", "test.short": "false"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != whole {
			return nil
		}
	}
	manifest, err := readRole()
	if err != nil {
		return err
	}
	granted := map[string]bool{}
	for _, rule := range manifest.Rules {
		if len(rule.ResourceNames)+len(rule.NonResourceURLs) > 0 {
			return fmt.Errorf("the role has a rule of a kind that this test does not know: %v", rule)
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					granted[right(verb, group, resource)] = true
				}
			}
		}
	}
	used := map[string]bool{}
	for _, c := range allCalls() {
		resource := c.resource
		if c.subresource != "" {
			resource += "/" + c.subresource
		}
		used[right(c.verb, c.group, resource)] = true
		if c.verb == "watch" { // an older API server cannot stream the initial list
			used[right("list", c.group, resource)] = true
		}
	}
	// The API server lets the operator create only Roles that grant no more than it has.
	resources, verbs := controllers.AdminRights()
	for _, resource := range resources {
		for _, verb := range verbs {
			used[right(verb, "authgateway.io", resource)] = true
		}
	}
	var wrong []string
	for _, r := range slices.Sorted(maps.Keys(granted)) {
		if !used[r] {
			wrong = append(wrong, "the role grants what no test saw being used: "+r)
		}
	}
	for _, r := range slices.Sorted(maps.Keys(used)) {
		if !granted[r] {
			wrong = append(wrong, "the role does not grant what is used: "+r)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("config/rbac/role.yaml (its markers are in authgateway_controller.go):\n%s", strings.Join(wrong, "\n"))
	}
	return nil
}

func right(verb, group, resource string) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", verb, resource, group))
}

func readRole() (*rbacv1.ClusterRole, error) {
	text, err := os.ReadFile(filepath.Join("..", "config", "rbac", "role.yaml"))
	if err != nil {
		return nil, err
	}
	r := &rbacv1.ClusterRole{}
	return r, yaml.UnmarshalStrict(text, r)
}
