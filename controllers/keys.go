package controllers

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/authserver/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// tended is what a pass has made of the keys.
type tended struct {
	ring    keys.Ring
	custody keys.Custody
	idle    keys.Step
	waits   []keys.Kind

	digestKey []byte // keys every digest of a secret
	callerKey string
	changed   bool // something was written, so there is more to see
}

// passphraseSettings are the keys of a Secret of passphrases.
var passphraseSettings = map[keys.Kind]struct{ current, former string }{
	keys.Access:  {config.EnvAccessPassphrase, config.EnvFormerAccessPassphrase},
	keys.Refresh: {config.EnvRefreshPassphrase, config.EnvFormerRefreshPassphrase},
}

// custodyOf reads the operator's own Secret of passphrases.
func custodyOf(secret *corev1.Secret) keys.Custody {
	c := keys.Custody{Current: map[keys.Kind]string{}, Former: map[keys.Kind]string{}, Given: map[keys.Kind]bool{}}
	if secret == nil {
		return c
	}
	for kind, name := range passphraseSettings {
		c.Current[kind], c.Former[kind] = string(secret.Data[name.current]), string(secret.Data[name.former])
		c.Given[kind] = len(secret.Data[secretGiven(kind)]) > 0
	}
	return c
}

// tendKeys takes every step of the keys that is due, and writes what follows:
// the passphrases first, then the ring. A problem is one that a person, or a
// later pass, has to see to.
func (r *Reconciler) tendKeys(ctx context.Context, w *world) (tended, error) {
	t := tended{ring: w.ring, custody: w.custody}
	ring, problem := w.startingRing()
	if problem != nil {
		return t, problem
	}
	wanted, problem := w.wantedPassphrases(ring)
	if problem != nil {
		return t, problem
	}
	t.ring = ring
	if w.passphrases != nil {
		t.digestKey = w.passphrases.Data[secretDigestKey]
	}
	if len(t.digestKey) < sha256.Size {
		t.digestKey = random(sha256.Size)
	}
	inspect := func(ring keys.Ring, p keys.Passphrases) map[string]keys.Seal {
		return r.inspect(w, t.digestKey, ring, p)
	}
	out, err := keys.Tend(keys.Tending{
		Ring: ring, Custody: w.custody, Wanted: wanted, Policy: keyPolicy(w.gateway), Now: w.now,
		Seen: w.seen, Published: w.published, Loaded: w.loaded(), Inspect: inspect,
		Given: func(current map[keys.Kind]string) bool { return w.given(passphrasesDigest(t.digestKey, current)) },
	})
	t.custody, t.idle, t.waits = out.Custody, out.Idle, out.Waits
	if writeErr := r.keepPassphrases(ctx, w, &t); writeErr != nil {
		return t, writeErr
	}
	if err != nil {
		return t, fmt.Errorf("keys: %w", err)
	}
	t.ring = out.Ring
	if err := r.keepRing(ctx, w, &t, inspect); err != nil {
		t.ring = ring // the status must not tell of keys that there are not: it would count as a trace of a loss
		return t, err
	}
	for _, step := range out.Steps {
		r.event(w.gateway, corev1.EventTypeNormal, "Key"+string(step.Action), strings.TrimSpace(string(step.Action)+" "+string(step.Kind)), step.Message) // a step of each kind in one pass are two events
		r.steps.WithLabelValues(string(step.Action), string(step.Reason)).Inc()
	}
	err = r.keepCaller(ctx, w, &t)
	return t, err
}

// startingRing is the ring to go on from: the one that was read, or the zero
// ring, which asks for the first keys. There are first keys only where there is
// no trace of earlier ones, or where a person has given those up.
func (w *world) startingRing() (keys.Ring, *problem) {
	last := w.lastSigningKey()
	givenUp := last != "" && w.gateway.Annotations[AnnotationNewRing] == last
	order := fmt.Sprintf("restore the Secret %s from a backup; or, if it is lost for good, order new keys, which ends every session: kubectl annotate agw %s -n %s --overwrite %s=%s",
		w.names.keys(), w.names.gateway, w.names.namespace, AnnotationNewRing, last)
	switch {
	case w.keys == nil && (last == "" || givenUp):
		return keys.Ring{}, nil
	case w.keys == nil:
		return keys.Ring{}, stalled(reasonKeysLost, "the Secret %s with the signing keys is gone, though tokens of key %s may be alive; nothing is made in its place by itself: %s", w.names.keys(), last, order)
	case w.ringErr != nil && givenUp:
		return keys.Ring{}, nil
	case w.ringErr != nil && last == "":
		return keys.Ring{}, stalled(reasonKeysDamaged, "the Secret %s: %v; to have new keys made, delete it", w.names.keys(), w.ringErr)
	case w.ringErr != nil:
		return keys.Ring{}, stalled(reasonKeysDamaged, "the Secret %s: %v: kubectl annotate agw %s -n %s --overwrite %s=%s", w.names.keys(), w.ringErr, w.names.gateway, w.names.namespace, AnnotationNewRing, last)
	default:
		return w.ring, nil
	}
}

