package controllers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// apply brings every object to what is wanted of it, and takes away what is
// wanted no more. It writes only where something differs.
func (r *Reconciler) apply(ctx context.Context, w *world, rendered rendering, which ...*slot) error {
	for _, s := range which {
		live := w.objects[s.kind]
		switch {
		case w.absent[s.kind]: // the status says so where the kind is asked for
		case s.wantedBy(w.gateway):
			if err := r.applySlot(ctx, s, live, s.render(rendered)); err != nil {
				return fmt.Errorf("apply %s %s: %w", s.kind, s.nameIn(w.names), err)
			}
		case live != nil && live.GetDeletionTimestamp() == nil:
			uid := live.GetUID()
			err := r.Client.Delete(ctx, live, client.Preconditions{UID: &uid})
			if client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("delete %s %s: %w", s.kind, live.GetName(), err)
			}
		}
	}
	return nil
}

func (r *Reconciler) applySlot(ctx context.Context, s *slot, live client.Object, wanted runtime.ApplyConfiguration) error {
	if live != nil {
		applied, err := s.applied(live)
		if err != nil {
			return err
		}
		same, err := sameJSON(applied, wanted)
		if same || err != nil {
			return err
		}
	}
	return r.Client.Apply(ctx, wanted, client.FieldOwner(FieldManager), client.ForceOwnership)
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
		return r.apply(ctx, w, rendered, slotPublicKeys)
	}
	if live.Immutable != nil && *live.Immutable { // by somebody's hand; only another object can change
		uid := live.UID
		if err := r.Client.Delete(ctx, live, client.Preconditions{UID: &uid}); err != nil {
			return fmt.Errorf("delete the immutable ConfigMap %s: %w", live.Name, err)
		}
		return r.applySlot(ctx, slotPublicKeys, nil, wanted)
	}
	applied, err := slotPublicKeys.applied(live)
	if err != nil {
		return err
	}
	same, err := sameJSON(applied, wanted)
	if err != nil {
		return err
	}
	if !same { // the event of this write brings the next pass, which cleans what is left
		if err := r.Client.Apply(ctx, wanted.WithResourceVersion(live.ResourceVersion), client.FieldOwner(FieldManager), client.ForceOwnership); err != nil {
			return fmt.Errorf("apply ConfigMap %s: %w", live.Name, err)
		}
		return nil
	}
	surplus := map[string]map[string]any{"data": {}, "binaryData": {}}
	for name := range live.Data {
		if _, known := wanted.Data[name]; !known {
			surplus["data"][name] = nil
		}
	}
	for name := range live.BinaryData {
		surplus["binaryData"][name] = nil
	}
	if len(surplus["data"])+len(surplus["binaryData"]) == 0 {
		return nil
	}
	patch, err := json.Marshal(surplus)
	if err != nil {
		return err
	}
	target := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: live.Namespace, Name: live.Name}}
	if err := r.Client.Patch(ctx, target, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(FieldManager)); err != nil {
		return fmt.Errorf("clean ConfigMap %s: %w", live.Name, err)
	}
	return nil
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
