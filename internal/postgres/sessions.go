package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// The statement of OpenSession. It begins by locking the account, under the
// condition that it is still as the password was checked against; everything
// after acts on what the lock gave back (see the package comment). Where the
// hash is to be renewed, the UPDATE is the lock.
//
// Sessions are counted as they were when the statement began, so of sign-ins
// of one user at the very same moment each may leave one more than it should;
// the next sign-in removes these too.
const (
	// Failures that came while the password was being hashed stop the sign-in
	// where they would have kept it from being tried: else any number of
	// guesses sent at once would all be heard.
	isUnchanged = `id = $2 AND password_hash = $8 AND suspended_at IS NULL
		AND NOT EXISTS (SELECT FROM throttles
			WHERE key = $9 AND failures > $10 AND failures >= $11)`

	lockAccount   = `SELECT id FROM users WHERE ` + isUnchanged + ` FOR NO KEY UPDATE`
	rehashAccount = `UPDATE users SET password_hash = $16 WHERE ` + isUnchanged + ` RETURNING id`

	openSession = `), opened AS (
			INSERT INTO sessions (id, user_id, scope, opened_at, refreshed_at, expires_at, ends_at, user_agent)
			SELECT $1, account.id, $3, $4, $4, $5, $6, $12 FROM account
			RETURNING id
		), pruned AS (
			DELETE FROM sessions WHERE id IN (
				SELECT s.id FROM sessions s JOIN account ON s.user_id = account.id
				ORDER BY s.opened_at DESC, s.id DESC
				OFFSET greatest($7::int - 1, 0))
		), ` + becomesFamiliar + `$14` + fromNowOn + `, forgiven AS (
			DELETE FROM throttles t USING account WHERE t.key = $9 AND $15
		), audited AS (
			` + insertEvent + `opened, jsonb_to_record($13::jsonb)` + asEvent + `
		)
		SELECT FROM opened`

	openAsItIs      = `WITH account AS (` + lockAccount + openSession
	openAndRehashed = `WITH account AS (` + rehashAccount + openSession
)

// OpenSession implements identity.Store.
func (s *Store) OpenSession(ctx context.Context, n identity.NewSession, e identity.Event) error {
	sql, args := openAsItIs, []any{
		id(n.ID), id(n.UserID), n.Scope, n.OpenedAt, n.ExpiresAt, n.EndsAt, n.Keep,
		n.PasswordHash, n.ThrottleKey[:], n.Failures, n.FailureLimit, n.UserAgent, eventArg(e), n.From, n.Forgive,
	}
	if n.Rehash != "" {
		sql, args = openAndRehashed, append(args, n.Rehash)
	}
	err := s.query(ctx, onlyOnce, into(), sql, args...)
	return noRowsIs(err, identity.ErrStale)
}

// FindSession implements identity.Store.
func (s *Store) FindSession(ctx context.Context, ref identity.SessionRef) (identity.Session, error) {
	const sql = `SELECT ` + sessionColumns + `, ` + userColumns + ` FROM sessions s, users u WHERE ` + isLive
	var found identity.Session
	err := s.query(ctx, repeatable, into(sessionPlaces(&found)...), sql, refArgs(ref)...)
	return found, noRowsIs(err, identity.ErrNoSession)
}

// AdvanceSession implements identity.Store. It may be sent again: where the
// first one was done and its answer lost, the second one advances nothing, and
// the caller finds the generation that the first one made.
func (s *Store) AdvanceSession(ctx context.Context, ref identity.SessionRef, generation int64, renewal identity.Renewal) (session identity.Session, advanced bool, err error) {
	const sql = `
		UPDATE sessions s
		SET generation = s.generation + 1, refreshed_at = $5::timestamptz,
			expires_at = least($5::timestamptz + $6, s.ends_at)
		FROM users u
		WHERE ` + isLive + ` AND s.generation = $4
		RETURNING ` + sessionColumns + `, ` + userColumns
	err = s.query(ctx, repeatable, into(sessionPlaces(&session)...), sql,
		refArgs(ref, generation, renewal.RefreshedAt, renewal.Lifetime)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return identity.Session{}, false, nil
	}
	return session, err == nil, err
}

// EndSession implements identity.Store.
func (s *Store) EndSession(ctx context.Context, ref identity.SessionRef, e identity.Event) (ended bool, err error) {
	const sql = `
		WITH gone AS (
			DELETE FROM sessions WHERE id = $1 AND user_id = $2 RETURNING id
		), audited AS (
			` + insertEvent + `gone, jsonb_to_record($3::jsonb)` + asEvent + `
		)
		SELECT EXISTS (SELECT FROM gone)`
	err = s.query(ctx, repeatable, into(&ended), sql, id(ref.ID), id(ref.UserID), eventArg(e))
	return ended, err
}

// FindOwnSessions implements identity.Store. A live session is among its user's,
// so where there is no row, it is not alive.
func (s *Store) FindOwnSessions(ctx context.Context, ref identity.SessionRef) ([]identity.OwnSession, error) {
	const sql = `
		SELECT own.id::text, own.opened_at, own.refreshed_at, own.expires_at, own.user_agent, own.id = s.id
		FROM sessions s, users u, sessions own
		WHERE ` + isLive + ` AND own.user_id = s.user_id AND own.expires_at > $3
		ORDER BY own.opened_at DESC, own.id DESC`
	var found []identity.OwnSession
	err := s.queryAll(ctx, repeatable, func(rows pgx.Rows) (err error) {
		found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (o identity.OwnSession, err error) {
			return o, row.Scan(&o.ID, &o.OpenedAt, &o.RefreshedAt, &o.ExpiresAt, &o.UserAgent, &o.Current)
		})
		return err
	}, sql, refArgs(ref)...)
	if err == nil && len(found) == 0 {
		return nil, identity.ErrNoSession
	}
	return found, err
}

// EndOwnSession implements identity.Store. It takes no lock of the account: it
// only removes, and a session that is ended by two is ended.
func (s *Store) EndOwnSession(ctx context.Context, ref identity.SessionRef, sessionID string, e identity.Event) (ended bool, err error) {
	const sql = `
		WITH asking AS (
			SELECT s.user_id FROM sessions s, users u WHERE ` + isLive + `
		), gone AS (
			DELETE FROM sessions own USING asking
			WHERE own.id = $4 AND own.user_id = asking.user_id AND own.expires_at > $3
			RETURNING own.id
		), audited AS (
			` + insertEvent + `gone, jsonb_to_record($5::jsonb)` + asEvent + `
		)
		SELECT EXISTS (SELECT FROM gone) FROM asking`
	err = s.query(ctx, onlyOnce, into(&ended), sql, refArgs(ref, id(sessionID), eventArg(e))...)
	return ended, noRowsIs(err, identity.ErrNoSession)
}
