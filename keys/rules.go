package keys

import (
	"fmt"
	"slices"
	"time"
)

// rule looks at the keys of one use. It returns a step, or false if it does not
// apply. A step with the action None ends the evaluation for this use.
type rule struct {
	name  string
	apply func(situation) (Step, bool)
}

// rules is the life of a key, in order of precedence. The order matters: a person's request comes first; a use whose
// keys cannot be decrypted is left alone; times and lifetimes are corrected before anything is concluded from them.
var rules = []rule{
	{"a key that a person revoked is no longer trusted", revokedByPerson},
	{"the first key of a use is created and signs at once", firstKey},
	{"a published key that is no longer published waits to be seen again", withdrawn},
	{"a use whose keys cannot be decrypted is left alone until a person requests a rotation", unopenable},
	{"a phase that begins in the future begins now", clockWentBack},
	{"the lead of a generated key begins when the key is seen everywhere", announced},
	{"a key is kept as long as any token that it may have signed", lifetimeRaised},
	{"a private half is encrypted with the current passphrase", formerPassphrase},
	{"a deadline counts when it passes for the second time", deadlineReached},
	{"a key whose tokens have expired, and whose successor is seen everywhere, is dropped", tokensExpired},
	{"a published key signs when its lead has passed and it is seen everywhere", leadPassed},
	{"a use with a reason to rotate gets a new key, one at a time", rotation},
}

// causes are the reasons to rotate, the most urgent first.
var causes = []func(situation) (Reason, string, bool){
	rotationRequested,
	algorithmChanged,
	passphraseChanged,
	aged,
}

// situation is everything that a rule may look at: one use in a ring, at one moment.
type situation struct {
	ring     Ring
	use      Use
	policy   Policy
	observed Observed
	now      time.Time
}

// recheck is when to look again at something that depends on other people or programs, and so has no known time.
const recheck = 30 * time.Second

// next returns the step of the first rule that applies, for the first use that has
// one. It is pure: the same arguments give the same step.
func next(rules []rule, ring Ring, policy Policy, observed Observed, now time.Time) Step {
	stamp := func(s Step) Step {
		s.generation, s.at, s.policy, s.announced = ring.Generation, whole(now), policy, observed.AssumeSeen
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
		if step, ok := r.apply(s); ok {
			step.Use = s.use
			return step
		}
	}
	return Step{
		Action: None, Use: s.use, Reason: Steady, When: s.deadline(),
		Message: fmt.Sprintf("the %s keys need no change", s.use),
	}
}

// merge combines the None steps of the two uses into one, with the more serious reason and the earlier time.
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
		worst.Use, worst.Message = "", "the keys need no change"
	}
	return worst
}

// revokedByPerson revokes the signing key last, so no other key that is to be revoked becomes its successor.
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
	since := found.PhaseSince.UTC().Format(time.RFC3339)
	switch found.Phase {
	case Generated, Published:
		step.Message = fmt.Sprintf("revoking the %s key %s; no token was signed with it", s.use, found.ID)
	case Signing:
		successor := "a new key"
		if k, ok := s.successor(); ok {
			step.successor = k.ID
			successor = k.ID
		}
		step.Message = fmt.Sprintf(
			"revoking the signing %s key %s: every %s token issued since %s becomes invalid; %s signs at once",
			s.use, found.ID, s.use, since, successor)
	default:
		step.Message = fmt.Sprintf(
			"revoking the %s key %s: every %s token that it signed before %s becomes invalid",
			s.use, found.ID, s.use, since)
	}
	return step, true
}

func firstKey(s situation) (Step, bool) {
	if len(s.keys()) > 0 {
		return Step{}, false
	}
	return Step{Action: Generate, Reason: FirstKey, Message: fmt.Sprintf(
		"creating the first %s key; it signs at once, because no token or verifier is older", s.use)}, true
}

// withdrawn applies if what is published was deleted or replaced. A verifier that
// looked in the meantime does not know the key, so the lead starts over.
func withdrawn(s situation) (Step, bool) {
	if s.observed.AssumeSeen || s.observed.Published == nil || s.observed.PublishedUnknown {
		return Step{}, false
	}
	for _, k := range s.keys() {
		if k.Phase == Published && !s.observed.Published[k.ID] {
			return Step{Action: Wait, Key: k.ID, Reason: Withdrawn, Message: fmt.Sprintf(
				"the %s key %s is no longer published; its lead begins again when it is seen everywhere",
				s.use, k.ID)}, true
		}
	}
	return Step{}, false
}

