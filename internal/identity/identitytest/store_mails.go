package identitytest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// mail is a mail in the outbox.
type mail struct {
	identity.QueuedMail
	queuedAt, dueAt time.Time
}

func (s *Store) queue(m *mail) {
	s.mailIDs++
	m.Ref.ID, m.queuedAt, m.dueAt = s.mailIDs, s.now(), s.now()
	s.mails = append(s.mails, m)
}

// notice puts a notice to an account into the outbox, if there is one.
func (s *Store) notice(n identity.Notice, u *user) {
	if n.Purpose != "" {
		m := &mail{}
		m.Purpose, m.To, m.Username, m.Language = n.Purpose, u.canonicalEmail, u.Username, cmp.Or(u.Language, n.Language)
		s.queue(m)
	}
}

// QueueMail implements identity.Store.
func (s *Store) QueueMail(ctx context.Context, m identity.NewMail) error {
	defer s.leave()
	if err := s.enter(ctx, "QueueMail"); err != nil {
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
	_, u, err := s.enterLive(ctx, "QueueEmailChange", ref)
	if err != nil {
		return err
	}
	asked := &mail{}
	asked.Target, asked.UserID, asked.SessionID = m.To, ref.UserID, ref.ID
	asked.Purpose, asked.To, asked.Language = m.Purpose, cmp.Or(m.To, u.canonicalEmail), m.Language
	s.queue(asked)
	return nil
}

// ClaimMail implements identity.Store.
func (s *Store) ClaimMail(
	ctx context.Context, lease time.Duration, process identity.ProcessMail,
) (found bool, err error) {
	defer s.leave()
	if err := s.enter(ctx, "ClaimMail"); err != nil {
		return false, err
	}
	var due *mail
	for _, m := range s.mails {
		if !m.dueAt.After(s.now()) && (due == nil || m.dueAt.Before(due.dueAt)) {
			due = m
		}
	}
	if due == nil {
		return false, nil
	}
	due.dueAt = s.now().Add(lease)
	due.Ref.Attempt++
	due.Ref.Taken++
	queued := due.QueuedMail
	queued.Age = s.now().Sub(due.queuedAt)
	return true, process(ctx, queued, claimTx{s, due})
}

// claimTx is an identity.ClaimTx; its Store is locked.
type claimTx struct {
	*Store
	mail *mail
}

// FindOwner implements identity.ClaimTx.
func (tx claimTx) FindOwner(
	_ context.Context, p identity.Purpose, canonicalEmail, signUpID string,
) (owner identity.MailOwner, holder *identity.AddressHolder, err error) {
	if u, ok := tx.at(canonicalEmail); ok {
		holder = &identity.AddressHolder{Language: u.Language}
	}
	if signUpID != "" && holder == nil {
		for _, c := range tx.claims(canonicalEmail) {
			if c.ID == signUpID {
				return c.mailOwner(p, canonicalEmail), nil, nil
			}
		}
		return identity.MailOwner{}, nil, nil
	}
	if found, err := tx.owner(canonicalEmail, p); err == nil {
		owner = found.mailOwner(p, canonicalEmail)
	}
	return owner, holder, nil
}

// FindAsker implements identity.ClaimTx.
func (tx claimTx) FindAsker(
	_ context.Context, ref identity.SessionRef, target string,
) (owner identity.MailOwner, holder *identity.AddressHolder, err error) {
	_, u, err := tx.live(ref)
	if err != nil {
		return identity.MailOwner{}, nil, err
	}
	if other, ok := tx.at(target); ok && other != u {
		holder = &identity.AddressHolder{Language: other.Language}
	}
	owner = claim{Claim: u.claim(), user: u}.mailOwner(identity.EmailChange, "")
	owner.Email = u.canonicalEmail
	return owner, holder, nil
}

func (c claim) mailOwner(p identity.Purpose, canonicalEmail string) identity.MailOwner {
	owner := identity.MailOwner{ID: c.ID, IsSignUp: c.IsSignUp, Username: c.Username}
	if c.IsSignUp {
		owner.Language = c.signUp.Language
	} else {
		owner.Language = c.user.Language
	}
	owner.Target = c.code(identity.NewCode{Purpose: p}, canonicalEmail).Target
	return owner
}

// CountMail implements identity.ClaimTx.
func (tx claimTx) CountMail(_ context.Context, kind, to string, rate identity.Rate) (allowed bool, err error) {
	if allowed = tx.useUp(mailLimit(kind, to), rate).Allowed; allowed {
		tx.mail.Counted = kind
	}
	return allowed, nil
}

// mailLimit returns the key of the limit of a recipient for a kind of mail.
func mailLimit(kind, to string) string { return kind + ":" + to }

// IssueCode implements identity.ClaimTx.
func (tx claimTx) IssueCode(_ context.Context, owner identity.MailOwner, c identity.NewCode, e identity.Event) error {
	tx.putCode(owner.ID, c)
	tx.record(e, owner.ID)
	return nil
}

// RemoveMail implements identity.ClaimTx.
func (tx claimTx) RemoveMail(_ context.Context, e identity.Event) error {
	tx.remove(tx.mail)
	tx.record(e, "")
	return nil
}

func (s *Store) remove(gone *mail) {
	s.mails = slices.DeleteFunc(s.mails, func(m *mail) bool { return m == gone })
}

// RenewMail implements identity.Store.
func (s *Store) RenewMail(ctx context.Context, ref identity.MailRef, lease time.Duration) error {
	return s.withClaimed(ctx, "RenewMail", ref, func(m *mail) { m.dueAt = s.now().Add(lease) })
}

// FinishMail implements identity.Store.
func (s *Store) FinishMail(
	ctx context.Context, ref identity.MailRef, o identity.MailOutcome, limit identity.Rate,
) error {
	return s.withClaimed(ctx, "FinishMail", ref, func(m *mail) {
		switch o.Result {
		case identity.MailPostponed:
			m.dueAt = s.now().Add(o.After)
		case identity.MailReturned:
			m.dueAt = s.now()
			m.Ref.Attempt--
			m.Ref.Taken++
		case identity.MailGivenUp:
			if m.Counted != "" && limit != (identity.Rate{}) {
				key := mailLimit(m.Counted, m.To)
				s.limits[key] = s.limits[key].Add(-limit.Interval())
			}
			s.remove(m)
		default:
			s.remove(m)
		}
	})
}

// withClaimed does something with a mail, unless it was claimed again.
func (s *Store) withClaimed(ctx context.Context, method string, ref identity.MailRef, do func(*mail)) error {
	defer s.leave()
	if err := s.enter(ctx, method); err != nil {
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
	if err := s.enter(ctx, "CountMails"); err != nil {
		return 0, 0, err
	}
	if len(s.mails) > 0 {
		oldest = s.now().Sub(s.mails[0].queuedAt)
	}
	return len(s.mails), oldest, nil
}
