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
	"k8s.io/client-go/util/csaupgrade"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
)

// apply brings every object but the public keys to what is wanted of it, and
// takes away what is wanted no more. It writes only where something differs, and
// returns what could not be done. That keeps nothing else from being done, with
// one exception: the Deployment is left as it is where something that comes
// before it is not there, since no pod may start without it; and where withPods
// is false.
func (r *Reconciler) apply(ctx context.Context, w *world, rendered rendering, withPods bool) (found []*problem) {
	for _, s := range slots {
		if s == slotPublicKeys || s == slotDeployment && (!withPods || len(found) > 0) {
			continue
		}
		if err := w.unread[s.kind]; err != nil {
			if s.wantedBy(w.gateway) {
				found = append(found, classify(err))
			}
		} else if p := w.taken(s); p != nil {
			found = append(found, p)
		} else if err := r.bring(ctx, w, rendered, s); err != nil {
			found = append(found, classify(err))
		}
	}
	return found
}

func (r *Reconciler) bring(ctx context.Context, w *world, rendered rendering, s *slot) error {
	live := w.objects[s.kind]
	switch {
	case w.absent[s.kind]: // the status says so where the kind is asked for
	case s.wantedBy(w.gateway):
		wanted := s.render(rendered)
		if d, is := live.(*appsv1.Deployment); is && s == slotDeployment {
			if may, err := r.mayRoll(ctx, w, d, wanted.(*acapps.DeploymentApplyConfiguration)); !may {
				return err
			}
		}
		if err := r.applySlot(ctx, w, s, live, wanted); err != nil {
			return fmt.Errorf("apply %s %s: %w", s.kind, s.nameIn(w.names), err)
		}
	case live != nil && live.GetDeletionTimestamp() == nil && w.owns(live):
		uid := live.GetUID()
		err := r.Client.Delete(ctx, live, client.Preconditions{UID: &uid})
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete %s %s: %w", s.kind, live.GetName(), err)
		}
	}
	return nil
}

func (r *Reconciler) applySlot(ctx context.Context, w *world, s *slot, live client.Object, wanted runtime.ApplyConfiguration) error {
	if live != nil {
		same, err := r.prepare(ctx, w, s, live, wanted)
		if same || err != nil {
			return err
		}
	}
	err := r.Client.Apply(ctx, wanted, client.FieldOwner(FieldManager), client.ForceOwnership)
	if live == nil || !apierrors.IsInvalid(err) {
		return err
	}
	// Somebody may have put, beside what is ours, what excludes it.
	if patchErr := r.resolve(ctx, live, wanted); patchErr != nil {
		return errors.Join(err, patchErr)
	}
	return r.Client.Apply(ctx, wanted, client.FieldOwner(FieldManager), client.ForceOwnership)
}

// prepare takes out of a live object what an apply would leave in it, and
// reports whether there is nothing left to apply.
func (r *Reconciler) prepare(ctx context.Context, w *world, s *slot, live client.Object, wanted runtime.ApplyConfiguration) (same bool, err error) {
	adopted := isAdopted(live)
	applied, err := s.applied(live)
	if err != nil {
		return false, err
	}
	if same, err = sameJSON(applied, wanted); err != nil {
		return false, err
	}
	var stray []map[string]any
	if s == slotDeployment {
		if stray, err = strays(live.(*appsv1.Deployment), wanted.(*acapps.DeploymentApplyConfiguration)); err != nil {
			return false, err
		}
	}
	if same && !adopted && len(stray) == 0 {
		return true, nil
	}
	if !r.damper.allow(w.gateway.UID, s.kind, wanted, w.now) {
		return false, r.contended(ctx, s, live)
	}
	if adopted {
		return false, r.takeOver(ctx, s, live)
	}
	if len(stray) > 0 {
		err = r.patchSeen(ctx, live, stray)
	}
	return same, err
}

// resolve puts in a live object what is wanted in the place of what excludes it.
// A patch makes its writer the owner of what it sets, besides the owner by which
// the operator applies, and that would keep it when it is wanted no more; so the
// one is made the other.
func (r *Reconciler) resolve(ctx context.Context, live client.Object, wanted any) error {
	patch, err := contradictions(live, wanted)
	if patch == nil || err != nil {
		return err
	}
	if err := r.Client.Patch(ctx, live, client.RawPatch(types.JSONPatchType, patch), client.FieldOwner(FieldManager)); err != nil {
		return fmt.Errorf("take away what excludes it: %w", err)
	}
	patch, err = csaupgrade.UpgradeManagedFieldsPatch(live, sets.New(FieldManager), FieldManager)
	if patch == nil || err != nil {
		return err
	}
	return r.Client.Patch(ctx, live, client.RawPatch(types.JSONPatchType, patch), client.FieldOwner(FieldManager))
}

