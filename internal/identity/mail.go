package identity

import (
	"context"
	"log/slog"
	"time"
)

// Message is one mail to the owner of an address, ready to be put into words.
type Message struct {
	Ref      MailRef
	Purpose  MessagePurpose
	To       string        // the canonical address: the very text that accounts are compared by
	Username string        // the account's or the sign-up's; empty in MailEmailTaken
	Language string        // an Accept-Language (RFC 9110 section 12.5.4); empty: not said
	Code     string        // empty in messages that bring none
	TTL      time.Duration // of the code
	Age      time.Duration // since it was queued, by the store's clock
}

// MailRef names one taking of a mail that is in the outbox. What an earlier taker
// says of the mail, after its lease, is not believed.
type MailRef struct {
	ID      int64
	Attempt int // 1 is the first; those after which the mail was returned do not count
	Taken   int // all of them count
}

// MessagePurpose is what a message is about; it chooses the template.
type MessagePurpose string

// What messages are about. The first three bring a code.
const (
	MailVerification    MessagePurpose = "verification"     // here is your code to verify the address
	MailRecovery        MessagePurpose = "recovery"         // here is your code to set a new password
	MailEmailChange     MessagePurpose = "email_change"     // here is your code to change the address
	MailEmailTaken      MessagePurpose = "email_taken"      // someone tried to use your address for another account
	MailPasswordChanged MessagePurpose = "password_changed" // your password was changed; was it you?
	MailEmailChanged    MessagePurpose = "email_changed"    // your account has another address now; was it you?
)

// NewMail is a mail that somebody asked for, to be put into the outbox. What it says,
// if anything, is found out when it is taken out again.
type NewMail struct {
	Purpose  MessagePurpose // one that brings a code
	To       string         // canonical; in QueueEmailChange empty: the user's address as it is when the mail is taken
	Language string         // of the request
}

// MailTake is what a Store needs to take a mail out of the outbox.
type MailTake struct {
	Lease    time.Duration
	Now      time.Time // decides whether a session that asks for a change of address is alive
	Limit    Rate      // of mails that somebody asked for, by recipient and purpose; zero: no limit
	Withheld Event     // is recorded if the limit allows no more
	// Issue makes the code that the mail of this id is to bring, and the event of it.
	// The Store may call it and not use what it gave.
	Issue func(mailID int64, p Purpose) (NewCode, Event)
}

// TakenMail is a mail on its way, without the text of its code.
type TakenMail struct {
	Message
	UserID   string // whose the code is that Issue gave last: an account, or a sign-up; empty if the mail brings none
	Withheld bool   // the limit of its recipient allowed no more, and the mail is gone
}

// Notice is what the owner of an account hears of a change of it.
type Notice struct {
	Purpose  MessagePurpose
	Language string // of who made the change, for an account that has none
}

func (s *Service) newMail(ctx context.Context, about MessagePurpose, to string) NewMail {
	return NewMail{Purpose: about, To: to, Language: CallerOf(ctx).language()}
}

// queueCode puts a mail into the outbox in place of an answer. Nobody is looked
// up: whoever exists, the work and the answer are the same.
func (s *Service) queueCode(ctx context.Context, about MessagePurpose, to string) (Code, error) {
	if err := s.store.QueueMail(ctx, s.newMail(ctx, about, to)); err != nil {
		return Code{}, storeFailure(err)
	}
	return Code{}, nil
}

// TakeMail takes the mail that is due longest out of the outbox, for the time of
// lease, and makes the code that it brings: only now, so that no code is ever kept
// in the clear, and so that its life begins when it is sent. Whoever takes a mail
// tells what became of it; else it is due again after the lease, with another code.
// Mails of which their recipients have had too many are left out, and recorded.
// It is false where no mail is due.
func (s *Service) TakeMail(ctx context.Context, lease time.Duration) (Message, bool, error) {
	var (
		text string
		code NewCode
		e    Event
	)
	issue := func(mailID int64, p Purpose) (NewCode, Event) {
		text, code = newCode(p, s.codeTTL(p))
		e = s.event(ctx, EventCodeIssued, "", "", purposeAttr(p), slog.Int64("mail", mailID))
		return code, s.audited(e)
	}
	withheld := s.event(ctx, EventMailWithheld, "", "")
	claim := MailTake{Limit: s.policy.LimitMails, Lease: lease, Withheld: s.audited(withheld), Issue: issue}
	for {
		claim.Now = s.now()
		taken, ok, err := s.store.TakeMail(ctx, claim)
		switch {
		case err != nil || !ok:
			return Message{}, false, err
		case taken.Withheld:
			s.logEvent(ctx, withheld)
			continue
		case taken.UserID != "":
			taken.Code, taken.TTL = text, code.TTL
			e.UserID = taken.UserID
			s.logEvent(ctx, e)
		}
		return taken.Message, true, nil
	}
}

// SentMail takes a mail that was sent out of the outbox for good.
func (s *Service) SentMail(ctx context.Context, ref MailRef) error {
	return s.store.RemoveMail(ctx, ref)
}

// GiveUpMail takes a mail that cannot be sent out of the outbox for good. It does not
// count against the limit of its recipient, who has not had it.
func (s *Service) GiveUpMail(ctx context.Context, ref MailRef) error {
	return s.store.GiveUpMail(ctx, ref, s.policy.LimitMails)
}

// PostponeMail has a mail that is not taken now tried again after a while.
func (s *Service) PostponeMail(ctx context.Context, ref MailRef, after time.Duration) error {
	return s.store.PostponeMail(ctx, ref, after)
}

// ReturnMail puts a mail back that nobody could be given: it is due at once, and
// the attempt does not count.
func (s *Service) ReturnMail(ctx context.Context, ref MailRef) error {
	return s.store.ReturnMail(ctx, ref)
}

// CountMails tells how many mails are in the outbox, and the age of the oldest.
func (s *Service) CountMails(ctx context.Context) (queued int, oldest time.Duration, err error) {
	return s.store.CountMails(ctx)
}
