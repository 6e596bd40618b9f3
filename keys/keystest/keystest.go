// Package keystest creates key rings for tests, in any phase of a rotation. Their
// private halves are encrypted with a single round, so they are cheap to make and to
// open.
package keystest

import (
	"crypto"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/internal/pbes2"
)

// The passphrases of Passphrases.
const (
	AccessPassphrase  = "a passphrase for access keys"
	RefreshPassphrase = "a passphrase for refresh keys"
)

// Passphrases returns the passphrases of a ring.
func Passphrases() keys.Passphrases {
	return keys.Passphrases{Access: []string{AccessPassphrase}, Refresh: []string{RefreshPassphrase}}
}

// Policy returns a policy with the default lifetimes.
func Policy() keys.Policy {
	return keys.Policy{
		Algorithm: keys.ES256, RotationInterval: 720 * time.Hour, PublishLead: 10 * time.Minute, ClockSkew: time.Minute,
		Lifetimes: map[keys.Use]time.Duration{keys.Access: 15 * time.Minute, keys.Refresh: 168 * time.Hour},
	}
}

// Advance takes every step that is due at one moment. Every key counts as seen
// everywhere. The current passphrases decrypt every key.
func Advance(t testing.TB, ring keys.Ring, policy keys.Policy, p keys.Passphrases, now time.Time) keys.Ring {
	t.Helper()
	passphrase := map[keys.Use]string{keys.Access: p.Access[0], keys.Refresh: p.Refresh[0]}
	opened := keys.OpenedBy{}
	for _, k := range ring.Keys {
		opened[k.ID] = passphrase[k.Use]
	}
	result, err := keys.Reconcile(keys.Input{
		Ring: ring, Policy: policy, Passphrases: keys.PassphraseState{Current: passphrase}, Now: now, Cost: 1,
		Observed: keys.Observed{OpenedBy: opened, AssumeSeen: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	return result.Ring
}

// New returns a ring whose first keys sign.
func New(t testing.TB, policy keys.Policy, p keys.Passphrases, now time.Time) keys.Ring {
	t.Helper()
	return Advance(t, keys.Ring{}, policy, p, now)
}

// Rotation holds a ring at the moments of a rotation.
type Rotation struct {
	First     keys.Ring // the first keys sign
	Published keys.Ring // their successors are published
	Promoted  keys.Ring // the successors sign, and the first keys retire
	Revoked   keys.Ring // the first access key was revoked when its successor was published
}

// Rotate returns the moments of a rotation that begins now.
func Rotate(t testing.TB, policy keys.Policy, p keys.Passphrases, now time.Time) Rotation {
	t.Helper()
	first := New(t, policy, p, now)
	policy.Rotate = "once"
	published := Advance(t, first, policy, p, now)
	promoted := published
	for later := now; len(promoted.Keys) > 0 && !promoted.Honoured(policy.Rotate); {
		later = later.Add(policy.PublishLead + policy.ClockSkew + time.Second)
		promoted = Advance(t, promoted, policy, p, later)
	}
	signing, _ := first.Signing(keys.Access)
	policy.Revoked = []string{signing.ID}
	return Rotation{
		First: first, Published: published, Promoted: promoted, Revoked: Advance(t, published, policy, p, now),
	}
}

// Open opens a ring.
func Open(t testing.TB, ring keys.Ring, p keys.Passphrases) *keys.Opened {
	t.Helper()
	opened, err := keys.Open(ring, p)
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// Reencrypt returns the next generation of a ring, with every private half encrypted by
// other passphrases and with a given number of rounds.
func Reencrypt(t testing.TB, ring keys.Ring, old keys.Passphrases, passphrases map[keys.Use]string, rounds int) keys.Ring {
	t.Helper()
	all := map[keys.Use]string{keys.Access: old.Access[0], keys.Refresh: old.Refresh[0]}
	next := keys.Ring{Generation: ring.Generation + 1, Rotated: ring.Rotated}
	for _, k := range ring.Keys {
		if k.Encrypted != nil {
			k.Encrypted = Encrypt(t, Decrypt(t, k, all[k.Use]), passphrases[k.Use], rounds)
		}
		next.Keys = append(next.Keys, k)
	}
	return next
}

// Encrypt encrypts a private key with a given number of rounds.
func Encrypt(t testing.TB, private crypto.Signer, passphrase string, rounds int) []byte {
	t.Helper()
	encrypted, err := pbes2.Encrypt(private, passphrase, rounds)
	if err != nil {
		t.Fatal(err)
	}
	return encrypted
}

// Decrypt decrypts the private half of a key.
func Decrypt(t testing.TB, k keys.Key, passphrase string) crypto.Signer {
	t.Helper()
	encrypted, err := pbes2.Parse(k.Encrypted)
	if err != nil {
		t.Fatal(err)
	}
	private, err := encrypted.Decrypt(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	return private
}
