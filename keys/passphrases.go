package keys

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
)

// Passphrases are the passphrases of the private halves: for each use the current one first, then former ones. Each
// wrong one costs a derivation. It prints as [redacted].
type Passphrases struct {
	Access  []string
	Refresh []string
}

// Format keeps passphrases out of printed text.
func (Passphrases) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// LogValue keeps passphrases out of logs.
func (Passphrases) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// of returns the current passphrase of a use, and all of them in order.
func (p Passphrases) of(use Use) (current string, all []string, err error) {
	all = p.Access
	if use == Refresh {
		all = p.Refresh
	}
	if len(all) == 0 || all[0] == "" {
		return "", nil, fmt.Errorf("keys: %w: none is set for the %s keys; set %s", ErrPassphrase, use, use.setting())
	}
	return all[0], all, nil
}

// OpenedBy holds, by key ID, the passphrase that decrypts each private half. Inspect and Opened.OpenedBy find it. If no
// known passphrase decrypts a key, the key is missing. OpenedBy prints as [redacted].
type OpenedBy map[string]string

// Format keeps passphrases out of printed text.
func (OpenedBy) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// LogValue keeps passphrases out of logs.
func (OpenedBy) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Encryption says which passphrase encrypts a private half.
type Encryption int

// The values of Encryption.
const (
	EncryptedUnknown Encryption = iota // by no known passphrase, or the file is damaged
	EncryptedCurrent                   // by the current passphrase
	EncryptedFormer                    // by a former passphrase
)

// Encryption returns, by key ID, what each private half of a ring is encrypted with, if these are the passphrases.
func (o OpenedBy) Encryption(ring Ring, passphrases Passphrases) map[string]Encryption {
	all := map[string]Encryption{}
	for _, k := range ring.Keys {
		if !k.needsPrivate() {
			continue
		}
		all[k.ID] = EncryptedUnknown
		_, known, _ := passphrases.of(k.Use)
		if i := slices.Index(known, o[k.ID]); i == 0 {
			all[k.ID] = EncryptedCurrent
		} else if i > 0 {
			all[k.ID] = EncryptedFormer
		}
	}
	return all
}

// PassphraseState records the passphrases of a key ring that is managed for other processes: for each use the current
// one and, during a change, the former one. The ring and the passphrases are stored separately and cannot change in one
// write. So during a change the signers get both passphrases, and the ring stays encrypted with the one that every
// signer has:
//
//	desired      A        B
//	              │        │ Begin                 ┌ every signer has B: no way back
//	Current       A        B ──────────────────────┼───────────────────────▶
//	Former        –        A ──────────────────────┼────────────▶ – Finish
//	Distributed   –        no ─────────────────────▶ yes ───────▶ –
//	signers       {A}      {A} one by one {B, A}                  {B}
//	ring          encrypted with A                 │ Reencrypt to B, then a rotation
//
// Until B is distributed, nothing is encrypted with B, so A or a third passphrase may still replace it. After that,
// another change waits until A is gone. Because Distributed is stored and set by compare-and-swap, one of two
// concurrent managers cannot encrypt with B while the other one removes B.
type PassphraseState struct {
	Current map[Use]string
	Former  map[Use]string

	// Distributed is set during a change when every signer has the current
	// passphrase. From then on the ring is encrypted with it.
	Distributed map[Use]bool
}

// Begin returns the state after a request for these passphrases, and the uses for which the request must wait: an
// earlier change is not finished, or the other use has that very passphrase. An empty passphrase requests nothing.
// encryption is that of the ring under s.Passphrases.
//
// Begin never removes a passphrase that decrypts a key of the ring.
func (s PassphraseState) Begin(
	desired map[Use]string, ring Ring, encryption map[string]Encryption,
) (next PassphraseState, deferred []Use) {
	next = s.clone()
	for _, use := range Uses() {
		want, current, former := desired[use], s.Current[use], s.Former[use]
		// The passphrase that does not encrypt new keys still decrypts one.
		second := hasKey(ring, use, encryption, EncryptedFormer)
		switch {
		case want == "" || want == current:
		case next.holds(use.other(), want):
			deferred = append(deferred, use)
		case current == "":
			next.Current[use] = want
		case former == "":
			next.Current[use], next.Former[use] = want, current
		case second:
			deferred = append(deferred, use)
		case !s.Distributed[use] && want == former:
			next.Current[use] = former
			delete(next.Former, use)
		case !s.Distributed[use]:
			next.Current[use] = want
		case lost(ring, use, encryption): // a passphrase that may decrypt a lost key does not wait
			next.Current[use], next.Former[use] = want, current
			delete(next.Distributed, use)
		default:
			deferred = append(deferred, use)
		}
	}
	return next, deferred
}

