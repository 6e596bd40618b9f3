package keyring

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/keys"
)

const (
	lockPoll = 50 * time.Millisecond // how often a process that waits for the rotation lock tries again
	lockWait = 30 * time.Second      // how long a command waits for it
)

var errNoKeys = errors.New("there is nothing to sign with")

// Start loads the first ring. It returns when there are keys to sign with and every
// step that must precede their use is done.
func (k *Keyring) Start(ctx context.Context) error {
	for {
		ring, err := k.reload(ctx)
		if err != nil {
			return err
		}
		if k.Directory != "" && !isComplete(ring) {
			return fmt.Errorf("%s: %s %w", config.EnvKeysDir, k.Directory, errNoKeysYet)
		}
		if isComplete(ring) {
			opened, err := k.use(ring)
			if err != nil {
				return err
			}
			if k.Directory != "" || keys.Next(k.input(k.Policy, ring, opened.OpenedBy())).Action == keys.None {
				return nil
			}
		}
		// If several replicas start at once, one of them creates the ring.
		held, err := k.tryAdvance(ctx, k.Policy, identity.Event{}, new(int))
		if held || err != nil {
			return err
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ErrBusy means that another process held the rotation lock for too long.
var ErrBusy = errors.New("a server has been changing the keys for too long; try again, and check its log")

// Change carries out the steps that follow from a policy, on behalf of a person. It waits for the rotation lock, because
// their request must not get lost. It returns how many steps the request caused: none if a rotation is in progress or
// the key is revoked already. If event has a name, it is recorded for each of these, with the step added to its details.
func (k *Keyring) Change(ctx context.Context, policy keys.Policy, event identity.Event) (caused int, err error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for busy := false; ; busy = true {
		held, err := k.tryAdvance(ctx, policy, event, &caused)
		switch {
		case !held && busy && ctx.Err() != nil: // the time was over while it asked for the lock once more
			return caused, ErrBusy
		case held || err != nil:
			return caused, err
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return caused, ErrBusy
		}
	}
}

// tryAdvance takes every step that is due, unless another process is doing so.
func (k *Keyring) tryAdvance(ctx context.Context, policy keys.Policy, event identity.Event, caused *int) (held bool, err error) {
	k.changing.Lock()
	defer k.changing.Unlock()
	return k.Store.TryRotationLock(ctx, func(ctx context.Context) error { return k.advance(ctx, policy, event, caused) })
}

// input returns the input of keys.Reconcile. Replicas are not asked which keys they
// have: each one reads the ring every few seconds, and the waits cover that.
func (k *Keyring) input(policy keys.Policy, ring keys.Ring, opened keys.OpenedBy) keys.Input {
	return keys.Input{
		Ring: ring, Passphrases: k.Passphrases, Policy: policy, Now: k.Now(),
		Observed: keys.Observed{OpenedBy: opened, AssumeSeen: true},
	}
}

// advance takes every step that is due in the database, and counts those that a person's request caused. It writes and
// records each step on its own. If another process changes the ring, it starts over.
func (k *Keyring) advance(ctx context.Context, policy keys.Policy, event identity.Event, caused *int) error {
	for {
		ring, err := k.reload(ctx)
		if err != nil {
			return err
		}
		opened, err := k.open(ring, policy)
		if err != nil {
			return err
		}
		due := policy
		if again := k.trustedAgain(ring); len(again) > 0 {
			k.Log.Warn("the database failed over or was restored, and has lost that keys were revoked: they are revoked again",
				"keys", again)
			due.Revoked = slices.Concat(policy.Revoked, again)
		}
		result, err := keys.Reconcile(k.input(due, ring, opened))
		if err != nil {
			return err
		}
		if len(result.Steps) == 0 {
			if !isComplete(ring) {
				return unfinished(result.Next)
			}
			return nil
		}
		for _, step := range result.Steps {
			swapped, err := k.write(ctx, ring.Generation, step, event)
			if err != nil {
				return err
			}
			if !swapped {
				break
			}
			if isRequested(step) {
				*caused++
			}
			ring = step.Ring
		}
	}
}

// isRequested reports whether a person's request caused a step.
func isRequested(step keys.Taken) bool {
	return step.Reason == keys.RotationRequested || step.Reason == keys.KeyRevoked
}

// write replaces the ring after one step, if it still has the given generation.
func (k *Keyring) write(
	ctx context.Context, generation int64, step keys.Taken, request identity.Event,
) (swapped bool, err error) {
	details := []slog.Attr{
		slog.String("action", string(step.Action)), slog.String("kind", string(step.Use)), slog.String("kid", step.Key),
	}
	event := identity.Event{Name: identity.EventKeysChanged, Details: append(details, slog.String("reason", string(step.Reason)))}
	if request.Name != "" && isRequested(step) { // its reason is the person's
		event = request
		event.Details = slices.Concat(request.Details, details)
	}
	var audited identity.Event
	if k.Audit {
		audited = event
	}
	swapped, err = k.Store.SwapRing(ctx, generation, step.Ring.Generation, step.Ring.Files(), audited)
	if swapped && err == nil {
		k.Log.With("log", "audit").LogAttrs(ctx, slog.LevelInfo, "key ring: "+step.Message, event.Details...)
	}
	return swapped, err
}

// open takes a ring into use and returns what decrypts its private halves. A ring that is being created is not used
// yet, and neither is one that trusts a revoked key. If a person revokes keys whose passphrase is lost, the steps
// continue although the ring cannot be used.
func (k *Keyring) open(ring keys.Ring, policy keys.Policy) (keys.OpenedBy, error) {
	if !isComplete(ring) || len(k.trustedAgain(ring)) > 0 {
		return keys.Inspect(ring, k.passphrases), nil
	}
	opened, err := k.use(ring)
	switch {
	case err == nil:
		return opened.OpenedBy(), nil
	case errors.Is(err, keys.ErrPassphrase) && len(policy.Revoked) > 0:
		return keys.Inspect(ring, k.passphrases), nil
	default:
		return nil, err
	}
}

// unfinished is the error of a first ring that can be neither used nor completed.
func unfinished(step keys.Step) error {
	if step.Reason == keys.Unopenable {
		return fmt.Errorf("keys: %s: %w", step.Message, keys.ErrPassphrase)
	}
	return fmt.Errorf("keys: %w: %s", errNoKeys, step.Message)
}

// IsFatal reports whether an error of Start needs a person, so trying again is useless.
func IsFatal(err error) bool {
	if errors.Is(err, keys.ErrRolledBack) { // a mount may only lag behind the published keys
		return false
	}
	for _, fatal := range []error{
		keys.ErrPassphrase, keys.ErrDamaged, errNoKeys, errNoKeysYet, fs.ErrNotExist, fs.ErrPermission,
	} {
		if errors.Is(err, fatal) {
			return true
		}
	}
	return false
}
