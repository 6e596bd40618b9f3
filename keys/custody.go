package keys

import (
	"bytes"
	"maps"
	"time"
)

// Custody is what whoever looks after a ring for others, as the operator does,
// keeps beside it: by kind, the passphrase that signers are given as the current
// one, and the one before. The ring and the passphrases have homes of their own
// and never change in one write; so for as long as a change is under way,
// signers are given both, and the ring stays sealed with the one that every
// signer has.
//
//	wanted  A        B
//	         │        │ Adopt: only while nothing is sealed with a former one
//	current  A        B ─────────────────────────────────────────────▶
//	former   –        A ──────────────────────────────▶ – Forget
//	signers  {A}      {A} one by one {B, A}             {B}
//	ring     sealed with A        │ all have B: Reseal, and a rotation
type Custody struct {
	Current map[Kind]string
	Former  map[Kind]string
}

// Adopt gives the custody that follows when people want these passphrases, and
// says for which kinds that has to wait, because the former change is not
// through: the ring is still sealed with what would be forgotten. What is wanted
// for a kind may be empty, which asks for nothing. seals are those that Inspect
// finds with c.Passphrases(true).
func (c Custody) Adopt(wanted map[Kind]string, ring Ring, seals map[string]Seal) (next Custody, waits []Kind) {
	next = c.clone()
	for _, kind := range Kinds() {
		want := wanted[kind]
		switch {
		case want == "" || want == c.Current[kind]:
		case c.Current[kind] == "":
			next.Current[kind] = want
		case want != c.Former[kind] && sealedWithFormer(ring, kind, seals):
			waits = append(waits, kind)
		default:
			next.Current[kind], next.Former[kind] = want, c.Current[kind]
		}
	}
	return next, waits
}

// Passphrases gives what opens the ring, and first what new keys are sealed
// with: the current passphrases once every signer has been given them, until
// then the former ones, which every signer has.
func (c Custody) Passphrases(given bool) Passphrases {
	of := func(kind Kind) (all []string) {
		first, second := c.Current[kind], c.Former[kind]
		if !given && second != "" {
			first, second = second, first
		}
		for _, passphrase := range []string{first, second} {
			if passphrase != "" {
				all = append(all, passphrase)
			}
		}
		return all
	}
	return Passphrases{Access: of(Access), Refresh: of(Refresh)}
}

// Forget drops the former passphrases of kinds in which nothing is sealed with
// them. Call it when every signer has loaded this very ring: one that restarts
// with an older copy would need them.
func (c Custody) Forget(ring Ring, seals map[string]Seal) Custody {
	next := c.clone()
	for _, kind := range Kinds() {
		open := true
		for _, k := range ring.Keys {
			open = open && (k.Kind != kind || !k.needsPrivate() || seals[k.ID] == SealCurrent)
		}
		if open {
			delete(next.Former, kind)
		}
	}
	return next
}

// reorder gives the seals that were found with Passphrases(true) as they are for
// Passphrases(given).
func (c Custody) reorder(ring Ring, seals map[string]Seal, given bool) map[string]Seal {
	out := map[string]Seal{}
	maps.Copy(out, seals)
	for _, k := range ring.Keys {
		if given || c.Former[k.Kind] == "" {
			continue
		}
		switch out[k.ID] {
		case SealCurrent:
			out[k.ID] = SealFormer
		case SealFormer:
			out[k.ID] = SealCurrent
		}
	}
	return out
}

// Equal says whether both keep the same.
func (c Custody) Equal(other Custody) bool {
	for _, kind := range Kinds() {
		if c.Current[kind] != other.Current[kind] || c.Former[kind] != other.Former[kind] {
			return false
		}
	}
	return true
}

func (c Custody) clone() Custody {
	next := Custody{Current: map[Kind]string{}, Former: map[Kind]string{}}
	maps.Copy(next.Current, c.Current)
	maps.Copy(next.Former, c.Former)
	return next
}

func sealedWithFormer(ring Ring, kind Kind, seals map[string]Seal) bool {
	for _, k := range ring.Keys {
		if k.Kind == kind && k.needsPrivate() && seals[k.ID] == SealFormer {
			return true
		}
	}
	return false
}

// Tending is what is seen of a ring and of all who use it at one moment.
type Tending struct {
	Ring    Ring
	Custody Custody
	Wanted  map[Kind]string // passphrases; empty: the present ones
	Policy  Policy
	Now     time.Time

	// Seen is Observed.Seen.
	Seen func(id string) bool

	// Given says whether every signer that there is, ready or not, has been
	// given these passphrases as the current ones. Where there is none it is true.
	Given func(current map[Kind]string) bool

	// Loaded says that every signer that there is has loaded this very ring.
	Loaded bool

	// Inspect is keys.Inspect, or one that remembers what it found.
	Inspect func(Ring, Passphrases) map[string]Seal
}

// Tended is what is to be kept from now on, and why.
type Tended struct {
	// Custody is written first, and Ring only when that has worked, each by
	// compare-and-swap and only where it differs from what was read.
	Custody Custody
	Ring    Ring

	Steps []Step // that were taken, in order
	Idle  Step   // what Next said when none was left
	Waits []Kind // whose new passphrase waits until the former change is through
}

// Tend takes every step that is due, of the ring and of its passphrases. What it
// returns is written at once, in one write each; steps that wait for others to
// see a key wait here too, since nobody sees what is not written.
//
// Where an error comes (see Apply), nothing is to be written but the custody.
func Tend(t Tending) (Tended, error) { return tend(realWorkshop, t) }

func tend(w workshop, t Tending) (Tended, error) {
	out := Tended{Ring: t.Ring}
	seals := t.Inspect(t.Ring, t.Custody.Passphrases(true))
	out.Custody, out.Waits = t.Custody.Adopt(t.Wanted, t.Ring, seals)
	if !out.Custody.Equal(t.Custody) {
		seals = t.Inspect(t.Ring, out.Custody.Passphrases(true))
	}
	given := t.Given(out.Custody.Current)
	var err error
	out.Ring, out.Steps, out.Idle, err = advance(w, t.Ring, t.Policy,
		Observed{Seals: out.Custody.reorder(t.Ring, seals, given), Seen: t.Seen}, out.Custody.Passphrases(given), t.Now)
	if err == nil && len(out.Steps) == 0 && given && t.Loaded {
		out.Custody = out.Custody.Forget(t.Ring, seals)
	}
	return out, err
}

// advance asks Next and does what it says until it says nothing more.
func advance(w workshop, ring Ring, policy Policy, observed Observed, passphrases Passphrases, now time.Time) (Ring, []Step, Step, error) {
	read := ring
	var taken []Step
	for {
		step := Next(ring, policy, observed, now)
		if step.Action == None {
			return ring, taken, step, nil
		}
		changed, err := apply(w, ring, step, passphrases)
		if err != nil {
			return read, nil, step, err
		}
		for _, k := range changed.Keys { // whatever a step seals, it seals with the current passphrase
			if before, was := ring.Key(k.ID); k.needsPrivate() && (!was || !bytes.Equal(before.Sealed, k.Sealed)) {
				observed.Seals[k.ID] = SealCurrent
			}
		}
		ring, taken = changed, append(taken, step)
	}
}
