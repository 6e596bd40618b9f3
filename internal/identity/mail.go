package identity

import (
	"context"
	"time"
)

// Message is one mail to the owner of an address. Templates put it into words.
type Message struct {
	Ref      MailRef
	Purpose  MessagePurpose
	To       string        // the canonical address: the exact text that accounts are compared by
	Username string        // of the account or the sign-up; empty in MailEmailTaken
	Language string        // an Accept-Language (RFC 9110 section 12.5.4); empty: unknown
	Code     string        // empty if the mail brings none
	TTL      time.Duration // of the code
	Age      time.Duration // since it was queued, by the store's clock
}

// MailRef names one claim of a mail in the outbox. A claim ends with its lease: the
// Store ignores the outcome that an earlier claimant reports.
type MailRef struct {
	ID      int64
	Attempt int // 1 is the first; a claim that ended in MailReturned does not count
	Taken   int // counts all claims
}

// MessagePurpose is the kind of a mail. It chooses the template.
type MessagePurpose string

// The kinds of mail. The first four bring a code.
const (
	MailVerification    MessagePurpose = "verification"     // here is your code to verify the address
	MailRecovery        MessagePurpose = "recovery"         // here is your code to set a new password
	MailEmailChange     MessagePurpose = "email_change"     // here is your code to change the address
	MailInvitation      MessagePurpose = "invitation"       // here is your code to set the password of an account that was made for you
	MailEmailTaken      MessagePurpose = "email_taken"      // someone tried to use your address for another account
	MailPasswordChanged MessagePurpose = "password_changed" // your password was changed; was it you?
	MailEmailChanged    MessagePurpose = "email_changed"    // your account has another address now; was it you?
)

// MessagePurposes returns all kinds of mail. Each needs a template.
func MessagePurposes() []MessagePurpose {
	return []MessagePurpose{
		MailVerification, MailRecovery, MailEmailChange, MailInvitation, MailEmailTaken, MailPasswordChanged, MailEmailChanged,
	}
}

// NewMail is a requested mail that goes into the outbox. What it says, if anything, is
// decided when it is claimed; see resolve.
type NewMail struct {
	Purpose  MessagePurpose // one that brings a code
	To       string         // canonical; empty in QueueEmailChange: the user's address at the time of the claim
	Language string         // of the request
}

// Notice is a mail that informs the owner of an account about a change of it.
type Notice struct {
	Purpose  MessagePurpose
	Language string // of the caller that made the change; used if the account has none
}

func (s *Service) newMail(ctx context.Context, about MessagePurpose, to string) NewMail {
	return NewMail{Purpose: about, To: to, Language: CallerOf(ctx).language()}
}
