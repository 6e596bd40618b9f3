package controllers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	acapps "k8s.io/client-go/applyconfigurations/apps/v1"
	accore "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/util/csaupgrade"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// apply brings every object but the public keys to what the spec asks for, and
// deletes those that it no longer asks for. It writes only what differs.
//
// A failed write does not stop the others, with one exception: a Deployment is skipped, because pods must not start
// before the objects that protect them. It is also skipped if withPods is false. apply returns what could not be done.
func (r *Reconciler) apply(
	ctx context.Context, cs *clusterState, rendered rendering, withPods bool,
) (found []*problem) {
	for _, o := range managedObjects {
		if o.ofKeys || o.gvk == gvkDeployment && o.wantedBy(cs.gateway) && (!withPods || len(found) > 0) {
			continue
		}
		if o.id() == idAdminDeployment && cs.upgradeWaits { // its pods follow those of the API
			continue
		}
		if err := cs.unread[o.id()]; err != nil {
			if o.wantedBy(cs.gateway) {
				found = append(found, classify(err))
			}
		} else if p := cs.nameConflict(o); p != nil {
			found = append(found, p)
		} else if err := r.reconcileObject(ctx, cs, rendered, o); err != nil {
			found = append(found, classify(err))
		}
	}
	return found
}

// reconcileObject applies one object, or deletes it if the spec no longer asks for it.
func (r *Reconciler) reconcileObject(
	ctx context.Context, cs *clusterState, rendered rendering, o *managedObject,
) error {
	live := cs.objects[o.id()]
	switch {
	case cs.absent[o.id()]: // kindMissing reports it
	case o.wantedBy(cs.gateway):
		wanted := o.render(rendered)
		if d, is := live.(*appsv1.Deployment); is && o == objectDeployment {
			if may, err := r.mayRoll(ctx, cs, d, wanted.(*acapps.DeploymentApplyConfiguration)); !may {
				return err
			}
		}
		if err := r.applyObject(ctx, cs, o, live, wanted); err != nil {
			return fmt.Errorf("apply %s %s: %w", o.gvk.Kind, o.name(cs.names), err)
		}
	case live != nil && live.GetDeletionTimestamp() == nil && cs.owns(live):
		uid := live.GetUID()
		err := r.Client.Delete(ctx, live, client.Preconditions{UID: &uid})
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete %s %s: %w", o.gvk.Kind, live.GetName(), err)
		}
	}
	return nil
}

func (r *Reconciler) applyObject(
	ctx context.Context, cs *clusterState, o *managedObject, live client.Object, wanted runtime.ApplyConfiguration,
) error {
	if live != nil {
		same, err := r.prepare(ctx, cs, o, live, wanted)
		if same || err != nil {
			return err
		}
	}
	err := r.Client.Apply(ctx, wanted, client.FieldOwner(FieldManager), client.ForceOwnership)
	if live == nil || !apierrors.IsInvalid(err) {
		return err
	}
	// Another writer may have set a field that excludes one of ours.
	if patchErr := r.replaceExclusive(ctx, live, wanted); patchErr != nil {
		return errors.Join(err, patchErr)
	}
	return r.Client.Apply(ctx, wanted, client.FieldOwner(FieldManager), client.ForceOwnership)
}

// prepare removes from a live object what an apply would not remove, and reports whether the object needs no apply.
func (r *Reconciler) prepare(
	ctx context.Context, cs *clusterState, o *managedObject, live client.Object, wanted runtime.ApplyConfiguration,
) (same bool, err error) {
	adopted := isAdopted(live)
	applied, err := o.applied(live)
	if err != nil {
		return false, err
	}
	if same, err = sameJSON(applied, wanted); err != nil {
		return false, err
	}
	var stray []map[string]any
	if o.gvk == gvkDeployment {
		stray, err = strays(live.(*appsv1.Deployment), wanted.(*acapps.DeploymentApplyConfiguration))
		if err != nil {
			return false, err
		}
	}
	if same && !adopted && len(stray) == 0 {
		return true, nil
	}
	if !r.damper.allow(cs.gateway.UID, o.gvk, wanted, cs.now) {
		return false, r.contended(ctx, o, live)
	}
	if adopted {
		return false, r.takeOver(ctx, o, live)
	}
	if len(stray) > 0 {
		err = r.patchSeen(ctx, live, stray)
	}
	return same, err
}

