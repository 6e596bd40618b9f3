package identitytest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// mail is one of the outbox. Its Message is what it says itself; what is to be said
// is for TakeMail to find out.
type mail struct {
	identity.Message
	target            string
	signUpID          string
	userID, sessionID string
	counted           string // what it was counted as against the limit; empty: not yet
	queuedAt, dueAt   time.Time
}

func (s *Store) queue(m *mail) {
	s.mailIDs++
	m.Ref.ID, m.queuedAt, m.dueAt = s.mailIDs, s.now(), s.now()
	s.mails = append(s.mails, m)
}

// allows uses up the limit of a recipient, if one more mail of a kind is within it.
func (s *Store) allows(what, to string, r identity.Rate) bool {
	if r == (identity.Rate{}) {
		return true
	}
	now := s.now()
	from := s.limits[what+":"+to]
	if from.Before(now) {
		from = now
	}
	until := from.Add(r.Interval())
	if until.After(now.Add(r.Window())) {
		return false
	}
	s.limits[what+":"+to] = until
	return true
}

// notice puts a notice to an account into the outbox, if there is one.
func (s *Store) notice(n identity.Notice, u *user) {
	if n.Purpose != "" {
		m := &mail{userID: u.ID}
		m.Purpose, m.To, m.Username, m.Language = n.Purpose, u.canonicalEmail, u.Username, cmp.Or(u.Language, n.Language)
		s.queue(m)
	}
}

// QueueMail implements identity.Store.
func (s *Store) QueueMail(ctx context.Context, m identity.NewMail) error {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return err
	}
	asked := &mail{}
	asked.Purpose, asked.To, asked.Language = m.Purpose, m.To, m.Language
	s.queue(asked)
	return nil
}

// QueueEmailChange implements identity.Store.
func (s *Store) QueueEmailChange(ctx context.Context, ref identity.SessionRef, m identity.NewMail) error {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return err
	}
	_, u, err := s.live(ref)
	if err != nil {
		return err
	}
	asked := &mail{target: m.To, userID: ref.UserID, sessionID: ref.ID}
	asked.Purpose, asked.To, asked.Language = m.Purpose, cmp.Or(m.To, u.canonicalEmail), m.Language
	s.queue(asked)
	return nil
}

// TakeMail implements identity.Store.
func (s *Store) TakeMail(ctx context.Context, t identity.MailTake) (identity.TakenMail, bool, error) {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return identity.TakenMail{}, false, err
	}
	for {
		var due *mail
		for _, m := range s.mails {
			if !m.dueAt.After(s.now()) && (due == nil || m.dueAt.Before(due.dueAt)) {
				due = m
			}
		}
		if due == nil {
			return identity.TakenMail{}, false, nil
		}
		due.dueAt = s.now().Add(t.Lease)
		due.Ref.Attempt++
		due.Ref.Taken++
		says, code, owner := s.resolve(*due, t.Now)
		if says.Purpose == "" {
			s.remove(due)
			continue
		}
		countsAs := ""
		switch {
		case code == identity.EmailChange:
			countsAs = string(due.Purpose) + " of " + owner.ID
		case code != "" || says.Purpose == identity.MailEmailTaken:
			countsAs = string(says.Purpose)
		}
		if countsAs != due.counted && countsAs != "" {
			if !s.allows(countsAs, says.To, t.Limit) {
				s.remove(due)
				s.record(t.Withheld, "")
				return identity.TakenMail{Message: says, Withheld: true}, true, nil
			}
			due.counted = countsAs
		}
		taken := identity.TakenMail{Message: says}
		if code != "" {
			c, issued := t.Issue(due.Ref.ID, code)
			if c.Target = due.target; code == identity.Verification {
				c = owner.code(c, says.To)
			}
			s.putCode(owner.ID, c)
			if says.Purpose != identity.MailEmailTaken { // else nobody gets it
				s.record(issued, owner.ID)
				taken.UserID = owner.ID
			}
		}
		taken.Age = s.now().Sub(due.queuedAt)
		return taken, true, nil
	}
}