// Passphrases returns the passphrases that decrypt the ring. The first one encrypts keys: the current one after it was
// distributed, and until then the former one, which every signer has.
func (s PassphraseState) Passphrases() Passphrases {
	of := func(use Use) []string {
		all := []string{s.Current[use], s.Former[use]}
		if !s.Distributed[use] {
			slices.Reverse(all)
		}
		return slices.DeleteFunc(all, func(passphrase string) bool { return passphrase == "" })
	}
	return Passphrases{Access: of(Access), Refresh: of(Refresh)}
}

// Candidates returns every passphrase that may decrypt the ring: those of the state,
// then the desired ones. It is the argument for Inspect.
func (s PassphraseState) Candidates(desired map[Use]string) Passphrases {
	p := s.Passphrases()
	add := func(all []string, passphrase string) []string {
		if passphrase == "" || slices.Contains(all, passphrase) {
			return all
		}
		return append(all, passphrase)
	}
	return Passphrases{Access: add(p.Access, desired[Access]), Refresh: add(p.Refresh, desired[Refresh])}
}

// markDistributed records, for uses with a change under way, that every signer has the current passphrase. A ring that
// is already encrypted with the current one is treated the same way. That happens only after a passphrase was lost and
// found again: running signers have it, and no signer can start with another.
func (s PassphraseState) markDistributed(
	distributed bool, ring Ring, encryption map[string]Encryption,
) PassphraseState {
	next := s.clone()
	for _, use := range Uses() {
		signing, _ := ring.Signing(use)
		pending := s.Former[use] != "" && !s.Distributed[use]
		if pending && (distributed || encryption[signing.ID] == EncryptedFormer) {
			next.Distributed[use] = true
		}
	}
	return next
}

// Finish removes the former passphrase of each use in which it decrypts no key. Call it only when every signer has
// loaded this very ring: a signer that restarted with an older copy would need the former passphrase.
func (s PassphraseState) Finish(ring Ring, encryption map[string]Encryption) PassphraseState {
	next := s.clone()
	for _, use := range Uses() {
		if s.Distributed[use] && !hasKey(ring, use, encryption, EncryptedFormer) &&
			!hasKey(ring, use, encryption, EncryptedUnknown) {
			delete(next.Former, use)
			delete(next.Distributed, use)
		}
	}
	return next
}

// changing reports whether a change is under way that not every signer knows about.
func (s PassphraseState) changing() bool {
	return slices.ContainsFunc(Uses(), func(use Use) bool { return s.Former[use] != "" && !s.Distributed[use] })
}

// Equal reports whether two states are the same.
func (s PassphraseState) Equal(other PassphraseState) bool {
	return !slices.ContainsFunc(Uses(), func(use Use) bool {
		return s.Current[use] != other.Current[use] || s.Former[use] != other.Former[use] ||
			s.Distributed[use] != other.Distributed[use]
	})
}

func (s PassphraseState) clone() PassphraseState {
	next := PassphraseState{Current: map[Use]string{}, Former: map[Use]string{}, Distributed: map[Use]bool{}}
	maps.Copy(next.Current, s.Current)
	maps.Copy(next.Former, s.Former)
	maps.Copy(next.Distributed, s.Distributed)
	return next
}

func (s PassphraseState) holds(use Use, passphrase string) bool {
	return s.Current[use] == passphrase || s.Former[use] == passphrase
}

func (u Use) other() Use {
	if u == Access {
		return Refresh
	}
	return Access
}

// hasKey reports whether a private half of a use has this encryption.
func hasKey(ring Ring, use Use, encryption map[string]Encryption, with Encryption) bool {
	return slices.ContainsFunc(ring.Keys, func(k Key) bool {
		return k.Use == use && k.needsPrivate() && encryption[k.ID] == with
	})
}

// lost reports whether no known passphrase decrypts the signing key.
func lost(ring Ring, use Use, encryption map[string]Encryption) bool {
	k, ok := ring.Signing(use)
	return ok && encryption[k.ID] == EncryptedUnknown
}
