package keys

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Passphrases are what private halves are sealed with: for each kind the
// current one first, then former ones. Each that does not open a key costs one
// derivation. It prints as [redacted].
type Passphrases struct {
	Access  []string
	Refresh []string
}

// Format keeps passphrases out of whatever is printed.
func (Passphrases) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// LogValue keeps passphrases out of logs.
func (Passphrases) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// of gives the current passphrase of a kind, and all that can be tried.
func (p Passphrases) of(use Use) (current string, all []string, err error) {
	all = p.Access
	if use == Refresh {
		all = p.Refresh
	}
	if len(all) == 0 || all[0] == "" {
		return "", nil, fmt.Errorf("keys: %w: there is none for the %s keys; set %s", ErrPassphrase, use, use.setting())
	}
	return all[0], all, nil
}

// ErrPassphrase is in the chain of an error when no passphrase that was given
// opens a private half. The keys exist and are not to be replaced: that would
// end every session.
var ErrPassphrase = errors.New("wrong passphrase")

// Signer is an open private half.
type Signer struct {
	ID        string
	Algorithm Algorithm
	Private   crypto.Signer
}

// PublicKey is the half that verifies.
type PublicKey struct {
	ID        string
	Algorithm Algorithm
	Public    crypto.PublicKey // as Key.Public

	// Longest is the longest lifetime of a token that it signed, as Key.Longest.
	MaxTokenLifetime time.Duration
}

// Opened is a ring whose signing keys are open. It is safe for concurrent use.
type Opened struct {
	ring        Ring
	passphrases Passphrases
	public      map[Use]map[string]PublicKey

	mu   sync.RWMutex
	open map[string]private
}

type private struct {
	signer     crypto.Signer
	encryption Encryption
}

// Open opens the signing key of each kind, both at once: it takes about the
// time of one derivation on two processors. Each pair is tested by signing and
// verifying. Keys that do not sign yet are left to Prepare; keys that sign no
// more have no private half.
//
// The error names the kind, the key and the setting; errors.Is(err,
// ErrPassphrase) says that the passphrase is wrong.
func Open(ring Ring, passphrases Passphrases) (*Opened, error) {
	return (&Opened{}).Reopen(ring, passphrases)
}

// Reopen is Open for a ring that replaces o's, after a step or a change of
// passphrases. A private half that is open and sealed as before is not opened
// again. o itself stays as it is.
func (o *Opened) Reopen(ring Ring, passphrases Passphrases) (*Opened, error) {
	ring = ring.clone()
	n := &Opened{ring: ring, passphrases: passphrases, public: map[Use]map[string]PublicKey{}, open: map[string]private{}}
	var signing []Key
	for _, use := range Uses() {
		n.public[use] = map[string]PublicKey{}
		k, ok := ring.Signing(use)
		if !ok {
			return nil, fmt.Errorf("keys: no %s key signs; the ring is not complete yet", use)
		}
		signing = append(signing, k)
	}
	for _, k := range ring.Keys {
		if k.verifies() {
			n.public[k.Use][k.ID] = PublicKey{ID: k.ID, Algorithm: k.Algorithm, Public: k.Public, MaxTokenLifetime: k.MaxTokenLifetime}
		}
		if p, ok := o.lookup(k.ID); ok && o.unchanged(k, passphrases) {
			n.open[k.ID] = p
		}
	}
	if err := n.openAll(signing); err != nil {
		return nil, err
	}
	return n, nil
}

// unchanged says that what is known of a private half still holds.
func (o *Opened) unchanged(k Key, passphrases Passphrases) bool {
	old, ok := o.ring.Key(k.ID)
	if !ok || !bytes.Equal(old.Encrypted, k.Encrypted) {
		return false
	}
	_, was, err := o.passphrases.of(k.Use)
	current, _, err2 := passphrases.of(k.Use)
	return err == nil && err2 == nil && was[0] == current
}

func (o *Opened) lookup(id string) (private, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	p, ok := o.open[id]
	return p, ok
}

