package keys

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/auth-gateway/auth-gateway/keys/internal/pbes2"
)

// ErrPassphrase is in the chain of an error if no known passphrase decrypts a private
// half. The keys exist and must not be replaced: that would end every session.
var ErrPassphrase = errors.New("wrong passphrase")

// Signer is a decrypted private half.
type Signer struct {
	ID        string
	Algorithm Algorithm
	Private   crypto.Signer
}

// PublicKey is the public half of a key.
type PublicKey struct {
	ID        string
	Algorithm Algorithm
	Public    crypto.PublicKey // as Key.Public

	MaxTokenLifetime time.Duration // as Key.MaxTokenLifetime
}

// Opened is a ring whose signing keys are decrypted. It is safe for concurrent use.
type Opened struct {
	ring        Ring
	passphrases Passphrases
	public      map[Use]map[string]PublicKey

	mu   sync.RWMutex
	open map[string]private
}

type private struct {
	signer     crypto.Signer
	passphrase string // that decrypts it
}

// Open decrypts the signing key of each use, in parallel: on two processors it takes about as long as one derivation.
// It tests each pair by signing and verifying. Prepare decrypts the keys that do not sign yet; keys that no longer sign
// have no private half.
//
// The error names the use, the key and the setting; errors.Is(err, ErrPassphrase) reports a wrong passphrase.
func Open(ring Ring, passphrases Passphrases) (*Opened, error) {
	return (&Opened{}).Reopen(ring, passphrases)
}

// Reopen is Open for a ring that replaces that of o, after a step or a change of passphrases. It does not decrypt a
// private half again if its file is the same. o itself does not change.
func (o *Opened) Reopen(ring Ring, passphrases Passphrases) (*Opened, error) {
	ring = ring.clone()
	n := &Opened{
		ring: ring, passphrases: passphrases,
		public: map[Use]map[string]PublicKey{}, open: map[string]private{},
	}
	var signing []Key
	for _, use := range Uses() {
		n.public[use] = map[string]PublicKey{}
		k, ok := ring.Signing(use)
		if !ok {
			return nil, fmt.Errorf("keys: no %s key signs; the ring is incomplete", use)
		}
		signing = append(signing, k)
	}
	for _, k := range ring.Keys {
		if k.verifies() {
			n.public[k.Use][k.ID] = PublicKey{
				ID: k.ID, Algorithm: k.Algorithm, Public: k.Public, MaxTokenLifetime: k.MaxTokenLifetime,
			}
		}
		if p, ok := o.lookup(k.ID); ok && o.isCurrent(k, p, passphrases) {
			n.open[k.ID] = p
		}
	}
	if err := n.openAll(signing); err != nil {
		return nil, err
	}
	return n, nil
}

// isCurrent reports whether a decrypted private half is that of a key of another
// ring, and these passphrases would decrypt it.
func (o *Opened) isCurrent(k Key, p private, passphrases Passphrases) bool {
	old, ok := o.ring.Key(k.ID)
	_, known, err := passphrases.of(k.Use)
	return ok && err == nil && bytes.Equal(old.Encrypted, k.Encrypted) && slices.Contains(known, p.passphrase)
}

func (o *Opened) lookup(id string) (private, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	p, ok := o.open[id]
	return p, ok
}

// openAll decrypts keys in parallel, except those that are already decrypted.
func (o *Opened) openAll(keys []Key) error {
	errs := make([]error, len(keys))
	var wg sync.WaitGroup
	for i, k := range keys {
		if _, ok := o.lookup(k.ID); ok {
			continue
		}
		wg.Go(func() {
			signer, passphrase, err := openKey(k, o.passphrases)
			if err != nil {
				errs[i] = err
				return
			}
			o.mu.Lock()
			defer o.mu.Unlock()
			o.open[k.ID] = private{signer, passphrase}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// openKey tries each passphrase of the key's use, tests the pair, and returns the passphrase that decrypts it.
func openKey(k Key, passphrases Passphrases) (crypto.Signer, string, error) {
	where := fmt.Sprintf("the private half of the %s %s key %s", k.Phase, k.Use, k.ID)
	_, all, err := passphrases.of(k.Use)
	if err != nil {
		return nil, "", err
	}
	encrypted, err := pbes2.Parse(k.Encrypted)
	if err != nil {
		return nil, "", fmt.Errorf("keys: %w: %s cannot be read: %w", ErrDamaged, where, err)
	}
	for _, passphrase := range all {
		signer, err := encrypted.Decrypt(passphrase)
		if errors.Is(err, pbes2.ErrPassphrase) {
			continue
		}
		if err == nil {
			err = checkPair(k.Algorithm, signer, k.Public)
		}
		if err != nil {
			return nil, "", fmt.Errorf("keys: %w: %s: %w", ErrDamaged, where, err)
		}
		return signer, passphrase, nil
	}
	return nil, "", fmt.Errorf("keys: %w: none of the %d that are set decrypts %s; set %s to the passphrase that encrypts it",
		ErrPassphrase, len(all), where, k.Use.setting())
}

// Inspect finds the passphrase that decrypts each private half. It costs up to one derivation for each key and
// passphrase, so callers keep the result as long as neither changes. It decrypts two keys at a time.
func Inspect(ring Ring, passphrases Passphrases) OpenedBy {
	o := &Opened{ring: ring, passphrases: passphrases, open: map[string]private{}}
	return o.OpenedBy()
}

// OpenedBy is Inspect for this ring. Keys that are already decrypted cost nothing.
func (o *Opened) OpenedBy() OpenedBy {
	_ = o.Prepare() // a key with an error is missing in the result
	opened := OpenedBy{}
	for _, k := range o.ring.Keys {
		if p, ok := o.lookup(k.ID); ok && k.needsPrivate() {
			opened[k.ID] = p.passphrase
		}
	}
	return opened
}

// Prepare decrypts the keys that do not sign yet, so Reopen costs nothing when they begin to. Call it in the
// background: it takes one derivation or more. Its errors are those of Open and do not concern the signing keys.
func (o *Opened) Prepare() error {
	var errs []error
	var waiting []Key
	for _, k := range o.ring.Keys {
		if k.needsPrivate() {
			waiting = append(waiting, k)
		}
	}
	for ; len(waiting) > 0; waiting = waiting[min(2, len(waiting)):] {
		errs = append(errs, o.openAll(waiting[:min(2, len(waiting))]))
	}
	return errors.Join(errs...)
}

// Ready reports whether this process could sign with a key now. A key is promoted only
// when every replica reports that it is ready.
func (o *Opened) Ready(id string) bool {
	_, ok := o.lookup(id)
	return ok
}

// Ring returns the ring that was opened.
func (o *Opened) Ring() Ring { return o.ring.clone() }

// Signer returns the key that signs tokens of a use.
func (o *Opened) Signer(use Use) Signer {
	k, _ := o.ring.Signing(use)
	p, _ := o.lookup(k.ID)
	return Signer{ID: k.ID, Algorithm: k.Algorithm, Private: p.signer}
}

// PublicKey returns a key that verifies tokens of a use: any phase except Revoked. It
// looks the ID up in a map, so any ID that a token names is safe.
func (o *Opened) PublicKey(use Use, id string) (PublicKey, bool) {
	k, ok := o.public[use][id]
	return k, ok
}

// PublicKeys returns every key that verifies tokens of a use.
func (o *Opened) PublicKeys(use Use) []PublicKey {
	keys := make([]PublicKey, 0, len(o.public[use]))
	for _, k := range o.ring.Keys {
		if p, ok := o.public[use][k.ID]; ok {
			keys = append(keys, p)
		}
	}
	return keys
}
