package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// insertSignUp keeps a sign-up, with what its values are and come from after it, and
// signUpArgs are the first ten parameters.
const (
	insertSignUp = `INSERT INTO signups (id, username, canonical_username, email, canonical_email,
				first_name, last_name, scope, password_hash, language)
			SELECT $1, $2, $3::text, $4, $5::text, $6, $7, $8, $9, $10`
)

func signUpArgs(n identity.NewSignUp, more ...any) []any {
	return append([]any{
		id(n.ID), stored(n.Username, n.ID), stored(n.CanonicalUsername, n.ID), n.Email, n.CanonicalEmail,
		n.FirstName, n.LastName, n.Scope, n.PasswordHash, n.Language,
	}, more...)
}

// CreateSignUp implements identity.Store. An account that is made meanwhile is no
// harm: what is taken is decided when the sign-up is proved.
func (s *Store) CreateSignUp(ctx context.Context, n identity.NewSignUp, c identity.NewCode, e identity.Event) error {
	const sql = `
		WITH taken AS (
			SELECT EXISTS (SELECT FROM users WHERE canonical_username = $3::text) AS username,
				EXISTS (SELECT FROM users WHERE canonical_email = $5::text) AS email
		), waiting AS (
			` + insertSignUp + ` FROM taken WHERE NOT (taken.username OR taken.email)
			RETURNING id
		), code AS (
			INSERT INTO codes (hash, signup_id, purpose, expires_at)
			SELECT $11, waiting.id, $12, now() + $13 FROM waiting
		), audited AS (
			` + insertEvent + `waiting, jsonb_to_record($14::jsonb)` + asEvent + `
		)
		SELECT username, email FROM taken`
	var taken identity.TakenError
	err := s.query(ctx, onlyOnce, into(&taken.Username, &taken.Email), sql,
		signUpArgs(n, c.Hash[:], c.Purpose, c.TTL, eventArg(e))...)
	if err == nil && taken != (identity.TakenError{}) {
		return &taken
	}
	return err
}

// CreateSignUpConcealed implements identity.Store.
func (s *Store) CreateSignUpConcealed(ctx context.Context, n identity.NewSignUp, m identity.NewMail, e identity.Event) error {
	const sql = `
		WITH waiting AS (
			` + insertSignUp + `
			RETURNING id
		), queued AS (
			INSERT INTO mails (purpose, recipient, canonical_recipient, signup_id, username, language)
			SELECT $11, $12, $12, waiting.id, $2, $13 FROM waiting
		)
		` + insertEvent + `waiting, jsonb_to_record($14::jsonb)` + asEvent
	return s.exec(ctx, onlyOnce, sql, signUpArgs(n, m.Purpose, m.To, m.Language, eventArg(e))...)
}

// claimColumns are what an identity.Claim is made of, of a sign-up that is called w.
const claimColumns = `w.id::text, true, w.username, w.email, w.password_hash`

func claimOf(row pgx.CollectableRow) (c identity.Claim, err error) {
	return c, row.Scan(&c.ID, &c.IsSignUp, (*storedName)(&c.Username), &c.Email, &c.PasswordHash)
}

// findClaims runs a query for identity.Claims.
func (s *Store) findClaims(ctx context.Context, sql string, args ...any) (found []identity.Claim, err error) {
	err = s.queryAll(ctx, repeatable, func(rows pgx.Rows) (err error) {
		found, err = pgx.CollectRows(rows, claimOf)
		return err
	}, sql, args...)
	return found, err
}

// FindSignUps implements identity.Store.
func (s *Store) FindSignUps(ctx context.Context, login identity.Login) ([]identity.Claim, error) {
	const (
		find  = `SELECT ` + claimColumns + ` FROM signups w WHERE `
		first = ` = $1 ORDER BY w.created_at DESC LIMIT $2`
	)
	if login.CanonicalEmail != "" {
		return s.findClaims(ctx, find+`w.canonical_email`+first, login.CanonicalEmail, identity.MaxClaims)
	}
	return s.findClaims(ctx, find+`w.canonical_username`+first, login.CanonicalUsername, identity.MaxClaims)
}

