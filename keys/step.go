package keys

import (
	"fmt"
	"time"
)

// Action is what a step does.
type Action string

// The actions.
const (
	None      Action = "None"     // nothing is due until Step.When
	Generate  Action = "Generate" // create a key; it signs at once if its use has no signing key
	Promote   Action = "Promote"  // a published key signs; the key that signed before retires
	Drop      Action = "Drop"     // remove a key
	Reencrypt Action = "Reseal"   // encrypt a private half with the current passphrase
	Revoke    Action = "Revoke"   // stop trusting a key; if it signed, another signs in the same write
	Extend    Action = "Extend"   // keep keys longer, because tokens now live longer
	Wait      Action = "Wait"     // start or restart a wait
	Accept    Action = "Accept"   // continue with an older ring, above every generation that was seen
)

// Reason is why a step is taken: one word, as in Kubernetes events.
type Reason string

// The reasons, each with the actions it belongs to.
const (
	PolicyInvalid       Reason = "PolicyInvalid"       // None: Policy.Check failed
	Unopenable          Reason = "Unopenable"          // None: no known passphrase decrypts a key; a person must act
	RingFull            Reason = "RingFull"            // None: too many keys; one must expire first
	AwaitingPublication Reason = "AwaitingPublication" // None: a key waits to be seen, or for its lead
	RolledBack          Reason = "RolledBack"          // None: an older ring was restored; a person must act
	Steady              Reason = "Steady"              // None: nothing is wrong
	FirstKey            Reason = "FirstKey"            // Generate
	RotationRequested   Reason = "RotationRequested"   // Generate
	AlgorithmChanged    Reason = "AlgorithmChanged"    // Generate
	PassphraseChanged   Reason = "PassphraseChanged"   // Generate, Reencrypt
	Aged                Reason = "Aged"                // Generate
	LeadPassed          Reason = "LeadPassed"          // Promote
	Unwanted            Reason = "Unwanted"            // Drop: the policy now asks for another algorithm
	TokensExpired       Reason = "TokensExpired"       // Drop
	KeyRevoked          Reason = "KeyRevoked"          // Revoke
	LifetimeRaised      Reason = "LifetimeRaised"      // Extend
	ClockWentBack       Reason = "ClockWentBack"       // Wait
	DeadlineReached     Reason = "DeadlineReached"     // Wait: a deadline passed for the first time
	Announced           Reason = "Announced"           // Wait: a generated key was seen everywhere; its lead begins
	Withdrawn           Reason = "Withdrawn"           // Wait: a published key is no longer published
	OlderRingAccepted   Reason = "OlderRingAccepted"   // Accept
)

// Step is one change of a ring. Next decides on it and apply carries it out.
type Step struct {
	Action  Action
	Use     Use    // empty if the step concerns both uses
	Key     string // the ID of the key concerned; empty for None, and for Generate until it is carried out
	Reason  Reason
	Message string    // one sentence for people, without secrets
	When    time.Time // None: when to look again at the latest; zero: only after a change

	generation int64 // of the ring that the step is for
	at         time.Time
	policy     Policy
	announced  bool     // Generate: the key counts as seen everywhere at once
	successor  string   // Revoke: the key that signs next; empty: a new key
	replaces   []string // Generate: waiting keys that no passphrase decrypts
}

// String returns the step as logs show it.
func (s Step) String() string {
	return fmt.Sprintf("%s (%s): %s", s.Action, s.Reason, s.Message)
}
