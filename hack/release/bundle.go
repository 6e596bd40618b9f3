package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/yaml"
)

// bundleAnnotations describe the bundle, in metadata/annotations.yaml and as labels of its image:
// https://olm.operatorframework.io/docs/tasks/creating-operator-bundle/
var bundleAnnotations = map[string]string{
	"operators.operatorframework.io.bundle.mediatype.v1":       "registry+v1",
	"operators.operatorframework.io.bundle.manifests.v1":       "manifests/",
	"operators.operatorframework.io.bundle.metadata.v1":        "metadata/",
	"operators.operatorframework.io.bundle.package.v1":         "auth-gateway",
	"operators.operatorframework.io.bundle.channels.v1":        "candidate",
	"operators.operatorframework.io.bundle.channel.default.v1": "candidate",
}

const (
	operatorAccount = "auth-gateway-controller-manager"
	csvBase         = "config/manifests/bases/auth-gateway.clusterserviceversion.yaml"
)

// buildBundle writes the bundle for the Operator Lifecycle Manager, in the format registry+v1, and its image.
func (r *release) buildBundle(context.Context) error {
	resources, err := r.rendered()
	if err != nil {
		return err
	}
	csv, err := r.serviceVersion(resources.Resources())
	if err != nil {
		return err
	}
	objects := map[string]map[string]any{"auth-gateway.clusterserviceversion.yaml": csv}
	for _, one := range resources.Resources() {
		object, err := mapOf(one)
		if err != nil {
			return err
		}
		switch one.GetKind() {
		case "CustomResourceDefinition":
			objects[one.GetName()+".crd.yaml"] = object
		case "Service", "PodDisruptionBudget":
			delete(object["metadata"].(map[string]any), "namespace") // OLM chooses it
			objects[fileOf(one)] = object
		case "ClusterRole": // for users; those of the operator are in the ClusterServiceVersion
			if strings.Contains(one.GetName(), "authgateway") || strings.Contains(one.GetName(), "metrics-reader") {
				objects[fileOf(one)] = object
			}
		}
	}
	for _, name := range sortedKeys(objects) {
		if err := r.writeYAML("bundle/manifests/"+name, objects[name]); err != nil {
			return err
		}
	}
	annotations := map[string]any{"annotations": bundleAnnotations}
	if err := r.writeYAML("bundle/metadata/annotations.yaml", annotations); err != nil {
		return err
	}
	return r.bundleImage(bundleAnnotations)
}

func fileOf(one *resource.Resource) string {
	return one.GetName() + "." + strings.ToLower(one.GetKind()) + ".yaml"
}

func (r *release) writeYAML(name string, content any) error {
	text, err := yaml.Marshal(content)
	if err != nil {
		return err
	}
	return r.write(name, text)
}

func mapOf(one *resource.Resource) (map[string]any, error) {
	text, err := one.AsYAML()
	if err != nil {
		return nil, err
	}
	var object map[string]any
	err = yaml.Unmarshal(text, &object)
	return object, err
}

