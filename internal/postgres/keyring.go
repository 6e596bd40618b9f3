package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// rotationLock is the advisory lock of whoever rotates keys, and cleanUpLock of
// whoever removes what has expired: "rotate" and "cleanup" in ASCII.
const (
	rotationLock int64 = 0x726f74617465
	cleanUpLock  int64 = 0x636c65616e7570
)

// LoadRing reads the key ring: its files and its generation, which are nil and
// 0 where there is none.
func (s *Store) LoadRing(ctx context.Context) (files map[string][]byte, generation int64, err error) {
	const sql = `SELECT files, generation FROM key_ring`
	err = s.query(ctx, repeatable, into(&files, &generation), sql)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, 0, nil
	}
	return files, generation, err
}

// RingGeneration reads the generation of the key ring alone: 0 where there is
// no ring.
func (s *Store) RingGeneration(ctx context.Context) (generation int64, err error) {
	const sql = `SELECT generation FROM key_ring`
	err = s.query(ctx, repeatable, into(&generation), sql)
	return generation, noRowsIs(err, nil)
}

// SwapRing replaces the ring if its generation is still from; 0 is "there is
// none". The event is recorded with it. Where the answer was lost, the
// caller gets an error, and finds out by LoadRing whether it was done.
func (s *Store) SwapRing(ctx context.Context, from, to int64, files map[string][]byte, e identity.Event) (swapped bool, err error) {
	const (
		insert  = `WITH swapped AS (INSERT INTO key_ring (generation, files) VALUES ($1, $2) ON CONFLICT DO NOTHING`
		replace = `WITH swapped AS (UPDATE key_ring SET generation = $1, files = $2 WHERE generation = $4`
		audited = ` RETURNING generation), audited AS (
			` + insertEvent + `swapped, jsonb_to_record($3::jsonb)` + asEvent + `)
			SELECT EXISTS (SELECT FROM swapped)`
	)
	if from == 0 {
		err = s.query(ctx, onlyOnce, into(&swapped), insert+audited, to, files, eventArg(e))
	} else {
		err = s.query(ctx, onlyOnce, into(&swapped), replace+audited, to, files, eventArg(e), from)
	}
	return swapped, err
}

// TryRotationLock runs f while holding the lock of whoever rotates keys; held
// is false, and f was not run, where another process holds it. The lock keeps
// replicas from doing the same work; what keeps them from undoing each other's
// is SwapRing, which is why losing the connection meanwhile does no harm.
func (s *Store) TryRotationLock(ctx context.Context, f func(context.Context) error) (held bool, err error) {
	const longest = 5 * time.Minute // a rotation takes seconds
	held, err = s.inTurn(ctx, rotationLock, 0, longest, f)
	if !held && err != nil {
		return false, translate(ctx, err)
	}
	return held, err
}
