package keys

import (
	"fmt"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/keys/internal/pbes2"
)

// apply carries out a step and returns the ring of the next generation. Only apply needs randomness and passphrases. A
// step for another generation changes nothing, so applying a step twice has the effect of applying it once.
//
// On error (a passphrase is missing or wrong) it returns the ring unchanged;
// errors.Is(err, ErrPassphrase) reports this case.
func apply(factory keyFactory, ring Ring, step Step, passphrases Passphrases) (Ring, error) {
	if step.Action == None || step.generation != ring.Generation {
		return ring, nil
	}
	out := ring.clone()
	var err error
	switch step.Action {
	case Generate:
		err = out.generate(factory, step, passphrases)
	case Promote:
		err = out.promote(step)
	case Drop:
		out.remove(step.Key)
	case Reencrypt:
		err = out.reencrypt(factory, step, passphrases)
	case Revoke:
		err = out.revoke(factory, step, passphrases)
	case Extend:
		out.extend(step)
	case Wait:
		out.wait(step)
	default:
		err = fmt.Errorf("keys: %q is not an action that changes a ring", string(step.Action))
	}
	if err != nil {
		return ring, err
	}
	out.Generation++
	out.sort()
	// A ring that could not be read back must not be written.
	if err := out.check(); err != nil {
		return ring, fmt.Errorf("keys: %s %s would break the ring: %w", step.Action, step.Key, err)
	}
	return out, nil
}

func (r *Ring) find(id string) *Key {
	for i := range r.Keys {
		if r.Keys[i].ID == id {
			return &r.Keys[i]
		}
	}
	return nil
}

func (r *Ring) generate(factory keyFactory, step Step, passphrases Passphrases) error {
	_, signed := r.Signing(step.Use)
	key, err := r.add(factory, step, passphrases)
	if err != nil {
		return err
	}
	for _, id := range step.replaces {
		r.remove(id)
	}
	if !signed {
		r.sign(r.find(key), step)
	}
	return nil
}

// add creates a key that does not sign yet and returns its ID.
func (r *Ring) add(factory keyFactory, step Step, passphrases Passphrases) (string, error) {
	current, _, err := passphrases.of(step.Use)
	if err != nil {
		return "", err
	}
	key, err := newKey(factory, step.Use, step.policy.Algorithm, current, step.at)
	if err != nil {
		return "", err
	}
	if key.Phase = Generated; step.announced {
		key.publish(step.at)
	}
	r.Keys = append(r.Keys, key)
	return key.ID, nil
}

// sign makes a key the signing key. This completes a requested rotation: the key
// that signed when the rotation was requested no longer signs.
func (r *Ring) sign(k *Key, step Step) {
	k.Phase, k.PhaseSince, k.RemoveAfter, k.DeadlineSeen = Signing, step.at, time.Time{}, false
	k.MaxTokenLifetime = max(k.MaxTokenLifetime, step.policy.lifetime(k.Use))
	if step.policy.Rotate != "" {
		if r.Rotated == nil {
			r.Rotated = map[Use]string{}
		}
		r.Rotated[k.Use] = step.policy.Rotate
	}
}

func (r *Ring) promote(step Step) error {
	k := r.find(step.Key)
	if k == nil || k.Phase != Published {
		return fmt.Errorf("keys: %s is not a published key", step.Key)
	}
	for i := range r.Keys {
		if old := &r.Keys[i]; old.Use == k.Use && old.Phase == Signing {
			r.end(old, Retiring, step)
		}
	}
	r.sign(k, step)
	return nil
}

// end puts a key into a phase in which it does not sign, and removes its private
// half, which can then no longer be stolen.
func (r *Ring) end(k *Key, phase Phase, step Step) {
	k.MaxTokenLifetime = max(k.MaxTokenLifetime, step.policy.lifetime(k.Use))
	k.Phase, k.PhaseSince, k.RemoveAfter = phase, step.at, whole(step.at.Add(step.policy.retireInterval(*k)))
	k.Encrypted, k.DeadlineSeen = nil, false
}

// rememberedRevoked is how many revoked keys of a use stay in the ring.
const rememberedRevoked = 8

