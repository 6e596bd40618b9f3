package controllers

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	accore "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// tended is what a pass has made of the keys.
type tended struct {
	// ring is what the Secret of the keys holds, where it is to be published; the
	// zero Ring where there is none that may be.
	ring    keys.Ring
	custody keys.PassphraseState
	idle    keys.Step
	waits   []keys.Use

	// through says that the keys are as this generation of the spec wants them, as
	// far as that is up to the operator: the ring is written and published.
	through bool

	// aside is what keeps something from being done of the keys that is not
	// urgent, as a Secret of passphrases that will not do. The keys that there are
	// go on.
	aside *problem

	digestKey []byte // keys every digest of a secret
	callerKey string
}

// passphraseSettings are the keys of a Secret of passphrases.
var passphraseSettings = map[keys.Use]struct{ current, former string }{
	keys.Access:  {config.EnvAccessPassphrase, config.EnvFormerAccessPassphrase},
	keys.Refresh: {config.EnvRefreshPassphrase, config.EnvFormerRefreshPassphrase},
}

// custodyOf reads the operator's own Secret of passphrases.
func custodyOf(secret *corev1.Secret) keys.PassphraseState {
	c := keys.PassphraseState{Current: map[keys.Use]string{}, Former: map[keys.Use]string{}, Distributed: map[keys.Use]bool{}}
	if secret == nil {
		return c
	}
	for use, name := range passphraseSettings {
		c.Current[use], c.Former[use] = string(secret.Data[name.current]), string(secret.Data[name.former])
		c.Distributed[use] = len(secret.Data[secretGiven(use)]) > 0
	}
	return c
}

// tendKeys takes every step of the keys that is due, and writes what follows:
// the passphrases first, then the ring. Its error is what a person, or a later
// pass, has to see to.
func (r *Reconciler) tendKeys(ctx context.Context, w *clusterState, t *tended) error {
	trace := w.trace(w.ring)
	if p := r.rolledBack(w, t.digestKey, trace); p != nil {
		return p
	}
	ring, problem := w.startingRing(trace)
	if problem != nil {
		return problem
	}
	policy := keyPolicy(w.gateway)
	policy.Revoked = slices.Concat(policy.Revoked, trace.Revoked)
	wanted, problem := w.wantedPassphrases(ring, policy)
	if problem != nil && len(ring.Keys) == 0 {
		return problem
	}
	t.aside = problem
	if t.digestKey == nil {
		t.digestKey = random(sha256.Size)
	}
	inspect := func(ring keys.Ring, p keys.Passphrases) map[string]keys.Encryption {
		return r.inspect(w, t.digestKey, ring, p)
	}
	tending := keys.Input{
		Ring: ring, Passphrases: w.custody, Desired: wanted, Policy: policy, Now: w.now,
		Seen: w.seen, Loaded: w.loaded(), Inspect: inspect, Trace: trace,
		Published: w.published, Unread: w.unread[gvkConfigMap] != nil,
		Distributed: func(current map[keys.Use]string) bool { return w.given(passphrasesDigest(t.digestKey, current)) },
	}
	out, tendErr := keys.Reconcile(tending)
	if err := r.keepPassphrases(ctx, w, t, out.Passphrases); err != nil {
		if errors.Is(err, errSwapLost) || len(ring.Keys) == 0 || w.passphrases == nil {
			return err
		}
		// The keys go on with the passphrases that there are.
		t.aside = classify(err)
		tending.Desired, tending.Loaded = nil, false
		tending.Distributed = func(map[keys.Use]string) bool { return false }
		if out, tendErr = keys.Reconcile(tending); !out.Passphrases.Equal(w.custody) {
			return err
		}
	}
	t.custody, t.idle, t.waits = out.Passphrases, out.Next, out.Deferred
	if tendErr != nil {
		return fmt.Errorf("keys: %w", tendErr)
	}
	t.ring = ring
	if len(out.Ring.Keys) == 0 { // Next made nothing; t.idle says why
		return nil
	}
	if err := r.keepRing(ctx, w, t, out.Ring, inspect); err != nil {
		if slices.ContainsFunc(out.Steps, func(s keys.Step) bool { return s.Reason == keys.Withdrawn }) {
			t.ring = keys.Ring{} // published again, the key would look as if it had been there all the time
		}
		return err
	}
	t.ring = out.Ring
	for _, step := range out.Steps {
		r.event(w.gateway, corev1.EventTypeNormal, "Key"+string(step.Action), strings.TrimSpace(string(step.Action)+" "+string(step.Use)), step.Message) // a step of each kind in one pass are two events
		r.steps.WithLabelValues(string(step.Action), string(step.Reason)).Inc()
	}
	return nil
}

