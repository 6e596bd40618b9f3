package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// replaceCode ends an INSERT into codes: an account or sign-up has one code of a
// purpose, and a new one takes the place of the old.
const replaceCode = `
	ON CONFLICT (coalesce(user_id, signup_id), purpose) DO UPDATE
	SET hash = excluded.hash, target = excluded.target, expires_at = excluded.expires_at`

// ownerOfCode makes the part of a WITH that finds what a code of purpose $2 for the
// address $1 belongs to, as identity.Store.IssueCode says; $3 is null, or the one
// sign-up that it may belong to. It holds the lock of that, so that the address is
// still theirs when the code is stored: a code for an address that was changed
// meanwhile would open the account to whoever reads mail there.
const ownerOfCode = `account AS (
			SELECT u.id, u.username, u.language, u.email_verified_at
			FROM users u
			WHERE u.canonical_email = $1::text
			FOR NO KEY UPDATE
		), waiting AS (
			SELECT w.id, w.username, w.language, w.created_at
			FROM signups w
			WHERE w.canonical_email = $1::text AND ($3::uuid IS NULL OR w.id = $3::uuid)
				AND NOT EXISTS (SELECT FROM account)
			ORDER BY w.created_at DESC LIMIT 1
			FOR KEY SHARE
		), changing AS (
			SELECT u.id, u.username, u.language, u.unproved_since
			FROM users u
			WHERE u.canonical_unproved_email = $1::text AND $3::uuid IS NULL AND $2::text = 'verification'
				AND NOT EXISTS (SELECT FROM account)
			ORDER BY u.unproved_since DESC LIMIT 1
			FOR NO KEY UPDATE
		), owner AS (
			SELECT id AS user_id, NULL::uuid AS signup_id, '' AS target, username, language, now() AS since
			FROM account WHERE $2::text <> 'verification' OR email_verified_at IS NULL
			UNION ALL
			SELECT NULL::uuid, id, '', username, language, created_at FROM waiting
			UNION ALL
			SELECT id, NULL::uuid, $1::text, username, language, unproved_since FROM changing
			ORDER BY since DESC LIMIT 1
		)`

// IssueCode implements identity.Store.
func (s *Store) IssueCode(ctx context.Context, canonicalEmail string, c identity.NewCode, e identity.Event) (ownerID string, err error) {
	const sql = `
		WITH ` + ownerOfCode + `, issued AS (
			INSERT INTO codes (hash, user_id, signup_id, purpose, target, expires_at)
			SELECT $4, owner.user_id, owner.signup_id, $2::text, owner.target, now() + $5 FROM owner` + replaceCode + `
			RETURNING coalesce(user_id, signup_id) AS id
		), audited AS (
			` + insertEvent + `issued,
				jsonb_to_record(jsonb_build_object('user_id', issued.id) || $6::jsonb)` + asEvent + `
		)
		SELECT (SELECT id::text FROM issued), EXISTS (SELECT FROM account)`
	var known bool
	err = s.query(ctx, repeatable, into((*zeronull.Text)(&ownerID), &known), sql,
		canonicalEmail, c.Purpose, nil, c.Hash[:], c.TTL, eventArg(e))
	switch {
	case err != nil:
		return "", err
	case ownerID != "":
		return ownerID, nil
	case known:
		return "", identity.ErrAlreadyVerified
	default:
		return "", identity.ErrNoUser
	}
}

// putCode stores a code for whoever holds the lock of what it belongs to.
func putCode(ctx context.Context, tx pgx.Tx, c identity.NewCode, userID, signUpID string, e identity.Event) error {
	const sql = `
		WITH issued AS (
			INSERT INTO codes (hash, user_id, signup_id, purpose, target, expires_at)
			VALUES ($1, $2, $3, $4, $5, now() + $6)` + replaceCode + `
			RETURNING coalesce(user_id, signup_id) AS id
		)
		` + insertEvent + `issued,
			jsonb_to_record(jsonb_build_object('user_id', issued.id) || $7::jsonb)` + asEvent
	_, err := tx.Exec(ctx, sql, c.Hash[:], id(userID), id(signUpID), c.Purpose, c.Target, c.TTL, eventArg(e))
	return err
}

// IssueEmailChange implements identity.Store.
func (s *Store) IssueEmailChange(ctx context.Context, ref identity.SessionRef, c identity.NewCode, e identity.Event) error {
	return s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		owner, err := lockLive(ctx, tx, ref)
		if err != nil {
			return err
		}
		return issueEmailChange(ctx, tx, owner, c, e)
	})
}

