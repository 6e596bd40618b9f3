package controllers

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/keys"
)

// keyResult is what one reconcile has done with the keys.
type keyResult struct {
	// ring is the ring to publish: the content of the Secret of the keys. It is the zero Ring if none may be published.
	ring            keys.Ring
	passphraseState keys.PassphraseState
	next            keys.Step
	deferred        []keys.Use

	// complete is set if the ring of this generation of the spec is written and
	// published. Only the replicas still have to load it.
	complete bool

	// unpublished is why the refresh keys could not be published. Nothing waits for them.
	unpublished *problem

	// minor is a problem that stops only part of the work, such as an invalid Secret
	// of passphrases. The existing keys stay in use.
	minor *problem

	digestKey []byte // keys every digest of a secret
	callerKey string
}

// advanceKeys takes every step that the keys are due, and writes the passphrases and
// then the ring. Its error needs a person or another reconcile.
func (r *Reconciler) advanceKeys(ctx context.Context, cs *clusterState, t *keyResult) error {
	trace := cs.trace(cs.ring)
	if p := r.rolledBack(cs, t.digestKey, trace); p != nil {
		return p
	}
	ring, problem := cs.startingRing(trace)
	if problem != nil {
		return problem
	}
	policy := keyPolicy(cs.gateway)
	policy.Revoked = slices.Concat(policy.Revoked, trace.Revoked)
	desired, problem := cs.desiredPassphrases(ring, policy)
	if problem != nil && len(ring.Keys) == 0 {
		return problem
	}
	t.minor = problem
	if t.digestKey == nil {
		t.digestKey = random(sha256.Size)
	}
	in := keys.Input{
		Ring: ring, Passphrases: cs.passphraseState, Desired: desired, Policy: policy, Trace: trace, Now: cs.now,
		Observed: cs.keysObserved(ring),
	}
	in.Observed.OpenedBy = r.inspect(cs, t.digestKey, ring, in.Passphrases.Candidates(desired))
	in.Observed.Distributed = cs.distributed(passphrasesDigest(t.digestKey, in.Passphrases.Current))
	result, stepErr := r.reconcileRing(in)
	if err := r.writePassphrases(ctx, cs, t, result.Passphrases); err != nil {
		if errors.Is(err, errSwapLost) || len(ring.Keys) == 0 || cs.passphrases == nil {
			return err
		}
		// The keys continue with the stored passphrases.
		t.minor = classify(err)
		in.Desired, in.Observed.RingLoaded, in.Observed.Distributed = nil, false, false
		if result, stepErr = r.reconcileRing(in); !result.Passphrases.Equal(in.Passphrases) {
			return err
		}
	}
	t.passphraseState, t.next, t.deferred = result.Passphrases, result.Next, result.Deferred
	if stepErr != nil {
		return fmt.Errorf("keys: %w", stepErr)
	}
	t.ring = ring
	if len(result.Ring.Keys) == 0 { // t.next has the reason
		return nil
	}
	if err := r.writeRing(ctx, cs, t, result.Ring); err != nil {
		if slices.ContainsFunc(result.Steps, func(s keys.Taken) bool { return s.Reason == keys.Withdrawn }) {
			// If the key were published again, it would look as if it had never been withdrawn.
			t.ring = keys.Ring{}
		}
		return err
	}
	t.ring = result.Ring
	for _, step := range result.Steps {
		// The action includes the use, so the steps of both uses stay separate events.
		action := strings.TrimSpace(string(step.Action) + " " + string(step.Use))
		r.event(cs.gateway, corev1.EventTypeNormal, "Key"+string(step.Action), action, step.Message)
		r.steps.WithLabelValues(string(step.Action), string(step.Reason)).Inc()
	}
	return nil
}

// keysObserved returns what is known about a ring and its users, as plain data.
func (cs *clusterState) keysObserved(ring keys.Ring) keys.Observed {
	observed := keys.Observed{
		Published: map[string]bool{}, PublishedUnknown: cs.unread[idPublicKeys] != nil,
		Seen: map[string]bool{}, RingLoaded: cs.loaded(),
	}
	for _, k := range ring.Keys {
		observed.Published[k.ID], observed.Seen[k.ID] = cs.published(k.ID), cs.seen(k.ID)
	}
	return observed
}

// keyPolicy returns the policy of a spec. It ignores a rotation request that is too
// long, so that request blocks nothing; rotateRefused reports it.
func keyPolicy(g *v1alpha1.AuthGateway) keys.Policy {
	p := keys.Policy{
		Algorithm:        keys.Algorithm(g.Spec.Keys.Algorithm),
		RotationInterval: g.Spec.Keys.RotationInterval.Value(),
		PublishLead:      g.Spec.Keys.PublishLead.Value(),
		Lifetimes: map[keys.Use]time.Duration{
			keys.Access: g.Spec.Tokens.AccessTokenTTL.Value(), keys.Refresh: g.Spec.Tokens.RefreshTokenTTL.Value(),
		},
		ClockSkew: verifierSkew,
		Revoked:   g.Spec.Keys.Revoked,
	}
	if rotateRefused(g) == nil {
		p.Rotate = g.Annotations[v1alpha1.AnnotationRotate]
	}
	return p
}

// maxRotate is the maximum length of a rotation request in a ring.
const maxRotate = 256

func rotateRefused(g *v1alpha1.AuthGateway) *problem {
	if rotate := g.Annotations[v1alpha1.AnnotationRotate]; len(rotate) > maxRotate {
		return stalled(v1alpha1.ReasonInvalidSpec,
			"the annotation %s is longer than %d bytes, so no rotation begins: "+
				"set a short value, such as the output of date +%%s", v1alpha1.AnnotationRotate, maxRotate)
	}
	return nil
}

// revokes reports whether a key of the ring that still verifies is to be revoked.
func revokes(ring keys.Ring, revoked []string) bool {
	return slices.ContainsFunc(ring.Keys, func(k keys.Key) bool {
		return k.Phase != keys.Revoked && slices.Contains(revoked, k.ID)
	})
}

// writeRing writes a ring if it differs from the one that was read. The annotation
// records that every private half was decrypted with the current passphrases.
func (r *Reconciler) writeRing(ctx context.Context, cs *clusterState, t *keyResult, ring keys.Ring) error {
	files := ring.Files()
	var annotations map[string]string
	if cs.keys != nil && cs.ringErr == nil && ring.Generation == cs.ring.Generation {
		annotations = map[string]string{annotationSealed: cs.keys.Annotations[annotationSealed]}
	} else {
		p := t.passphraseState.Passphrases()
		encryption := r.inspect(cs, t.digestKey, ring, p).Encryption(ring, p)
		locked := func(e keys.Encryption) bool { return e != keys.EncryptedCurrent }
		if !slices.ContainsFunc(slices.Collect(maps.Values(encryption)), locked) {
			annotations = map[string]string{annotationSealed: encryptionDigest(t.digestKey, p, files)}
		}
	}
	return r.writeSecret(ctx, cs, cs.keys, cs.ownSecret(cs.names.keys(), files, annotations, true))
}

func (r *Reconciler) event(g *v1alpha1.AuthGateway, kind, reason, action, message string) {
	if r.Events != nil {
		r.Events.Eventf(g, nil, kind, reason, action, "%s", clipTo(message, mostOfEvent))
	}
}
