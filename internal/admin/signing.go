package admin

import (
	"context"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/keys"
)

// SigningKey is a key of the ring, as administrators see it.
type SigningKey struct {
	ID        string
	Use       keys.Use
	Algorithm keys.Algorithm
	Phase     keys.Phase
	Created   time.Time // zero: not known here
	Since     time.Time // of the phase
	Until     time.Time // when it is removed; zero: it is not retiring

	// Next is what happens to it if no person acts, at NextAt at the earliest; see keys.Policy.NextChange.
	Next   keys.Action
	NextAt time.Time
}

// Ring is the key ring, as far as this process knows it.
type Ring struct {
	Generation int64 // 0 without keys
	Keys       []SigningKey
	Instead    string // how to change the keys, if this process cannot; otherwise empty
}

// Keyring reads and changes the signing keys.
type Keyring interface {
	Ring(ctx context.Context) (Ring, error)
	// Rotate starts a rotation of both uses, and RevokeKey revokes a key. An event is written with each step of it, with
	// the use and the key. changed is false if a rotation is in progress, or the key is revoked already.
	Rotate(ctx context.Context, e identity.Event) (changed bool, err error)
	RevokeKey(ctx context.Context, id string, e identity.Event) (changed bool, err error)
}

// The reasons of a change of keys that is not made.
const (
	ReasonKeysElsewhere identity.Reason = "keys_elsewhere"
	ReasonKeyNotFound   identity.Reason = "key_not_found"
	ReasonKeysBusy      identity.Reason = "keys_busy"
)

// Ring returns the key ring.
func (s *Service) Ring(ctx context.Context) (Ring, error) { return s.keys.Ring(ctx) }

// Rotate starts a rotation of both uses, unless one is in progress.
func (s *Service) Rotate(ctx context.Context, c Change) (Ring, bool, error) {
	return s.changeKeys(ctx, "", func(e identity.Event) (bool, error) { return s.keys.Rotate(ctx, e) },
		s.event(ctx, EventRotationStarted, c, "", ""))
}

// RevokeKey revokes a key, unless it is revoked already.
func (s *Service) RevokeKey(ctx context.Context, id string, c Change) (Ring, bool, error) {
	return s.changeKeys(ctx, id, func(e identity.Event) (bool, error) { return s.keys.RevokeKey(ctx, id, e) },
		s.event(ctx, EventKeyRevoked, c, "", ""))
}

// changeKeys makes a change if this process can, of the key id if it is not empty. It returns the ring after it, and
// whether anything has changed. The keyring writes the event, and its line in the log.
func (s *Service) changeKeys(
	ctx context.Context, id string, change func(identity.Event) (bool, error), e identity.Event,
) (ring Ring, changed bool, err error) {
	if ring, err = s.keys.Ring(ctx); err != nil {
		return Ring{}, false, err
	}
	if ring.Instead != "" {
		return Ring{}, false, &identity.Error{Kind: identity.Conflict, Reason: ReasonKeysElsewhere, Message: ring.Instead}
	}
	known := func(k SigningKey) bool { return k.ID == id }
	if id != "" && !slices.ContainsFunc(ring.Keys, known) {
		return Ring{}, false, &identity.Error{Kind: identity.NotFound, Reason: ReasonKeyNotFound, Message: "no key has this kid"}
	}
	if changed, err = change(e); err != nil {
		return Ring{}, false, err
	}
	ring, err = s.keys.Ring(ctx)
	return ring, changed, err
}