// issueEmailChange is for the holder of the lock of the owner's account.
func issueEmailChange(ctx context.Context, tx pgx.Tx, owner identity.User, c identity.NewCode, e identity.Event) error {
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
	err := tx.QueryRow(ctx, sql, c.Hash[:], id(owner.ID), c.Purpose, c.Target, c.TTL, eventArg(e)).Scan()
	return noRowsIs(err, &identity.TakenError{Email: true})
}

// verificationCode is a live code of purpose Verification, with the address that it
// was sent to.
const verificationCode = `
	SELECT c.hash, c.user_id, c.signup_id, c.target,
		coalesce(w.canonical_email, nullif(c.target, ''), u.canonical_email) AS address
	FROM codes c
	LEFT JOIN signups w ON w.id = c.signup_id
	LEFT JOIN users u ON u.id = c.user_id
	WHERE c.hash = $1 AND c.purpose = 'verification' AND c.expires_at > now()`

// FindClaims implements identity.Store. The second of its claims of accounts is one
// that a former release made of a sign-up.
func (s *Store) FindClaims(ctx context.Context, h identity.CodeHash) ([]identity.Claim, error) {
	const sql = `
		WITH code AS (` + verificationCode + `), claims AS (
			(SELECT w.id, true AS is_signup, w.username, w.email, w.password_hash, w.created_at AS since
			FROM signups w, code WHERE w.canonical_email = code.address AND w.id IS DISTINCT FROM code.signup_id
			ORDER BY w.created_at DESC LIMIT $2)
			UNION ALL
			SELECT w.id, true, w.username, w.email, w.password_hash, 'infinity'
			FROM signups w, code WHERE w.id = code.signup_id
			UNION ALL
			SELECT u.id, false, u.username, u.unproved_email, u.password_hash,
				CASE WHEN u.id = code.user_id THEN 'infinity' ELSE u.unproved_since END
			FROM users u, code WHERE u.canonical_unproved_email = code.address
			UNION ALL
			SELECT u.id, false, u.username, u.email, u.password_hash, 'infinity'
			FROM users u, code WHERE u.id = code.user_id AND code.target = '' AND u.email_verified_at IS NULL
		)
		SELECT id::text, is_signup, username, email, password_hash
		FROM claims
		WHERE NOT EXISTS (SELECT FROM users u, code
			WHERE u.canonical_email = code.address AND u.email_verified_at IS NOT NULL)
		ORDER BY since DESC LIMIT $2`
	found, err := s.findClaims(ctx, sql, h[:], identity.MaxClaims)
	if err == nil && len(found) == 0 {
		return nil, identity.ErrNoCode
	}
	return found, err
}

// makeAccount makes the part of a WITH that turns the sign-up of claim, which has the
// columns of signups, into an account that is proved. All that wait for its address
// go. made is empty if an account has the username, or the address.
const makeAccount = `made AS (
			INSERT INTO users (id, username, canonical_username, email, canonical_email, first_name, last_name,
				scope, password_hash, language, created_at, email_verified_at, activated_at)
			SELECT claim.id, claim.username, claim.canonical_username, claim.email, claim.canonical_email,
				claim.first_name, claim.last_name, claim.scope, claim.password_hash, claim.language, claim.created_at, now(), now()
			FROM claim
			ON CONFLICT DO NOTHING
			RETURNING *
		), gone AS (
			DELETE FROM signups w USING made WHERE w.canonical_email = made.canonical_email
		)`

// isTheClaim is true of the claim $2 to the address $3, if it has the password hash
// $4, or, with $4 empty, if it is the only one. Its own hash stands before it.
const isTheClaim = ` = $4::text OR $4::text = ''
				AND NOT EXISTS (SELECT FROM signups o WHERE o.canonical_email = $3::text AND o.id <> $2)
				AND NOT EXISTS (SELECT FROM users o WHERE o.canonical_unproved_email = $3::text AND o.id <> $2)`

// openedSession opens the session of a proof for the accounts of another part of the
// WITH, whose name follows.
const openedSession = `opened AS (
			INSERT INTO sessions (id, user_id, scope, opened_at, refreshed_at, expires_at, ends_at, user_agent)
			SELECT $5, u.id, u.scope, $6, $6, $7, $8, $9 FROM `

