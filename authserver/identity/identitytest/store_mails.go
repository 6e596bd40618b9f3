package identitytest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
)

// mail is one of the outbox. Its Message is what it says itself; what is to be said
// is for TakeMail to find out.
type mail struct {
	identity.Message
	canonicalTo, target string
	userID, sessionID   string
	queuedAt, dueAt     time.Time
}

func (s *Store) queue(m *mail) {
	s.mailIDs++
	m.Ref.ID, m.queuedAt, m.dueAt = s.mailIDs, s.now(), s.now()
	s.mails = append(s.mails, m)
}

// allows uses up the limit of a recipient, where one more mail is within it.
func (s *Store) allows(canonicalTo string, r identity.Rate) bool {
	if r == (identity.Rate{}) {
		return true
	}
	now := s.now()
	from := s.limits[canonicalTo]
	if from.Before(now) {
		from = now
	}
	until := from.Add(r.Per / time.Duration(r.Count))
	if until.After(now.Add(r.Per)) {
		return false
	}
	s.limits[canonicalTo] = until
	return true
}

// notice puts the notice of ctx into the outbox, where there is one.
func (s *Store) notice(ctx context.Context, u *user) {
	if n, ok := identity.NoticeOf(ctx); ok {
		m := &mail{canonicalTo: u.canonicalEmail, userID: u.ID}
		m.Purpose, m.To, m.Username, m.Language = n.Purpose, u.Email, u.Username, cmp.Or(u.Language, n.Language)
		s.queue(m)
	}
}

// QueueMail implements identity.Store.
func (s *Store) QueueMail(ctx context.Context, m identity.NewMail) error {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return err
	}
	if s.allows(m.CanonicalTo, m.Limit) {
		asked := &mail{canonicalTo: m.CanonicalTo}
		asked.Purpose, asked.To, asked.Language = m.Purpose, m.To, m.Language
		s.queue(asked)
	}
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
	asked := &mail{
		canonicalTo: cmp.Or(m.CanonicalTo, u.canonicalEmail), target: m.CanonicalTo,
		userID: ref.UserID, sessionID: ref.ID,
	}
	asked.Purpose, asked.To, asked.Language = m.Purpose, cmp.Or(m.To, u.Email), m.Language
	if s.allows(asked.canonicalTo, m.Limit) {
		s.queue(asked)
	}
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
		taken, tells := s.resolve(ctx, *due, t)
		if tells {
			taken.Age = s.now().Sub(due.queuedAt)
			return taken, true, nil
		}
		s.remove(due)
	}
}

// resolve finds out who is to be told what, if anyone.
func (s *Store) resolve(ctx context.Context, m mail, t identity.MailTake) (taken identity.TakenMail, tells bool) {
	bringCode := func(u *user, p identity.Purpose) (identity.TakenMail, bool) {
		ctx, c := t.Issue(ctx, m.Ref.ID, p)
		c.Target = m.target
		s.putCode(u.ID, c)
		s.record(ctx, u.ID)
		m.Username, m.Language = u.Username, cmp.Or(u.Language, m.Language)
		return identity.TakenMail{Message: m.Message, UserID: u.ID}, true
	}
	refuse := func(owner *user) (identity.TakenMail, bool) {
		m.Purpose, m.Username, m.Language = identity.MailEmailTaken, "", cmp.Or(owner.Language, m.Language)
		return identity.TakenMail{Message: m.Message}, true
	}
	owner, found := s.at(m.canonicalTo)
	switch m.Purpose {
	case identity.MailVerification:
		refused := m.Username != "" && m.userID == ""
		switch {
		case refused && found:
			return refuse(owner)
		case refused:
			m.Purpose = identity.MailUsernameTaken
			return identity.TakenMail{Message: m.Message}, true
		case !found || owner.EmailVerified || m.userID != "" && m.userID != owner.ID:
			return identity.TakenMail{}, false
		}
		m.To = owner.Email
		return bringCode(owner, identity.Verification)
	case identity.MailRecovery:
		if !found {
			return identity.TakenMail{}, false
		}
		m.To = owner.Email
		return bringCode(owner, identity.Recovery)
	case identity.MailEmailChange:
		_, u, err := s.live(identity.SessionRef{ID: m.sessionID, UserID: m.userID, Now: t.Now})
		switch {
		case err != nil:
			return identity.TakenMail{}, false
		case m.target == "":
			m.To = u.Email
		case found && owner != u:
			return refuse(owner)
		}
		return bringCode(u, identity.EmailChange)
	default:
		return identity.TakenMail{Message: m.Message}, true
	}
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
