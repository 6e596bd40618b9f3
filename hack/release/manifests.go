package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// rendered returns config/default with the images of this release by their digests. If no registry was named, the
// image is below registry.invalid, and the operator has no image for servers, so that it refuses to start.
func (r *release) rendered() (resmap.ResMap, error) {
	operator, err := r.digestOf("operator")
	if err != nil {
		return nil, err
	}
	server, err := r.digestOf("authserver")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(r.scratch, "kustomize-")
	if err != nil {
		return nil, err
	}
	// kustomize takes only relative paths as resources.
	if err := os.CopyFS(filepath.Join(dir, "config"), os.DirFS("config")); err != nil {
		return nil, err
	}
	kustomization := map[string]any{
		"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": []string{"config/default"},
		"images": []map[string]string{{"name": unnamed + "/operator", "newName": r.image("operator"), "digest": operator}},
		"labels": []map[string]any{{"pairs": map[string]string{"app.kubernetes.io/version": r.tag()}}},
	}
	if r.registry != "" {
		patch := fmt.Sprintf("- op: replace\n  path: /spec/template/spec/containers/0/args/0\n  value: --server-image=%s@%s\n",
			r.image("authserver"), server)
		kustomization["patches"] = []map[string]any{{
			"target": map[string]string{"kind": "Deployment", "name": "auth-gateway-controller-manager"}, "patch": patch,
		}}
	}
	text, err := yaml.Marshal(kustomization)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), text, 0o644); err != nil {
		return nil, err
	}
	options := krusty.MakeDefaultOptions()
	options.Reorder = krusty.ReorderOptionUnspecified // the default of kubectl
	return krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), dir)
}

// buildManifests writes install.yaml, for kubectl apply.
func (r *release) buildManifests(context.Context) error {
	resources, err := r.rendered()
	if err != nil {
		return err
	}
	text, err := resources.AsYaml()
	if err != nil {
		return err
	}
	return r.write("install.yaml", text)
}
