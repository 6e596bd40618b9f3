package keys

import (
	"testing"
	"time"
)

var (
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

	testPassphrases = Passphrases{
		Access:  []string{"a passphrase for access keys"},
		Refresh: []string{"a passphrase for refresh keys"},
	}
)

func testPolicy() Policy {
	return Policy{
		Algorithm: ES256, RotationInterval: 30 * 24 * time.Hour, PublishLead: 10 * time.Minute, ClockSkew: 30 * time.Second,
		Lifetimes: map[Use]time.Duration{Access: 15 * time.Minute, Refresh: 7 * 24 * time.Hour},
	}
}

// inspect returns the encryption of each private half under the given passphrases.
func inspect(ring Ring, p Passphrases) map[string]Encryption {
	return Inspect(ring, p).Encryption(ring, p)
}

// nextStep calls next with the rules of the product.
func nextStep(ring Ring, policy Policy, observed Observed, now time.Time) Step {
	return next(rules, ring, policy, observed, now)
}

// story steps a ring through time.
type story struct {
	t           *testing.T
	ring        Ring
	policy      Policy
	passphrases Passphrases
	assumeSeen  bool
	now         time.Time
}

func newStory(t *testing.T) *story {
	s := &story{t: t, policy: testPolicy(), passphrases: testPassphrases, assumeSeen: true, now: start}
	s.settle()
	s.now = start.Add(time.Hour) // keys that are created later are younger
	return s
}

func (s *story) next() Step {
	observed := Observed{encryption: inspect(s.ring, s.passphrases), AssumeSeen: s.assumeSeen}
	return nextStep(s.ring, s.policy, observed, s.now)
}

func (s *story) apply(step Step) {
	s.t.Helper()
	ring, err := apply(modelFactory, s.ring, step, s.passphrases)
	if err != nil {
		s.t.Fatalf("%v: %v", step, err)
	}
	s.ring = ring
}

// settle applies every step that is due now and returns the steps.
func (s *story) settle() []Step {
	s.t.Helper()
	var steps []Step
	for range 50 {
		step := s.next()
		if step.Action == None {
			return steps
		}
		s.apply(step)
		steps = append(steps, step)
	}
	s.t.Fatalf("the steps do not end: %v", steps)
	return nil
}

// after advances the time and then settles.
func (s *story) after(d time.Duration) []Step {
	s.t.Helper()
	s.now = s.now.Add(d)
	return s.settle()
}

// lead lets the two waits of a published key elapse.
func (s *story) lead() []Step {
	s.t.Helper()
	s.after(s.policy.prePublication())
	return s.after(s.policy.prePublication())
}

// rotate requests a rotation and waits for the lead.
func (s *story) rotate(request string) {
	s.t.Helper()
	s.policy.Rotate = request
	s.settle()
	s.lead()
	if !s.ring.Honoured(request) {
		s.t.Fatalf("%q is not honoured: %v", request, s.ring.Rotated)
	}
}

func (s *story) signing(use Use) Key {
	s.t.Helper()
	k, ok := s.ring.Signing(use)
	if !ok {
		s.t.Fatalf("no %s key signs", use)
	}
	return k
}

func (s *story) phases(use Use) string {
	text, short := "", map[Phase]string{Published: "P", Signing: "S", Retiring: "Re", Revoked: "Rx"}
	for _, k := range s.ring.Keys {
		if k.Use == use {
			text += short[k.Phase]
		}
	}
	return text
}

// brief formats the steps of a use, each as "Action/Reason ".
func brief(steps []Step, use Use) string {
	text := ""
	for _, s := range steps {
		if s.Use == use {
			text += string(s.Action) + "/" + string(s.Reason) + " "
		}
	}
	return text
}