func (r *Ring) revoke(factory keyFactory, step Step, passphrases Passphrases) error {
	k := r.find(step.Key)
	if k == nil {
		return fmt.Errorf("keys: there is no key %s to revoke", step.Key)
	}
	use, signed := k.Use, k.Phase == Signing
	r.end(k, Revoked, step)
	if signed {
		successor := step.successor
		if successor == "" {
			var err error
			if successor, err = r.add(factory, step, passphrases); err != nil {
				return err
			}
		}
		s := r.find(successor)
		if s == nil || !s.waits() {
			return fmt.Errorf("keys: %s is not a key that waits to sign", successor)
		}
		r.sign(s, step)
	}
	var revoked []Key
	for _, k := range r.Keys {
		if k.Use == use && k.Phase == Revoked {
			revoked = append(revoked, k)
		}
	}
	slices.SortStableFunc(revoked, func(a, b Key) int { return a.PhaseSince.Compare(b.PhaseSince) })
	for ; len(revoked) > rememberedRevoked; revoked = revoked[1:] {
		r.remove(revoked[0].ID)
	}
	return nil
}

func (r *Ring) remove(id string) {
	r.Keys = slices.DeleteFunc(r.Keys, func(k Key) bool { return k.ID == id })
}

func (r *Ring) reencrypt(factory keyFactory, step Step, passphrases Passphrases) error {
	k := r.find(step.Key)
	if k == nil || k.Encrypted == nil {
		return fmt.Errorf("keys: %s has no private half to encrypt", step.Key)
	}
	private, _, err := openKey(*k, passphrases)
	if err != nil {
		return err
	}
	current, _, err := passphrases.of(k.Use)
	if err != nil {
		return err
	}
	encrypted, err := pbes2.Encrypt(private, current, factory.rounds)
	if err != nil {
		return fmt.Errorf("keys: encrypting the %s key %s: %w", k.Use, k.ID, err)
	}
	k.Encrypted, k.Reencrypted = encrypted, true
	return nil
}

func (r *Ring) extend(step Step) {
	for i := range r.Keys {
		k := &r.Keys[i]
		if k.Use != step.Use || k.Phase != Signing && k.Phase != Retiring {
			continue
		}
		until := whole(k.PhaseSince.Add(step.policy.retireInterval(*k)))
		if k.Phase == Retiring && until.After(k.RemoveAfter) {
			// The new deadline has not been reached, even if the old one was.
			k.RemoveAfter, k.DeadlineSeen = until, false
		}
		k.MaxTokenLifetime = max(k.MaxTokenLifetime, step.policy.lifetime(k.Use))
	}
}

// wait starts or restarts the wait of a key.
func (r *Ring) wait(step Step) {
	for i := range r.Keys {
		k := &r.Keys[i]
		// After ClockWentBack, this covers every key of the use whose phase began in the future.
		back := step.Reason == ClockWentBack && k.Use == step.Use &&
			k.PhaseSince.After(step.at.Add(step.policy.ClockSkew))
		if k.ID != step.Key && !back {
			continue
		}
		switch step.Reason {
		case Announced:
			k.publish(step.at)
			continue
		case Withdrawn:
			k.withdraw()
			continue
		}
		k.PhaseSince, k.DeadlineSeen = step.at, step.Reason == DeadlineReached
		if k.Created.After(step.at) {
			k.Created = step.at
		}
		if k.Phase == Published {
			k.publish(step.at)
		}
		if k.Phase == Retiring || k.Phase == Revoked {
			k.RemoveAfter = whole(step.at.Add(step.policy.retireInterval(*k)))
		}
	}
}

// publish records that verifiers have the key. No phase begins before the key was
// created, even if clocks differ. In ring.json a Generated key is one whose phase begins
// when it was created, so a key that is published in that second counts as a second older.
func (k *Key) publish(at time.Time) {
	k.Phase, k.PhaseSince = Published, latest(at, k.Created)
	if !whole(k.PhaseSince).After(whole(k.Created)) {
		k.Created = whole(k.PhaseSince).Add(-time.Second)
	}
}

// withdraw records that verifiers may not have a published key: its lead begins
// again when the key is next seen everywhere.
func (k *Key) withdraw() { k.Phase, k.PhaseSince, k.DeadlineSeen = Generated, k.Created, false }

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