// wantedPassphrases are those of the person's Secret, or those that there are,
// or new ones.
func (w *world) wantedPassphrases(ring keys.Ring) (map[keys.Kind]string, *problem) {
	ref := w.gateway.Spec.Keys.PassphraseSecretRef
	if ref == nil {
		if w.custody.Current[keys.Access] != "" && w.custody.Current[keys.Refresh] != "" {
			return nil, nil
		}
		rotate := w.gateway.Annotations[AnnotationRotate]
		if len(ring.Keys) > 0 && (rotate == "" || ring.Honoured(rotate)) {
			return nil, stalled(reasonPassphrasesLost, "the Secret %s, which opens the keys in %s, is gone or incomplete: restore it from a backup; or, if it is lost for good, order a rotation: kubectl annotate agw %s -n %s --overwrite %s=$(date +%%s)",
				w.names.passphrases(), w.names.keys(), w.names.gateway, w.names.namespace, AnnotationRotate)
		}
		return map[keys.Kind]string{keys.Access: newPassphrase(), keys.Refresh: newPassphrase()}, nil
	}
	secret := w.inputs[ref.Name]
	if secret == nil {
		if w.custody.Current[keys.Access] != "" {
			return nil, nil // what was taken over from it still opens the keys; problems.go tells of the rest
		}
		return nil, waiting(reasonSecretMissing, "the Secret %s with the passphrases (spec.keys.passphraseSecretRef) does not exist: create it with the keys %s and %s, 16 bytes or more each",
			ref.Name, config.EnvAccessPassphrase, config.EnvRefreshPassphrase)
	}
	wanted := map[keys.Kind]string{}
	for kind, name := range passphraseSettings {
		wanted[kind] = string(secret.Data[name.current])
		if len(wanted[kind]) < minPassphrase {
			return nil, waiting(reasonSecretInvalid, "key %s of the Secret %s is missing or shorter than %d bytes: write the output of `openssl rand -base64 24` into it", name.current, ref.Name, minPassphrase)
		}
	}
	if wanted[keys.Access] == wanted[keys.Refresh] {
		return nil, waiting(reasonSecretInvalid, "the keys %s and %s of the Secret %s are the same, so whoever learns one has both kinds of keys: write two passphrases",
			config.EnvAccessPassphrase, config.EnvRefreshPassphrase, ref.Name)
	}
	if wanted[keys.Access] == w.custody.Current[keys.Refresh] || wanted[keys.Refresh] == w.custody.Current[keys.Access] {
		return nil, waiting(reasonSecretInvalid, "a passphrase of the Secret %s is the present one of the other kind of keys, which must never have had the same: write passphrases that were not used before", ref.Name)
	}
	return wanted, nil
}

// minPassphrase is decision 5 of docs/security.md.
const minPassphrase = 16

func newPassphrase() string { return base64.RawURLEncoding.EncodeToString(random(32)) }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand ends the process where the system has no randomness
	return b
}

// keepPassphrases writes the operator's Secret of passphrases where it differs.
func (r *Reconciler) keepPassphrases(ctx context.Context, w *world, t *tended) error {
	data := map[string][]byte{secretDigestKey: t.digestKey}
	for kind, name := range passphraseSettings {
		data[name.current] = []byte(t.custody.Current[kind])
		data[name.former] = []byte(t.custody.Former[kind]) // the pods mount it, empty or not
		if t.custody.Given[kind] {
			data[secretGiven(kind)] = []byte("true")
		}
	}
	return r.keepSecret(ctx, w, t, w.passphrases, w.ownSecret(w.names.passphrases(), data, nil, true))
}

// keepRing writes the ring where it differs. What is written has been opened
// before: a ring that nobody can open is never written.
func (r *Reconciler) keepRing(ctx context.Context, w *world, t *tended, inspect func(keys.Ring, keys.Passphrases) map[string]keys.Seal) error {
	files := t.ring.Files()
	if t.ring.Generation == 0 { // Next made nothing; t.idle says why
		return nil
	}
	var annotations map[string]string
	if w.keys != nil && w.ringErr == nil && t.ring.Generation == w.ring.Generation {
		annotations = map[string]string{annotationSealed: w.keys.Annotations[annotationSealed]}
	} else {
		p := t.custody.Passphrases()
		shut := func(s keys.Seal) bool { return s != keys.SealCurrent }
		if seals := inspect(t.ring, p); !slices.ContainsFunc(slices.Collect(maps.Values(seals)), shut) {
			annotations = map[string]string{annotationSealed: sealedDigest(t.digestKey, p, files)}
		}
	}
	return r.keepSecret(ctx, w, t, w.keys, w.ownSecret(w.names.keys(), files, annotations, true))
}

