package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
)

// replaceCode ends an INSERT into codes: a user has one code of a purpose, and
// a new one takes the place of the old.
const replaceCode = `
	ON CONFLICT (user_id, purpose) DO UPDATE
	SET hash = excluded.hash, target = excluded.target, expires_at = excluded.expires_at`

// issueTo and issueCode make the statement that stores a code for the account that
// has an address, with a further condition between them. It holds the lock of the
// account, so that the address is still theirs when the code is stored: a code for
// an address that was changed meanwhile would open the account to whoever reads
// mail there. The last column tells whether a code was stored.
const (
	issueTo = `
		WITH u AS (
			SELECT id, username, email, first_name, last_name, scope,
				email_verified_at, language, created_at, updated_at
			FROM users
			WHERE canonical_email = $1`
	issueCode = `
			FOR NO KEY UPDATE
		), issued AS (
			INSERT INTO codes (hash, user_id, purpose, target, expires_at)
			SELECT $2, u.id, $3::text, $4, now() + $5 FROM u
			WHERE NOT ($3::text = 'verification' AND u.email_verified_at IS NOT NULL)` + replaceCode + `
			RETURNING user_id
		), audited AS (
			` + insertEvent + `issued,
				jsonb_to_record(jsonb_build_object('user_id', issued.user_id) || $6::jsonb)` + asEvent + `
		)
		SELECT ` + userColumns + `, EXISTS (SELECT FROM issued) FROM u`
)

// IssueCode implements identity.Store.
func (s *Store) IssueCode(ctx context.Context, canonicalEmail string, c identity.NewCode) (identity.User, error) {
	var owner identity.User
	var issued bool
	err := s.query(ctx, repeatable, into(append(userPlaces(&owner), &issued)...), issueTo+issueCode,
		issueArgs(ctx, canonicalEmail, c)...)
	if err != nil {
		return identity.User{}, noRowsIs(err, identity.ErrNoUser)
	}
	if !issued {
		return identity.User{}, identity.ErrAlreadyVerified
	}
	return owner, nil
}

func issueArgs(ctx context.Context, canonicalEmail string, c identity.NewCode, more ...any) []any {
	return append([]any{canonicalEmail, c.Hash[:], c.Purpose, c.Target, c.TTL, eventArg(ctx)}, more...)
}

// IssueEmailChange implements identity.Store.
func (s *Store) IssueEmailChange(ctx context.Context, ref identity.SessionRef, c identity.NewCode) (owner identity.User, err error) {
	err = s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if owner, err = lockLive(ctx, tx, ref); err != nil {
			return err
		}
		return issueEmailChange(ctx, tx, owner, c)
	})
	return owner, err
}

// issueEmailChange is for who holds the lock of the owner's account.
func issueEmailChange(ctx context.Context, tx pgx.Tx, owner identity.User, c identity.NewCode) error {
	const sql = `
		WITH issued AS (
			INSERT INTO codes (hash, user_id, purpose, target, expires_at)
			SELECT $1, $2, $3, $4::text, now() + $5
			WHERE NOT EXISTS (SELECT FROM users WHERE canonical_email = $4::text AND id <> $2)` + replaceCode + `
			RETURNING user_id
		), audited AS (
			` + insertEvent + `issued,
				jsonb_to_record(jsonb_build_object('user_id', issued.user_id) || $6::jsonb)` + asEvent + `
		)
		SELECT FROM issued`
	err := tx.QueryRow(ctx, sql, c.Hash[:], id(owner.ID), c.Purpose, c.Target, c.TTL, eventArg(ctx)).Scan()
	return noRowsIs(err, &identity.TakenError{Email: true})
}

// RedeemVerification implements identity.Store.
func (s *Store) RedeemVerification(ctx context.Context, h identity.CodeHash, n identity.NewSession) (owner identity.User, err error) {
	const lockOwner = `
		SELECT u.id::text, u.suspended_at IS NOT NULL
		FROM users u
		WHERE u.id = (SELECT c.user_id FROM codes c
			WHERE c.hash = $1 AND c.purpose = 'verification' AND c.expires_at > now())
		FOR NO KEY UPDATE`
	const redeem = `
		WITH used AS (
			DELETE FROM codes c
			WHERE c.hash = $1 AND c.purpose = 'verification' AND c.expires_at > now() AND c.user_id = $2
			RETURNING c.user_id
		), others AS (
			DELETE FROM codes c USING used WHERE c.user_id = used.user_id AND c.hash <> $1
		), ended AS (
			DELETE FROM sessions s USING used WHERE s.user_id = used.user_id
		), account AS (
			SELECT used.user_id AS id FROM used
		), ` + becomesFamiliar + `$9` + fromNowOn + `, opened AS (
			INSERT INTO sessions (id, user_id, scope, opened_at, refreshed_at, expires_at, ends_at, user_agent)
			SELECT $3, u.id, u.scope, $4, $4, $5, $6, $7 FROM used JOIN users u ON u.id = used.user_id
		), verified AS (
			UPDATE users u
			SET email_verified_at = now(), activated_at = coalesce(u.activated_at, now()), updated_at = now()
			FROM used
			WHERE u.id = used.user_id
			RETURNING ` + userColumns + `
		), audited AS (
			` + insertEvent + `verified,
				jsonb_to_record(jsonb_build_object('user_id', verified.id) || $8::jsonb)` + asEvent + `
		)
		SELECT ` + userNames + ` FROM verified`
	err = s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var userID string
		var suspended bool
		if err := tx.QueryRow(ctx, lockOwner, h[:]).Scan(&userID, &suspended); err != nil {
			return noRowsIs(err, identity.ErrNoCode)
		}
		if suspended {
			return identity.ErrSuspended
		}
		err := tx.QueryRow(ctx, redeem, h[:], id(userID),
			id(n.ID), n.OpenedAt, n.ExpiresAt, n.EndsAt, n.UserAgent, eventArg(ctx), n.From).Scan(userPlaces(&owner)...)
		return noRowsIs(err, identity.ErrNoCode)
	})
	return owner, err
}

