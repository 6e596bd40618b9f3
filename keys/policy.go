package keys

import (
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// Policy is the desired behaviour of the keys, from settings or from the spec of a resource.
type Policy struct {
	// Algorithm is the algorithm of new keys. A signing key with another algorithm is replaced.
	Algorithm Algorithm

	// RotationInterval is the age at which a signing key is replaced; zero means never. An interval that is short
	// compared with the token lifetimes is stretched, to bound the number of retiring keys; see Policy.interval.
	RotationInterval time.Duration

	// PublishLead is how long verifiers and signers may lag behind the ring: a mounted ConfigMap by minutes, a JWKS
	// cache by its max-age. It is positive. A key is published for twice as long before it signs; see doc.go, Clocks.
	PublishLead time.Duration

	// Lifetimes is the current lifetime of tokens, by use. The caller issues tokens with a longer lifetime only after
	// Reconcile has nothing left to extend, so the ring always knows how long a token can live.
	Lifetimes map[Use]time.Duration

	// ClockSkew is the maximum difference between the clocks involved, plus the leeway of verifiers.
	ClockSkew time.Duration

	// Revoked lists the IDs of keys to revoke. IDs that are not in the ring are
	// ignored. A revoked key stays revoked when its ID is removed from the list.
	Revoked []string

	// Rotate requests one rotation of both uses each time it changes to a new value
	// that is not empty. Ring.Rotated records the value when the rotation is done.
	Rotate string
}

// Check returns an error that names everything that is invalid in the policy.
func (p Policy) Check() error {
	var errs []error
	if !p.Algorithm.known() {
		errs = append(errs, fmt.Errorf("the algorithm %.20q is not one of ES256, RS256, EdDSA", string(p.Algorithm)))
	}
	bounded := func(name string, d, least time.Duration) {
		if d < least || d > maxLifetime {
			errs = append(errs, fmt.Errorf("the %s must be %v to %v, but is %v", name, least, maxLifetime, d))
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
		return fmt.Errorf("keys: the policy is invalid: %w", err)
	}
	return nil
}

// prePublication is the length of each of the two waits of a published key (see deadlineReached). The skew is included
// because the process that promotes a key may not be the one that published it. RFC 7583, section 3.2.1, has the term.
func (p Policy) prePublication() time.Duration { return p.PublishLead + p.ClockSkew }

// retireInterval is how long a key verifies after its successor began to sign (RFC 7583, section 3.2.1): until the last
// token expires that a signer issued which lagged by the publish lead.
func (p Policy) retireInterval(k Key) time.Duration {
	return p.PublishLead + max(k.MaxTokenLifetime, p.lifetime(k.Use)) + p.ClockSkew
}

func (p Policy) lifetime(use Use) time.Duration {
	return time.Duration(seconds(p.Lifetimes[use])) * time.Second
}

// retiringByAge is roughly how many retiring keys of one use rotation by age may
// accumulate. Verifiers download all of them.
const retiringByAge = 8

// interval is the age at which a signing key is replaced; zero means never. A
// retiring key stays for up to two retire intervals (see deadlineReached).
func (p Policy) interval(signing Key) time.Duration {
	if p.RotationInterval == 0 {
		return 0
	}
	return max(p.RotationInterval, p.prePublication(), 2*p.retireInterval(signing)/retiringByAge)
}

// NextRotation returns when the signing key of a use reaches its rotation age. It
// returns the zero time if no rotation by age will happen.
func (p Policy) NextRotation(ring Ring, use Use) time.Time {
	signing, ok := ring.Signing(use)
	if !ok || p.interval(signing) == 0 {
		return time.Time{}
	}
	return signing.PhaseSince.Add(p.interval(signing))
}

// NextChange returns what happens to a key next if no person acts, and the earliest time for it: Promote, Generate (of
// its successor), Drop, or None if its successor exists already.
func (p Policy) NextChange(ring Ring, k Key) (Action, time.Time) {
	switch k.Phase.Public() {
	case Published:
		lead := p.prePublication()
		if !k.DeadlineSeen { // each wait runs twice; see deadlineReached
			lead *= 2
		}
		return Promote, k.PhaseSince.Add(lead)
	case Signing:
		succeeded := slices.ContainsFunc(ring.Keys, func(o Key) bool { return o.Use == k.Use && o.Phase.Public() == Published })
		if due := p.NextRotation(ring, k.Use); !succeeded && !due.IsZero() {
			return Generate, due
		}
		return None, time.Time{}
	default:
		return Drop, k.RemoveAfter
	}
}

func (p Policy) revokes(id string) bool { return slices.Contains(p.Revoked, id) }
