package controllers

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

// This file knows which keys the copies in other namespaces have. A rotation waits for them as it waits for replicas,
// but a consumer must not be able to hold up a rotation: see docs/decisions/0043.

// observedCopy is the copy of a PublicKeys that a gateway allows.
type observedCopy struct {
	name string            // with the namespace, and the reason why it is not Ready
	data map[string]string // nil: there was a ConfigMap, and it is gone
}

// observeCopies reads the copies of a gateway's public keys while its keys change. A
// PublicKeys that has never had a copy is not among them: no pod can have mounted it.
func (r *Reconciler) observeCopies(ctx context.Context, cs *clusterState) {
	if r.copiesOf == nil || !cs.needsAnswers() && !revokes(cs.ring, cs.gateway.Spec.Keys.Revoked) {
		return
	}
	cached, cancel := context.WithTimeout(ctx, cacheWait)
	defer cancel()
	all, err := r.copiesOf(cached, client.ObjectKeyFromObject(cs.gateway))
	if err != nil {
		return // the cache is being filled; a rotation takes longer than that
	}
	for i := range all {
		k := &all[i]
		namespace, err := r.namespaceOf(cached, k.Namespace)
		if err != nil || namespace.DeletionTimestamp != nil || !allows(cs.gateway, k.Namespace, namespace.Labels) {
			continue
		}
		name := k.Namespace + "/" + k.Name
		ready := meta.FindStatusCondition(k.Status.Conditions, v1alpha1.ConditionReady)
		if ready != nil && ready.Status != metav1.ConditionTrue {
			name += " (" + ready.Reason + ")"
		}
		copied := &corev1.ConfigMap{}
		err = r.Client.Get(cached, client.ObjectKey{Namespace: k.Namespace, Name: copyName(k)}, copied)
		switch {
		case err == nil && metav1.IsControlledBy(copied, k):
			cs.copies = append(cs.copies, observedCopy{name, copied.Data})
		case k.Status.ConfigMapRef != nil:
			cs.copies = append(cs.copies, observedCopy{name, nil})
		}
	}
}

// copiesAssumed reports whether the time is over for which a rotation waits for copies: publishLead plus propagation,
// since this process first saw the present ring. A new PublicKeys does not prolong it.
func (cs *clusterState) copiesAssumed() bool {
	bound := cs.gateway.Spec.Keys.PublishLead.Value() + propagation
	return !cs.ringSince.IsZero() && cs.now.Sub(cs.ringSince) >= bound
}

// copiesWithout returns the copies that lack a key. Only access keys are copied.
func (cs *clusterState) copiesWithout(id string) (all []string) {
	if k, known := cs.ring.Key(id); known && k.Use != keys.Access {
		return nil
	}
	for _, c := range cs.copies {
		if _, has := c.data[keys.PublicFile(id)]; !has {
			all = append(all, c.name)
		}
	}
	slices.Sort(all)
	return all
}

// copiesWith returns the copies that have a key.
func (cs *clusterState) copiesWith(id string) (all []string) {
	for _, c := range cs.copies {
		if _, has := c.data[keys.PublicFile(id)]; has {
			all = append(all, c.name)
		}
	}
	slices.Sort(all)
	return all
}

// isCopied reports whether every copy has a key, or has had enough time for it.
func (cs *clusterState) isCopied(id string) bool {
	return cs.copiesAssumed() || len(cs.copiesWithout(id)) == 0
}

// behind describes the copies that lag behind a ring: it waits for a key, and all
// lack it, or have a revoked key. It returns "" if there are none.
func (cs *clusterState) behind(ring keys.Ring) string {
	for _, k := range ring.Keys {
		var all []string
		switch phase := k.Phase.Public(); {
		case k.Use != keys.Access || !cs.published(k.ID) && phase != keys.Revoked:
			continue
		case phase == keys.Published, phase == keys.Signing:
			all = cs.copiesWithout(k.ID)
		case phase == keys.Revoked:
			all = cs.copiesWith(k.ID)
		}
		if len(all) > 0 {
			return fmt.Sprintf("these PublicKeys do not have the present state of the key %s: %s", k.ID, few(all))
		}
	}
	return ""
}