// FindCredentials implements identity.Store.
func (s *Store) FindCredentials(ctx context.Context, login identity.Login) (identity.Credentials, error) {
	// The key of the throttle is made here, so that one statement finds the
	// failures, and does the same work whether or not an account has the login.
	const (
		find = `SELECT ` + credentialColumns + `
			FROM (SELECT $1::text COLLATE "C" AS canonical) login
			CROSS JOIN (SELECT $2::text AS place) client
			LEFT JOIN users u ON `
		count = ` = login.canonical
			CROSS JOIN LATERAL ` + throttleKey + `login.canonical` + asThrottleKey + `
			LEFT JOIN throttles t ON t.key = k.key`
		byUsername = find + `u.canonical_username` + count
		byEmail    = find + `u.canonical_email` + count
	)
	if login.CanonicalEmail != "" {
		return s.findCredentials(ctx, byEmail, login.CanonicalEmail, login.From)
	}
	return s.findCredentials(ctx, byUsername, login.CanonicalUsername, login.From)
}

// findCredentials runs a query for credentialColumns.
func (s *Store) findCredentials(ctx context.Context, sql string, args ...any) (identity.Credentials, error) {
	var c identity.Credentials
	places, finish := credentialPlaces(&c)
	if err := s.query(ctx, repeatable, into(places...), sql, args...); err != nil {
		return identity.Credentials{}, err
	}
	finish()
	return c, nil
}

// CountFailure implements identity.Store.
func (s *Store) CountFailure(ctx context.Context, key identity.ThrottleKey, e identity.Event) error {
	const sql = `
		WITH counted AS (
			INSERT INTO throttles (key, failures, last_failure_at)
			VALUES ($1, 1, now())
			ON CONFLICT (key) DO UPDATE
			SET failures = throttles.failures + 1, last_failure_at = now()
			RETURNING key
		)
		` + insertEvent + `counted, jsonb_to_record($2::jsonb)` + asEvent
	return s.exec(ctx, onlyOnce, sql, key[:], eventArg(e))
}

// UpdateUser implements identity.Store. It may be done again: the second time
// changes nothing more, though it is recorded twice. Where another account has the
// username, the function gives a row of nulls, and PostgreSQL logs nothing.
func (s *Store) UpdateUser(ctx context.Context, ref identity.SessionRef, p identity.ProfileChange, e identity.Event) (identity.User, error) {
	const sql = `
		WITH updated AS (
			SELECT ` + userColumns + ` FROM change_profile($1, $2, $3, $4, $5, $6, $7) u
		), changed AS (
			SELECT id FROM updated WHERE id IS NOT NULL
		), audited AS (
			` + insertEvent + `changed, jsonb_to_record($8::jsonb)` + asEvent + `
		)
		SELECT ` + userNames + ` FROM updated`
	if p.Username != nil {
		p.Username, p.CanonicalUsername = new(stored(*p.Username, ref.UserID)), new(stored(*p.CanonicalUsername, ref.UserID))
	}
	var updated identity.User
	err := s.query(ctx, repeatable, into(userPlaces(&updated)...), sql,
		refArgs(ref, p.Username, p.CanonicalUsername, p.FirstName, p.LastName, eventArg(e))...)
	if err == nil && updated.ID == "" {
		return identity.User{}, &identity.TakenError{Username: true}
	}
	return updated, noRowsIs(err, identity.ErrNoSession)
}

// FindUser implements identity.Store.
func (s *Store) FindUser(ctx context.Context, ref identity.SessionRef) (identity.User, error) {
	const sql = `SELECT ` + userColumns + ` FROM sessions s, users u WHERE ` + isLive
	var found identity.User
	err := s.query(ctx, repeatable, into(userPlaces(&found)...), sql, refArgs(ref)...)
	return found, noRowsIs(err, identity.ErrNoSession)
}