// replaceExclusive replaces the fields of a live object that exclude a wanted one.
//
// The API server records the writer of a patch as a second owner, apart from the one by which the operator applies.
// That owner would keep the field after the spec drops it, so the second patch merges the two.
func (r *Reconciler) replaceExclusive(ctx context.Context, live client.Object, wanted any) error {
	patch, err := contradictions(live, wanted)
	if patch == nil || err != nil {
		return err
	}
	owner := client.FieldOwner(FieldManager)
	if err := r.Client.Patch(ctx, live, client.RawPatch(types.JSONPatchType, patch), owner); err != nil {
		return fmt.Errorf("remove the fields that exclude wanted ones: %w", err)
	}
	patch, err = csaupgrade.UpgradeManagedFieldsPatch(live, sets.New(FieldManager), FieldManager)
	if patch == nil || err != nil {
		return err
	}
	return r.Client.Patch(ctx, live, client.RawPatch(types.JSONPatchType, patch), owner)
}

// exclusive lists fields of which an object may have only one.
var exclusive = [][]string{
	{"value", "valueFrom"},
	{"httpGet", "exec", "tcpSocket", "grpc"},
	{"minAvailable", "maxUnavailable"},
	{
		"secret", "configMap", "emptyDir", "hostPath", "persistentVolumeClaim", "projected", "csi", "downwardAPI",
		"ephemeral",
	},
}

// contradictions returns a JSON patch that replaces the fields of a live object
// that exclude wanted ones. It returns nil if there are none.
func contradictions(live client.Object, wanted any) ([]byte, error) {
	var trees [2]any
	for i, o := range []any{live, wanted} {
		if err := throughJSON(o, &trees[i]); err != nil {
			return nil, err
		}
	}
	var patch []map[string]any
	var walk func(path string, live, wanted any)
	walk = func(path string, live, wanted any) {
		switch wanted := wanted.(type) {
		case map[string]any:
			live, _ := live.(map[string]any)
			for _, fields := range exclusive {
				ours := slices.IndexFunc(fields, func(f string) bool { return wanted[f] != nil })
				for _, other := range fields {
					if ours >= 0 && live[other] != nil && wanted[other] == nil {
						patch = append(patch,
							map[string]any{"op": "remove", "path": path + "/" + other},
							map[string]any{"op": "add", "path": path + "/" + fields[ours], "value": wanted[fields[ours]]})
					}
				}
			}
			for field, value := range wanted {
				walk(path+"/"+field, live[field], value)
			}
		case []any: // entries that have exclusive fields have names
			live, _ := live.([]any)
			for _, entry := range wanted {
				for i, l := range live {
					a, isObject := entry.(map[string]any)
					b, _ := l.(map[string]any)
					if isObject && a["name"] != nil && a["name"] == b["name"] {
						walk(fmt.Sprintf("%s/%d", path, i), l, entry)
					}
				}
			}
		}
	}
	root, _ := trees[0].(map[string]any)
	want, _ := trees[1].(map[string]any)
	walk("/spec", root["spec"], want["spec"])
	if len(patch) == 0 {
		return nil, nil
	}
	return json.Marshal(patch)
}

func sameJSON(a, b any) (bool, error) {
	x, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	y, err := json.Marshal(b)
	return bytes.Equal(x, y), err
}

