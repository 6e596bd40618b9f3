package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
)

// takeLimit and withinLimit make the part of a statement that uses up the limit of
// a recipient, with a FROM between them that has one row for one mail; see useUp.
// What it is called is for the statement; allowed is then true of whether the mail
// may be written.
//
// The key is made here, since the recipient of a change of address is not known
// before. Like all keys of limits it is a digest that tells nobody anything.
const (
	takeLimit = `INSERT INTO limits (key, until)
			SELECT sha256(convert_to('mail:' || canonical_recipient, 'UTF8')), ` + usedOnce + `
			FROM `
	withinLimit = `
			WHERE $1::interval IS NOT NULL` + useUp + `
			RETURNING key`
	allowed = `($1::interval IS NULL OR EXISTS (SELECT FROM counted))`
)

// insertNotice and asNotice make the statement that writes a notice, with a FROM
// between them: one row of the account, as u, and jsonb_to_record of the parameter
// that noticeArg gives.
const (
	insertNotice = `INSERT INTO mails (purpose, recipient, canonical_recipient, user_id, username, language)
		SELECT n.purpose, u.email, u.canonical_email, u.id, u.username, coalesce(nullif(u.language, ''), n.language)
		FROM `
	asNotice = ` AS n(purpose text, language text)
		WHERE n.purpose IS NOT NULL`
)

// noticeArg is the notice of ctx as a parameter; NULL where there is none.
func noticeArg(ctx context.Context) any {
	n, ok := identity.NoticeOf(ctx)
	if !ok {
		return nil
	}
	return map[string]string{"purpose": string(n.Purpose), "language": n.Language}
}

// CreateUserQuietly implements identity.Store. The mail of a sign-up that made no
// account is about no user. The limit comes after the insertion, which may have to
// wait for another sign-up: nobody who holds the row of a limit waits for a user.
func (s *Store) CreateUserQuietly(ctx context.Context, n identity.NewUser, m identity.NewMail) (created bool, err error) {
	const sql = `
		WITH made AS (
			INSERT INTO users (id, username, canonical_username, email, canonical_email,
				first_name, last_name, scope, password_hash, language)
			VALUES ($3, $4, $5, $6, $7::text, $8, $9, $10, $11, $12)
			ON CONFLICT DO NOTHING
			RETURNING id
		), outcome AS (
			SELECT (SELECT id FROM made) AS id, $7::text AS canonical_recipient
		), counted AS (
			` + takeLimit + `outcome` + withinLimit + `
		), queued AS (
			INSERT INTO mails (purpose, recipient, canonical_recipient, user_id, username, language)
			SELECT $13, $6, canonical_recipient, id, $4, $14 FROM outcome WHERE ` + allowed + `
		), audited AS (
			` + insertEvent + `outcome, jsonb_to_record($15::jsonb || CASE WHEN outcome.id IS NULL
				THEN jsonb_build_object('event', $16::text, 'user_id', NULL) ELSE '{}' END)` + asEvent + `
		)
		SELECT id IS NOT NULL FROM outcome`
	args := newUserArgs(n, m.Purpose, m.Language, eventArg(ctx), identity.EventSignUpRefused)
	err = s.query(ctx, onlyOnce, into(&created), sql, limitArgs(m.Limit, args...)...)
	return created, err
}

// QueueMail implements identity.Store.
func (s *Store) QueueMail(ctx context.Context, m identity.NewMail) error {
	const sql = `
		WITH asked AS (
			SELECT $3::text AS canonical_recipient
		), counted AS (
			` + takeLimit + `asked` + withinLimit + `
		)
		INSERT INTO mails (purpose, recipient, canonical_recipient, language)
		SELECT $4, $5, canonical_recipient, $6 FROM asked WHERE ` + allowed
	return s.exec(ctx, onlyOnce, sql, limitArgs(m.Limit, m.CanonicalTo, m.Purpose, m.To, m.Language)...)
}

