package keys

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
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
//	         │        │ Adopt                 ┌ every signer has B: no way back
//	current  A        B ──────────────────────┼───────────────────────▶
//	former   –        A ──────────────────────┼────────────▶ – Forget
//	given    –        no ─────────────────────▶ yes ───────▶ –
//	signers  {A}      {A} one by one {B, A}                  {B}
//	ring     sealed with A                    │ Reseal to B, and a rotation
//
// Before the way back is closed nothing was ever sealed with B, so people may
// still want A again, or C; after it they wait until A is forgotten. That it is
// closed is itself kept, and so decided by a compare-and-swap: of two who tend
// at once, one cannot seal with B while the other takes B away.
type PassphraseState struct {
	Current map[Use]string
	Former  map[Use]string

	// Given says of a kind in which a change is under way that every signer has
	// the current passphrase. The ring is sealed with it from then on.
	Distributed map[Use]bool
}

// Adopt gives the custody that follows when people want these passphrases, and
// says for which kinds that has to wait: a former change is not through, or the
// other kind has that very passphrase. What is wanted for a kind may be empty,
// which asks for nothing. seals are those that Inspect finds with c.Passphrases.
//
// Nothing is dropped that opens a key of the ring.
func (c PassphraseState) Begin(wanted map[Use]string, ring Ring, encryption map[string]Encryption) (next PassphraseState, deferred []Use) {
	next = c.clone()
	for _, use := range Uses() {
		want, current, former := wanted[use], c.Current[use], c.Former[use]
		second := opens(ring, use, encryption, EncryptedFormer) // the passphrase that new keys are not sealed with is needed
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
		case !c.Distributed[use] && want == former:
			next.Current[use] = former
			delete(next.Former, use)
		case !c.Distributed[use]:
			next.Current[use] = want
		case lost(ring, use, encryption): // a person who says what opens it does not wait
			next.Current[use], next.Former[use] = want, current
			delete(next.Distributed, use)
		default:
			deferred = append(deferred, use)
		}
	}
	return next, deferred
}

