package keys

import (
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// Policy is what people want of the keys: settings, or the spec of a resource.
type Policy struct {
	// Algorithm of new keys. A signing key of another one is replaced.
	Algorithm Algorithm

	// RotationInterval is the age at which a signing key is replaced; zero means
	// never. One that is small against the lifetimes is stretched, so that few
	// retiring keys exist at once; see Policy.interval.
	RotationInterval time.Duration

	// PublishLead is how long verifiers and signers may lag behind the ring: a
	// mounted ConfigMap by minutes, a JWKS cache by its max-age. More than zero.
	// A key is published for twice as long before it signs; see doc.go, Clocks.
	PublishLead time.Duration

	// Lifetimes is the longest lifetime of a token of each kind at present. A
	// longer one is used for signing only once Next has no Extend to do, so that
	// the ring always knows how long a token can live.
	Lifetimes map[Use]time.Duration

	// ClockSkew is by how much the clocks of those involved may differ, plus the
	// leeway that verifiers give.
	ClockSkew time.Duration

	// Revoked are the IDs of keys that must not be trusted any more. IDs that
	// the ring does not hold do nothing. A revoked key stays so when its ID is
	// taken from the list.
	Revoked []string

	// Rotate asks for one rotation of both kinds whenever it changes to another
	// value that is not empty. It is echoed in Ring.Rotated when done.
	Rotate string
}

// Check says what is wrong with a policy, all of it at once.
func (p Policy) Check() error {
	var errs []error
	if !p.Algorithm.known() {
		errs = append(errs, fmt.Errorf("the algorithm %.20q is not one of ES256, RS256, EdDSA", string(p.Algorithm)))
	}
	bounded := func(name string, d, least time.Duration) {
		if d < least || d > maxLifetime {
			errs = append(errs, fmt.Errorf("the %s must be %v to %v, and is %v", name, least, maxLifetime, d))
		}
	}
	bounded("rotation interval", p.RotationInterval, 0)
	bounded("publish lead", p.PublishLead, time.Second)
	bounded("clock skew", p.ClockSkew, 0)
	for _, use := range Uses() {
		bounded("lifetime of "+string(use)+" tokens", p.Lifetimes[use], time.Second)
	}
	if len(p.Rotate) > maxRotate || !utf8.ValidString(p.Rotate) {
		errs = append(errs, fmt.Errorf("the request to rotate must be UTF-8 of at most %d bytes", maxRotate))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("keys: the policy does not hold: %w", err)
	}
	return nil
}

// lead is how long a key is published before it signs, for each of two waits
// (see deadlineReached). The skew is added because whoever promotes may not be
// who published.
func (p Policy) prePublication() time.Duration { return p.PublishLead + p.ClockSkew }

// afterlife is how long tokens that a key signed can live after its successor
// began to sign: a signer that lags uses the old key for another lead.
func (p Policy) retireInterval(k Key) time.Duration {
	return p.PublishLead + max(k.MaxTokenLifetime, p.lifetime(k.Use)) + p.ClockSkew
}

func (p Policy) lifetime(use Use) time.Duration {
	return time.Duration(seconds(p.Lifetimes[use])) * time.Second
}

// retiringByAge is how many retiring keys of one kind rotation by age leaves at
// most, about. Verifiers download all of them.
const retiringByAge = 8

// interval is the age at which a signing key is replaced, or zero for never. A
// key that signed lives on for up to two afterlives (see deadlineReached).
func (p Policy) interval(signing Key) time.Duration {
	if p.RotationInterval == 0 {
		return 0
	}
	return max(p.RotationInterval, p.prePublication(), 2*p.retireInterval(signing)/retiringByAge)
}

// NextRotation is when the signing key of a kind comes of age, to be shown to
// people. Zero where no rotation by age is due, ever.
func (p Policy) NextRotation(ring Ring, use Use) time.Time {
	signing, ok := ring.Signing(use)
	if !ok || p.interval(signing) == 0 {
		return time.Time{}
	}
	return signing.PhaseSince.Add(p.interval(signing))
}

func (p Policy) revokes(id string) bool { return slices.Contains(p.Revoked, id) }

// Seal says which passphrase opens a private half, as found by opening it.
type Encryption int

// What opening a private half can show.
const (
	EncryptedUnknown Encryption = iota // none that is known, or it is damaged
	EncryptedCurrent                   // the current passphrase
	EncryptedFormer                    // a former one
)

// Observed is what the caller saw of the world before it asked Next.
type Observed struct {
	// Seals says, by key ID, what opens each private half of the ring; Inspect
	// and Opened.Seals find out. One that is missing counts as SealUnknown.
	Encryption map[string]Encryption

	// Seen says whether a key is known everywhere: whatever publishes it holds
	// it, and every replica in service has loaded it. Nil means that none is.
	// Where there is nothing to ask, SeenEverywhere leaves it to the lead alone.
	Seen func(id string) bool
}

// SeenEverywhere is the Observed.Seen of a caller that can ask nobody.
func SeenEverywhere(string) bool { return true }

// Action is what a step does.
type Action string

// The actions.
const (
	None      Action = "None"     // nothing to do until Step.When
	Generate  Action = "Generate" // make a key: Published, or Signing where its kind has none
	Promote   Action = "Promote"  // a Published key signs; the one that signed is Retiring
	Drop      Action = "Drop"     // forget a key
	Reencrypt Action = "Reseal"   // seal a private half with the current passphrase
	Revoke    Action = "Revoke"   // trust a key no more; if it signed, another signs in the same write
	Extend    Action = "Extend"   // keep keys longer, because tokens live longer now
	Wait      Action = "Wait"     // start a wait anew, because the clock may have jumped
)

// Reason is why a step is done: one word in the manner of Kubernetes events.
type Reason string

// The reasons.
const (
	PolicyInvalid       Reason = "PolicyInvalid"       // None: Policy.Check says no
	Unopenable          Reason = "Unopenable"          // None: no known passphrase opens a private half; a person has to decide
	RingFull            Reason = "RingFull"            // None: too many keys at once; one has to expire first
	AwaitingPublication Reason = "AwaitingPublication" // None: a published key is waiting for its lead, or to be seen
	Steady              Reason = "Steady"              // None: all is well
	FirstKey            Reason = "FirstKey"            // Generate
	RotationRequested   Reason = "RotationRequested"   // Generate
	AlgorithmChanged    Reason = "AlgorithmChanged"    // Generate
	PassphraseChanged   Reason = "PassphraseChanged"   // Generate, Reseal
	Aged                Reason = "Aged"                // Generate
	LeadPassed          Reason = "LeadPassed"          // Promote
	Unwanted            Reason = "Unwanted"            // Drop: a published key that nobody wants any more
	TokensExpired       Reason = "TokensExpired"       // Drop
	KeyRevoked          Reason = "KeyRevoked"          // Revoke
	LifetimeRaised      Reason = "LifetimeRaised"      // Extend
	ClockWentBack       Reason = "ClockWentBack"       // Wait
	DeadlineReached     Reason = "DeadlineReached"     // Wait
)

// Step is one step in the life of a ring, made by Next and done by Apply.
type Step struct {
	Action  Action
	Use     Use    // empty where the step concerns both
	Key     string // the ID of the key concerned; empty for Generate and None
	Reason  Reason
	Message string    // one sentence for people; never a secret
	When    time.Time // None: when to look again at the latest; zero: only when something changes

	generation int64 // of the ring that it is for
	at         time.Time
	policy     Policy
	successor  string   // Revoke: the key that signs next; empty: a new one
	replaces   []string // Generate: published keys that cannot be opened
}

// String is for logs.
func (s Step) String() string {
	return fmt.Sprintf("%s (%s): %s", s.Action, s.Reason, s.Message)
}
