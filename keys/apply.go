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
	return apply(realWorkshop, ring, step, passphrases)
}

func apply(w workshop, ring Ring, step Step, passphrases Passphrases) (Ring, error) {
	if step.Action == None || step.generation != ring.Generation {
		return ring, nil
	}
	out := ring.clone()
	var err error
	switch step.Action {
	case Generate:
		err = out.generate(w, step, passphrases)
	case Promote:
		err = out.promote(step)
	case Drop:
		out.remove(step.Key)
	case Reseal:
		err = out.reseal(w, step, passphrases)
	case Revoke:
		err = out.revoke(w, step, passphrases)
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

func (r *Ring) generate(w workshop, step Step, passphrases Passphrases) error {
	_, signed := r.Signing(step.Kind)
	key, err := r.add(w, step, passphrases)
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
func (r *Ring) add(w workshop, step Step, passphrases Passphrases) (string, error) {
	current, _, err := passphrases.of(step.Kind)
	if err != nil {
		return "", err
	}
	key, err := newKey(w, step.Kind, step.policy.Algorithm, current, step.at)
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
	k.Phase, k.Since, k.Until, k.Confirmed = Signing, step.at, time.Time{}, false
	k.Longest = max(k.Longest, step.policy.lifetime(k.Kind))
	if step.policy.Rotate != "" {
		if r.Rotated == nil {
			r.Rotated = map[Kind]string{}
		}
		r.Rotated[k.Kind] = step.policy.Rotate
	}
}

func (r *Ring) promote(step Step) error {
	k := r.find(step.Key)
	if k == nil || k.Phase != Published {
		return fmt.Errorf("keys: %s is not a published key", step.Key)
	}
	for i := range r.Keys {
		if old := &r.Keys[i]; old.Kind == k.Kind && old.Phase == Signing {
			r.end(old, Retiring, step)
		}
	}
	r.sign(k, step)
	return nil
}

// end puts a key into a phase in which nobody signs with it, and forgets its
// private half: it can then no more be stolen.
func (r *Ring) end(k *Key, phase Phase, step Step) {
	k.Longest = max(k.Longest, step.policy.lifetime(k.Kind))
	k.Phase, k.Since, k.Until = phase, step.at, whole(step.at.Add(step.policy.afterlife(*k)))
	k.Sealed, k.Confirmed = nil, false
}

// rememberedRevoked is how many revoked keys of a kind are remembered.
const rememberedRevoked = 8

func (r *Ring) revoke(w workshop, step Step, passphrases Passphrases) error {
	k := r.find(step.Key)
	if k == nil {
		return fmt.Errorf("keys: there is no key %s to revoke", step.Key)
	}
	kind, signed := k.Kind, k.Phase == Signing
	r.end(k, Revoked, step)
	if signed {
		successor := step.successor
		if successor == "" {
			var err error
			if successor, err = r.add(w, step, passphrases); err != nil {
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
		if k.Kind == kind && k.Phase == Revoked {
			revoked = append(revoked, k)
		}
	}
	slices.SortStableFunc(revoked, func(a, b Key) int { return a.Since.Compare(b.Since) })
	for ; len(revoked) > rememberedRevoked; revoked = revoked[1:] {
		r.remove(revoked[0].ID)
	}
	return nil
}

func (r *Ring) remove(id string) {
	r.Keys = slices.DeleteFunc(r.Keys, func(k Key) bool { return k.ID == id })
}

func (r *Ring) reseal(w workshop, step Step, passphrases Passphrases) error {
	k := r.find(step.Key)
	if k == nil || k.Sealed == nil {
		return fmt.Errorf("keys: %s has no private half to seal", step.Key)
	}
	private, _, err := openKey(*k, passphrases)
	if err != nil {
		return err
	}
	current, _, err := passphrases.of(k.Kind)
	if err != nil {
		return err
	}
	sealed, err := w.seal(private, current)
	if err != nil {
		return fmt.Errorf("keys: sealing the %s key %s: %w", k.Kind, k.ID, err)
	}
	k.Sealed, k.Resealed = sealed, true
	return nil
}

func (r *Ring) extend(step Step) {
	for i := range r.Keys {
		k := &r.Keys[i]
		if k.Kind != step.Kind {
			continue
		}
		switch k.Phase {
		case Signing:
			k.Longest = max(k.Longest, step.policy.lifetime(k.Kind))
		case Retiring:
			if until := whole(k.Since.Add(step.policy.afterlife(*k))); until.After(k.Until) {
				// The wait has not been reached, whatever was thought before.
				k.Until, k.Confirmed = until, false
			}
			k.Longest = max(k.Longest, step.policy.lifetime(k.Kind))
		}
	}
}

// wait starts the wait of a key anew. After ClockWentBack everything that was
// concluded from the wrong time goes too, for all keys of the kind at once.
func (r *Ring) wait(step Step) {
	for i := range r.Keys {
		k := &r.Keys[i]
		back := step.Reason == ClockWentBack && k.Kind == step.Kind &&
			k.Since.After(step.at.Add(step.policy.ClockSkew))
		if k.ID != step.Key && !back {
			continue
		}
		k.Since, k.Confirmed = step.at, step.Reason == DeadlineReached
		if k.Created.After(step.at) {
			k.Created = step.at
		}
		if k.Phase == Retiring || k.Phase == Revoked {
			k.Until = whole(step.at.Add(step.policy.afterlife(*k)))
		}
	}
}