// QueueEmailChange implements identity.Store.
func (s *Store) QueueEmailChange(ctx context.Context, ref identity.SessionRef, m identity.NewMail) error {
	const sql = `
		WITH asked AS (
			SELECT s.id, s.user_id,
				coalesce(nullif($6::text, ''), u.email) AS recipient,
				coalesce(nullif($7::text, ''), u.canonical_email) AS canonical_recipient
			FROM sessions s, users u
			WHERE s.id = $3 AND s.user_id = $4 AND s.expires_at > $5 AND u.id = s.user_id AND u.suspended_at IS NULL
		), counted AS (
			` + takeLimit + `asked` + withinLimit + `
		), queued AS (
			INSERT INTO mails (purpose, recipient, canonical_recipient, user_id, session_id, target, language)
			SELECT $8, recipient, canonical_recipient, user_id, id, $7::text, $9 FROM asked WHERE ` + allowed + `
		)
		SELECT FROM asked`
	err := s.query(ctx, onlyOnce, into(), sql,
		limitArgs(m.Limit, refArgs(ref, m.To, m.CanonicalTo, m.Purpose, m.Language)...)...)
	return noRowsIs(err, identity.ErrNoSession)
}

// mail is a row of the outbox that was taken. Its Message is what it says itself;
// what is to be said is for TakeMail to find out.
type mail struct {
	identity.Message
	canonicalTo, target string
	userID, sessionID   string // empty: null
}

// TakeMail implements identity.Store. Each mail is looked at in a transaction of
// its own, so that those that tell nobody anything are gone, whatever becomes of
// the next.
func (s *Store) TakeMail(ctx context.Context, t identity.MailTake) (m identity.TakenMail, ok bool, err error) {
	for {
		var found, tells bool
		err := s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
			var taken mail
			var err error
			if taken, found, err = takeRow(ctx, tx, t.Lease); err != nil || !found {
				return err
			}
			if m, tells, err = taken.resolve(ctx, tx, t); err != nil || tells {
				return err
			}
			_, err = tx.Exec(ctx, `DELETE FROM mails WHERE id = $1`, taken.Ref.ID)
			return err
		})
		switch {
		case err != nil:
			return identity.TakenMail{}, false, err
		case tells:
			return m, true, nil
		case !found:
			return identity.TakenMail{}, false, nil
		}
	}
}

// takeRow takes the mail that is due longest. The lock of its row is the first that
// its transaction takes: nobody who holds an account waits for a mail, for a row
// that is locked is skipped.
func takeRow(ctx context.Context, tx pgx.Tx, lease time.Duration) (m mail, found bool, err error) {
	const sql = `
		UPDATE mails
		SET due_at = now() + $1::interval, attempts = attempts + 1, taken = taken + 1
		WHERE id = (SELECT id FROM mails WHERE due_at <= now() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING id, attempts, taken, purpose, recipient, canonical_recipient, target,
			coalesce(user_id::text, ''), coalesce(session_id::text, ''), username, language,
			(extract(epoch FROM greatest(now() - created_at, interval '0')) * 1000000)::bigint`
	var microseconds int64
	err = tx.QueryRow(ctx, sql, lease).Scan(&m.Ref.ID, &m.Ref.Attempt, &m.Ref.Taken, &m.Purpose, &m.To, &m.canonicalTo, &m.target,
		&m.userID, &m.sessionID, &m.Username, &m.Language, &microseconds)
	if errors.Is(err, pgx.ErrNoRows) {
		return mail{}, false, nil
	}
	m.Age = time.Duration(microseconds) * time.Microsecond
	return m, err == nil, err
}

