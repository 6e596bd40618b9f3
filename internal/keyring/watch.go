package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/keys"
)

// pollInterval is how often a replica checks for a changed ring. It bounds how long a
// replica that can read the ring trusts a revoked key.
const pollInterval = 2 * time.Second

// Watch keeps the keys up to date until ctx ends. On any error, the keys in use stay in use.
func (k *Keyring) Watch(ctx context.Context) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		err := k.Refresh(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			k.failed.Add(1)
			if !failing { // logged once; the metric shows how long it lasts
				k.Log.Error("the keys cannot be updated; the last valid ones stay in use", "error", err)
			}
		case failing:
			k.Log.Info("the keys are up to date again")
		}
		failing = err != nil
	}
}

// Refresh uses a ring that has changed, and takes the steps that are due.
func (k *Keyring) Refresh(ctx context.Context) error {
	k.changing.Lock()
	defer k.changing.Unlock()
	opened := k.opened.Load()
	ring, changed, err := k.loadChanged(ctx, opened.Ring())
	if err != nil {
		return err
	}
	if changed {
		if ring.Generation == 0 {
			return errors.New("the stored key ring is gone")
		}
		if err := k.checkOrder(ring, opened.Ring()); err != nil {
			return err
		}
		if len(k.trustedAgain(ring)) > 0 {
			return k.take(ctx)
		}
		if opened, err = k.use(ring); err != nil {
			return err
		}
	}
	if k.Directory != "" {
		return nil
	}
	step := keys.Next(k.input(k.Policy, opened.Ring(), opened.OpenedBy()))
	if step.Action == keys.None {
		switch step.Reason {
		case keys.Unopenable, keys.RingFull, keys.PolicyInvalid: // a person must act
			return errors.New(step.Message)
		default:
			return nil
		}
	}
	return k.take(ctx)
}

// take takes the steps that are due, unless another process does so.
func (k *Keyring) take(ctx context.Context) error {
	_, err := k.Store.TryRotationLock(ctx, func(ctx context.Context) error {
		return k.advance(ctx, k.Policy, identity.Event{}, new(int))
	})
	return err
}

// checkOrder rejects a ring in a directory that is older than the one in use, for example because a backup of its
// Secret was restored: it would trust keys that were revoked since. If a person accepts such a ring, the operator moves
// it above every earlier generation. In the database any ring is accepted.
func (k *Keyring) checkOrder(ring, used keys.Ring) error {
	if k.Directory == "" || ring.Generation >= used.Generation {
		return nil
	}
	return fmt.Errorf("%s: %w: the keys in %s have generation %d and are ignored, because generation %d is in use",
		config.EnvKeysDir, keys.ErrRolledBack, k.Directory, ring.Generation, used.Generation)
}

// loadChanged reads the stored ring if it differs from the one in use.
func (k *Keyring) loadChanged(ctx context.Context, used keys.Ring) (ring keys.Ring, changed bool, err error) {
	if k.Directory == "" {
		version, err := k.Store.RingVersion(ctx)
		if err != nil || version == k.version && isSame(k.read, used) {
			return keys.Ring{}, false, err
		}
	}
	ring, err = k.reload(ctx)
	return ring, err == nil && !isSame(ring, used), err
}
