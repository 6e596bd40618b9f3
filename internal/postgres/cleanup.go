package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// throttleMemory is how long wrong passwords are remembered after the last one.
// A counter that may still slow someone down is never removed: not by age,
// because this is longer than any delay, and not for want of room.
const throttleMemory = 24 * time.Hour

// Deleted counts what DeleteExpired has removed.
type Deleted struct {
	SignUps, Users, Sessions, Codes, Throttles, Limits, Events, Places int64
}

// DeleteExpired removes at most batch of each: sign-ups that were not proved within
// unverifiedFor, unless they have a code that still holds, and accounts likewise that
// a former release made of sign-ups; sessions that had ended by now, on the day after; codes that have expired; failures that were counted long ago;
// limits of which nothing is used up; places that were not seen for placeMemory;
// and events older than eventsFor. One process at a time does it, and the others
// remove nothing; where a count reaches batch there is more to do. It waits for
// no lock.
func (s *Store) DeleteExpired(ctx context.Context, now time.Time, unverifiedFor, eventsFor time.Duration, batch int) (Deleted, error) {
	const (
		tryLock = `SELECT pg_try_advisory_xact_lock($1)`
		signUps = `
			WITH gone AS (
				DELETE FROM signups WHERE id IN (
					SELECT w.id FROM signups w
					WHERE w.created_at < now() - $1::interval
						AND NOT EXISTS (SELECT FROM codes c WHERE c.signup_id = w.id AND c.expires_at > now())
					ORDER BY w.created_at LIMIT $2 FOR UPDATE SKIP LOCKED)
				RETURNING id
			)
			SELECT count(*) FROM gone`
		users = `
			WITH changed AS (
				DELETE FROM users u WHERE u.id IN (
					SELECT id FROM users
					WHERE activated_at IS NULL AND created_at < now() - $1::interval
					ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)
				RETURNING u.id, u.canonical_username, u.canonical_email
			), forgotten AS (
				DELETE FROM throttles WHERE key IN (` + placeThrottles + `)
			)
			SELECT count(*) FROM changed`
		// The day is what has an index; see the table.
		sessions = `
			WITH gone AS (
				DELETE FROM sessions WHERE id IN (
					SELECT id FROM sessions
					WHERE expires_on < ($1::timestamptz AT TIME ZONE 'UTC')::date
					ORDER BY expires_on LIMIT $2 FOR UPDATE SKIP LOCKED)
				RETURNING id
			)
			SELECT count(*) FROM gone`
		codes = `
			WITH gone AS (
				DELETE FROM codes WHERE hash IN (
					SELECT hash FROM codes
					WHERE expires_at <= now()
					ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)
				RETURNING hash
			)
			SELECT count(*) FROM gone`
		throttles = `
			WITH gone AS (
				DELETE FROM throttles WHERE key IN (
					SELECT key FROM throttles
					WHERE last_failure_at < now() - $1::interval
					ORDER BY last_failure_at LIMIT $2 FOR UPDATE SKIP LOCKED)
				RETURNING key
			)
			SELECT count(*) FROM gone`
		limits = `
			WITH gone AS (
				DELETE FROM limits WHERE key IN (
					SELECT key FROM limits
					WHERE until <= now()
					ORDER BY until LIMIT $1 FOR UPDATE SKIP LOCKED)
				RETURNING key
			)
			SELECT count(*) FROM gone`
		events = `
			WITH gone AS (
				DELETE FROM audit_events WHERE id IN (
					SELECT id FROM audit_events
					WHERE at < now() - $1::interval
					ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)
				RETURNING id
			)
			SELECT count(*) FROM gone`
		places = `
			WITH gone AS (
				DELETE FROM familiar_places WHERE (user_id, place) IN (
					SELECT user_id, place FROM familiar_places
					WHERE last_seen_at < now() - $1::interval
					ORDER BY last_seen_at LIMIT $2 FOR UPDATE SKIP LOCKED)
				RETURNING place
			)
			SELECT count(*) FROM gone`
	)
	var deleted Deleted
	err := s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		deleted = Deleted{}
		var mine bool
		if err := tx.QueryRow(ctx, tryLock, cleanUpLock).Scan(&mine); err != nil || !mine {
			return err
		}
		// Sign-ups and accounts come first: the lock of an account is never asked for by
		// someone who holds what belongs to one.
		if err := tx.QueryRow(ctx, signUps, unverifiedFor, batch).Scan(&deleted.SignUps); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, users, unverifiedFor, batch).Scan(&deleted.Users); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, sessions, now, batch).Scan(&deleted.Sessions); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, codes, batch).Scan(&deleted.Codes); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, throttles, throttleMemory, batch).Scan(&deleted.Throttles); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, places, placeMemory, batch).Scan(&deleted.Places); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, limits, batch).Scan(&deleted.Limits); err != nil {
			return err
		}
		return tx.QueryRow(ctx, events, eventsFor, batch).Scan(&deleted.Events)
	})
	if err != nil {
		return Deleted{}, err
	}
	return deleted, nil
}
