package controllers

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

// keysStatus returns what the status shows of a ring. It contains no secrets.
func keysStatus(g *v1alpha1.AuthGateway, ring keys.Ring, revoked []string) *v1alpha1.KeysStatus {
	s := &v1alpha1.KeysStatus{Generation: ring.Generation, Revoked: ring.AllRevoked(revoked)}
	for _, k := range ring.Keys {
		shown := v1alpha1.KeyStatus{
			KID: k.ID, Algorithm: v1alpha1.Algorithm(k.Algorithm), Phase: v1alpha1.KeyPhase(k.Phase.Public()),
			LastTransitionTime: metav1.NewTime(k.PhaseSince),
		}
		if !k.RemoveAfter.IsZero() {
			removal := metav1.NewTime(k.RemoveAfter)
			shown.RemovalTime = &removal
		}
		if k.Use == keys.Access {
			s.Access = append(s.Access, shown)
		} else {
			s.Refresh = append(s.Refresh, shown)
		}
	}
	var next time.Time
	for _, use := range keys.Uses() {
		if due := keyPolicy(g).NextRotation(ring, use); !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	if !next.IsZero() {
		due := metav1.NewTime(next.Truncate(time.Second))
		s.NextRotationTime = &due
	}
	if done := ring.Rotated[keys.Access]; ring.Honoured(done) {
		s.ObservedRotate = done
	}
	return s
}

// keysCondition reports whether a key of each use signs and is published, and
// whether every revoked key is rejected everywhere.
func keysCondition(cs *clusterState, t keyResult, found *problem) condition {
	if pending := cs.pendingRevocation(t); pending != "" {
		switch {
		case found != nil:
			pending += ": " + found.message
		case cs.gateway.Spec.Suspend:
			pending += ": spec.suspend is true, so the operator changes nothing"
		}
		return isFalse(v1alpha1.ReasonRevocationPending, pending)
	}
	switch {
	case found != nil && found.cause != nil && len(t.ring.Keys) == 0 && cs.gateway.Status.Keys != nil:
		return condition{metav1.ConditionUnknown, found.reason, found.message}
	case found != nil:
		return isFalse(found.reason, found.message)
	case len(t.ring.Keys) == 0:
		return isFalse(v1alpha1.ReasonProgressing, "the first keys are being created")
	}
	for _, use := range keys.Uses() {
		if k, signs := t.ring.Signing(use); !signs || !cs.published(k.ID) {
			return isFalse(v1alpha1.ReasonProgressing, fmt.Sprintf("the %s keys are being published", use))
		}
	}
	if t.next.Reason == keys.Unopenable {
		return isFalse(v1alpha1.ReasonKeysUnopenable, t.next.Message)
	}
	unconfirmed := ""
	if all := cs.assumed(); len(all) > 0 && cs.needsAnswers() {
		unconfirmed = fmt.Sprintf("; not confirmed by these replicas, which were ready long enough to have loaded the keys: %s",
			few(all))
	}
	behind := cs.behind(t.ring)
	if behind != "" && cs.copiesAssumed() {
		unconfirmed, behind = unconfirmed+"; no longer waited for: "+behind, ""
	}
	if awaited := cs.awaitedReplicas(t.ring); awaited != "" {
		return isTrue(v1alpha1.ReasonAwaitingReplicas, awaited+unconfirmed)
	}
	if behind != "" {
		return isTrue(v1alpha1.ReasonAwaitingPublicKeys, "the keys wait for copies in other namespaces: "+behind+unconfirmed)
	}
	if len(t.deferred) > 0 {
		return isTrue(v1alpha1.ReasonRotating,
			"a changed passphrase is used after the previous change is complete"+unconfirmed)
	}
	switch t.next.Reason {
	case keys.AwaitingPublication, keys.RingFull:
		return isTrue(v1alpha1.ReasonRotating, t.next.Message+unconfirmed)
	}
	return isTrue(v1alpha1.ReasonKeysPublished,
		"every key that verifies access tokens is in the ConfigMap "+cs.names.publicKeys()+unconfirmed)
}

// pendingRevocation describes the first revoked key that the ring, the public keys
// or a replica still trusts. It returns "" if there is none.
func (cs *clusterState) pendingRevocation(t keyResult) string {
	document := cs.ownDocument()
	for _, id := range cs.gateway.Spec.Keys.Revoked {
		trusted := func(k keys.PublicState) bool { return k.ID == id && k.Phase != keys.Revoked }
		phase := cs.phaseOf(id, t.ring)
		switch {
		case phase == "":
		case phase != keys.Revoked:
			return fmt.Sprintf("spec.keys.revoked names the key %s, which is still %s", id, phase)
		case !t.complete && document != nil && slices.ContainsFunc(document.Keys, trusted):
			return fmt.Sprintf("the key %s is revoked, but still published", id)
		}
		if all := cs.trusting(id); phase == keys.Revoked && len(all) > 0 {
			return fmt.Sprintf("the key %s is revoked, but these replicas may trust it for about two more minutes, "+
				"until they have loaded the new keys: %s", id, few(all))
		}
		if all := cs.copiesWith(id); phase == keys.Revoked && len(all) > 0 && !cs.copiesAssumed() {
			return fmt.Sprintf("the key %s is revoked, but these PublicKeys still have it: %s", id, few(all))
		}
	}
	return ""
}

// phaseOf returns the phase of a key according to the ring or, without one, to the
// status. It returns "" if there is no such key.
func (cs *clusterState) phaseOf(id string, ring keys.Ring) keys.Phase {
	if len(ring.Keys) > 0 {
		k, _ := ring.Key(id)
		return k.Phase.Public()
	}
	if s := cs.gateway.Status.Keys; s != nil {
		for _, k := range slices.Concat(s.Access, s.Refresh) {
			if k.KID == id {
				return keys.Phase(k.Phase)
			}
		}
	}
	return ""
}

// awaitedReplicas describes a key that waits for replicas to load it. It returns "" if there is none.
func (cs *clusterState) awaitedReplicas(ring keys.Ring) string {
	for _, phase := range []keys.Phase{keys.Published, keys.Signing} {
		for _, k := range ring.Keys {
			if k.Phase.Public() != phase || !cs.published(k.ID) {
				continue
			}
			waits := fmt.Sprintf("the %s %s key %s waits until every replica has loaded it",
				strings.ToLower(string(phase)), k.Use, k.ID)
			if cs.podsErr != nil {
				return waits + ", but the pods cannot be listed"
			}
			if all := cs.without(k.ID); len(all) > 0 && cs.needsAnswers() {
				return waits + ": " + few(all)
			}
		}
	}
	return ""
}
