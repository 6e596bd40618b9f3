package identity

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// QueuedMail is a mail as it stands in the outbox. Its Message says what was queued;
// what is sent is decided when the mail is claimed.
type QueuedMail struct {
	Message
	Target    string // MailEmailChange: the address that was asked for; empty: any
	UserID    string // MailEmailChange: the user that asked, and the session
	SessionID string
	SignUpID  string // MailVerification: the sign-up that the mail is for; empty: asked for by address
	Counted   string // what the mail was counted as against the limit of its recipient; empty: not yet
}

// MailOwner is the account or sign-up that a mailed code belongs to.
type MailOwner struct {
	ID       string
	IsSignUp bool
	Username string
	Email    string // of an account, proved and canonical; only from FindAsker
	Language string
	Target   string // the address that the code is good for, if the owner does not have it yet
}

// AddressHolder is the account that has an address, proved.
type AddressHolder struct {
	Language string
}

// ClaimTx is the transaction of a claim. Whatever it finds stays locked until the claim
// is committed, so that no code goes to an address that is being given up.
type ClaimTx interface {
	// FindOwner finds the owner of a code for an address, as IssueCode does, and the account that has the address; both
	// may be missing. If signUpID is not empty, no other sign-up is the owner.
	FindOwner(ctx context.Context, p Purpose, canonicalEmail, signUpID string) (MailOwner, *AddressHolder, error)

	// FindAsker finds the user of a live session, and the other account that has the
	// target, if there is one. ErrNoSession.
	FindAsker(ctx context.Context, s SessionRef, target string) (MailOwner, *AddressHolder, error)

	// CountMail counts the mail as one of a kind to a recipient, if rate allows it.
	CountMail(ctx context.Context, kind, to string, rate Rate) (allowed bool, err error)

	// IssueCode makes c the only live code of its purpose for the owner.
	IssueCode(ctx context.Context, owner MailOwner, c NewCode, e Event) error

	// RemoveMail removes the mail from the outbox.
	RemoveMail(ctx context.Context, e Event) error
}

// ProcessMail decides what becomes of a mail, in the transaction of its claim.
type ProcessMail func(ctx context.Context, q QueuedMail, tx ClaimTx) error

// MailClaim says how a mail is claimed.
type MailClaim struct {
	Lease time.Duration
	Now   time.Time // decides whether the session that asked for a change of address is alive
	Limit Rate      // of requested mails, by recipient and kind; zero: no limit
	// Invitation is the lifetime of the codes of MailInvitation.
	Invitation time.Duration
	Withheld   Event // recorded if the limit allows no more
	// Issue makes the code that the mail with this id brings, and its event. The result is not always used.
	Issue func(mailID int64, p Purpose) (NewCode, Event)
}

// ClaimedMail is a mail that is to be sent, still without the text of its code.
type ClaimedMail struct {
	Message
	UserID   string // the owner of the last code that Issue made: an account or a sign-up; empty if the mail brings none
	Withheld bool   // the recipient's limit allowed no more, and the mail was removed
}

// ClaimMail claims the mail that has been due the longest. A mail that has nothing to say is removed, each in its own
// transaction, and the next one is claimed. ok is false if no mail is due.
func ClaimMail(ctx context.Context, store Store, c MailClaim) (m ClaimedMail, ok bool, err error) {
	for {
		says := false
		found, err := store.ClaimMail(ctx, c.Lease, func(ctx context.Context, q QueuedMail, tx ClaimTx) (err error) {
			m, says, err = c.process(ctx, q, tx)
			return err
		})
		switch {
		case err != nil || !found:
			return ClaimedMail{}, false, err
		case says:
			return m, true, nil
		}
	}
}

// process resolves a mail, counts it against the limit and issues its code.
func (c MailClaim) process(ctx context.Context, q QueuedMail, tx ClaimTx) (m ClaimedMail, says bool, err error) {
	r, says, err := resolve(ctx, q, tx, c.Now)
	if err != nil {
		return ClaimedMail{}, false, err
	}
	if !says {
		return ClaimedMail{}, false, tx.RemoveMail(ctx, Event{})
	}
	m.Message = r.Message
	if r.countsAs != "" && r.countsAs != q.Counted && c.Limit != (Rate{}) {
		allowed, err := tx.CountMail(ctx, r.countsAs, r.To, c.Limit)
		if err != nil {
			return ClaimedMail{}, false, err
		}
		if !allowed {
			m.Withheld = true
			return m, true, tx.RemoveMail(ctx, c.Withheld)
		}
	}
	if r.brings == "" {
		return m, true, nil
	}
	code, issued := c.Issue(q.Ref.ID, r.brings)
	code.Target = r.owner.Target
	if r.Purpose == MailInvitation {
		code.TTL = c.Invitation
	}
	if r.conceals {
		issued = Event{}
	} else {
		m.UserID = r.owner.ID
	}
	return m, true, tx.IssueCode(ctx, r.owner, code, issued)
}

// resolution is what a mail says and what it brings.
type resolution struct {
	Message
	countsAs string    // the kind of mail in the limit of its recipient; empty: not limited
	brings   Purpose   // of the code; empty: none
	owner    MailOwner // of the code
	conceals bool      // the code replaces the former one but is sent to no one
}