// unopenable leaves the keys alone: a new ring would end every session, and a wrong
// passphrase is usually a mistake. Published keys stay, so tokens still verify.
func unopenable(s situation) (Step, bool) {
	if s.rotateRequested() {
		return Step{}, false
	}
	for _, k := range s.keys() {
		if k.needsPrivate() && !s.opens(k) {
			return Step{Action: None, Key: k.ID, Reason: Unopenable, Message: fmt.Sprintf(
				"no known passphrase decrypts the private half of the %s key %s, so the %s keys are left alone: "+
					"restore the former passphrase (%s), or, if it is lost, request a rotation or revoke the key",
				s.use, k.ID, s.use, s.use.setting())}, true
		}
	}
	return Step{}, false
}

// clockWentBack moves a phase that begins in the future, which would never grow older. This only makes waits longer.
func clockWentBack(s situation) (Step, bool) {
	for _, k := range s.keys() {
		if s.ahead(k) {
			return Step{Action: Wait, Key: k.ID, Reason: ClockWentBack, Message: fmt.Sprintf(
				"the clock went back: the %s key %s entered the phase %s at %s, which is in the future; "+
					"the phase begins now", s.use, k.ID, k.Phase.Public(), k.PhaseSince.UTC().Format(time.RFC3339))}, true
		}
	}
	return Step{}, false
}

// ahead allows for the rounding of stored times and for the difference of clocks.
func (s situation) ahead(k Key) bool {
	return k.PhaseSince.After(s.now.Add(s.policy.ClockSkew + time.Second))
}

// announced starts the lead only when the key was seen everywhere, because the
// process that publishes keys may have been delayed since the key was created.
func announced(s situation) (Step, bool) {
	for _, k := range s.keys() {
		if k.Phase == Generated && s.opens(k) && s.seen(k.ID) {
			return Step{Action: Wait, Key: k.ID, Reason: Announced, Message: fmt.Sprintf(
				"the %s key %s is seen everywhere; its lead begins", s.use, k.ID)}, true
		}
	}
	return Step{}, false
}

func lifetimeRaised(s situation) (Step, bool) {
	for _, k := range s.keys() {
		if s.tooShort(k) {
			return Step{Action: Extend, Key: k.ID, Reason: LifetimeRaised, Message: fmt.Sprintf(
				"the lifetime of %s tokens is now %v, so the %s keys are kept longer",
				s.use, s.policy.lifetime(s.use), s.use)}, true
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
		if k.needsPrivate() && s.observed.encryption[k.ID] == EncryptedFormer {
			return Step{Action: Reencrypt, Key: k.ID, Reason: PassphraseChanged, Message: fmt.Sprintf(
				"encrypting the %s key %s with the current passphrase", s.use, k.ID)}, true
		}
	}
	return Step{}, false
}

// deadlineReached restarts a wait the first time its deadline passes. If the clock jumps forward, every deadline
// appears to have passed, but a dropped key cannot be restored, and verifiers may not know a key that signs too early.
// The second wait runs after the jump and is real. The price is that a key is published, and later retires, for twice
// as long.
func deadlineReached(s situation) (Step, bool) {
	for _, k := range s.keys() {
		if s.over(k) && !k.DeadlineSeen {
			return Step{Action: Wait, Key: k.ID, Reason: DeadlineReached, Message: fmt.Sprintf(
				"the wait of the %s %s key %s is over if the clock is right; it runs once more, "+
					"in case the clock jumped", k.Phase, s.use, k.ID)}, true
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
				"dropping the %s key %s: every token that it signed has expired", s.use, k.ID)}, true
		}
	}
	return Step{}, false
}

// over reports whether the wait of a key is over, according to the clock.
func (s situation) over(k Key) bool {
	end := s.end(k)
	return !end.IsZero() && !s.now.Before(end)
}

// end returns when the wait of a key is over, or the zero time if no time ends it.
func (s situation) end(k Key) time.Time {
	switch k.Phase {
	case Published:
		return k.PhaseSince.Add(s.policy.prePublication())
	case Retiring, Revoked:
		return k.RemoveAfter
	}
	return time.Time{}
}

// leadPassed promotes the successor. A successor that is no longer wanted, because the algorithm changed again, is
// dropped at that same moment and not earlier: settings that flap must not create and drop a key each time.
func leadPassed(s situation) (Step, bool) {
	k, ok := s.successor()
	if !ok {
		return Step{}, false
	}
	switch {
	case k.Phase == Generated:
		return s.awaiting(k, "is published, but not yet seen everywhere; then its lead begins"), true
	case !s.over(k):
		signs := s.end(k)
		if !k.DeadlineSeen {
			signs = signs.Add(s.policy.prePublication())
		}
		return s.awaiting(k, "is published, and signs at "+signs.UTC().Format(time.RFC3339)+" at the earliest"), true
	case k.Algorithm != s.policy.Algorithm:
		return Step{Action: Drop, Key: k.ID, Reason: Unwanted, Message: fmt.Sprintf(
			"dropping the published %s key %s: it is for %s, and the policy now asks for %s; no token was signed with it",
			s.use, k.ID, k.Algorithm, s.policy.Algorithm)}, true
	case !s.seen(k.ID):
		return s.awaiting(k, "is published, but not yet seen everywhere"), true
	}
	return Step{Action: Promote, Key: k.ID, Reason: LeadPassed, Message: fmt.Sprintf(
		"the %s key %s signs from now on", s.use, k.ID)}, true
}