// FindRecovery implements identity.Store.
func (s *Store) FindRecovery(ctx context.Context, h identity.CodeHash) (identity.Credentials, error) {
	const sql = `
		SELECT ` + credentialColumns + `
		FROM codes c
		JOIN users u ON u.id = c.user_id
		CROSS JOIN LATERAL (SELECT ` + userThrottle + ` AS key) k
		LEFT JOIN throttles t ON t.key = k.key
		WHERE c.hash = $1 AND c.purpose = 'recovery' AND c.expires_at > now()`
	c, err := s.findCredentials(ctx, sql, h[:])
	return c, noRowsIs(err, identity.ErrNoCode)
}

// RedeemRecovery implements identity.Store.
func (s *Store) RedeemRecovery(ctx context.Context, h identity.CodeHash, userID, newHash string, from identity.Place) error {
	const sql = `
		WITH used AS (
			DELETE FROM codes c
			WHERE c.hash = $1 AND c.purpose = 'recovery' AND c.expires_at > now() AND c.user_id = $2
			RETURNING c.user_id
		), others AS (
			DELETE FROM codes c USING used WHERE c.user_id = used.user_id AND c.hash <> $1
		), ended AS (
			DELETE FROM sessions s USING used WHERE s.user_id = used.user_id
		), changed AS (
			UPDATE users u
			SET password_hash = $3, email_verified_at = coalesce(u.email_verified_at, now()),
				activated_at = coalesce(u.activated_at, now()), updated_at = now()
			FROM used
			WHERE u.id = used.user_id
			RETURNING u.id, u.email, u.canonical_email, u.username, u.language, ` + userThrottle + ` AS throttle
		), account AS (
			SELECT changed.id FROM changed
		), ` + becomesFamiliar + `$6` + fromNowOn + `, forgiven AS (
			DELETE FROM throttles WHERE key IN (` + allThrottles + `)
		), audited AS (
			` + insertEvent + `used, jsonb_to_record($4::jsonb)` + asEvent + `
		), noticed AS (
			` + insertNotice + `changed u, jsonb_to_record($5::jsonb)` + asNotice + `
		)
		SELECT FROM used`
	return s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := lockUser(ctx, tx, userID); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, sql, h[:], id(userID), newHash, eventArg(ctx), noticeArg(ctx), from).Scan()
		return noRowsIs(err, identity.ErrNoCode)
	})
}

// RedeemEmailChange implements identity.Store.
func (s *Store) RedeemEmailChange(ctx context.Context, ref identity.SessionRef, h identity.CodeHash, email, canonicalEmail string) (owner identity.User, err error) {
	const sql = `
		WITH used AS (
			DELETE FROM codes c
			WHERE c.hash = $1 AND c.purpose = 'email_change' AND c.expires_at > now() AND c.user_id = $2
				AND c.target IN ('', $4::text)
			RETURNING c.user_id, CASE WHEN c.target = $4::text THEN now() END AS verified_at
		), others AS (
			DELETE FROM codes c USING used WHERE c.user_id = used.user_id AND c.hash <> $1
		), changed AS (
			UPDATE users u
			SET email = $3, canonical_email = $4::text, email_verified_at = used.verified_at,
				activated_at = coalesce(u.activated_at, used.verified_at), updated_at = now()
			FROM used
			WHERE u.id = used.user_id
			RETURNING ` + userColumns + `
		), audited AS (
			` + insertEvent + `changed, jsonb_to_record($5::jsonb)` + asEvent + `
		), noticed AS (
			` + insertNotice + `used JOIN users u ON u.id = used.user_id, jsonb_to_record($6::jsonb)` + asNotice + `
				AND u.canonical_email <> $4::text
		)
		SELECT ` + userNames + ` FROM changed`
	err = s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := lockLive(ctx, tx, ref); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, sql, h[:], id(ref.UserID), email, canonicalEmail, eventArg(ctx), noticeArg(ctx)).Scan(userPlaces(&owner)...)
		return noRowsIs(err, identity.ErrNoCode)
	})
	if isViolation(err, emailKey) {
		return identity.User{}, &identity.TakenError{Email: true}
	}
	return owner, err
}