// openAll opens keys in parallel, those that are open already excepted.
func (o *Opened) openAll(keys []Key) error {
	errs := make([]error, len(keys))
	var wg sync.WaitGroup
	for i, k := range keys {
		if _, ok := o.lookup(k.ID); ok {
			continue
		}
		wg.Go(func() {
			signer, encryption, err := openKey(k, o.passphrases)
			if err != nil {
				errs[i] = err
				return
			}
			o.mu.Lock()
			defer o.mu.Unlock()
			o.open[k.ID] = private{signer, encryption}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// openKey tries each passphrase of the key's kind and tests the pair.
func openKey(k Key, passphrases Passphrases) (crypto.Signer, Encryption, error) {
	where := fmt.Sprintf("the private half of the %s %s key %s", k.Phase, k.Use, k.ID)
	_, all, err := passphrases.of(k.Use)
	if err != nil {
		return nil, EncryptedUnknown, err
	}
	encrypted, err := parseEncrypted(k.Encrypted)
	if err != nil {
		return nil, EncryptedUnknown, fmt.Errorf("keys: %w: %s cannot be read: %w", ErrDamaged, where, err)
	}
	for i, passphrase := range all {
		signer, err := encrypted.open(passphrase)
		if errors.Is(err, errLocked) {
			continue
		}
		if err == nil {
			err = checkPair(k.Algorithm, signer, k.Public)
		}
		if err != nil {
			return nil, EncryptedUnknown, fmt.Errorf("keys: %w: %s: %w", ErrDamaged, where, err)
		}
		if i == 0 {
			return signer, EncryptedCurrent, nil
		}
		return signer, EncryptedFormer, nil
	}
	return nil, EncryptedUnknown, fmt.Errorf("keys: %w: none of the %d given opens %s; set %s to the one that it was sealed with",
		ErrPassphrase, len(all), where, k.Use.setting())
}

// Inspect finds out what opens each private half, by opening it: the Seals of
// Observed. It costs up to a derivation for each key and passphrase, so callers
// keep the outcome for as long as neither changes. Keys are done two at a time.
func Inspect(ring Ring, passphrases Passphrases) map[string]Encryption {
	o := &Opened{ring: ring, passphrases: passphrases, open: map[string]private{}}
	return o.inspect()
}

// Seals is Inspect for the ring that is open. What has been opened before costs
// nothing.
func (o *Opened) Encryption() map[string]Encryption { return o.inspect() }

func (o *Opened) inspect() map[string]Encryption {
	_ = o.Prepare() // an error is a key that stays SealUnknown
	encryption := map[string]Encryption{}
	for _, k := range o.ring.Keys {
		if k.needsPrivate() {
			p, _ := o.lookup(k.ID)
			encryption[k.ID] = p.encryption
		}
	}
	return encryption
}

// Prepare opens the keys that do not sign yet, so that Reopen costs nothing at
// the moment when they do. It is for the background: it takes a derivation or
// more. Its errors are those of Open; the signing keys are not concerned.
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

// Ready says whether this process could sign with a key now: what a replica
// answers to whoever waits for every replica to have a key before promoting it.
func (o *Opened) Ready(id string) bool {
	_, ok := o.lookup(id)
	return ok
}

// Ring returns the ring that was opened.
func (o *Opened) Ring() Ring { return o.ring.clone() }

// Signer returns the key that signs tokens of a kind.
func (o *Opened) Signer(use Use) Signer {
	k, _ := o.ring.Signing(use)
	p, _ := o.lookup(k.ID)
	return Signer{ID: k.ID, Algorithm: k.Algorithm, Private: p.signer}
}

// PublicKey finds a key that verifies tokens of a kind: Published to Retiring,
// never Revoked. It is a look-up in a map; whatever ID a token names is data.
func (o *Opened) PublicKey(use Use, id string) (PublicKey, bool) {
	k, ok := o.public[use][id]
	return k, ok
}

// PublicKeys returns every key that verifies tokens of a kind.
func (o *Opened) PublicKeys(use Use) []PublicKey {
	keys := make([]PublicKey, 0, len(o.public[use]))
	for _, k := range o.ring.Keys {
		if p, ok := o.public[use][k.ID]; ok {
			keys = append(keys, p)
		}
	}
	return keys
}