// FindPassword implements identity.Store.
func (s *Store) FindPassword(ctx context.Context, ref identity.SessionRef, from identity.Network) (identity.Credentials, error) {
	const sql = `
		SELECT ` + credentialColumns + `
		FROM sessions s, users u
		CROSS JOIN (SELECT $4::text AS place) client
		CROSS JOIN LATERAL ` + throttleKey + `u.canonical_username` + asThrottleKey + `
		LEFT JOIN throttles t ON t.key = k.key
		WHERE ` + isLive
	c, err := s.findCredentials(ctx, sql, refArgs(ref, from)...)
	return c, noRowsIs(err, identity.ErrNoSession)
}

// DeleteUser implements identity.Store. Sessions, codes and places go by their
// foreign keys, at the end of the statement.
func (s *Store) DeleteUser(ctx context.Context, ref identity.SessionRef, e identity.Event) error {
	const sql = `
		WITH changed AS (
			DELETE FROM users u WHERE u.id = $1 RETURNING u.id, u.canonical_username, u.canonical_email
		), audited AS (
			` + insertEvent + `changed, jsonb_to_record($2::jsonb)` + asEvent + `
		)
		DELETE FROM throttles WHERE key IN (` + placeThrottles + `)`
	return s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := lockLive(ctx, tx, ref); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sql, id(ref.UserID), eventArg(e))
		return err
	})
}

// ChangePassword implements identity.Store.
func (s *Store) ChangePassword(ctx context.Context, ref identity.SessionRef, oldHash, newHash string, r identity.Record) error {
	const sql = `
		WITH changed AS (
			UPDATE users u
			SET password_hash = $4, updated_at = now()
			WHERE u.id = $1 AND u.password_hash = $3
			RETURNING u.id, u.canonical_username, u.canonical_email, u.username, u.language
		), ended AS (
			DELETE FROM sessions s USING changed WHERE s.user_id = changed.id AND s.id <> $2
		), voided AS (
			DELETE FROM codes c USING changed WHERE c.user_id = changed.id
		), forgiven AS (
			DELETE FROM throttles WHERE key IN (` + placeThrottles + `)
		), audited AS (
			` + insertEvent + `changed, jsonb_to_record($5::jsonb)` + asEvent + `
		), noticed AS (
			` + insertNotice + `changed u, jsonb_to_record($6::jsonb)` + asNotice + `
		)
		SELECT FROM changed`
	return s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := lockLive(ctx, tx, ref); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, sql, id(ref.UserID), id(ref.ID), oldHash, newHash, eventArg(r.Event), noticeArg(r.Notice)).Scan()
		return noRowsIs(err, identity.ErrStale)
	})
}

// lockUser takes the lock of an account, for the rest of the transaction. Only what
// is read by a later statement is sure to be as the lock's last holder left it.
func lockUser(ctx context.Context, tx pgx.Tx, userID string) error {
	_, err := tx.Exec(ctx, `SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE`, id(userID))
	return err
}

// lockLive takes the lock of the account of a session, and then reads the
// account if the session is alive.
func lockLive(ctx context.Context, tx pgx.Tx, ref identity.SessionRef) (identity.User, error) {
	if err := lockUser(ctx, tx, ref.UserID); err != nil {
		return identity.User{}, err
	}
	const sql = `SELECT ` + userColumns + ` FROM sessions s, users u WHERE ` + isLive
	var owner identity.User
	err := tx.QueryRow(ctx, sql, refArgs(ref)...).Scan(userPlaces(&owner)...)
	return owner, noRowsIs(err, identity.ErrNoSession)
}

// noRowsIs replaces the driver's "no rows" by what it means to a caller.
func noRowsIs(err, meaning error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return meaning
	}
	return err
}