// RedeemVerification implements identity.Store. The lock of the address orders all
// who prove it; see the package comment.
func (s *Store) RedeemVerification(ctx context.Context, p identity.ClaimProof, n identity.NewSession, r identity.Record) (owner identity.User, err error) {
	const findCode = `
		SELECT coalesce(code.user_id, code.signup_id)::text, code.address, ` + lockOf + `code.address` + lockEnds + `
		FROM (` + verificationCode + `) code`
	err = s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var codesOwner, address string
		if err := tx.QueryRow(ctx, findCode, p.Code[:]).Scan(&codesOwner, &address, nil); err != nil {
			return noRowsIs(err, identity.ErrNoCode)
		}
		claimID := p.ClaimID
		if claimID == "" {
			claimID = codesOwner
		}
		args := []any{
			p.Code[:], id(claimID), address, p.PasswordHash,
			id(n.ID), n.OpenedAt, n.ExpiresAt, n.EndsAt, n.UserAgent, n.From, eventArg(r.Event),
		}
		err := tx.QueryRow(ctx, proveSignUp, append(args, p.Username, p.CanonicalUsername)...).Scan(userPlaces(&owner)...)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if err := lockUser(ctx, tx, claimID); err != nil {
			return err
		}
		err = tx.QueryRow(ctx, proveChange, append(args, noticeArg(r.Notice))...).Scan(userPlaces(&owner)...)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		return whyNotProved(ctx, tx, p, claimID, address)
	})
	if isViolation(err, emailKey) {
		return identity.User{}, identity.ErrNoCode
	}
	return owner, err
}

const (
	proveSignUp = `
		WITH claim AS (
			SELECT w.id, coalesce(nullif($12::text, ''), w.username) AS username,
				coalesce(nullif($13::text, ''), w.canonical_username) AS canonical_username,
				w.email, w.canonical_email, w.first_name, w.last_name, w.scope, w.password_hash, w.language, w.created_at
			FROM signups w
			WHERE w.id = $2 AND w.canonical_email = $3::text AND (w.password_hash` + isTheClaim + `)
				AND EXISTS (` + verificationCode + `)
		), ` + makeAccount + `, used AS (
			DELETE FROM codes c USING made WHERE c.hash = $1
		), account AS (
			SELECT made.id FROM made
		), ` + becomesFamiliar + `$10` + fromNowOn + `, ` + openedSession + `made u
		), audited AS (
			` + insertEvent + `made,
				jsonb_to_record(jsonb_build_object('user_id', made.id) || $11::jsonb)` + asEvent + `
		)
		SELECT ` + userColumns + ` FROM made u`

	proveChange = `
		WITH verified AS (
			UPDATE users u
			SET email = coalesce(u.unproved_email, u.email),
				canonical_email = coalesce(u.canonical_unproved_email, u.canonical_email),
				unproved_email = NULL, canonical_unproved_email = NULL, unproved_since = NULL,
				email_verified_at = now(), activated_at = coalesce(u.activated_at, now()), updated_at = now()
			WHERE u.id = $2 AND coalesce(u.canonical_unproved_email, u.canonical_email) = $3::text
				AND u.suspended_at IS NULL AND (u.password_hash` + isTheClaim + `)
				AND NOT EXISTS (SELECT FROM users o WHERE o.canonical_email = $3::text AND o.id <> $2)
				AND EXISTS (` + verificationCode + `)
			RETURNING u.*
		), used AS (
			DELETE FROM codes c USING verified WHERE c.hash = $1 OR c.user_id = verified.id
		), ended AS (
			DELETE FROM sessions s USING verified WHERE s.user_id = verified.id
		), gone AS (
			DELETE FROM signups w USING verified WHERE w.canonical_email = verified.canonical_email
		), account AS (
			SELECT verified.id FROM verified
		), ` + becomesFamiliar + `$10` + fromNowOn + `, ` + openedSession + `verified u
		), audited AS (
			` + insertEvent + `verified,
				jsonb_to_record(jsonb_build_object('user_id', verified.id) || $11::jsonb)` + asEvent + `
		), noticed AS (
			` + insertNotice + `verified v JOIN users u ON u.id = v.id, jsonb_to_record($12::jsonb)` + asNotice + `
				AND u.canonical_email <> $3::text
		)
		SELECT ` + userColumns + ` FROM verified u`
)