// resolve finds out who is to be told what. tells is false where it is nobody.
func (m mail) resolve(ctx context.Context, tx pgx.Tx, t identity.MailTake) (taken identity.TakenMail, tells bool, err error) {
	switch m.Purpose {
	case identity.MailVerification:
		switch {
		case m.Username == "":
			ctx, c := t.Issue(ctx, m.Ref.ID, identity.Verification)
			return m.issue(ctx, tx, issueTo+issueCode, issueArgs(ctx, m.canonicalTo, c)...)
		case m.userID == "":
			return m.refuse(ctx, tx, identity.MailUsernameTaken)
		default:
			ctx, c := t.Issue(ctx, m.Ref.ID, identity.Verification)
			return m.issue(ctx, tx, issueTo+` AND id = $7`+issueCode, issueArgs(ctx, m.canonicalTo, c, id(m.userID))...)
		}
	case identity.MailRecovery:
		ctx, c := t.Issue(ctx, m.Ref.ID, identity.Recovery)
		return m.issue(ctx, tx, issueTo+issueCode, issueArgs(ctx, m.canonicalTo, c)...)
	case identity.MailEmailChange:
		owner, err := lockLive(ctx, tx, identity.SessionRef{ID: m.sessionID, UserID: m.userID, Now: t.Now})
		if errors.Is(err, identity.ErrNoSession) {
			return identity.TakenMail{}, false, nil
		}
		if err != nil {
			return identity.TakenMail{}, false, err
		}
		ctx, c := t.Issue(ctx, m.Ref.ID, identity.EmailChange)
		c.Target = m.target
		err = issueEmailChange(ctx, tx, owner, c)
		if _, isTaken := errors.AsType[*identity.TakenError](err); isTaken {
			return m.refuse(ctx, tx, identity.MailEmailTaken)
		}
		if m.target == "" {
			m.To = owner.Email
		}
		return m.bringCode(owner), err == nil, err
	default:
		return identity.TakenMail{Message: m.Message}, true, nil
	}
}

// issue stores a code for the account that the statement finds. The code goes to
// the address as its owner wrote it.
func (m mail) issue(ctx context.Context, tx pgx.Tx, sql string, args ...any) (taken identity.TakenMail, tells bool, err error) {
	var owner identity.User
	var issued bool
	err = tx.QueryRow(ctx, sql, args...).Scan(append(userPlaces(&owner), &issued)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return identity.TakenMail{}, false, nil
	}
	m.To = owner.Email
	return m.bringCode(owner), err == nil && issued, err
}

// bringCode makes it a mail with a code to an account.
func (m mail) bringCode(owner identity.User) identity.TakenMail {
	m.Username = owner.Username
	m.speak(owner.Language)
	return identity.TakenMail{Message: m.Message, UserID: owner.ID}
}

// refuse tells why there is no code: somebody has the address, or else what the
// caller says.
func (m mail) refuse(ctx context.Context, tx pgx.Tx, otherwise identity.MessagePurpose) (taken identity.TakenMail, tells bool, err error) {
	var owners string
	err = tx.QueryRow(ctx, `SELECT language FROM users WHERE canonical_email = $1`, m.canonicalTo).Scan(&owners)
	switch {
	case err == nil:
		m.Purpose, m.Username = identity.MailEmailTaken, ""
		m.speak(owners)
	case errors.Is(err, pgx.ErrNoRows):
		m.Purpose = otherwise
	default:
		return identity.TakenMail{}, false, err
	}
	return identity.TakenMail{Message: m.Message}, true, nil
}

// speak has the mail in the language of an account, where that has one.
func (m *mail) speak(language string) {
	if language != "" {
		m.Language = language
	}
}

// stillTaken is true of a mail that was not taken anew.
const stillTaken = ` WHERE id = $1 AND taken = $2`

// RemoveMail implements identity.Store.
func (s *Store) RemoveMail(ctx context.Context, ref identity.MailRef) error {
	return s.exec(ctx, repeatable, `DELETE FROM mails`+stillTaken, ref.ID, ref.Taken)
}

// PostponeMail implements identity.Store.
func (s *Store) PostponeMail(ctx context.Context, ref identity.MailRef, after time.Duration) error {
	return s.exec(ctx, repeatable, `UPDATE mails SET due_at = now() + $3::interval`+stillTaken, ref.ID, ref.Taken, after)
}

// ReturnMail implements identity.Store. A second run finds the mail taken anew.
func (s *Store) ReturnMail(ctx context.Context, ref identity.MailRef) error {
	const sql = `UPDATE mails SET due_at = now(), attempts = attempts - 1, taken = taken + 1` + stillTaken
	return s.exec(ctx, repeatable, sql, ref.ID, ref.Taken)
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