// serviceVersion fills in the ClusterServiceVersion from the objects of config/default.
func (r *release) serviceVersion(objects []*resource.Resource) (map[string]any, error) {
	text, err := os.ReadFile(csvBase)
	if err != nil {
		return nil, err
	}
	var csv struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   metadata       `json:"metadata"`
		Spec       map[string]any `json:"spec"`
	}
	if err := yaml.UnmarshalStrict(text, &csv); err != nil {
		return nil, fmt.Errorf("%s: %w", csvBase, err)
	}
	examples, err := samples()
	if err != nil {
		return nil, err
	}
	operator, err := r.digestOf("operator")
	if err != nil {
		return nil, err
	}
	server, err := r.digestOf("authserver")
	if err != nil {
		return nil, err
	}
	csv.Metadata.Name = "auth-gateway." + r.version
	csv.Metadata.Annotations["alm-examples"] = examples
	csv.Metadata.Annotations["containerImage"] = r.image("operator") + "@" + operator
	csv.Metadata.Annotations["createdAt"] = r.time.Format(time.RFC3339)
	csv.Metadata.Annotations["olm.skipRange"] = "<" + r.tag() // any earlier version upgrades to this one directly
	csv.Metadata.Labels = map[string]string{"operatorframework.io/os.linux": "supported"}
	for _, platform := range r.platforms {
		csv.Metadata.Labels["operatorframework.io/arch."+strings.TrimPrefix(platform, "linux/")] = "supported"
	}
	csv.Spec["version"] = r.tag()
	csv.Spec["relatedImages"] = []map[string]string{
		{"name": "operator", "image": r.image("operator") + "@" + operator},
		{"name": "authserver", "image": r.image("authserver") + "@" + server},
	}
	install := map[string]any{}
	var owned []map[string]any
	for _, one := range objects {
		object, err := mapOf(one)
		if err != nil {
			return nil, err
		}
		switch one.GetKind() {
		case "CustomResourceDefinition":
			definition, err := definitionOf(object)
			if err != nil {
				return nil, err
			}
			owned = append(owned, definition)
		case "Deployment":
			install["deployments"] = []map[string]any{{
				"name": one.GetName(), "spec": object["spec"], "label": object["metadata"].(map[string]any)["labels"],
			}}
		}
	}
	fields := map[string]string{"ClusterRoleBinding": "clusterPermissions", "RoleBinding": "permissions"}
	for binding, field := range fields {
		rules, err := rulesOf(objects, binding)
		if err != nil {
			return nil, err
		}
		install[field] = []map[string]any{{"serviceAccountName": operatorAccount, "rules": rules}}
	}
	csv.Spec["install"] = map[string]any{"strategy": "deployment", "spec": install}
	csv.Spec["customresourcedefinitions"] = map[string]any{"owned": owned}
	return map[string]any{"apiVersion": csv.APIVersion, "kind": csv.Kind, "metadata": csv.Metadata, "spec": csv.Spec}, nil
}

type metadata struct {
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations"`
}

// definitionOf returns the entry of the ClusterServiceVersion for a custom resource definition.
func definitionOf(object map[string]any) (map[string]any, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	var crd struct {
		Metadata metadata
		Spec     struct {
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema struct{ Description string }
				}
			}
		}
	}
	if err := json.Unmarshal(text, &crd); err != nil {
		return nil, err
	}
	version := crd.Spec.Versions[0]
	return map[string]any{
		"name": crd.Metadata.Name, "kind": crd.Spec.Names.Kind, "version": version.Name, "displayName": crd.Spec.Names.Kind,
		"description": strings.Join(strings.Fields(version.Schema.OpenAPIV3Schema.Description), " "),
	}, nil
}

// rulesOf returns the rules of the roles that are bound to the operator's ServiceAccount.
func rulesOf(objects []*resource.Resource, binding string) ([]any, error) {
	var rules []any
	for _, bound := range objects {
		if bound.GetKind() != binding {
			continue
		}
		object, err := mapOf(bound)
		if err != nil {
			return nil, err
		}
		subjects, err := json.Marshal(object["subjects"])
		if err != nil {
			return nil, err
		}
		role := object["roleRef"].(map[string]any)
		i := slices.IndexFunc(objects, func(o *resource.Resource) bool {
			return o.GetKind() == role["kind"] && o.GetName() == role["name"]
		})
		if i < 0 || !bytes.Contains(subjects, []byte(`"`+operatorAccount+`"`)) {
			return nil, fmt.Errorf("%s %s binds no role to %s", binding, bound.GetName(), operatorAccount)
		}
		if object, err = mapOf(objects[i]); err != nil {
			return nil, err
		}
		rules = append(rules, object["rules"].([]any)...)
	}
	if len(rules) == 0 {
		return nil, fmt.Errorf("there is no %s", binding)
	}
	return rules, nil
}

// samples returns the smallest sample of each kind, as JSON.
func samples() (string, error) {
	var all []map[string]any
	for _, file := range []string{"v1alpha1_authgateway.yaml", "v1alpha1_publickeys.yaml"} {
		text, err := os.ReadFile(filepath.Join("config", "samples", file))
		if err != nil {
			return "", err
		}
		var sample map[string]any
		if err := yaml.Unmarshal(text, &sample); err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, sample)
	}
	text, err := json.MarshalIndent(all, "", "  ")
	return string(text), err
}