// whyNotProved finds out what was in the way of a claim, in the transaction that could
// not prove it.
func whyNotProved(ctx context.Context, tx pgx.Tx, p identity.ClaimProof, claimID, address string) error {
	const sql = `
		SELECT EXISTS (` + verificationCode + `)
				AND NOT EXISTS (SELECT FROM users WHERE canonical_email = $3::text AND id <> $2),
			EXISTS (SELECT FROM signups w
				WHERE w.id = $2 AND w.canonical_email = $3::text AND (w.password_hash` + isTheClaim + `))
				OR EXISTS (SELECT FROM users u
				WHERE u.id = $2 AND coalesce(u.canonical_unproved_email, u.canonical_email) = $3::text AND (u.password_hash` + isTheClaim + `)),
			EXISTS (SELECT FROM users WHERE id = $2 AND suspended_at IS NOT NULL),
			EXISTS (SELECT FROM users WHERE id <> $2
				AND canonical_username = coalesce(nullif($5, ''), (SELECT canonical_username FROM signups WHERE id = $2)))`
	var holds, isClaim, suspended, taken bool
	err := tx.QueryRow(ctx, sql, p.Code[:], id(claimID), address, p.PasswordHash, p.CanonicalUsername).
		Scan(&holds, &isClaim, &suspended, &taken)
	switch {
	case err != nil:
		return err
	case !holds:
		return identity.ErrNoCode
	case !isClaim && p.ClaimID == "":
		return identity.ErrSeveralClaims
	case !isClaim:
		return identity.ErrStale
	case suspended:
		return identity.ErrSuspended
	case taken:
		return &identity.TakenError{Username: true}
	default:
		return identity.ErrNoCode
	}
}

// lockOf and lockEnds make the expression that takes the lock of an address, with the
// address between them, until the transaction ends.
const (
	lockOf   = `pg_advisory_xact_lock(hashtextextended('address:' || `
	lockEnds = `, 0))::text`
)

// lockAddress takes the lock of an address. It comes before the lock of an account.
func lockAddress(ctx context.Context, tx pgx.Tx, canonicalEmail string) error {
	_, err := tx.Exec(ctx, `SELECT `+lockOf+`$1::text`+lockEnds, canonicalEmail)
	return err
}

// recoveryCode is a live code of purpose Recovery with what it belongs to: the account
// u or the sign-up w, if no account has its address.
const recoveryCode = `
		FROM codes c
		LEFT JOIN users u ON u.id = c.user_id
		LEFT JOIN signups w ON w.id = c.signup_id
		WHERE c.hash = $1 AND c.purpose = 'recovery' AND c.expires_at > now()
			AND NOT EXISTS (SELECT FROM users o WHERE o.canonical_email = w.canonical_email)`

// FindRecovery implements identity.Store.
func (s *Store) FindRecovery(ctx context.Context, h identity.CodeHash) (owner identity.Claim, err error) {
	const sql = `
		SELECT coalesce(u.id, w.id)::text, u.id IS NULL, coalesce(u.username, w.username),
			coalesce(u.email, w.email), coalesce(u.password_hash, w.password_hash)` + recoveryCode
	err = s.query(ctx, repeatable, into(&owner.ID, &owner.IsSignUp, (*storedName)(&owner.Username), &owner.Email, &owner.PasswordHash), sql, h[:])
	return owner, noRowsIs(err, identity.ErrNoCode)
}