// resolve finds out what a mail says: with no purpose, nothing; with a code, to whom
// that belongs.
func (s *Store) resolve(m mail, now time.Time) (says identity.Message, code identity.Purpose, owner claim) {
	bringCode := func(p identity.Purpose, owner claim) (identity.Message, identity.Purpose, claim) {
		m.Username = owner.Username
		if owner.IsSignUp {
			m.Language = cmp.Or(owner.signUp.Language, m.Language)
		} else {
			m.Language = cmp.Or(owner.user.Language, m.Language)
		}
		return m.Message, p, owner
	}
	refuse := func(has *user) (identity.Message, identity.Purpose, claim) {
		m.Purpose, m.Username, m.Language = identity.MailEmailTaken, "", cmp.Or(has.Language, m.Language)
		return m.Message, "", claim{}
	}
	has, found := s.at(m.To)
	switch m.Purpose {
	case identity.MailVerification:
		if found && m.signUpID != "" {
			return refuse(has)
		}
		if m.signUpID != "" {
			for _, c := range s.claims(m.To) {
				if c.ID == m.signUpID {
					return bringCode(identity.Verification, c)
				}
			}
			return identity.Message{}, "", claim{}
		}
		if owner, err := s.owner(m.To, identity.Verification); err == nil {
			return bringCode(identity.Verification, owner)
		}
		return identity.Message{}, "", claim{}
	case identity.MailRecovery:
		if owner, err := s.owner(m.To, identity.Recovery); err == nil {
			return bringCode(identity.Recovery, owner)
		}
		return identity.Message{}, "", claim{}
	case identity.MailEmailChange:
		_, u, err := s.live(identity.SessionRef{ID: m.sessionID, UserID: m.userID, Now: now})
		switch {
		case err != nil:
			return identity.Message{}, "", claim{}
		case m.target == "":
			m.To = u.canonicalEmail
		}
		message, p, owner := bringCode(identity.EmailChange, claim{Claim: u.claim(), user: u})
		if m.target != "" && found && has != u {
			m.Message = message
			message, _, _ = refuse(has)
		}
		return message, p, owner
	default:
		return m.Message, "", claim{}
	}
}

// GiveUpMail implements identity.Store.
func (s *Store) GiveUpMail(ctx context.Context, ref identity.MailRef, limit identity.Rate) error {
	return s.end(ctx, ref, func(m *mail) {
		s.remove(m)
		if m.counted != "" && limit != (identity.Rate{}) {
			key := m.counted + ":" + m.To
			s.limits[key] = s.limits[key].Add(-limit.Interval())
		}
	})
}

func (s *Store) remove(gone *mail) {
	s.mails = slices.DeleteFunc(s.mails, func(m *mail) bool { return m == gone })
}

// RemoveMail implements identity.Store.
func (s *Store) RemoveMail(ctx context.Context, ref identity.MailRef) error {
	return s.end(ctx, ref, s.remove)
}

// PostponeMail implements identity.Store.
func (s *Store) PostponeMail(ctx context.Context, ref identity.MailRef, after time.Duration) error {
	return s.end(ctx, ref, func(m *mail) { m.dueAt = s.now().Add(after) })
}

// ReturnMail implements identity.Store.
func (s *Store) ReturnMail(ctx context.Context, ref identity.MailRef) error {
	return s.end(ctx, ref, func(m *mail) {
		m.dueAt = s.now()
		m.Ref.Attempt--
		m.Ref.Taken++
	})
}

// end does something with a mail that was not taken anew.
func (s *Store) end(ctx context.Context, ref identity.MailRef, do func(*mail)) error {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return err
	}
	for _, m := range s.mails {
		if m.Ref.ID == ref.ID && m.Ref.Taken == ref.Taken {
			do(m)
			return nil
		}
	}
	return nil
}

// CountMails implements identity.Store.
func (s *Store) CountMails(ctx context.Context) (queued int, oldest time.Duration, err error) {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return 0, 0, err
	}
	if len(s.mails) > 0 {
		oldest = s.now().Sub(s.mails[0].queuedAt)
	}
	return len(s.mails), oldest, nil
}
