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
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/keys"
)

// passphraseSettings names the entries of a Secret of passphrases.
var passphraseSettings = map[keys.Use]struct{ current, former string }{
	keys.Access:  {config.EnvAccessPassphrase, config.EnvFormerAccessPassphrase},
	keys.Refresh: {config.EnvRefreshPassphrase, config.EnvFormerRefreshPassphrase},
}

func newPassphrase() string { return base64.RawURLEncoding.EncodeToString(random(32)) }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand ends the process if the system has no randomness
	return b
}

// passphraseStateOf reads the operator's own Secret of passphrases.
func passphraseStateOf(secret *corev1.Secret) keys.PassphraseState {
	s := keys.PassphraseState{
		Current: map[keys.Use]string{}, Former: map[keys.Use]string{}, Distributed: map[keys.Use]bool{},
	}
	if secret == nil {
		return s
	}
	for use, name := range passphraseSettings {
		s.Current[use], s.Former[use] = string(secret.Data[name.current]), string(secret.Data[name.former])
		s.Distributed[use] = len(secret.Data[secretGiven(use)]) > 0
	}
	return s
}

// writePassphrases writes the operator's Secret of passphrases if it differs. It writes
// nothing if the passphrases are lost and no new ones are desired.
func (r *Reconciler) writePassphrases(
	ctx context.Context, cs *clusterState, t *keyResult, state keys.PassphraseState,
) error {
	if cs.passphrases == nil && state.Equal(keys.PassphraseState{}) {
		return nil
	}
	data := map[string][]byte{secretDigestKey: t.digestKey}
	for use, name := range passphraseSettings {
		data[name.current] = []byte(state.Current[use])
		data[name.former] = []byte(state.Former[use]) // the pods mount it even if it is empty
		if state.Distributed[use] {
			data[secretGiven(use)] = []byte("true")
		}
	}
	return r.writeSecret(ctx, cs, cs.passphrases, cs.ownSecret(cs.names.passphrases(), data, nil, true))
}

// desiredPassphrases returns the passphrases of the Secret that the spec refers to, or new ones if there are none, or
// nil to keep the stored ones. With a problem, the stored ones may still be usable.
func (cs *clusterState) desiredPassphrases(ring keys.Ring, policy keys.Policy) (map[keys.Use]string, *problem) {
	stored := cs.passphraseState.Current
	ref := cs.gateway.Spec.Keys.PassphraseSecretRef
	if ref == nil {
		if stored[keys.Access] != "" && stored[keys.Refresh] != "" {
			return nil, nil
		}
		rotates := policy.Rotate != "" && !ring.Honoured(policy.Rotate)
		// To revoke a signing key needs no lost passphrase: a new one encrypts its successor.
		revokesSigning := slices.ContainsFunc(ring.Keys, func(k keys.Key) bool {
			return k.Phase == keys.Signing && slices.Contains(policy.Revoked, k.ID)
		})
		if len(ring.Keys) > 0 && !rotates && !revokesSigning {
			return nil, stalled(v1alpha1.ReasonPassphrasesLost,
				"the Secret %s, which decrypts the keys in %s, is gone or incomplete: restore it from a backup; "+
					"or, if it is lost for good, request a rotation: "+
					"kubectl annotate agw %s -n %s --overwrite %s=$(date +%%s)",
				cs.names.passphrases(), cs.names.keys(), cs.names.gateway, cs.names.namespace, v1alpha1.AnnotationRotate)
		}
		return map[keys.Use]string{keys.Access: newPassphrase(), keys.Refresh: newPassphrase()}, nil
	}
	secret := cs.inputs[ref.Name]
	if err := cs.inputErr[ref.Name]; err != nil {
		return nil, classify(err)
	}
	if secret == nil {
		if stored[keys.Access] != "" {
			return nil, nil // the stored copy still decrypts the keys; missingInputs reports the Secret
		}
		return nil, waiting(v1alpha1.ReasonSecretMissing,
			"the Secret %s with the passphrases (spec.keys.passphraseSecretRef) does not exist: "+
				"create it with the keys %s and %s, each of at least 16 bytes",
			ref.Name, config.EnvAccessPassphrase, config.EnvRefreshPassphrase)
	}
	desired := map[keys.Use]string{}
	for _, use := range keys.Uses() {
		name := passphraseSettings[use]
		desired[use] = string(secret.Data[name.current])
		if len(desired[use]) < config.MinPassphrase {
			return nil, waiting(v1alpha1.ReasonSecretInvalid,
				"key %s of the Secret %s is missing or shorter than %d bytes: "+
					"set it to the output of `openssl rand -base64 24`", name.current, ref.Name, config.MinPassphrase)
		}
	}
	if desired[keys.Access] == desired[keys.Refresh] {
		return nil, waiting(v1alpha1.ReasonSecretInvalid,
			"the keys %s and %s of the Secret %s are the same, so one leak would expose both kinds of keys: "+
				"set two different passphrases", config.EnvAccessPassphrase, config.EnvRefreshPassphrase, ref.Name)
	}
	if desired[keys.Access] == stored[keys.Refresh] || desired[keys.Refresh] == stored[keys.Access] {
		return nil, waiting(v1alpha1.ReasonSecretInvalid,
			"a passphrase of the Secret %s is the current one of the other kind of keys, "+
				"and the two kinds must never share one: set passphrases that were not used before", ref.Name)
	}
	return desired, nil
}

// inspect is keys.Inspect without the derivations whose result is already known: from
// the digest beside the ring, or from this process's cache.
func (r *Reconciler) inspect(
	cs *clusterState, digestKey []byte, ring keys.Ring, passphrases keys.Passphrases,
) keys.OpenedBy {
	opened := keys.OpenedBy{}
	of := func(use keys.Use, i int) string {
		all := map[keys.Use][]string{keys.Access: passphrases.Access, keys.Refresh: passphrases.Refresh}[use]
		if i < len(all) {
			return all[i]
		}
		return ""
	}
	if cs.keys != nil && cs.keys.Annotations[annotationSealed] == encryptionDigest(digestKey, passphrases, ring.Files()) {
		for _, k := range ring.Keys {
			if k.Encrypted != nil {
				opened[k.ID] = of(k.Use, 0)
			}
		}
		return opened
	}
	for i := range max(len(passphrases.Access), len(passphrases.Refresh)) {
		unknown := keys.Ring{Generation: ring.Generation}
		for _, k := range ring.Keys {
			passphrase := of(k.Use, i)
			if k.Encrypted == nil || opened[k.ID] != "" || passphrase == "" {
				continue
			}
			if decrypts, ok := r.decrypts.Get(decryptsKey(k, passphrase)); !ok {
				unknown.Keys = append(unknown.Keys, k)
			} else if decrypts {
				opened[k.ID] = passphrase
			}
		}
		found := keys.Inspect(unknown, keys.Passphrases{
			Access: []string{of(keys.Access, i)}, Refresh: []string{of(keys.Refresh, i)},
		})
		for _, k := range unknown.Keys {
			r.decrypts.Add(decryptsKey(k, of(k.Use, i)), found[k.ID] != "")
		}
		maps.Copy(opened, found)
	}
	return opened
}

// decryptsKey is the cache key of whether a passphrase decrypts a private half. It never leaves this process.
func decryptsKey(k keys.Key, passphrase string) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s|%q|%s", k.ID, passphrase, k.Encrypted))
}

// The digests below show whether a secret has changed, to anyone who may read the
// object that carries them. They are keyed, so no one can test guesses against them.

func encryptionDigest(key []byte, p keys.Passphrases, files map[string][]byte) string {
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
