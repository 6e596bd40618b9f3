package keys

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/keys/internal/pbes2"
)

// Input is everything that Reconcile decides on. It is plain data: the caller
// observes first, and Reconcile never calls back.
type Input struct {
	Ring        Ring
	Passphrases PassphraseState // as stored
	Policy      Policy
	Desired     map[Use]string // passphrases; an empty one keeps the current one
	Observed    Observed
	Trace       Trace
	Now         time.Time

	// Cost is zero except in tests: keys/keystest lowers the cost of encryption.
	Cost pbes2.Cost
}

// Observed is what the caller knows about a ring and its users.
type Observed struct {
	// OpenedBy is the result of Inspect with Input.Passphrases.Candidates.
	OpenedBy OpenedBy

	// Published holds the IDs of keys that consumers can get. A caller that cannot tell this from Seen leaves it nil.
	Published map[string]bool

	// PublishedUnknown is set if the published keys could not be read. Then no key is
	// known to be published, and none is known to be withdrawn.
	PublishedUnknown bool

	// Seen holds the IDs of keys that are published and that every replica in service has loaded.
	Seen map[string]bool

	// AssumeSeen is set by a caller that cannot ask its replicas: every key counts as
	// seen everywhere, and only the waits protect the verifiers.
	AssumeSeen bool

	// Distributed is set if every signer, ready or not, has the current passphrases of
	// Input.Passphrases, and no signer will start with older ones.
	Distributed bool

	// RingLoaded is set if every signer has loaded this very ring.
	RingLoaded bool

	// encryption is derived from OpenedBy.
	encryption map[string]Encryption
}

// Result is what the caller writes and reports.
type Result struct {
	// Passphrases is written first. Ring is written only after that succeeded. Both
	// are written by compare-and-swap, and only if they differ from the Input.
	Passphrases PassphraseState
	Ring        Ring

	Steps    []Taken // in order
	Next     Step    // why there is no further step, and when to look again
	Deferred []Use   // whose desired passphrase must wait; see PassphraseState.Begin
}

// Taken is a step that was carried out, and the ring after it. A caller that records
// each step writes these rings in order instead of Result.Ring.
type Taken struct {
	Step
	Ring Ring
}

// Trace is what is known about a ring outside its storage: from a status, from the
// published keys, or from replicas. It reveals that an older ring was restored, for
// example from a backup. Then nothing changes until a person accepts that ring.
type Trace struct {
	// Generation is the highest generation that was seen.
	Generation int64

	// Revoked lists the IDs of keys that were ever revoked. They stay revoked, whatever is restored.
	Revoked []string

	// Accepted is set if a person has accepted this ring in place of the newer one. It continues above every generation
	// that was seen, so every replica loads it, and the request is never carried out twice.
	Accepted bool
}

// RolledBack reports whether a ring is older than one that was seen.
func (t Trace) RolledBack(ring Ring) bool {
	return len(ring.Keys) > 0 && ring.Generation < t.Generation
}

// accept moves an older ring above every generation that was seen. A key that waits
// to sign waits again: it may have been unpublished since the older ring was written.
func (t Trace) accept(ring Ring) Taken {
	accepted := ring.clone()
	accepted.Generation = t.Generation + 1
	for i := range accepted.Keys {
		if k := &accepted.Keys[i]; k.Phase == Published {
			k.withdraw()
		}
	}
	return Taken{Ring: accepted, Step: Step{Action: Accept, Reason: OlderRingAccepted, Message: fmt.Sprintf(
		"using the keys of generation %d in place of those of generation %d, as a person requested",
		ring.Generation, t.Generation)}}
}

// Next returns the first step that is due in the ring, or a step with the action
// None. It does not consider passphrase changes, and needs no passphrase.
func Next(in Input) Step {
	in.Ring = in.Ring.clone()
	in.Ring.sort()
	in.Observed.encryption = in.Observed.OpenedBy.Encryption(in.Ring, in.Passphrases.Passphrases())
	return in.next(in.Ring, in.Observed)
}