// keyPolicy is what a spec wants of the keys. An order to rotate that is longer
// than any may be is none, so that it is in the way of nothing; rotateRefused
// names it.
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
		p.Rotate = g.Annotations[AnnotationRotate]
	}
	return p
}

// maxRotate is how long an order to rotate may be, as the ring keeps it.
const maxRotate = 256

func rotateRefused(g *v1alpha1.AuthGateway) *problem {
	if rotate := g.Annotations[AnnotationRotate]; len(rotate) > maxRotate {
		return stalled(v1alpha1.ReasonInvalidSpec, "the annotation %s is longer than %d bytes, so no rotation begins: write a short one, such as the output of date +%%s", AnnotationRotate, maxRotate)
	}
	return nil
}

// trace is what is known of the ring beside its Secret: the status and the public
// keys remember it, and the pods have loaded it. The public keys count for as
// long as nobody else has written over them. The word of a pod does not count
// while a key is to be revoked: a pod that was taken over may lie to keep it.
func (w *clusterState) trace(ring keys.Ring) keys.Trace {
	var t keys.Trace
	known := map[string]bool{}
	revoked := func(id string) {
		if !known[id] {
			known[id], t.Revoked = true, append(t.Revoked, id)
		}
	}
	document, status := w.ownDocument(), w.gateway.Status.Keys
	if status != nil { // the order is that in which they were learned, so that it stays the same
		if isWhole(status) {
			t.Generation = status.Generation
		}
		for _, id := range status.Revoked {
			revoked(id)
		}
		var there []string
		for _, k := range slices.Concat(status.Access, status.Refresh) {
			if there = append(there, k.KID); k.Phase == v1alpha1.KeyPhase(keys.Revoked) {
				revoked(k.KID)
			}
		}
		if isWhole(status) && status.Generation == ring.Generation && len(ring.Keys) > 0 && !sameKeys(ring, there) {
			t.Generation++ // another ring than the one of this generation
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
	if !revokes(ring, w.gateway.Spec.Keys.Revoked) {
		for _, state := range w.states {
			if g := state.Keys.Generation; g < mostGenerations {
				t.Generation = max(t.Generation, g)
			}
		}
	}
	t.Revoked = t.Revoked[max(0, len(t.Revoked)-mostRevoked):]
	t.Accepted = w.gateway.Annotations[AnnotationAcceptKeys] == acceptance(ring.Generation, t.Generation)
	return t
}

const (
	// mostGenerations is more than a ring has in a thousand years: a pod that says
	// more must not decide where the ring goes on.
	mostGenerations = 1 << 40

	// mostRevoked bounds how many revoked keys are remembered, the latest ones.
	mostRevoked = 256
)

func sameKeys(ring keys.Ring, ids []string) bool {
	return len(ids) == len(ring.Keys) && !slices.ContainsFunc(ids, func(id string) bool { _, there := ring.Key(id); return !there })
}

// isWhole says whether a status shows a ring as the operator does, and not what
// somebody has edited: in each kind a key signs.
func isWhole(s *v1alpha1.KeysStatus) bool {
	signs := func(k v1alpha1.KeyStatus) bool { return k.Phase == v1alpha1.KeyPhase(keys.Signing) }
	return slices.ContainsFunc(s.Access, signs) && slices.ContainsFunc(s.Refresh, signs)
}

// acceptance is the value of AnnotationAcceptKeys for one restore. The ring that
// follows from it is above both, so an order is never obeyed twice.
func acceptance(found, seen int64) string { return fmt.Sprintf("%d-after-%d", found, seen) }

// ownDocument is what the operator has published of the ring, if nobody else has
// written it since.
func (w *clusterState) ownDocument() *keys.PublicDocument {
	public := w.publicKeys()
	if public == nil || !w.names.isOurs(public, w.gateway) {
		return nil
	}
	applied, err := accore.ExtractConfigMap(public, FieldManager)
	var document keys.PublicDocument
	if err != nil || json.Unmarshal([]byte(applied.Data[keys.PublicDocumentFile]), &document) != nil {
		return nil
	}
	return &document
}

// rolledBack: the ring goes forward only. What was published of a later ring has
// been seen by others: to go back would have them trust what is revoked, and
// refuse what was signed since.
func (r *Reconciler) rolledBack(w *clusterState, digestKey []byte, trace keys.Trace) *problem {
	if w.ringErr != nil || !trace.RolledBack(w.ring) || trace.Accepted {
		return nil //nolint:nilerr // a ring that cannot be read has a problem of its own
	}
	signing, _ := w.ring.Signing(keys.Access)
	opened := ""
	for _, encryption := range r.inspect(w, digestKey, w.ring, w.custody.Passphrases()) {
		if encryption == keys.EncryptedUnknown {
			opened = fmt.Sprintf(" (No passphrase in the Secret %s opens all of these keys: restore that Secret too, or order a rotation afterwards.)", w.names.passphrases())
		}
	}
	return stalled(v1alpha1.ReasonKeysRolledBack, "the Secret %s has keys of generation %d, though generation %d was seen in %s: an older copy was restored, or another operator has written it. "+
		"Nothing changes: the pods keep the keys that they have, and what is published stays. Restore the latest copy; or, if there is none, go on with these keys, of which %s signs access tokens: "+
		"tokens of keys that this copy lacks end, and revoked keys stay revoked: kubectl annotate agw %s -n %s --overwrite %s=%s%s",
		w.names.keys(), w.ring.Generation, trace.Generation, w.witness(trace.Generation), signing.ID, w.names.gateway, w.names.namespace, AnnotationAcceptKeys, acceptance(w.ring.Generation, trace.Generation), opened)
}

// witness names where a generation was seen.
func (w *clusterState) witness(generation int64) string {
	if document := w.ownDocument(); document != nil && document.Generation == generation {
		return "the ConfigMap " + w.names.publicKeys()
	}
	var pods []string
	for name, state := range w.states {
		if state.Keys.Generation == generation {
			pods = append(pods, "pod "+name)
		}
	}
	if s := w.gateway.Status.Keys; len(pods) == 0 || s != nil && s.Generation >= generation {
		return "the status"
	}
	slices.Sort(pods)
	return few(pods)
}

// startingRing is the ring to go on from: the one that was read, or one without
// keys, which asks for the first. There are first keys only where there is no
// trace of earlier ones, or where a person has given those up; then they go on
// above every generation that was seen.
func (w *clusterState) startingRing(trace keys.Trace) (keys.Ring, *problem) {
	last := w.lastSigningKey()
	givenUp := last != "" && w.gateway.Annotations[AnnotationNewRing] == last
	order := fmt.Sprintf("restore the Secret %s from a backup; or, if it is lost for good, order new keys, which ends every session: kubectl annotate agw %s -n %s --overwrite %s=%s",
		w.names.keys(), w.names.gateway, w.names.namespace, AnnotationNewRing, last)
	first := keys.Ring{Generation: trace.Generation}
	switch {
	case w.keys == nil && (last == "" || givenUp):
		return first, nil
	case w.keys == nil:
		return keys.Ring{}, stalled(v1alpha1.ReasonKeysLost, "the Secret %s with the signing keys is gone, though tokens of key %s may be alive; nothing is made in its place by itself: %s", w.names.keys(), last, order)
	case w.ringErr != nil && givenUp:
		return first, nil
	case w.ringErr != nil && last == "":
		return keys.Ring{}, stalled(v1alpha1.ReasonKeysDamaged, "the Secret %s: %v; to have new keys made, delete it", w.names.keys(), w.ringErr)
	case w.ringErr != nil:
		return keys.Ring{}, stalled(v1alpha1.ReasonKeysDamaged, "the Secret %s: %v: kubectl annotate agw %s -n %s --overwrite %s=%s", w.names.keys(), w.ringErr, w.names.gateway, w.names.namespace, AnnotationNewRing, last)
	default:
		return w.ring, nil
	}
}

// wantedPassphrases are those of the person's Secret, or those that there are,
// or new ones. Where there is a problem, those that there are may still do.
func (w *clusterState) wantedPassphrases(ring keys.Ring, policy keys.Policy) (map[keys.Use]string, *problem) {
	ref := w.gateway.Spec.Keys.PassphraseSecretRef
	if ref == nil {
		if w.custody.Current[keys.Access] != "" && w.custody.Current[keys.Refresh] != "" {
			return nil, nil
		}
		ordered := policy.Rotate != "" && !ring.Honoured(policy.Rotate)
		if len(ring.Keys) > 0 && !ordered && !revokesSigning(ring, policy.Revoked) {
			return nil, stalled(v1alpha1.ReasonPassphrasesLost, "the Secret %s, which opens the keys in %s, is gone or incomplete: restore it from a backup; or, if it is lost for good, order a rotation: kubectl annotate agw %s -n %s --overwrite %s=$(date +%%s)",
				w.names.passphrases(), w.names.keys(), w.names.gateway, w.names.namespace, AnnotationRotate)
		}
		return map[keys.Use]string{keys.Access: newPassphrase(), keys.Refresh: newPassphrase()}, nil
	}
	secret := w.inputs[ref.Name]
	if err := w.inputErr[ref.Name]; err != nil {
		return nil, classify(err)
	}
	if secret == nil {
		if w.custody.Current[keys.Access] != "" {
			return nil, nil // what was taken over from it still opens the keys; problems.go tells of the rest
		}
		return nil, waiting(v1alpha1.ReasonSecretMissing, "the Secret %s with the passphrases (spec.keys.passphraseSecretRef) does not exist: create it with the keys %s and %s, 16 bytes or more each",
			ref.Name, config.EnvAccessPassphrase, config.EnvRefreshPassphrase)
	}
	wanted := map[keys.Use]string{}
	for _, use := range keys.Uses() {
		name := passphraseSettings[use]
		wanted[use] = string(secret.Data[name.current])
		if len(wanted[use]) < config.MinPassphrase {
			return nil, waiting(v1alpha1.ReasonSecretInvalid, "key %s of the Secret %s is missing or shorter than %d bytes: write the output of `openssl rand -base64 24` into it", name.current, ref.Name, config.MinPassphrase)
		}
	}
	if wanted[keys.Access] == wanted[keys.Refresh] {
		return nil, waiting(v1alpha1.ReasonSecretInvalid, "the keys %s and %s of the Secret %s are the same, so whoever learns one has both kinds of keys: write two passphrases",
			config.EnvAccessPassphrase, config.EnvRefreshPassphrase, ref.Name)
	}
	if wanted[keys.Access] == w.custody.Current[keys.Refresh] || wanted[keys.Refresh] == w.custody.Current[keys.Access] {
		return nil, waiting(v1alpha1.ReasonSecretInvalid, "a passphrase of the Secret %s is the present one of the other kind of keys, which must never have had the same: write passphrases that were not used before", ref.Name)
	}
	return wanted, nil
}

// revokes reports whether a key of the ring that verifies is to be revoked.
func revokes(ring keys.Ring, revoked []string) bool {
	return slices.ContainsFunc(ring.Keys, func(k keys.Key) bool { return k.Phase != keys.Revoked && slices.Contains(revoked, k.ID) })
}

// revokesSigning reports whether a key that signs is to be revoked. That waits for
// no passphrase that is lost: its successor is sealed with a new one.
func revokesSigning(ring keys.Ring, revoked []string) bool {
	return slices.ContainsFunc(ring.Keys, func(k keys.Key) bool { return k.Phase == keys.Signing && slices.Contains(revoked, k.ID) })
}

func newPassphrase() string { return base64.RawURLEncoding.EncodeToString(random(32)) }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand ends the process where the system has no randomness
	return b
}

// keepPassphrases writes the operator's Secret of passphrases where it differs.
// Where passphrases were lost and none is to take their place, none is written.
func (r *Reconciler) keepPassphrases(ctx context.Context, w *clusterState, t *tended, state keys.PassphraseState) error {
	if w.passphrases == nil && state.Equal(keys.PassphraseState{}) {
		return nil
	}
	data := map[string][]byte{secretDigestKey: t.digestKey}
	for use, name := range passphraseSettings {
		data[name.current] = []byte(state.Current[use])
		data[name.former] = []byte(state.Former[use]) // the pods mount it, empty or not
		if state.Distributed[use] {
			data[secretGiven(use)] = []byte("true")
		}
	}
	return r.keepSecret(ctx, w, w.passphrases, w.ownSecret(w.names.passphrases(), data, nil, true))
}

// keepRing writes a ring where it differs. What is written has been opened
// before: a ring that nobody can open is never written.
func (r *Reconciler) keepRing(ctx context.Context, w *clusterState, t *tended, ring keys.Ring, inspect func(keys.Ring, keys.Passphrases) map[string]keys.Encryption) error {
	files := ring.Files()
	var annotations map[string]string
	if w.keys != nil && w.ringErr == nil && ring.Generation == w.ring.Generation {
		annotations = map[string]string{annotationSealed: w.keys.Annotations[annotationSealed]}
	} else {
		p := t.custody.Passphrases()
		shut := func(s keys.Encryption) bool { return s != keys.EncryptedCurrent }
		if encryption := inspect(ring, p); !slices.ContainsFunc(slices.Collect(maps.Values(encryption)), shut) {
			annotations = map[string]string{annotationSealed: sealedDigest(t.digestKey, p, files)}
		}
	}
	return r.keepSecret(ctx, w, w.keys, w.ownSecret(w.names.keys(), files, annotations, true))
}

// keepCaller sees to the key by which backends see codes.
func (r *Reconciler) keepCaller(ctx context.Context, w *clusterState, t *tended) error {
	if w.caller != nil {
		t.callerKey = string(w.caller.Data[secretCallerKey])
	}
	if len(t.callerKey) < config.MinPassphrase {
		t.callerKey = newPassphrase()
	}
	return r.keepSecret(ctx, w, w.caller, w.ownSecret(w.names.caller(), map[string][]byte{secretCallerKey: []byte(t.callerKey)}, nil, false))
}

// ownSecret is a Secret as the operator writes it. Where keys are to outlive
// their gateway nobody owns them, a label tells whose they were, and nothing that
// others would prune by is on them.
func (w *clusterState) ownSecret(name string, data map[string][]byte, annotations map[string]string, retainable bool) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.names.namespace, Name: name, Labels: w.names.labels(), Annotations: merged(annotations, nil)},
		Type:       corev1.SecretTypeOpaque,
		Data:       data,
	}
	s.Labels[labelGateway] = w.names.gateway
	if retainable && w.gateway.Spec.DeletionPolicy != v1alpha1.DeletionDelete {
		s.Labels[labelInstance] = "" // see merged: it is taken away
		s.Annotations[annotationSyncOptions], s.Annotations[annotationHelmPolicy] = keepFromArgoCD, keepFromHelm
		return s
	}
	s.OwnerReferences = []metav1.OwnerReference{ownerReference(w.gateway)}
	return s
}

