package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	acapps "k8s.io/client-go/applyconfigurations/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/auth-gateway/auth-gateway/internal/config"
)

// beforeFirstApply is the owner that the API server records for fields that were
// set before managedFields were tracked, or before they were cleared.
const beforeFirstApply = "before-first-apply"

// isAdopted reports whether other writers created an object of the operator, for
// example from a backup, and the operator has yet to take over their fields.
func isAdopted(live client.Object) bool {
	ours := false
	for _, f := range live.GetManagedFields() {
		switch {
		case f.Subresource != "":
		case f.Manager == beforeFirstApply:
			return true
		case f.Manager == FieldManager && f.Operation == metav1.ManagedFieldsOperationApply:
			ours = true
		}
	}
	return !ours
}

// takeOver makes the operator the owner of every field of an object, so that the next apply removes those that are not
// rendered. Otherwise a setting that a restore brought back would stay, although the spec no longer has it.
func (r *Reconciler) takeOver(ctx context.Context, o *managedObject, of client.Object) error {
	live := o.empty() // the cache does not hold the managedFields of other writers
	if err := r.Live.Get(ctx, client.ObjectKeyFromObject(of), live); err != nil {
		return fmt.Errorf("read %s %s: %w", o.gvk.Kind, of.GetName(), err)
	}
	if live.GetUID() != of.GetUID() {
		return errSwapLost
	}
	all := fieldpath.NewSet()
	var kept []metav1.ManagedFieldsEntry
	version := ""
	for _, f := range live.GetManagedFields() {
		if f.Subresource != "" || f.FieldsV1 == nil || version != "" && f.APIVersion != version {
			kept = append(kept, f)
			continue
		}
		set := fieldpath.NewSet()
		if err := set.FromJSON(f.FieldsV1.GetRawReader()); err != nil {
			return fmt.Errorf("parse the managedFields of %s %s: %w", o.gvk.Kind, of.GetName(), err)
		}
		version, all = f.APIVersion, all.Union(set)
	}
	if version == "" { // they were cleared; the next apply creates beforeFirstApply
		return nil
	}
	fields, err := all.ToJSON()
	if err != nil {
		return err
	}
	now := metav1.NewTime(r.Now())
	kept = append(kept, metav1.ManagedFieldsEntry{
		Manager: FieldManager, Operation: metav1.ManagedFieldsOperationApply, APIVersion: version, Time: &now,
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(string(fields)),
	})
	return r.patchSeen(ctx, live, []map[string]any{{"op": "replace", "path": "/metadata/managedFields", "value": kept}})
}

// patchSeen patches an object, if it was not written since it was read.
func (r *Reconciler) patchSeen(ctx context.Context, live client.Object, patch []map[string]any) error {
	patch = append(patch, map[string]any{
		"op": "replace", "path": "/metadata/resourceVersion", "value": live.GetResourceVersion(),
	})
	text, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	target := live.DeepCopyObject().(client.Object)
	return r.Client.Patch(ctx, target, client.RawPatch(types.JSONPatchType, text), client.FieldOwner(FieldManager))
}

// serverFields are the fields of the server's container that belong to the operator
// completely. It removes whatever it did not render in them.
var serverFields = []string{"command", "args", "workingDir", "envFrom", "lifecycle", "resources", "securityContext"}

// podFields are such fields of the pod.
var podFields = []string{
	"hostAliases", "dnsConfig", "hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "securityContext",
}

