package controllers

import (
	"encoding/json"
	"fmt"
	"slices"

	accore "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

// A ring only moves forward. This file detects a ring that is missing, damaged, or
// older than one that was seen, and says what a person can do about it.

// trace returns what is known about the ring outside its Secret: from the status, from the public keys, and from the
// pods. The public keys count only if no other writer has changed them. While a key is to be revoked, the answers of
// pods do not count: a compromised pod could lie to keep the key.
func (cs *clusterState) trace(ring keys.Ring) keys.Trace {
	var t keys.Trace
	known := map[string]bool{}
	revoked := func(id string) { // keeps the order in which the IDs were learned, so it is stable
		if !known[id] {
			known[id], t.Revoked = true, append(t.Revoked, id)
		}
	}
	document, status := cs.ownDocument(), cs.gateway.Status.Keys
	if status != nil {
		if isIntact(status) {
			t.Generation = status.Generation
		}
		for _, id := range status.Revoked {
			revoked(id)
		}
		var ids []string
		for _, k := range slices.Concat(status.Access, status.Refresh) {
			if ids = append(ids, k.KID); k.Phase == v1alpha1.KeyPhase(keys.Revoked) {
				revoked(k.KID)
			}
		}
		if isIntact(status) && status.Generation == ring.Generation && len(ring.Keys) > 0 && !sameKeys(ring, ids) {
			t.Generation++ // a different ring of the same generation
		}
	}
	if document != nil {
		t.Generation = max(t.Generation, document.Generation)
		for _, id := range document.Revoked {
			revoked(id)
		}
		for _, k := range document.Keys {
			if k.Phase == keys.Revoked {
				revoked(k.ID)
			}
		}
	}
	if !revokes(ring, cs.gateway.Spec.Keys.Revoked) {
		for _, state := range cs.states {
			if g := state.Keys.Generation; g < maxGeneration {
				t.Generation = max(t.Generation, g)
			}
		}
	}
	t.Revoked = t.Revoked[max(0, len(t.Revoked)-maxRevoked):]
	t.Accepted = cs.gateway.Annotations[v1alpha1.AnnotationAcceptKeys] == acceptance(ring.Generation, t.Generation)
	return t
}

const (
	// maxGeneration is more than a ring reaches in a thousand years. A pod that reports
	// more must not determine the next generation.
	maxGeneration = 1 << 40

	// maxRevoked is how many revoked keys are remembered; older ones are forgotten.
	maxRevoked = 256
)

func sameKeys(ring keys.Ring, ids []string) bool {
	return len(ids) == len(ring.Keys) && !slices.ContainsFunc(ring.Keys, func(k keys.Key) bool {
		return !slices.Contains(ids, k.ID)
	})
}

// isIntact reports whether a status shows a key ring as the operator writes it, with a
// signing key for each use. A person may have edited it.
func isIntact(s *v1alpha1.KeysStatus) bool {
	signs := func(k v1alpha1.KeyStatus) bool { return k.Phase == v1alpha1.KeyPhase(keys.Signing) }
	return slices.ContainsFunc(s.Access, signs) && slices.ContainsFunc(s.Refresh, signs)
}

// acceptance returns the value of AnnotationAcceptKeys for one restore. The next ring
// is above both generations, so the request is carried out only once.
func acceptance(found, seen int64) string { return fmt.Sprintf("%d-after-%d", found, seen) }

// ownDocument returns the published state of the ring, or nil if another writer has changed it.
func (cs *clusterState) ownDocument() *keys.PublicDocument {
	public := cs.publicKeys()
	if public == nil || !cs.names.isOurs(public, cs.gateway) {
		return nil
	}
	applied, err := accore.ExtractConfigMap(public, FieldManager)
	var document keys.PublicDocument
	if err != nil || json.Unmarshal([]byte(applied.Data[keys.PublicDocumentFile]), &document) != nil {
		return nil
	}
	return &document
}

// rolledBack returns the problem of a ring that is older than one that was seen. With
// such a ring, consumers would trust revoked keys and refuse tokens signed since.
func (r *Reconciler) rolledBack(cs *clusterState, digestKey []byte, trace keys.Trace) *problem {
	if cs.ringErr != nil || !trace.RolledBack(cs.ring) || trace.Accepted {
		return nil //nolint:nilerr // startingRing reports a ring that cannot be read
	}
	signing, _ := cs.ring.Signing(keys.Access)
	locked := ""
	p := cs.passphraseState.Passphrases()
	for _, encryption := range r.inspect(cs, digestKey, cs.ring, p).Encryption(cs.ring, p) {
		if encryption == keys.EncryptedUnknown {
			locked = fmt.Sprintf(" (No passphrase in the Secret %s decrypts all of these keys: "+
				"restore that Secret too, or request a rotation afterwards.)", cs.names.passphrases())
		}
	}
	return stalled(v1alpha1.ReasonKeysRolledBack,
		"the Secret %s has keys of generation %d, but generation %d was seen in %s: "+
			"an older copy was restored, or another operator wrote it. "+
			"Nothing changes: the pods keep their keys, and the published keys stay. "+
			"Restore the latest copy. If there is none, continue with these keys, of which %s signs access tokens: "+
			"tokens of keys that this copy lacks become invalid, and revoked keys stay revoked: "+
			"kubectl annotate agw %s -n %s --overwrite %s=%s%s",
		cs.names.keys(), cs.ring.Generation, trace.Generation, cs.witness(trace.Generation), signing.ID,
		cs.names.gateway, cs.names.namespace, v1alpha1.AnnotationAcceptKeys, acceptance(cs.ring.Generation, trace.Generation), locked)
}

// witness names the place where a generation was seen.
func (cs *clusterState) witness(generation int64) string {
	if document := cs.ownDocument(); document != nil && document.Generation == generation {
		return "the ConfigMap " + cs.names.publicKeys()
	}
	var pods []string
	for name, state := range cs.states {
		if state.Keys.Generation == generation {
			pods = append(pods, "pod "+name)
		}
	}
	if s := cs.gateway.Status.Keys; len(pods) == 0 || s != nil && s.Generation >= generation {
		return "the status"
	}
	slices.Sort(pods)
	return few(pods)
}

// startingRing returns the ring that was read. It returns a ring without keys, which makes keys.Reconcile create the
// first ones, only if there is no trace of earlier keys or a person has given those up. That ring starts above every
// generation that was seen.
func (cs *clusterState) startingRing(trace keys.Trace) (keys.Ring, *problem) {
	last := cs.lastSigningKey()
	givenUp := last != "" && cs.gateway.Annotations[v1alpha1.AnnotationNewRing] == last
	command := fmt.Sprintf("kubectl annotate agw %s -n %s --overwrite %s=%s",
		cs.names.gateway, cs.names.namespace, v1alpha1.AnnotationNewRing, last)
	first := keys.Ring{Generation: trace.Generation}
	switch {
	case cs.keys == nil && (last == "" || givenUp):
		return first, nil
	case cs.keys == nil:
		return keys.Ring{}, stalled(v1alpha1.ReasonKeysLost,
			"the Secret %s with the signing keys is gone, but tokens of key %s may still be valid, "+
				"so the operator does not create new keys: restore the Secret %s from a backup; "+
				"or, if it is lost for good, request new keys, which ends every session: %s",
			cs.names.keys(), last, cs.names.keys(), command)
	case cs.ringErr != nil && givenUp:
		return first, nil
	case cs.ringErr != nil && last == "":
		return keys.Ring{}, stalled(v1alpha1.ReasonKeysDamaged,
			"the Secret %s: %v; to have new keys created, delete it", cs.names.keys(), cs.ringErr)
	case cs.ringErr != nil:
		return keys.Ring{}, stalled(v1alpha1.ReasonKeysDamaged, "the Secret %s: %v: %s", cs.names.keys(), cs.ringErr, command)
	default:
		return cs.ring, nil
	}
}