// ownerReference has the garbage collector delete what a gateway owned. It does
// not block the deletion: that would need rights over the gateway's finalizers.
func ownerReference(g *v1alpha1.AuthGateway) metav1.OwnerReference {
	yes := true
	return metav1.OwnerReference{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "AuthGateway", Name: g.Name, UID: g.UID, Controller: &yes,
	}
}

// errSwapLost ends a pass: somebody else wrote a Secret of this gateway since it
// was read. The next pass reads anew.
var errSwapLost = fmt.Errorf("another writer was faster; reading anew")

// keepSecret writes a Secret of ours where it differs from what was read.
func (r *Reconciler) keepSecret(ctx context.Context, w *clusterState, read, wanted *corev1.Secret) error {
	if read == nil {
		read = &corev1.Secret{}
	}
	// What others have put there beside it stays.
	annotations := maps.Clone(read.Annotations)
	maps.DeleteFunc(annotations, func(name, value string) bool {
		return name == annotationSyncOptions && value == keepFromArgoCD || name == annotationHelmPolicy && value == keepFromHelm
	})
	wanted.Labels = merged(read.Labels, wanted.Labels)
	wanted.Annotations = merged(annotations, wanted.Annotations)
	if read.Name != "" {
		wanted.OwnerReferences = append(wanted.OwnerReferences, othersOwners(read, w.gateway)...)
		wanted.Finalizers = read.Finalizers
		if reflect.DeepEqual(read.Data, wanted.Data) && maps.Equal(read.Labels, wanted.Labels) &&
			maps.Equal(read.Annotations, wanted.Annotations) && slices.EqualFunc(read.OwnerReferences, wanted.OwnerReferences, sameOwner) {
			return nil
		}
		wanted.Type = read.Type // it cannot be changed
		if wanted.Immutable = read.Immutable; read.Immutable != nil && *read.Immutable && !reflect.DeepEqual(read.Data, wanted.Data) {
			return stalled(v1alpha1.ReasonSecretImmutable, "the Secret %s is immutable, so it cannot be brought up to date: take that away, which only another object of its name can: "+
				"kubectl get secret %s -n %s -o json | jq 'del(.immutable)' | kubectl replace --force -f -", read.Name, read.Name, read.Namespace)
		}
	}
	if read.Name == "" {
		read = nil
	}
	swapped, err := r.swap(ctx, read, wanted)
	if err == nil && !swapped {
		err = errSwapLost
	}
	return err
}

