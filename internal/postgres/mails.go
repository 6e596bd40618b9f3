package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
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

// mail is a row of the outbox that was taken. Its Message is what it says itself;
// what is to be said is for TakeMail to find out.
type mail struct {
	identity.Message
	target            string
	userID, sessionID string // empty: null
	signUpID          string // likewise
	counted           string // what it was counted as against the limit of its recipient; empty: not yet

	// What resolve has found:
	countsAs  string           // empty: no limit is about it
	brings    identity.Purpose // of the code; empty: none
	conceals  bool             // the code is made, and nobody gets it
	ownerID   string           // of the code, an account
	ownerSign string           // or a sign-up
}

// TakeMail implements identity.Store. Each mail is looked at in a transaction of
// its own, so that those that have nothing to say are gone, whatever becomes of
// the next.
func (s *Store) TakeMail(ctx context.Context, t identity.MailTake) (m identity.TakenMail, ok bool, err error) {
	for {
		var found, says bool
		err := s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
			var row mail
			m = identity.TakenMail{}
			if row, found, err = takeRow(ctx, tx, t.Lease); err != nil || !found {
				return err
			}
			if says, err = row.resolve(ctx, tx, t.Now); err != nil {
				return err
			}
			if says {
				if m.Withheld, err = row.count(ctx, tx, t.Limit); err != nil {
					return err
				}
			}
			m.Message = row.Message
			if !says || m.Withheld {
				var e identity.Event
				if m.Withheld {
					e = t.Withheld
				}
				return row.drop(ctx, tx, e)
			}
			if row.brings == "" {
				return nil
			}
			code, issued := t.Issue(row.Ref.ID, row.brings)
			code.Target = row.target
			if row.conceals {
				issued = identity.Event{}
			} else {
				m.UserID = row.ownerID + row.ownerSign
			}
			return putCode(ctx, tx, code, row.ownerID, row.ownerSign, issued)
		})
		switch {
		case err != nil:
			return identity.TakenMail{}, false, err
		case says:
			return m, true, nil
		case !found:
			return identity.TakenMail{}, false, nil
		}
	}
}

// takeRow takes the mail that is due longest. The lock of its row is the first that
// its transaction takes: the holder of an account does not wait for a mail, for a row
// that is locked is skipped.
func takeRow(ctx context.Context, tx pgx.Tx, lease time.Duration) (m mail, found bool, err error) {
	const sql = `
		UPDATE mails
		SET due_at = now() + $1::interval, attempts = attempts + 1, taken = taken + 1
		WHERE id = (SELECT id FROM mails WHERE due_at <= now() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING id, attempts, taken, purpose, canonical_recipient, target, counted,
			user_id::text, session_id::text, signup_id::text, username, language,
			(extract(epoch FROM greatest(now() - created_at, interval '0')) * 1000000)::bigint`
	var microseconds int64
	err = tx.QueryRow(ctx, sql, lease).Scan(&m.Ref.ID, &m.Ref.Attempt, &m.Ref.Taken, &m.Purpose, &m.To, &m.target, &m.counted,
		(*zeronull.Text)(&m.userID), (*zeronull.Text)(&m.sessionID), (*zeronull.Text)(&m.signUpID), (*storedName)(&m.Username), &m.Language, &microseconds)
	if errors.Is(err, pgx.ErrNoRows) {
		return mail{}, false, nil
	}
	m.Age = time.Duration(microseconds) * time.Microsecond
	return m, err == nil, err
}

// resolve finds out what the mail says, and holds the lock of what its code belongs
// to. says is false if it is nothing.
func (m *mail) resolve(ctx context.Context, tx pgx.Tx, now time.Time) (says bool, err error) {
	switch m.Purpose {
	case identity.MailVerification:
		return m.findOwner(ctx, tx, identity.Verification)
	case identity.MailRecovery:
		return m.findOwner(ctx, tx, identity.Recovery)
	case identity.MailEmailChange:
		owner, err := lockLive(ctx, tx, identity.SessionRef{ID: m.sessionID, UserID: m.userID, Now: now})
		if err != nil {
			return false, noSessionIsNil(err)
		}
		m.brings, m.ownerID = identity.EmailChange, m.userID
		m.countsAs = string(m.Purpose) + " of " + m.userID
		m.Username = owner.Username
		m.speak(owner.Language)
		return true, m.checkTarget(ctx, tx)
	default:
		return true, nil
	}
}