// RedeemRecovery implements identity.Store.
func (s *Store) RedeemRecovery(ctx context.Context, h identity.CodeHash, owner identity.Claim, newHash string, from identity.Network, r identity.Record) error {
	if owner.IsSignUp {
		return s.recoverSignUp(ctx, h, owner.ID, newHash, from, r.Event)
	}
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
			RETURNING u.id, u.canonical_username, u.canonical_email, u.username, u.language
		), account AS (
			SELECT changed.id FROM changed
		), ` + becomesFamiliar + `$6` + fromNowOn + `, forgiven AS (
			DELETE FROM throttles WHERE key IN (` + placeThrottles + `)
		), audited AS (
			` + insertEvent + `used, jsonb_to_record($4::jsonb)` + asEvent + `
		), noticed AS (
			` + insertNotice + `changed u, jsonb_to_record($5::jsonb)` + asNotice + `
		)
		SELECT FROM used`
	return s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := lockUser(ctx, tx, owner.ID); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, sql, h[:], id(owner.ID), newHash, eventArg(r.Event), noticeArg(r.Notice), from).Scan()
		return noRowsIs(err, identity.ErrNoCode)
	})
}

// recoverSignUp makes an account of a sign-up, with a password that the reader of its
// mailbox has chosen.
func (s *Store) recoverSignUp(ctx context.Context, h identity.CodeHash, signUpID, newHash string, from identity.Network, e identity.Event) error {
	const (
		lock = `SELECT ` + lockOf + `w.canonical_email` + lockEnds + ` FROM signups w WHERE w.id = $1`
		sql  = `
		WITH claim AS (
			SELECT w.id, w.username, w.canonical_username, w.email, w.canonical_email, w.first_name, w.last_name,
				w.scope, $3::text AS password_hash, w.language, w.created_at` + recoveryCode + ` AND w.id = $2
		), ` + makeAccount + `, account AS (
			SELECT made.id FROM made
		), ` + becomesFamiliar + `$5` + fromNowOn + `, audited AS (
			` + insertEvent + `made, jsonb_to_record($4::jsonb)` + asEvent + `
		)
		SELECT EXISTS (SELECT FROM claim), EXISTS (SELECT FROM made)`
	)
	return s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lock, id(signUpID)); err != nil {
			return err
		}
		var holds, made bool
		err := tx.QueryRow(ctx, sql, h[:], id(signUpID), newHash, eventArg(e), from).Scan(&holds, &made)
		switch {
		case err != nil:
			return err
		case !holds:
			return identity.ErrNoCode
		case !made: // under the lock of its address, only the username can be in the way
			return &identity.TakenError{Username: true}
		default:
			return nil
		}
	})
}

// RedeemEmailChange implements identity.Store. Under the lock of the address its last
// statement sees who has it.
func (s *Store) RedeemEmailChange(ctx context.Context, ref identity.SessionRef, e identity.EmailRedemption, r identity.Record) (owner identity.User, err error) {
	const sql = `
		WITH code AS (
			SELECT c.user_id, c.target <> '' OR u.canonical_email = $4::text AS proves,
				EXISTS (SELECT FROM users o WHERE o.canonical_email = $4::text AND o.id <> $2) AS taken
			FROM codes c JOIN users u ON u.id = c.user_id
			WHERE c.hash = $1 AND c.purpose = 'email_change' AND c.expires_at > now() AND c.user_id = $2
				AND c.target IN ('', $4::text)
		), changed AS (
			UPDATE users u
			SET email = CASE WHEN code.proves THEN $3 ELSE u.email END,
				canonical_email = CASE WHEN code.proves THEN $4::text ELSE u.canonical_email END,
				email_verified_at = CASE WHEN code.proves THEN now() ELSE u.email_verified_at END,
				activated_at = CASE WHEN code.proves THEN coalesce(u.activated_at, now()) ELSE u.activated_at END,
				unproved_email = CASE WHEN NOT code.proves THEN $3 END,
				canonical_unproved_email = CASE WHEN NOT code.proves THEN $4::text END,
				unproved_since = CASE WHEN NOT code.proves THEN now() END,
				updated_at = now()
			FROM code
			WHERE u.id = code.user_id AND NOT (code.taken AND (code.proves OR $7))
			RETURNING ` + userColumns + `
		), voided AS (
			DELETE FROM codes c USING changed WHERE c.user_id = $2
		), audited AS (
			` + insertEvent + `changed, jsonb_to_record($5::jsonb)` + asEvent + `
		), noticed AS (
			` + insertNotice + `changed JOIN users u ON u.id = $2, jsonb_to_record($6::jsonb)` + asNotice + `
				AND u.canonical_email <> $4::text
		)
		SELECT ` + userNames + ` FROM changed`
	const codeHolds = `
		SELECT FROM codes c
		WHERE c.hash = $1 AND c.purpose = 'email_change' AND c.expires_at > now() AND c.user_id = $2 AND c.target IN ('', $3)`
	err = s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := lockAddress(ctx, tx, e.CanonicalEmail); err != nil {
			return err
		}
		if _, err := lockLive(ctx, tx, ref); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, sql, e.Code[:], id(ref.UserID), e.Email, e.CanonicalEmail, eventArg(r.Event), noticeArg(r.Notice), e.RefuseTaken).
			Scan(userPlaces(&owner)...)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		err = tx.QueryRow(ctx, codeHolds, e.Code[:], id(ref.UserID), e.CanonicalEmail).Scan()
		if err == nil {
			return &identity.TakenError{Email: true}
		}
		return noRowsIs(err, identity.ErrNoCode)
	})
	if isViolation(err, emailKey) { // by a replica of a former release, which takes no lock
		return identity.User{}, &identity.TakenError{Email: true}
	}
	return owner, err
}