// exclusive are fields of which an object may have one: the API server refuses
// what has ours and another's.
var exclusive = [][]string{
	{"value", "valueFrom"},
	{"httpGet", "exec", "tcpSocket", "grpc"},
	{"minAvailable", "maxUnavailable"},
	{"secret", "configMap", "emptyDir", "hostPath", "persistentVolumeClaim", "projected", "csi", "downwardAPI", "ephemeral"},
}

// contradictions is a JSON patch that replaces in a live object what excludes
// what is wanted; nil: there is nothing of the kind.
func contradictions(live client.Object, wanted any) ([]byte, error) {
	var trees [2]any
	for i, o := range []any{live, wanted} {
		text, err := json.Marshal(o)
		if err == nil {
			err = json.Unmarshal(text, &trees[i])
		}
		if err != nil {
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
		case []any: // those with exclusive fields in them have names
			live, _ := live.([]any)
			for _, w := range wanted {
				for i, l := range live {
					a, isObject := w.(map[string]any)
					b, _ := l.(map[string]any)
					if isObject && a["name"] != nil && a["name"] == b["name"] {
						walk(fmt.Sprintf("%s/%d", path, i), l, w)
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

// applyPublicKeys publishes a ring. It is a swap: a pass that read an older ring
// must not write over a newer one. Since the ConfigMap was read before the ring,
// a ConfigMap that is unchanged tells that the ring is not older than it. And
// nothing may stand in it that is not from the ring: consumers would trust it.
func (r *Reconciler) applyPublicKeys(ctx context.Context, w *world, rendered rendering) error {
	live := w.publicKeys()
	wanted := renderPublicKeys(rendered)
	if live == nil {
		return r.bring(ctx, w, rendered, slotPublicKeys)
	}
	if live.Immutable != nil && *live.Immutable { // by somebody's hand; only another object can change
		if !w.owns(live) {
			return stalled(v1alpha1.ReasonNameConflict, "the ConfigMap %s is immutable, so it cannot be brought up to date, and no ownerReference says that this AuthGateway made it, so it is left alone: delete it, and it is made anew", live.Name)
		}
		uid := live.UID
		if err := r.Client.Delete(ctx, live, client.Preconditions{UID: &uid}); err != nil {
			return fmt.Errorf("delete the immutable ConfigMap %s: %w", live.Name, err)
		}
		return r.applySlot(ctx, w, slotPublicKeys, nil, wanted)
	}
	applied, err := slotPublicKeys.applied(live)
	if err != nil {
		return err
	}
	same, err := sameJSON(applied, wanted)
	if err != nil {
		return err
	}
	if !same {
		// A binary entry may have a name of ours, which nothing can be applied
		// beside. The event of these writes brings the next pass, which cleans
		// what is left.
		version := live.ResourceVersion
		if len(live.BinaryData) > 0 {
			if version, err = r.clean(ctx, live, nil, live.BinaryData); err != nil {
				return err
			}
		}
		if err := r.Client.Apply(ctx, wanted.WithResourceVersion(version), client.FieldOwner(FieldManager), client.ForceOwnership); err != nil {
			return fmt.Errorf("apply ConfigMap %s: %w", live.Name, err)
		}
		return nil
	}
	surplus := maps.Clone(live.Data)
	maps.DeleteFunc(surplus, func(name, _ string) bool { _, known := wanted.Data[name]; return known })
	if len(surplus)+len(live.BinaryData) == 0 {
		return nil
	}
	_, err = r.clean(ctx, live, surplus, live.BinaryData)
	return err
}

// clean takes entries out of a ConfigMap, if nobody has written it since it was
// read, and tells its next version.
func (r *Reconciler) clean(ctx context.Context, live *corev1.ConfigMap, data map[string]string, binary map[string][]byte) (string, error) {
	none := map[string]map[string]any{"metadata": {"resourceVersion": live.ResourceVersion}, "data": {}, "binaryData": {}}
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
	if err := r.Client.Patch(ctx, target, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(FieldManager)); err != nil {
		return "", fmt.Errorf("clean ConfigMap %s: %w", live.Name, err)
	}
	return target.ResourceVersion, nil
}

// swap writes a Secret by compare-and-swap: over what was read, or as a new one
// where nothing was there. It reports false where somebody else was faster.
func (r *Reconciler) swap(ctx context.Context, read *corev1.Secret, wanted *corev1.Secret) (bool, error) {
	var err error
	if read == nil {
		err = r.Client.Create(ctx, wanted, client.FieldOwner(FieldManager))
	} else {
		wanted.ResourceVersion = read.ResourceVersion
		err = r.Client.Update(ctx, wanted, client.FieldOwner(FieldManager))
	}
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), read != nil && apierrors.IsNotFound(err):
		return false, nil
	default:
		return false, fmt.Errorf("write Secret %s: %w", wanted.Name, err)
	}
}