// findOwner finds what the code of the mail belongs to. The mail of a sign-up tells
// the owner of an account with its address of it instead.
func (m *mail) findOwner(ctx context.Context, tx pgx.Tx, p identity.Purpose) (says bool, err error) {
	const sql = `
		WITH ` + ownerOfCode + `
		SELECT owner.user_id::text, owner.signup_id::text, owner.target, owner.username, owner.language, account.language
		FROM (SELECT) one LEFT JOIN owner ON true LEFT JOIN account ON true`
	var username, language string
	var taken *string
	err = tx.QueryRow(ctx, sql, m.To, p, id(m.signUpID)).Scan((*zeronull.Text)(&m.ownerID), (*zeronull.Text)(&m.ownerSign),
		(*zeronull.Text)(&m.target), (*storedName)(&username), (*zeronull.Text)(&language), &taken)
	switch {
	case err != nil:
		return false, err
	case m.signUpID != "" && taken != nil:
		m.refuse(*taken)
		m.brings, m.countsAs = "", string(m.Purpose)
		return true, nil
	case m.ownerID+m.ownerSign == "":
		return false, nil
	}
	m.brings, m.Username, m.countsAs = p, username, string(m.Purpose)
	m.speak(language)
	return true, nil
}

// checkTarget makes the mail of a change to an address that another account has one
// to its owner. That of a change to any address goes to the account's own.
func (m *mail) checkTarget(ctx context.Context, tx pgx.Tx) error {
	const sql = `
		SELECT u.canonical_email, o.language FROM users u
		LEFT JOIN users o ON o.canonical_email = $2 AND o.id <> u.id
		WHERE u.id = $1`
	var own string
	var taken *string
	if err := tx.QueryRow(ctx, sql, id(m.userID), m.target).Scan(&own, &taken); err != nil {
		return err
	}
	switch {
	case m.target == "":
		m.To = own
	case taken != nil:
		m.refuse(*taken)
		m.conceals = true
	}
	return nil
}

// refuse makes it a mail to the owner of an account, in their language: somebody has
// tried to use their address.
func (m *mail) refuse(language string) {
	m.Purpose, m.Username = identity.MailEmailTaken, ""
	m.speak(language)
}

// count counts a mail that somebody asked for against the limit of its recipient,
// once; withheld is true if that allows no more.
func (m *mail) count(ctx context.Context, tx pgx.Tx, r identity.Rate) (withheld bool, err error) {
	const sql = `
		WITH counted AS (
			INSERT INTO limits (key, until) VALUES ($3, ` + usedOnce + `)` + useUp + `
			RETURNING key
		)
		UPDATE mails SET counted = $4 FROM counted WHERE id = $5`
	if r == (identity.Rate{}) || m.countsAs == m.counted || m.countsAs == "" {
		return false, nil
	}
	key := sha256.Sum256([]byte("mail:" + m.countsAs + ":" + m.To))
	tag, err := tx.Exec(ctx, sql, limitArgs(r, key[:], m.countsAs, m.Ref.ID)...)
	return err == nil && tag.RowsAffected() == 0, err
}

// drop removes a mail that says nothing or is withheld, and records the event.
func (m *mail) drop(ctx context.Context, tx pgx.Tx, e identity.Event) error {
	const sql = `
		WITH gone AS (
			DELETE FROM mails WHERE id = $1 RETURNING id
		)
		` + insertEvent + `gone, jsonb_to_record($2::jsonb)` + asEvent
	_, err := tx.Exec(ctx, sql, m.Ref.ID, eventArg(e))
	return err
}

func noSessionIsNil(err error) error {
	if errors.Is(err, identity.ErrNoSession) {
		return nil
	}
	return err
}

// speak has the mail in the language of an account, where that has one.
func (m *mail) speak(language string) {
	if language != "" {
		m.Language = language
	}
}

// stillTaken is true of a mail that was not taken anew.
const stillTaken = ` WHERE id = $1 AND taken = $2`

// GiveUpMail implements identity.Store. A second run finds no mail.
func (s *Store) GiveUpMail(ctx context.Context, ref identity.MailRef, limit identity.Rate) error {
	const sql = `
		WITH gone AS (
			DELETE FROM mails` + stillTaken + ` RETURNING counted, canonical_recipient
		)
		UPDATE limits SET until = until - $3::interval FROM gone
		WHERE key = sha256(convert_to('mail:' || gone.counted || ':' || gone.canonical_recipient, 'UTF8'))`
	if limit == (identity.Rate{}) {
		return s.RemoveMail(ctx, ref)
	}
	return s.exec(ctx, repeatable, sql, ref.ID, ref.Taken, limit.Interval())
}

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
