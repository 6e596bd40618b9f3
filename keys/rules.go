package keys

import (
	"fmt"
	"slices"
	"time"
)

// Next says what is to be done with a ring: the first rule that has something
// to say, of the first kind for which one has. It is pure: the same arguments
// give the same step. Whoever calls it does the step (Apply), writes the ring
// by compare-and-swap, and asks again with what it reads back.
func Next(ring Ring, policy Policy, observed Observed, now time.Time) Step {
	return next(rules, ring, policy, observed, now)
}

// rule looks at the keys of one kind. It returns a step, or false to leave it
// to the next rule. A step of None ends the matter for this kind.
type rule struct {
	name string
	says func(situation) (Step, bool)
}

// rules is the life of a key, in order of precedence. The order matters: a
// person's word comes before all; a kind whose keys cannot be opened is left
// alone; times and lifetimes are put right before anything is concluded from
// them.
var rules = []rule{
	{"a key that a person revoked is trusted no more", revokedByPerson},
	{"the first key of a kind is made and signs at once", firstKey},
	{"a kind whose keys cannot be opened is left alone until a person orders a rotation", unopenable},
	{"a time that lies in the future begins now", clockWentBack},
	{"a key is kept for the longest token that it can have signed", lifetimeRaised},
	{"a private half is sealed with the current passphrase", formerPassphrase},
	{"a deadline is believed when it is reached the second time", deadlineReached},
	{"a key whose tokens are all dead, and whose successor is seen everywhere, is dropped", tokensExpired},
	{"a published key signs when its lead has passed and it is seen everywhere", leadPassed},
	{"a kind with a reason to rotate gets a new key, one at a time", rotation},
}

// causes are the reasons to rotate, the most urgent first.
var causes = []func(situation) (Reason, string, bool){
	rotationRequested,
	algorithmChanged,
	passphraseChanged,
	aged,
}

// situation is all that a rule may look at: one kind in a ring, at one moment.
type situation struct {
	ring     Ring
	use      Use
	policy   Policy
	observed Observed
	now      time.Time
}

// recheck is when to look again at something that other people or programs
// bring about, and that no time can be told for.
const recheck = 30 * time.Second

func next(rules []rule, ring Ring, policy Policy, observed Observed, now time.Time) Step {
	stamp := func(s Step) Step {
		s.generation, s.at, s.policy = ring.Generation, whole(now), policy
		return s
	}
	if err := policy.Check(); err != nil {
		return stamp(Step{Action: None, Reason: PolicyInvalid, Message: err.Error()})
	}
	var idle []Step
	for _, use := range Uses() {
		s := situation{ring, use, policy, observed, now}
		step := s.first(rules)
		if step.Action != None {
			return stamp(step)
		}
		idle = append(idle, step)
	}
	return stamp(merge(idle))
}

func (s situation) first(rules []rule) Step {
	for _, r := range rules {
		if step, ok := r.says(s); ok {
			step.Use = s.use
			return step
		}
	}
	return Step{Action: None, Use: s.use, Reason: Steady, Message: fmt.Sprintf("the %s keys need nothing", s.use), When: s.deadline()}
}

// merge makes one None of two: the worst reason, the earliest time.
func merge(idle []Step) Step {
	worst := idle[0]
	order := []Reason{Unopenable, RingFull, AwaitingPublication, Steady}
	for _, step := range idle[1:] {
		when := earliest(worst.When, step.When)
		if slices.Index(order, step.Reason) < slices.Index(order, worst.Reason) {
			worst = step
		}
		worst.When = when
	}
	if worst.Reason == Steady {
		worst.Use, worst.Message = "", "the keys need nothing"
	}
	return worst
}

// revokedByPerson: of several, the signing key comes last, so that no other
// revoked key becomes its successor.
func revokedByPerson(s situation) (Step, bool) {
	var found *Key
	for _, k := range s.keys() {
		if k.Phase != Revoked && s.policy.revokes(k.ID) && (found == nil || found.Phase == Signing) {
			found = &k
		}
	}
	if found == nil {
		return Step{}, false
	}
	step := Step{Action: Revoke, Key: found.ID, Reason: KeyRevoked}
	switch found.Phase {
	case Published:
		step.Message = fmt.Sprintf("revoking the %s key %s; no token was signed with it", s.use, found.ID)
	case Signing:
		successor := "a new key"
		if k, ok := s.successor(); ok {
			step.successor = k.ID
			successor = k.ID
		}
		step.Message = fmt.Sprintf("revoking the signing %s key %s: every %s token issued since %s dies with it; %s signs at once",
			s.use, found.ID, s.use, found.PhaseSince.UTC().Format(time.RFC3339), successor)
	default:
		step.Message = fmt.Sprintf("revoking the %s key %s: every %s token that it signed before %s dies with it",
			s.use, found.ID, s.use, found.PhaseSince.UTC().Format(time.RFC3339))
	}
	return step, true
}