// resolve decides who receives what. It is the only place that does:
//
//	MailVerification of a sign-up   if an account has the address, its owner receives
//	                                MailEmailTaken; else a code for that sign-up
//	MailVerification, MailRecovery, a code for its owner, as IssueCode finds it
//	MailInvitation
//	MailEmailChange                 a code for the address, or for any, if the session
//	                                that asked is alive. If another account has the
//	                                address, the code is still made, so that the former
//	                                one is void either way, but the owner of the address
//	                                receives MailEmailTaken, and no one the code
//	all others                      as they were queued
//
// A code is only sent to the address that it proves. says is false if no one is to receive anything.
//
// A change of address counts against the limit of the account that asked for it, so
// that no one uses up the mails of another account.
func resolve(ctx context.Context, q QueuedMail, tx ClaimTx, now time.Time) (r resolution, says bool, err error) {
	r.Message = q.Message
	switch q.Purpose {
	case MailVerification, MailRecovery, MailInvitation:
		brings := Recovery
		if q.Purpose == MailVerification {
			brings = Verification
		}
		owner, holder, err := tx.FindOwner(ctx, brings, q.To, q.SignUpID)
		switch {
		case err != nil:
			return r, false, err
		case q.SignUpID != "" && holder != nil:
			r.tell(*holder)
			r.countsAs = string(r.Purpose)
		case owner.ID == "":
			return r, false, nil
		default:
			r.bring(brings, owner)
			r.countsAs = string(r.Purpose)
		}
	case MailEmailChange:
		ref := SessionRef{ID: q.SessionID, UserID: q.UserID, Now: now}
		owner, holder, err := tx.FindAsker(ctx, ref, q.Target)
		if errors.Is(err, ErrNoSession) {
			return r, false, nil
		}
		if err != nil {
			return r, false, err
		}
		owner.Target = q.Target
		r.countsAs = string(r.Purpose) + " of " + owner.ID
		r.bring(EmailChange, owner)
		switch {
		case q.Target == "":
			r.To = owner.Email
		case holder != nil:
			r.tell(*holder)
			r.conceals = true
		}
	}
	return r, true, nil
}

// bring makes it a mail that brings the owner a code.
func (r *resolution) bring(p Purpose, owner MailOwner) {
	r.brings, r.owner, r.Username = p, owner, owner.Username
	r.speak(owner.Language)
}

// tell makes it a mail to the holder of the address: someone tried to use it.
func (r *resolution) tell(holder AddressHolder) {
	r.Purpose, r.Username = MailEmailTaken, ""
	r.speak(holder.Language)
}

// speak sets the language of the recipient, if it is known.
func (r *resolution) speak(language string) {
	if language != "" {
		r.Language = language
	}
}

// MailResult is how the sending of a claimed mail ended.
type MailResult string

// The results.
const (
	MailSent      MailResult = "sent"      // removes the mail
	MailGivenUp   MailResult = "given up"  // removes the mail, which no longer counts against its recipient's limit
	MailPostponed MailResult = "postponed" // makes the mail due again after MailOutcome.After
	MailReturned  MailResult = "returned"  // makes the mail due at once; the attempt does not count
)

// MailOutcome is what became of a claimed mail.
type MailOutcome struct {
	Result MailResult
	After  time.Duration // with MailPostponed
}

// ClaimMail claims the mail that has been due the longest, for the time of the lease, and makes the code that it
// brings. The code is made no earlier, so that no code is ever stored in the clear, and its lifetime starts when it is
// sent. A mail without an outcome is due again after the lease, and then brings another code. Mails beyond the limit of
// their recipients are removed and recorded. ok is false if no mail is due.
func (s *Service) ClaimMail(ctx context.Context, lease time.Duration) (m Message, ok bool, err error) {
	var (
		text string
		code NewCode
		e    Event
	)
	withheld := s.event(ctx, EventMailWithheld, "", "")
	claim := MailClaim{
		Lease: lease, Limit: s.policy.LimitMails, Withheld: s.audited(withheld), Invitation: s.policy.InvitationTTL,
		Issue: func(mailID int64, p Purpose) (NewCode, Event) {
			text, code = newCode(p, s.codeTTL(p))
			e = s.event(ctx, EventCodeIssued, "", "", purposeAttr(p), slog.Int64("mail", mailID))
			return code, s.audited(e)
		},
	}
	for {
		claim.Now = s.now()
		claimed, ok, err := ClaimMail(ctx, s.store, claim)
		switch {
		case err != nil || !ok:
			return Message{}, false, err
		case claimed.Withheld:
			s.logEvent(ctx, withheld)
			continue
		case claimed.UserID != "":
			claimed.Code, claimed.TTL = text, s.mailedTTL(claimed.Purpose, code.Purpose)
			e.UserID = claimed.UserID
			s.logEvent(ctx, e)
		}
		return claimed.Message, true, nil
	}
}

// RenewMail extends the lease of a claimed mail.
func (s *Service) RenewMail(ctx context.Context, ref MailRef, lease time.Duration) error {
	return s.store.RenewMail(ctx, ref, lease)
}

// FinishMail ends a claim.
func (s *Service) FinishMail(ctx context.Context, ref MailRef, o MailOutcome) error {
	return s.store.FinishMail(ctx, ref, o, s.policy.LimitMails)
}

// CountMails returns how many mails are in the outbox, and the age of the oldest.
func (s *Service) CountMails(ctx context.Context) (queued int, oldest time.Duration, err error) {
	return s.store.CountMails(ctx)
}