// strays returns a JSON patch that removes from a Deployment what changes how the server runs and was not rendered. An
// apply would keep it: for example a setting at its default is not rendered, so nothing would overwrite another value.
// Containers, volumes and variables that are not settings stay: other writers may add them.
func strays(live *appsv1.Deployment, wanted *acapps.DeploymentApplyConfiguration) ([]map[string]any, error) {
	var is, want struct {
		Spec struct {
			Template struct {
				Spec map[string]any `json:"spec"`
			} `json:"template"`
		} `json:"spec"`
	}
	for from, into := range map[any]any{live: &is, wanted: &want} {
		if err := throughJSON(from, into); err != nil {
			return nil, err
		}
	}
	var patch []map[string]any
	remove := func(path string) { patch = append(patch, map[string]any{"op": "remove", "path": path}) }
	var within func(path string, is, want map[string]any)
	whole := func(path string, fields []string, is, want map[string]any) {
		for _, f := range fields {
			if is[f] == nil {
				continue
			}
			if want[f] == nil {
				remove(path + "/" + f)
				continue
			}
			a, _ := is[f].(map[string]any)
			b, _ := want[f].(map[string]any)
			within(path+"/"+f, a, b)
		}
	}
	within = func(path string, is, want map[string]any) {
		for _, name := range slices.Sorted(maps.Keys(is)) {
			escaped := strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
			a, isObject := is[name].(map[string]any)
			b, wantsObject := want[name].(map[string]any)
			switch {
			case want[name] == nil:
				remove(path + "/" + escaped)
			case isObject && wantsObject:
				within(path+"/"+escaped, a, b)
			}
		}
	}
	const pod = "/spec/template/spec"
	whole(pod, podFields, is.Spec.Template.Spec, want.Spec.Template.Spec)
	i, server := named(is.Spec.Template.Spec["containers"], "name", serverName)
	_, rendered := named(want.Spec.Template.Spec["containers"], "name", serverName)
	if server == nil || rendered == nil {
		return patch, nil // the whole container is missing, and apply adds it
	}
	path := fmt.Sprintf("%s/containers/%d", pod, i)
	whole(path, serverFields, server, rendered)
	// From the end, because a removal moves the entries after it.
	entries := func(field, key string, isOurs func(string) bool) {
		list, _ := server[field].([]any)
		for i, entry := range slices.Backward(list) {
			e, _ := entry.(map[string]any)
			name, _ := e[key].(string)
			_, there := named(rendered[field], key, name)
			first, _ := named(server[field], key, name) // of two variables with one name, the last one would win
			if isOurs(name) && (there == nil || first != i) {
				remove(fmt.Sprintf("%s/%s/%d", path, field, i))
			}
		}
	}
	entries("env", "name", isSetting)
	entries("volumeMounts", "mountPath", func(path string) bool { return strings.HasPrefix(path+"/", dirSettings+"/") })
	return patch, nil
}

// extractDeployment returns what a manager applied. ExtractDeployment refuses lists that name something twice, although
// they are valid: then only the first entries count. strays removes the second one of a setting.
func extractDeployment(live *appsv1.Deployment, manager string) (*acapps.DeploymentApplyConfiguration, error) {
	applied, err := acapps.ExtractDeployment(live, manager)
	if err == nil {
		return applied, nil
	}
	live = live.DeepCopy()
	pod := &live.Spec.Template.Spec
	pod.ImagePullSecrets = firstOfEach(pod.ImagePullSecrets, func(r corev1.LocalObjectReference) string { return r.Name })
	pod.HostAliases = firstOfEach(pod.HostAliases, func(a corev1.HostAlias) string { return a.IP })
	for _, containers := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for i := range containers {
			c := &containers[i]
			c.Env = firstOfEach(c.Env, func(e corev1.EnvVar) string { return e.Name })
			c.Ports = firstOfEach(c.Ports, func(p corev1.ContainerPort) string {
				return fmt.Sprint(p.ContainerPort, p.Protocol)
			})
		}
	}
	return acapps.ExtractDeployment(live, manager)
}

// firstOfEach removes the entries of a list whose key an earlier entry has.
func firstOfEach[T any](list []T, key func(T) string) []T {
	seen := map[string]bool{}
	return slices.DeleteFunc(list, func(entry T) bool {
		again := seen[key(entry)]
		seen[key(entry)] = true
		return again
	})
}

// named returns the entry of a list with a name, and its index. The entry is nil if there is none.
func named(list any, key, name string) (int, map[string]any) {
	entries, _ := list.([]any)
	for i, entry := range entries {
		if e, ok := entry.(map[string]any); ok && e[key] == name {
			return i, e
		}
	}
	return 0, nil
}

// isSetting reports whether the server reads a variable.
func isSetting(variable string) bool {
	return slices.ContainsFunc(config.Settings(), func(s config.Setting) bool {
		return variable == s.Name || variable == s.Name+config.FileSuffix
	})
}

// owns reports whether the gateway controls an object, so that the operator may
// delete it. Its name and labels are not enough: anyone may have written them.
func (cs *clusterState) owns(o client.Object) bool {
	return metav1.IsControlledBy(o, cs.gateway)
}