func (s situation) awaiting(k Key, state string) Step {
	return Step{
		Action: None, Reason: AwaitingPublication, When: s.deadline(),
		Message: fmt.Sprintf("the %s key %s %s", s.use, k.ID, state),
	}
}

func rotation(s situation) (Step, bool) {
	for _, cause := range causes {
		reason, message, ok := cause(s)
		if !ok {
			continue
		}
		if len(s.keys()) >= fullUse {
			return Step{Action: None, Reason: RingFull, When: s.deadline(), Message: fmt.Sprintf(
				"there are %d %s keys; one must expire before the next is created", len(s.keys()), s.use)}, true
		}
		return Step{Action: Generate, Reason: reason, replaces: s.locked(), Message: fmt.Sprintf(
			"publishing a new %s key: %s", s.use, message)}, true
	}
	return Step{}, false
}

// fullUse is the number of keys of a use at which rotation pauses. The margin below
// maxKeysPerUse is for revocations, which never wait.
const fullUse = maxKeysPerUse / 2

func rotationRequested(s situation) (Reason, string, bool) {
	return RotationRequested, "a person requested it", s.rotateRequested()
}

func (s situation) rotateRequested() bool {
	return s.policy.Rotate != "" && s.policy.Rotate != s.ring.Rotated[s.use]
}

func algorithmChanged(s situation) (Reason, string, bool) {
	k, _ := s.ring.Signing(s.use)
	message := fmt.Sprintf("the signing key is for %s, and the policy asks for %s", k.Algorithm, s.policy.Algorithm)
	return AlgorithmChanged, message, k.Algorithm != s.policy.Algorithm
}

func passphraseChanged(s situation) (Reason, string, bool) {
	k, _ := s.ring.Signing(s.use)
	return PassphraseChanged, "the signing key was once encrypted with a former passphrase", k.Reencrypted
}

func aged(s situation) (Reason, string, bool) {
	due := s.policy.NextRotation(s.ring, s.use)
	return Aged, "the signing key has reached its rotation age", !due.IsZero() && !s.now.Before(due)
}

// keys returns the keys of the use, oldest first. They are adjacent, because a ring is sorted.
func (s situation) keys() []Key {
	ofUse := func(k Key) bool { return k.Use == s.use }
	first := slices.IndexFunc(s.ring.Keys, ofUse)
	if first < 0 {
		return nil
	}
	rest := s.ring.Keys[first:]
	if n := slices.IndexFunc(rest, func(k Key) bool { return !ofUse(k) }); n >= 0 {
		return rest[:n:n]
	}
	return rest
}

// successor returns the waiting key that signs next.
func (s situation) successor() (Key, bool) {
	for _, k := range s.keys() {
		if k.waits() && s.opens(k) && !s.policy.revokes(k.ID) {
			return k, true
		}
	}
	return Key{}, false
}

// locked returns the IDs of waiting keys that no known passphrase decrypts. They can never sign.
func (s situation) locked() []string {
	var ids []string
	for _, k := range s.keys() {
		if k.waits() && !s.opens(k) {
			ids = append(ids, k.ID)
		}
	}
	return ids
}

// opens reports whether a known passphrase decrypts the private half of a key.
func (s situation) opens(k Key) bool { return s.observed.encryption[k.ID] != EncryptedUnknown }

// seen reports whether a key is known everywhere. If no one can decrypt the signing key, publication is enough: a
// replica that still signs with that key cannot load its successor, and a replica with the new passphrase cannot start.
func (s situation) seen(id string) bool {
	switch o := s.observed; {
	case o.AssumeSeen:
		return true
	case o.Published != nil && lost(s.ring, s.use, o.encryption):
		return o.Published[id]
	default:
		return o.Seen[id]
	}
}

// deadline returns when the passage of time can next change the outcome of the rules. If a deadline has passed and
// something else holds the step up, that is checked again soon.
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
	waiting := false
	for _, k := range s.keys() {
		waiting = waiting || k.waits()
		consider(s.end(k))
		if k.Phase == Generated && s.opens(k) {
			consider(s.now.Add(min(recheck, s.policy.prePublication())))
		}
	}
	if !waiting { // the age matters only if no successor exists
		consider(s.policy.NextRotation(s.ring, s.use))
	}
	return when
}

// earliest returns the earlier of two times and ignores a zero time.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