// Passphrases gives what opens the ring, and first what keys are sealed with:
// the current passphrase of a kind once every signer has been given it, until
// then the former one, which every signer has.
func (c PassphraseState) Passphrases() Passphrases {
	of := func(use Use) (all []string) {
		first, second := c.Current[use], c.Former[use]
		if !c.Distributed[use] && second != "" {
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

// give closes the way back in kinds in which a change is under way: every signer
// has the current passphrase. Or the ring is sealed with it already, which comes
// about only where a passphrase was lost and found again: then whoever runs has
// it, and nobody can start with another.
func (c PassphraseState) markDistributed(every bool, ring Ring, encryption map[string]Encryption) PassphraseState {
	next := c.clone()
	for _, use := range Uses() {
		signing, _ := ring.Signing(use)
		if c.Former[use] != "" && !c.Distributed[use] && (every || encryption[signing.ID] == EncryptedFormer) {
			next.Distributed[use] = true
		}
	}
	return next
}

// Forget drops the former passphrases of kinds in which nothing is sealed with
// them. Call it when every signer has loaded this very ring: one that restarts
// with an older copy would need them.
func (c PassphraseState) Finish(ring Ring, encryption map[string]Encryption) PassphraseState {
	next := c.clone()
	for _, use := range Uses() {
		if c.Distributed[use] && !opens(ring, use, encryption, EncryptedFormer) && !opens(ring, use, encryption, EncryptedUnknown) {
			delete(next.Former, use)
			delete(next.Distributed, use)
		}
	}
	return next
}

// changing says that a change is under way that signers do not all know of yet.
func (c PassphraseState) changing() bool {
	for _, use := range Uses() {
		if c.Former[use] != "" && !c.Distributed[use] {
			return true
		}
	}
	return false
}

// Equal says whether both keep the same.
func (c PassphraseState) Equal(other PassphraseState) bool {
	for _, use := range Uses() {
		if c.Current[use] != other.Current[use] || c.Former[use] != other.Former[use] || c.Distributed[use] != other.Distributed[use] {
			return false
		}
	}
	return true
}

func (c PassphraseState) clone() PassphraseState {
	next := PassphraseState{Current: map[Use]string{}, Former: map[Use]string{}, Distributed: map[Use]bool{}}
	maps.Copy(next.Current, c.Current)
	maps.Copy(next.Former, c.Former)
	maps.Copy(next.Distributed, c.Distributed)
	return next
}

func (c PassphraseState) holds(use Use, passphrase string) bool {
	return c.Current[use] == passphrase || c.Former[use] == passphrase
}

func (k Use) other() Use {
	if k == Access {
		return Refresh
	}
	return Access
}

// opens says whether there is a private half of a kind with this seal.
func opens(ring Ring, use Use, encryption map[string]Encryption, with Encryption) bool {
	for _, k := range ring.Keys {
		if k.Use == use && k.needsPrivate() && encryption[k.ID] == with {
			return true
		}
	}
	return false
}

// lost says that nobody can open the key that signs.
func lost(ring Ring, use Use, encryption map[string]Encryption) bool {
	k, ok := ring.Signing(use)
	return ok && encryption[k.ID] == EncryptedUnknown
}

// Tending is what is seen of a ring and of all who use it at one moment.
type Input struct {
	Ring        Ring
	Passphrases PassphraseState
	Desired     map[Use]string // passphrases; empty: the present ones
	Policy      Policy
	Now         time.Time

	// Seen is Observed.Seen: the key is published, and every replica in service
	// has loaded it.
	Seen func(id string) bool

	// Published is the first half of Seen. It is all that counts where nobody can
	// open the key that signs: whoever still signs with it cannot load what comes
	// after it, and whoever has the new passphrase cannot start. Nil: Seen.
	Published func(id string) bool

	// Unread says that what is published could not be read. Then no key is known to
	// be published, and none is known to be withdrawn.
	Unread bool

	// Given says whether every signer that there is, ready or not, has been
	// given these passphrases as the current ones, and no signer to come will be
	// given older ones. It is asked only of what has been kept already.
	Distributed func(current map[Use]string) bool

	// Loaded says that every signer that there is has loaded this very ring.
	Loaded bool

	// Inspect is keys.Inspect, or one that remembers what it found.
	Inspect func(Ring, Passphrases) map[string]Encryption

	// Trace is what is remembered of this ring outside its home.
	Trace Trace
}

// Trace is what is remembered of a ring outside its home: in a status, in what
// was published of it, by those who use it. It shows that the ring was taken
// back, as by the restore of an old backup. Then nothing is done with the ring
// until a person accepts it.
type Trace struct {
	// Generation is the highest that was seen.
	Generation int64

	// Revoked are the IDs of keys that were revoked at some time. They stay so,
	// whatever is restored.
	Revoked []string

	// Accepted says that a person has accepted this ring in the place of the one
	// that was seen. It goes on above every generation that was seen, so that
	// everybody takes it, and an order is never obeyed twice.
	Accepted bool
}

// RolledBack says whether a ring is older than what was seen of it.
func (t Trace) RolledBack(ring Ring) bool {
	return len(ring.Keys) > 0 && ring.Generation < t.Generation
}

// accept gives the step after which an older ring is above every one that was
// seen, and the ring that follows from it. A key that waits to sign waits anew: it
// may have been out of sight since the older ring was written.
func (t Trace) accept(ring Ring) (Ring, Step) {
	accepted := ring.clone()
	accepted.Generation = t.Generation + 1
	for i := range accepted.Keys {
		if k := &accepted.Keys[i]; k.Phase == Published {
			k.PhaseSince, k.DeadlineSeen = k.Created, false
		}
	}
	return accepted, Step{Action: Accept, Reason: OlderRingAccepted, Message: fmt.Sprintf(
		"taking the keys of generation %d in the place of those of generation %d, as a person has ordered", ring.Generation, t.Generation)}
}

// Tended is what is to be kept from now on, and why.
type Result struct {
	// Custody is written first, and Ring only when that has worked, each by
	// compare-and-swap and only where it differs from what was read.
	Passphrases PassphraseState
	Ring        Ring

	Steps    []Step // that were taken, in order
	Next     Step   // what Next said when none was left
	Deferred []Use  // whose new passphrase has to wait; see Adopt
}

// Announced is the reason of a Wait: a published key has been seen everywhere
// for the first time. Only now its lead begins, for whoever publishes may have
// been held up in between.
const Announced Reason = "Announced"

// The reasons and the action that come of what others have done to a ring, or to
// what is published of it.
const (
	Withdrawn         Reason = "Withdrawn"         // Wait: a published key is published no more
	RolledBack        Reason = "RolledBack"        // None: the ring is older than what was seen of it; a person has to decide
	OlderRingAccepted Reason = "OlderRingAccepted" // Accept

	Accept Action = "Accept" // go on with an older ring, above every generation that was seen
)

// Tend takes every step that is due, of the ring and of its passphrases. What it
// returns is written at once, in one write each; steps that wait for others to
// see a key wait here too, since nobody sees what is not written.
//
// Where an error comes (see Apply), nothing is to be written but the custody.
func Reconcile(t Input) (Result, error) { return reconcile(realFactory, t) }

func reconcile(factory keyFactory, t Input) (Result, error) {
	out := Result{Ring: t.Ring}
	var accepted []Step
	if t.Trace.RolledBack(t.Ring) {
		if !t.Trace.Accepted {
			out.Passphrases = t.Passphrases
			out.Next = Step{Action: None, Reason: RolledBack, Message: fmt.Sprintf(
				"the keys have generation %d, though generation %d was seen: they were taken back", t.Ring.Generation, t.Trace.Generation)}
			return out, nil
		}
		ring, step := t.Trace.accept(t.Ring)
		t.Ring, accepted = ring, []Step{step}
	}
	t.Policy.Revoked = slices.Concat(t.Policy.Revoked, t.Trace.Revoked)
	inspect := func(c PassphraseState) map[string]Encryption { return t.Inspect(t.Ring, c.Passphrases()) }
	adopted, deferred := t.Passphrases.Begin(t.Desired, t.Ring, inspect(t.Passphrases))
	given := adopted.Equal(t.Passphrases) && adopted.changing() && t.Distributed(adopted.Current)
	out.Passphrases, out.Deferred = adopted.markDistributed(given, t.Ring, inspect(adopted)), deferred
	kept, encryption := out.Passphrases.Equal(t.Passphrases), inspect(out.Passphrases)
	var err error
	out.Ring, out.Steps, out.Next, err = t.advance(factory, encryption, out.Passphrases.Passphrases())
	out.Steps = slices.Concat(accepted, out.Steps)
	if err == nil && len(out.Steps) == 0 && kept && t.Loaded {
		out.Passphrases = out.Passphrases.Finish(t.Ring, encryption)
	}
	return out, err
}

// advance asks Next and does what it says until it says nothing more.
func (t Input) advance(factory keyFactory, found map[string]Encryption, passphrases Passphrases) (Ring, []Step, Step, error) {
	observed := Observed{Encryption: maps.Clone(found), Seen: func(id string) bool {
		k, _ := t.Ring.Key(id)
		if t.Published != nil && lost(t.Ring, k.Use, found) {
			return t.Published(id)
		}
		return t.Seen(id)
	}}
	ring := t.Ring
	var taken []Step
	for {
		step := Next(unseenBeginNow(ring, t.Now), t.Policy, observed, t.Now)
		if step.Action == None {
			announcement, unseen := announce(ring, t.Policy, observed, t.Now)
			withdrawal, withdrawn := t.withdrawn(ring)
			switch {
			case step.Reason == PolicyInvalid:
				return ring, taken, step, nil
			case withdrawn:
				step = withdrawal
			case announcement.Action != None:
				step = announcement
			case len(unseen) > 0: // no time that moves on with each look
				step.When = earliest(step.When, t.Now.Add(recheck))
				if step.Reason == AwaitingPublication {
					step.Key, step.Message = unseen[0].ID, fmt.Sprintf(
						"the %s key %s is published, and its time begins when it is seen everywhere", unseen[0].Use, unseen[0].ID)
				}
				return ring, taken, step, nil
			default:
				return ring, taken, step, nil
			}
		}
		changed, err := apply(factory, ring, step, passphrases)
		if err != nil {
			return t.Ring, nil, step, err
		}
		for _, k := range changed.Keys { // whatever a step seals, it seals with the first passphrase
			if before, was := ring.Key(k.ID); k.needsPrivate() && (!was || !bytes.Equal(before.Encrypted, k.Encrypted)) {
				observed.Encryption[k.ID] = EncryptedCurrent
			}
		}
		ring, taken = changed, append(taken, step)
	}
}

// unannounced: the one sign of it is that a key waits since it was made, so
// that an announcement is always later.
func (k Key) unannounced() bool { return k.Phase == Published && k.PhaseSince.Equal(k.Created) }

// unseenBeginNow shows Next a ring in which the lead of a key that nobody may
// have seen has only just begun.
func unseenBeginNow(ring Ring, now time.Time) Ring {
	ring = ring.clone()
	for i := range ring.Keys {
		if k := &ring.Keys[i]; k.unannounced() && k.PhaseSince.Before(now) {
			k.PhaseSince = whole(now)
		}
	}
	return ring
}

// withdrawn gives the step for a published key that is published no more, for
// someone deleted or replaced what is published: whoever looked meanwhile does
// not know it, so its lead begins anew when it is seen again.
func (t Input) withdrawn(ring Ring) (Step, bool) {
	for _, k := range ring.Keys {
		if k.Phase == Published && !k.unannounced() && t.Published != nil && !t.Unread && !t.Published(k.ID) {
			return Step{
				Action: Wait, Use: k.Use, Key: k.ID, Reason: Withdrawn,
				Message:    fmt.Sprintf("the %s key %s is published no more; its lead begins anew when it is seen again", k.Use, k.ID),
				generation: ring.Generation, at: k.Created, policy: t.Policy,
			}, true
		}
	}
	return Step{}, false
}

// announce gives the step that begins the lead of a key that is seen everywhere,
// and the keys that are not.
func announce(ring Ring, policy Policy, observed Observed, now time.Time) (step Step, unseen []Key) {
	step.Action = None
	for _, k := range ring.Keys {
		s := situation{ring, k.Use, policy, observed, now}
		if !k.unannounced() || observed.Encryption[k.ID] == EncryptedUnknown {
			continue
		}
		if _, alone := unopenable(s); alone {
			continue
		}
		if !s.seen(k.ID) {
			unseen = append(unseen, k)
			continue
		}
		at := whole(now)
		if !at.After(k.Created) {
			at = k.Created.Add(time.Second)
		}
		step = Step{
			Action: Wait, Use: k.Use, Key: k.ID, Reason: Announced,
			Message:    fmt.Sprintf("the %s key %s is seen everywhere; its lead begins", k.Use, k.ID),
			generation: ring.Generation, at: at, policy: policy,
		}
	}
	return step, unseen
}