// Reconcile carries out every step that is due, for the ring and for its passphrases. Steps that depend on other
// processes end it: they cannot see what is not yet written.
//
// On error (see apply) the caller writes only the passphrases.
func Reconcile(in Input) (Result, error) {
	factory := realFactory
	if in.Cost > 0 {
		factory.rounds = int(in.Cost)
	}
	return reconcile(factory, in)
}

func reconcile(factory keyFactory, in Input) (Result, error) {
	in.Ring = in.Ring.clone()
	in.Ring.sort()
	result := Result{Ring: in.Ring, Passphrases: in.Passphrases}
	var accepted []Taken
	if in.Trace.RolledBack(in.Ring) {
		if !in.Trace.Accepted {
			result.Next = Step{Action: None, Reason: RolledBack, Message: fmt.Sprintf(
				"the keys have generation %d, but generation %d was seen: an older ring was restored",
				in.Ring.Generation, in.Trace.Generation)}
			return result, nil
		}
		accepted = []Taken{in.Trace.accept(in.Ring)}
		in.Ring = accepted[0].Ring
	}
	encryption := func(state PassphraseState) map[string]Encryption {
		return in.Observed.OpenedBy.Encryption(in.Ring, state.Passphrases())
	}
	begun, deferred := in.Passphrases.Begin(in.Desired, in.Ring, encryption(in.Passphrases))
	// Observed.Distributed refers to what is stored.
	distributed := in.Observed.Distributed && begun.Equal(in.Passphrases) && begun.changing()
	state := begun.markDistributed(distributed, in.Ring, encryption(begun))
	result.Passphrases, result.Deferred = state, deferred

	var err error
	in.Observed.encryption = encryption(state)
	result.Ring, result.Steps, result.Next, err = in.advance(factory, state.Passphrases())
	result.Steps = slices.Concat(accepted, result.Steps)
	if err == nil && len(result.Steps) == 0 && state.Equal(in.Passphrases) && in.Observed.RingLoaded {
		result.Passphrases = state.Finish(in.Ring, in.Observed.encryption)
	}
	return result, err
}

// advance carries out the steps of next until there are none.
func (in Input) advance(factory keyFactory, passphrases Passphrases) (Ring, []Taken, Step, error) {
	ring, observed := in.Ring, in.Observed
	var taken []Taken
	for {
		step := in.next(ring, observed)
		if step.Action == None {
			return ring, taken, step, nil
		}
		changed, err := apply(factory, ring, step, passphrases)
		if err != nil {
			return in.Ring, nil, step, err
		}
		observed.encryption = afterStep(observed.encryption, ring, changed)
		if step.Action == Generate {
			step.Key = added(ring, changed)
		}
		ring, taken = changed, append(taken, Taken{step, changed})
	}
}

// added returns the ID of the key that only the later of two rings has.
func added(before, after Ring) string {
	for _, k := range after.Keys {
		if before.find(k.ID) == nil {
			return k.ID
		}
	}
	return ""
}

func (in Input) next(ring Ring, observed Observed) Step {
	in.Policy.Revoked = slices.Concat(in.Policy.Revoked, in.Trace.Revoked)
	return next(rules, ring, in.Policy, observed, in.Now)
}

// afterStep returns the encryption after a step, which encrypts with the first passphrase.
func afterStep(encryption map[string]Encryption, before, after Ring) map[string]Encryption {
	all := map[string]Encryption{}
	for _, k := range after.Keys {
		if !k.needsPrivate() {
			continue
		}
		all[k.ID] = encryption[k.ID]
		if old, existed := before.Key(k.ID); !existed || !bytes.Equal(old.Encrypted, k.Encrypted) {
			all[k.ID] = EncryptedCurrent
		}
	}
	return all
}