func firstKey(s situation) (Step, bool) {
	if len(s.keys()) > 0 {
		return Step{}, false
	}
	return Step{Action: Generate, Reason: FirstKey,
		Message: fmt.Sprintf("making the first %s key; it signs at once, for no token and no verifier is older", s.use)}, true
}

// unopenable: a new ring would end every session, and a wrong passphrase is
// mostly a slip. What is published already stays, so tokens go on verifying.
func unopenable(s situation) (Step, bool) {
	if s.rotateOrdered() {
		return Step{}, false
	}
	for _, k := range s.keys() {
		if k.needsPrivate() && s.observed.Encryption[k.ID] == EncryptedUnknown {
			return Step{Action: None, Key: k.ID, Reason: Unopenable, Message: fmt.Sprintf(
				"no known passphrase opens the private half of the %s key %s, so the %s keys are left alone: put the former passphrase back (%s), or, if it is lost, order a rotation or revoke the key",
				s.use, k.ID, s.use, s.use.setting())}, true
		}
	}
	return Step{}, false
}

// clockWentBack: a phase that begins in the future would never get older. To
// begin it now only makes waits longer.
func clockWentBack(s situation) (Step, bool) {
	for _, k := range s.keys() {
		if s.ahead(k) {
			return Step{Action: Wait, Key: k.ID, Reason: ClockWentBack, Message: fmt.Sprintf(
				"the clock went back: the %s key %s was %s since %s, which is yet to come; it is since now",
				s.use, k.ID, k.Phase, k.PhaseSince.UTC().Format(time.RFC3339))}, true
		}
	}
	return Step{}, false
}

// ahead: what is stored is rounded up to a second, and clocks differ.
func (s situation) ahead(k Key) bool {
	return k.PhaseSince.After(s.now.Add(s.policy.ClockSkew + time.Second))
}

func lifetimeRaised(s situation) (Step, bool) {
	for _, k := range s.keys() {
		if s.tooShort(k) {
			return Step{Action: Extend, Key: k.ID, Reason: LifetimeRaised, Message: fmt.Sprintf(
				"tokens live longer now, so the %s keys are kept longer: tokens for %v", s.use, s.policy.lifetime(s.use))}, true
		}
	}
	return Step{}, false
}

func (s situation) tooShort(k Key) bool {
	switch k.Phase {
	case Signing:
		return k.MaxTokenLifetime < s.policy.lifetime(s.use)
	case Retiring:
		return k.RemoveAfter.Before(k.PhaseSince.Add(s.policy.retireInterval(k)))
	}
	return false
}

func formerPassphrase(s situation) (Step, bool) {
	for _, k := range s.keys() {
		if k.needsPrivate() && s.observed.Encryption[k.ID] == EncryptedFormer {
			return Step{Action: Reencrypt, Key: k.ID, Reason: PassphraseChanged, Message: fmt.Sprintf(
				"sealing the %s key %s with the current passphrase", s.use, k.ID)}, true
		}
	}
	return Step{}, false
}

// deadlineReached: a clock that jumps ahead makes every deadline look reached.
// To forget a key cannot be undone, and one that signs too early is not known
// yet. So the first time only starts the wait again: a clock that jumped has
// jumped by then, and this wait is real. The price is that a key is published,
// and later retiring, for twice as long.
func deadlineReached(s situation) (Step, bool) {
	for _, k := range s.keys() {
		if s.over(k) && !k.DeadlineSeen {
			return Step{Action: Wait, Key: k.ID, Reason: DeadlineReached, Message: fmt.Sprintf(
				"the %s key %s has been %s for long enough if the clock is right; waiting once more, in case it jumped", s.use, k.ID, k.Phase)}, true
		}
	}
	return Step{}, false
}

func tokensExpired(s situation) (Step, bool) {
	signing, _ := s.ring.Signing(s.use)
	if !s.seen(signing.ID) {
		return Step{}, false
	}
	for _, k := range s.keys() {
		if k.Phase != Published && s.over(k) && k.DeadlineSeen {
			return Step{Action: Drop, Key: k.ID, Reason: TokensExpired, Message: fmt.Sprintf(
				"forgetting the %s key %s: every token that it signed has expired", s.use, k.ID)}, true
		}
	}
	return Step{}, false
}

// over says that the wait of a key is over, going by the clock.
func (s situation) over(k Key) bool {
	end := s.end(k)
	return !end.IsZero() && !s.now.Before(end)
}

// end is when the wait of a key is over; zero where it waits for nothing.
func (s situation) end(k Key) time.Time {
	switch k.Phase {
	case Published:
		return k.PhaseSince.Add(s.policy.prePublication())
	case Retiring, Revoked:
		return k.RemoveAfter
	}
	return time.Time{}
}

