package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// The advisory locks of the process that rotates keys, and of the one that removes what
// has expired: "rotate" and "cleanup" in ASCII.
const (
	rotationLock int64 = 0x726f74617465
	cleanUpLock  int64 = 0x636c65616e7570
)

// LoadRing reads the files of the key ring and its version. They are nil and empty if there is no ring.
func (s *Store) LoadRing(ctx context.Context) (files map[string][]byte, version string, err error) {
	err = s.queryRow(ctx, repeatable, named("LoadRing"), nil, &files, &version)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, "", nil
	}
	return files, version, err
}

// RingVersion reads only the version of the key ring, which differs if anything of it does. It is empty if there is no
// ring.
func (s *Store) RingVersion(ctx context.Context) (version string, err error) {
	err = s.queryRow(ctx, repeatable, named("RingVersion"), nil, &version)
	return version, noRowsIs(err, nil)
}

// SwapRing replaces the ring if its generation is still from, or creates it if from is 0
// and there is none. It records the event in the same statement. If the answer was lost,
// the caller gets an error, and finds out with LoadRing whether the swap was done.
func (s *Store) SwapRing(
	ctx context.Context, from, to int64, files map[string][]byte, e identity.Event,
) (swapped bool, err error) {
	st, args := named("CreateRing"), pgx.NamedArgs{"generation": to, "files": files, "event": eventArg(e)}
	if from != 0 {
		st, args["previous"] = named("ReplaceRing"), from
	}
	err = s.queryRow(ctx, onlyOnce, st, args, &swapped)
	return swapped, err
}

// TryRotationLock runs f under the lock of the process that rotates keys. If another process holds it, held is false
// and f does not run. The lock only saves replicas from doing the same work. SwapRing prevents them from undoing each
// other's work, so losing the connection meanwhile does no harm.
func (s *Store) TryRotationLock(ctx context.Context, f func(context.Context) error) (held bool, err error) {
	const longest = 5 * time.Minute // a rotation takes seconds
	held, err = s.inTurn(ctx, rotationLock, 0, longest, f)
	if !held && err != nil {
		return false, translate(ctx, err)
	}
	return held, err
}