// keepCaller sees to the key by which backends see codes.
func (r *Reconciler) keepCaller(ctx context.Context, w *world, t *tended) error {
	if w.caller != nil {
		t.callerKey = string(w.caller.Data[secretCallerKey])
	}
	if len(t.callerKey) < minPassphrase {
		t.callerKey = newPassphrase()
	}
	return r.keepSecret(ctx, w, t, w.caller, w.ownSecret(w.names.caller(), map[string][]byte{secretCallerKey: []byte(t.callerKey)}, nil, false))
}

// ownSecret is a Secret as the operator writes it. Where keys are to outlive
// their gateway, nobody owns them, and their labels tell whose they were.
func (w *world) ownSecret(name string, data map[string][]byte, annotations map[string]string, retainable bool) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.names.namespace, Name: name, Labels: w.names.labels(), Annotations: annotations},
		Type:       corev1.SecretTypeOpaque,
		Data:       data,
	}
	if !retainable || w.gateway.Spec.DeletionPolicy != v1alpha1.DeletionRetain {
		s.OwnerReferences = []metav1.OwnerReference{ownerReference(w.gateway)}
	}
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
func (r *Reconciler) keepSecret(ctx context.Context, w *world, t *tended, read, wanted *corev1.Secret) error {
	if read != nil {
		// What others have put there beside it stays.
		wanted.Labels = merged(read.Labels, wanted.Labels)
		wanted.Annotations = merged(read.Annotations, wanted.Annotations)
		wanted.OwnerReferences = append(wanted.OwnerReferences, othersOwners(read, w.gateway)...)
		wanted.Finalizers = read.Finalizers
		if reflect.DeepEqual(read.Data, wanted.Data) && maps.Equal(read.Labels, wanted.Labels) &&
			maps.Equal(read.Annotations, wanted.Annotations) && slices.EqualFunc(read.OwnerReferences, wanted.OwnerReferences, sameOwner) {
			return nil
		}
		wanted.Type = read.Type // it cannot be changed
	}
	swapped, err := r.swap(ctx, read, wanted)
	if err == nil && !swapped {
		err = errSwapLost
	}
	t.changed = t.changed || err == nil
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
func (r *Reconciler) inspect(w *world, digestKey []byte, ring keys.Ring, p keys.Passphrases) map[string]keys.Seal {
	if w.keys != nil && w.keys.Annotations[annotationSealed] == sealedDigest(digestKey, p, ring.Files()) {
		seals := map[string]keys.Seal{}
		for _, k := range ring.Keys {
			if k.Sealed != nil {
				seals[k.ID] = keys.SealCurrent
			}
		}
		return seals
	}
	seals := map[string]keys.Seal{}
	unknown := keys.Ring{Generation: ring.Generation}
	for _, k := range ring.Keys {
		if k.Sealed == nil {
			continue
		}
		if seal, ok := r.seals.Get(sealKey(k, p)); ok {
			seals[k.ID] = seal
		} else {
			unknown.Keys = append(unknown.Keys, k)
		}
	}
	if len(unknown.Keys) > 0 {
		found := keys.Inspect(unknown, p)
		for _, k := range unknown.Keys {
			seals[k.ID] = found[k.ID]
			r.seals.Add(sealKey(k, p), found[k.ID])
		}
	}
	return seals
}

// sealKey is what the memory of seals goes by; nothing can be learned from it
// that its process does not know anyway.
func sealKey(k keys.Key, p keys.Passphrases) [sha256.Size]byte {
	all := p.Access
	if k.Kind == keys.Refresh {
		all = p.Refresh
	}
	return sha256.Sum256(fmt.Appendf(nil, "%s|%q|%s", k.ID, all, k.Sealed))
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

func passphrasesDigest(key []byte, current map[keys.Kind]string) string {
	return digest(key, current[keys.Access], current[keys.Refresh])
}

func digest(key []byte, secrets ...string) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%q", secrets)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// contentDigest changes with what is in a ConfigMap, which is no secret. Without
// a ConfigMap it is empty.
func contentDigest(c *corev1.ConfigMap) string {
	if c == nil {
		return ""
	}
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(c.Data)) {
		fmt.Fprintf(hash, "%q %q\n", name, c.Data[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.BinaryData)) {
		fmt.Fprintf(hash, "%q %q binary\n", name, c.BinaryData[name])
	}
	return hex.EncodeToString(hash.Sum(nil)[:16])
}

// event tells people what has happened.
func (r *Reconciler) event(g *v1alpha1.AuthGateway, kind, reason, action, message string) {
	if r.Events == nil {
		return
	}
	r.Events.Eventf(g, nil, kind, reason, action, "%s", clipTo(message, mostOfEvent))
}