// leadPassed: what nobody wants any more, because the algorithm was changed
// again, goes at the same moment, and not sooner: settings that flap must not
// make and forget a key at every turn.
func leadPassed(s situation) (Step, bool) {
	k, ok := s.successor()
	if !ok {
		return Step{}, false
	}
	switch {
	case !s.over(k) && !k.DeadlineSeen:
		return s.awaiting(fmt.Sprintf("the %s key %s is published, and signs from %s at the earliest", s.use, k.ID, s.end(k).Add(s.policy.prePublication()).UTC().Format(time.RFC3339))), true
	case !s.over(k):
		return s.awaiting(fmt.Sprintf("the %s key %s is published, and signs from %s at the earliest", s.use, k.ID, s.end(k).UTC().Format(time.RFC3339))), true
	case k.Algorithm != s.policy.Algorithm:
		return Step{Action: Drop, Key: k.ID, Reason: Unwanted, Message: fmt.Sprintf(
			"forgetting the published %s key %s: it is for %s, and %s is wanted now; no token was signed with it", s.use, k.ID, k.Algorithm, s.policy.Algorithm)}, true
	case !s.seen(k.ID):
		return s.awaiting(fmt.Sprintf("the %s key %s is published, but not yet seen everywhere", s.use, k.ID)), true
	}
	return Step{Action: Promote, Key: k.ID, Reason: LeadPassed, Message: fmt.Sprintf(
		"the %s key %s signs from now on", s.use, k.ID)}, true
}

func (s situation) awaiting(message string) Step {
	return Step{Action: None, Reason: AwaitingPublication, Message: message, When: s.deadline()}
}

func rotation(s situation) (Step, bool) {
	for _, cause := range causes {
		reason, message, ok := cause(s)
		if !ok {
			continue
		}
		if len(s.keys()) >= fullKind {
			return Step{Action: None, Reason: RingFull, When: s.deadline(), Message: fmt.Sprintf(
				"there are %d %s keys; one has to expire before the next is made", len(s.keys()), s.use)}, true
		}
		return Step{Action: Generate, Reason: reason, replaces: s.locked(), Message: fmt.Sprintf(
			"publishing a new %s key: %s", s.use, message)}, true
	}
	return Step{}, false
}

// fullKind is how many keys of a kind there may be before rotation waits. It
// leaves room below maxKeysPerKind for revocation, which never waits.
const fullKind = maxKeysPerKind / 2

func rotationRequested(s situation) (Reason, string, bool) {
	return RotationRequested, "a person asked for it", s.rotateOrdered()
}

func (s situation) rotateOrdered() bool {
	return s.policy.Rotate != "" && s.policy.Rotate != s.ring.Rotated[s.use]
}

func algorithmChanged(s situation) (Reason, string, bool) {
	k, _ := s.ring.Signing(s.use)
	return AlgorithmChanged, fmt.Sprintf("the signing key is for %s, and %s is wanted", k.Algorithm, s.policy.Algorithm), k.Algorithm != s.policy.Algorithm
}

func passphraseChanged(s situation) (Reason, string, bool) {
	k, _ := s.ring.Signing(s.use)
	return PassphraseChanged, "the signing key was sealed with a former passphrase once", k.Reencrypted
}

func aged(s situation) (Reason, string, bool) {
	due := s.policy.NextRotation(s.ring, s.use)
	return Aged, "the signing key is old enough", !due.IsZero() && !s.now.Before(due)
}

// keys are the keys of the kind, oldest first.
func (s situation) keys() []Key {
	var keys []Key
	for _, k := range s.ring.Keys {
		if k.Use == s.use {
			keys = append(keys, k)
		}
	}
	return keys
}

// successor is the published key that is to sign next.
func (s situation) successor() (Key, bool) {
	for _, k := range s.keys() {
		if k.Phase == Published && s.observed.Encryption[k.ID] != EncryptedUnknown && !s.policy.revokes(k.ID) {
			return k, true
		}
	}
	return Key{}, false
}

// shut are the published keys that cannot be opened, and so never sign.
func (s situation) locked() []string {
	var ids []string
	for _, k := range s.keys() {
		if k.Phase == Published && s.observed.Encryption[k.ID] == EncryptedUnknown {
			ids = append(ids, k.ID)
		}
	}
	return ids
}

func (s situation) seen(id string) bool { return s.observed.Seen != nil && s.observed.Seen(id) }

// deadline is when time alone can change what the rules say. A deadline that is
// past is held up by something else, which is looked at again soon.
func (s situation) deadline() time.Time {
	var when time.Time
	consider := func(t time.Time) {
		if t.IsZero() {
			return
		}
		if !t.After(s.now) {
			t = s.now.Add(recheck)
		}
		when = earliest(when, t)
	}
	published := false
	for _, k := range s.keys() {
		published = published || k.Phase == Published
		consider(s.end(k))
	}
	if !published { // the age matters only when no successor is under way
		consider(s.policy.NextRotation(s.ring, s.use))
	}
	return when
}

// earliest ignores zero times.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