func othersOwners(secret *corev1.Secret, g *v1alpha1.AuthGateway) []metav1.OwnerReference {
	return slices.DeleteFunc(slices.Clone(secret.OwnerReferences), func(o metav1.OwnerReference) bool {
		return o.UID == g.UID || o.Kind == "AuthGateway" && o.APIVersion == v1alpha1.GroupVersion.String()
	})
}

func sameOwner(a, b metav1.OwnerReference) bool { return reflect.DeepEqual(a, b) }

// merged lays one map over another, where an empty value takes an entry away.
func merged(base, over map[string]string) map[string]string {
	all := maps.Clone(base)
	if all == nil {
		all = map[string]string{}
	}
	for name, value := range over {
		if value == "" {
			delete(all, name)
		} else {
			all[name] = value
		}
	}
	return all
}

// inspect is keys.Inspect without its cost where the outcome is known: from the
// digest beside the ring, or from an earlier time.
func (r *Reconciler) inspect(w *clusterState, digestKey []byte, ring keys.Ring, p keys.Passphrases) map[string]keys.Encryption {
	if w.keys != nil && w.keys.Annotations[annotationSealed] == sealedDigest(digestKey, p, ring.Files()) {
		encryption := map[string]keys.Encryption{}
		for _, k := range ring.Keys {
			if k.Encrypted != nil {
				encryption[k.ID] = keys.EncryptedCurrent
			}
		}
		return encryption
	}
	encryption := map[string]keys.Encryption{}
	unknown := keys.Ring{Generation: ring.Generation}
	for _, k := range ring.Keys {
		if k.Encrypted == nil {
			continue
		}
		if known, ok := r.seals.Get(sealKey(k, p)); ok {
			encryption[k.ID] = known
		} else {
			unknown.Keys = append(unknown.Keys, k)
		}
	}
	if len(unknown.Keys) > 0 {
		found := keys.Inspect(unknown, p)
		for _, k := range unknown.Keys {
			encryption[k.ID] = found[k.ID]
			r.seals.Add(sealKey(k, p), found[k.ID])
		}
	}
	return encryption
}