// applyPublicKeys publishes a ring by compare-and-swap: a reconcile that read an older ring must not overwrite a newer
// one. The ConfigMap is read before the ring, so a ConfigMap that has not changed since cannot be newer than the ring.
// The ConfigMap must not hold anything else, because consumers would trust it.
func (r *Reconciler) applyPublicKeys(ctx context.Context, cs *clusterState, rendered rendering, o *managedObject) error {
	live, exists := cs.objects[o.id()].(*corev1.ConfigMap)
	if !exists {
		return r.reconcileObject(ctx, cs, rendered, o)
	}
	return r.updatePublicKeys(ctx, live, o.render(rendered).(*accore.ConfigMapApplyConfiguration), cs.gateway)
}

// updatePublicKeys brings a ConfigMap of public keys to what is wanted, if it was not written since it was read.
func (r *Reconciler) updatePublicKeys(
	ctx context.Context, live *corev1.ConfigMap, wanted *accore.ConfigMapApplyConfiguration, owner client.Object,
) error {
	if live.Immutable != nil && *live.Immutable { // it can only be replaced by a new object
		if !metav1.IsControlledBy(live, owner) {
			return stalled(v1alpha1.ReasonNameConflict,
				"the ConfigMap %s is immutable and cannot be updated, and it has no ownerReference to this object, "+
					"so the operator does not replace it. Delete it, and the operator creates it again", live.Name)
		}
		uid := live.UID
		if err := r.Client.Delete(ctx, live, client.Preconditions{UID: &uid}); err != nil {
			return fmt.Errorf("delete the immutable ConfigMap %s: %w", live.Name, err)
		}
		return r.Client.Apply(ctx, wanted, client.FieldOwner(FieldManager), client.ForceOwnership)
	}
	applied, err := accore.ExtractConfigMap(live, FieldManager)
	if err != nil {
		return err
	}
	same, err := sameJSON(applied, wanted)
	if err != nil {
		return err
	}
	// The apply removes entries that only the operator applied. Other surplus entries go
	// first, also because a binary entry may have the name of a wanted one.
	surplus, version := maps.Clone(live.Data), live.ResourceVersion
	maps.DeleteFunc(surplus, func(name, _ string) bool {
		_, isWanted := wanted.Data[name]
		_, isApplied := applied.Data[name]
		return isWanted || isApplied
	})
	if len(surplus)+len(live.BinaryData) > 0 {
		if version, err = r.removeEntries(ctx, live, surplus, live.BinaryData); err != nil {
			return err
		}
	}
	if same {
		return nil
	}
	err = r.Client.Apply(ctx, wanted.WithResourceVersion(version), client.FieldOwner(FieldManager), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("apply ConfigMap %s: %w", live.Name, err)
	}
	return nil
}

// hasExactly reports whether updatePublicKeys would write nothing.
func hasExactly(live *corev1.ConfigMap, wanted *accore.ConfigMapApplyConfiguration) (bool, error) {
	applied, err := objectPublicKeys.applied(live)
	if err != nil {
		return false, err
	}
	same, err := sameJSON(applied, wanted)
	return same && len(live.Data) == len(wanted.Data) && len(live.BinaryData) == 0, err
}

// removeEntries removes entries from a ConfigMap, if it was not written since it was read, and returns its new version.
func (r *Reconciler) removeEntries(
	ctx context.Context, live *corev1.ConfigMap, data map[string]string, binary map[string][]byte,
) (string, error) {
	none := map[string]map[string]any{
		"metadata": {"resourceVersion": live.ResourceVersion}, "data": {}, "binaryData": {},
	}
	for name := range data {
		none["data"][name] = nil
	}
	for name := range binary {
		none["binaryData"][name] = nil
	}
	patch, err := json.Marshal(none)
	if err != nil {
		return "", err
	}
	target := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: live.Namespace, Name: live.Name}}
	err = r.Client.Patch(ctx, target, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(FieldManager))
	if err != nil {
		return "", fmt.Errorf("remove entries from ConfigMap %s: %w", live.Name, err)
	}
	return target.ResourceVersion, nil
}
