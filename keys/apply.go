package keys

import (
	"fmt"
	"slices"
	"time"
)

// Apply does a step and returns the ring of the next generation. It is the one
// thing here that needs randomness and passphrases. A step that was made for
// another generation changes nothing, so applying twice is the same as once.
//
// An error (a passphrase that is missing or does not open) leaves the ring as
// it was; errors.Is(err, ErrPassphrase) says so.
func Apply(ring Ring, step Step, passphrases Passphrases) (Ring, error) {
	return apply(realFactory, ring, step, passphrases)
}

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
		err = fmt.Errorf("keys: %q is no action", string(step.Action))
	}
	if err != nil {
		return ring, err
	}
	out.Generation++
	out.sort()
	// Nothing is ever written that could not be read back.
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

// add makes a Published key and returns its ID.
func (r *Ring) add(factory keyFactory, step Step, passphrases Passphrases) (string, error) {
	current, _, err := passphrases.of(step.Use)
	if err != nil {
		return "", err
	}
	key, err := newKey(factory, step.Use, step.policy.Algorithm, current, step.at)
	if err != nil {
		return "", err
	}
	key.Phase = Published
	r.Keys = append(r.Keys, key)
	return key.ID, nil
}

// sign makes a key the one that signs. A rotation that was asked for is done
// hereby: nothing signs any more that signed when it was asked for.
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

// end puts a key into a phase in which nobody signs with it, and forgets its
// private half: it can then no more be stolen.
func (r *Ring) end(k *Key, phase Phase, step Step) {
	k.MaxTokenLifetime = max(k.MaxTokenLifetime, step.policy.lifetime(k.Use))
	k.Phase, k.PhaseSince, k.RemoveAfter = phase, step.at, whole(step.at.Add(step.policy.retireInterval(*k)))
	k.Encrypted, k.DeadlineSeen = nil, false
}

// rememberedRevoked is how many revoked keys of a kind are remembered.
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
		if s == nil || s.Phase != Published {
			return fmt.Errorf("keys: %s is not a published key", successor)
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
		return fmt.Errorf("keys: %s has no private half to seal", step.Key)
	}
	private, _, err := openKey(*k, passphrases)
	if err != nil {
		return err
	}
	current, _, err := passphrases.of(k.Use)
	if err != nil {
		return err
	}
	encrypted, err := factory.encrypt(private, current)
	if err != nil {
		return fmt.Errorf("keys: sealing the %s key %s: %w", k.Use, k.ID, err)
	}
	k.Encrypted, k.Reencrypted = encrypted, true
	return nil
}

func (r *Ring) extend(step Step) {
	for i := range r.Keys {
		k := &r.Keys[i]
		if k.Use != step.Use {
			continue
		}
		switch k.Phase {
		case Signing:
			k.MaxTokenLifetime = max(k.MaxTokenLifetime, step.policy.lifetime(k.Use))
		case Retiring:
			if until := whole(k.PhaseSince.Add(step.policy.retireInterval(*k))); until.After(k.RemoveAfter) {
				// The wait has not been reached, whatever was thought before.
				k.RemoveAfter, k.DeadlineSeen = until, false
			}
			k.MaxTokenLifetime = max(k.MaxTokenLifetime, step.policy.lifetime(k.Use))
		}
	}
}

// wait starts the wait of a key anew. After ClockWentBack everything that was
// concluded from the wrong time goes too, for all keys of the kind at once.
func (r *Ring) wait(step Step) {
	for i := range r.Keys {
		k := &r.Keys[i]
		back := step.Reason == ClockWentBack && k.Use == step.Use &&
			k.PhaseSince.After(step.at.Add(step.policy.ClockSkew))
		if k.ID != step.Key && !back {
			continue
		}
		k.PhaseSince, k.DeadlineSeen = step.at, step.Reason == DeadlineReached
		if k.Created.After(step.at) {
			k.Created = step.at
		}
		if k.Phase == Retiring || k.Phase == Revoked {
			k.RemoveAfter = whole(step.at.Add(step.policy.retireInterval(*k)))
		}
	}
}
