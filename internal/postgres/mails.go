package postgres

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// insertNotice and asNotice make the statement that writes a notice, with a FROM
// between them: one row of the account, as u, and jsonb_to_record of the parameter
// that noticeArg gives.
const (
	insertNotice = `INSERT INTO mails (purpose, recipient, canonical_recipient, user_id, username, language)
		SELECT n.purpose, u.canonical_email, u.canonical_email, u.id, u.username, coalesce(nullif(u.language, ''), n.language)
		FROM `
	asNotice = ` AS n(purpose text, language text)
		WHERE n.purpose IS NOT NULL`
)

// noticeArg returns a notice as a parameter: NULL for the zero Notice.
func noticeArg(n identity.Notice) any {
	if n.Purpose == "" {
		return nil
	}
	return map[string]string{"purpose": string(n.Purpose), "language": n.Language}
}

// QueueMail implements identity.Store. It does not look for a mail that is the same: an
// index leads past the remains of those before, of which an address that is mailed has
// more, and the time of that shows who has an account.
func (s *Store) QueueMail(ctx context.Context, m identity.NewMail) error {
	const sql = `
		INSERT INTO mails (purpose, recipient, canonical_recipient, language)
		VALUES ($1, $2, $2, $3)`
	return s.exec(ctx, onlyOnce, sql, m.Purpose, m.To, m.Language)
}

// QueueEmailChange implements identity.Store.
func (s *Store) QueueEmailChange(ctx context.Context, ref identity.SessionRef, m identity.NewMail) error {
	const sql = `
		WITH asked AS (
			SELECT s.id, s.user_id, coalesce(nullif($4::text, ''), u.canonical_email) AS recipient
			FROM sessions s, users u
			WHERE ` + isLive + `
		), queued AS (
			INSERT INTO mails (purpose, recipient, canonical_recipient, user_id, session_id, target, language)
			SELECT $5::text, asked.recipient, asked.recipient, asked.user_id, asked.id, $4::text, $6 FROM asked
		)
		SELECT FROM asked`
	err := s.query(ctx, onlyOnce, into(), sql, refArgs(ref, m.To, m.Purpose, m.Language)...)
	return noRowsIs(err, identity.ErrNoSession)
}

// ClaimMail implements identity.Store. The lock of the mail's row is the first that the
// transaction takes: the holder of an account does not wait for a mail, because a row
// that is locked is skipped.
func (s *Store) ClaimMail(ctx context.Context, lease time.Duration, process identity.ProcessMail) (found bool, err error) {
	const sql = `
		UPDATE mails
		SET due_at = now() + $1::interval, attempts = attempts + 1, taken = taken + 1
		WHERE id = (SELECT id FROM mails WHERE due_at <= now() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING id, attempts, taken, purpose, canonical_recipient, target, counted,
			user_id::text, session_id::text, signup_id::text, username, language,
			(extract(epoch FROM greatest(now() - created_at, interval '0')) * 1000000)::bigint`
	err = s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var q identity.QueuedMail
		var microseconds int64
		err := tx.QueryRow(ctx, sql, lease).Scan(&q.Ref.ID, &q.Ref.Attempt, &q.Ref.Taken, &q.Purpose, &q.To, &q.Target, &q.Counted,
			(*zeronull.Text)(&q.UserID), (*zeronull.Text)(&q.SessionID), (*zeronull.Text)(&q.SignUpID),
			(*storedName)(&q.Username), &q.Language, &microseconds)
		found = err == nil
		if err != nil {
			return noRowsIs(err, nil)
		}
		q.Age = time.Duration(microseconds) * time.Microsecond
		return process(ctx, q, claimTx{tx, q.Ref.ID})
	})
	return found && err == nil, err
}

// claimTx is an identity.ClaimTx.
type claimTx struct {
	pgx.Tx
	mailID int64
}

// FindOwner implements identity.ClaimTx.
func (tx claimTx) FindOwner(
	ctx context.Context, p identity.Purpose, canonicalEmail, signUpID string,
) (owner identity.MailOwner, holder *identity.AddressHolder, err error) {
	const sql = `
		WITH ` + ownerOfCode + `
		SELECT owner.user_id::text, owner.signup_id::text, owner.target, owner.username, owner.language, account.language
		FROM (SELECT) one LEFT JOIN owner ON true LEFT JOIN account ON true`
	var newID string
	var holds *string
	err = tx.QueryRow(ctx, sql, canonicalEmail, p, id(signUpID)).Scan((*zeronull.Text)(&owner.ID), (*zeronull.Text)(&newID),
		(*zeronull.Text)(&owner.Target), (*storedName)(&owner.Username), (*zeronull.Text)(&owner.Language), &holds)
	if newID != "" {
		owner.ID, owner.IsSignUp = newID, true
	}
	return owner, holderOf(holds), err
}