// sealKey is what the memory of seals goes by; nothing can be learned from it
// that its process does not know anyway.
func sealKey(k keys.Key, p keys.Passphrases) [sha256.Size]byte {
	all := p.Access
	if k.Use == keys.Refresh {
		all = p.Refresh
	}
	return sha256.Sum256(fmt.Appendf(nil, "%s|%q|%s", k.ID, all, k.Encrypted))
}

// The digests tell whether secrets have changed, to whoever may read the objects
// that they stand on. They are keyed, so that nobody can guess a secret by them.

func sealedDigest(key []byte, p keys.Passphrases, files map[string][]byte) string {
	mac := hmac.New(sha256.New, key)
	for _, all := range [][]string{p.Access, p.Refresh} {
		if len(all) > 0 {
			fmt.Fprintf(mac, "%q", all[0])
		}
		fmt.Fprint(mac, "|")
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(mac, "%q:%q|", name, files[name])
	}
	return hex.EncodeToString(mac.Sum(nil))
}

func passphrasesDigest(key []byte, current map[keys.Use]string) string {
	return digest(key, current[keys.Access], current[keys.Refresh])
}

func digest(key []byte, secrets ...string) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%q", secrets)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// event tells people what has happened.
func (r *Reconciler) event(g *v1alpha1.AuthGateway, kind, reason, action, message string) {
	if r.Events == nil {
		return
	}
	r.Events.Eventf(g, nil, kind, reason, action, "%s", clipTo(message, mostOfEvent))
}