// FindAsker implements identity.ClaimTx.
func (tx claimTx) FindAsker(
	ctx context.Context, ref identity.SessionRef, target string,
) (owner identity.MailOwner, holder *identity.AddressHolder, err error) {
	const sql = `
		SELECT u.canonical_email, o.language FROM users u
		LEFT JOIN users o ON o.canonical_email = $2 AND o.id <> u.id
		WHERE u.id = $1`
	u, err := lockLive(ctx, tx, ref)
	if err != nil {
		return identity.MailOwner{}, nil, err
	}
	owner = identity.MailOwner{ID: u.ID, Username: u.Username, Language: u.Language}
	var holds *string
	err = tx.QueryRow(ctx, sql, id(u.ID), target).Scan(&owner.Email, &holds)
	return owner, holderOf(holds), err
}

// holderOf returns the account that has this language, or nil if there is none.
func holderOf(language *string) *identity.AddressHolder {
	if language == nil {
		return nil
	}
	return &identity.AddressHolder{Language: *language}
}

// CountMail implements identity.ClaimTx.
func (tx claimTx) CountMail(ctx context.Context, kind, to string, rate identity.Rate) (allowed bool, err error) {
	const sql = `
		WITH counted AS (
			INSERT INTO limits (key, until) VALUES ($3, ` + usedOnce + `)` + useUp + `
			RETURNING key
		)
		UPDATE mails SET counted = $4 FROM counted WHERE id = $5`
	key := sha256.Sum256([]byte("mail:" + kind + ":" + to))
	tag, err := tx.Exec(ctx, sql, limitArgs(rate, key[:], kind, tx.mailID)...)
	return err == nil && tag.RowsAffected() > 0, err
}

// IssueCode implements identity.ClaimTx.
func (tx claimTx) IssueCode(ctx context.Context, owner identity.MailOwner, c identity.NewCode, e identity.Event) error {
	if owner.IsSignUp {
		return putCode(ctx, tx, c, "", owner.ID, e)
	}
	return putCode(ctx, tx, c, owner.ID, "", e)
}

// RemoveMail implements identity.ClaimTx.
func (tx claimTx) RemoveMail(ctx context.Context, e identity.Event) error {
	const sql = `
		WITH gone AS (
			DELETE FROM mails WHERE id = $1 RETURNING id
		)
		` + insertEvent + `gone, jsonb_to_record($2::jsonb)` + asEvent
	_, err := tx.Exec(ctx, sql, tx.mailID, eventArg(e))
	return err
}

// stillTaken is true of a mail that was not claimed again.
const stillTaken = ` WHERE id = $1 AND taken = $2`

// RenewMail implements identity.Store.
func (s *Store) RenewMail(ctx context.Context, ref identity.MailRef, lease time.Duration) error {
	return s.delayMail(ctx, ref, lease)
}

func (s *Store) delayMail(ctx context.Context, ref identity.MailRef, d time.Duration) error {
	return s.exec(ctx, repeatable, `UPDATE mails SET due_at = now() + $3::interval`+stillTaken, ref.ID, ref.Taken, d)
}

// FinishMail implements identity.Store. A second run finds no mail, or one that was
// claimed again.
func (s *Store) FinishMail(ctx context.Context, ref identity.MailRef, o identity.MailOutcome, limit identity.Rate) error {
	const (
		remove           = `DELETE FROM mails` + stillTaken
		makeDue          = `UPDATE mails SET due_at = now(), attempts = attempts - 1, taken = taken + 1` + stillTaken
		removeAndUncount = `
		WITH gone AS (
			DELETE FROM mails` + stillTaken + ` RETURNING counted, canonical_recipient
		)
		UPDATE limits SET until = until - $3::interval FROM gone
		WHERE key = sha256(convert_to('mail:' || gone.counted || ':' || gone.canonical_recipient, 'UTF8'))`
	)
	switch {
	case o.Result == identity.MailPostponed:
		return s.delayMail(ctx, ref, o.After)
	case o.Result == identity.MailReturned:
		return s.exec(ctx, repeatable, makeDue, ref.ID, ref.Taken)
	case o.Result == identity.MailGivenUp && limit != (identity.Rate{}):
		return s.exec(ctx, repeatable, removeAndUncount, ref.ID, ref.Taken, limit.Interval())
	default:
		return s.exec(ctx, repeatable, remove, ref.ID, ref.Taken)
	}
}

// CountMails implements identity.Store. It reads the whole table, which is empty
// but for what is about to be sent, and what cannot be.
func (s *Store) CountMails(ctx context.Context) (queued int, oldest time.Duration, err error) {
	const sql = `SELECT count(*),
		coalesce((extract(epoch FROM greatest(now() - min(created_at), interval '0')) * 1000000)::bigint, 0) FROM mails`
	var microseconds int64
	err = s.query(ctx, repeatable, into(&queued, &microseconds), sql)
	return queued, time.Duration(microseconds) * time.Microsecond, err
}
