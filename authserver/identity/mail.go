package identity

import "time"

// Message is one mail to the owner of an address, ready to be put into words.
type Message struct {
	Ref      MailRef
	Purpose  MessagePurpose
	To       string
	Username string        // the account's, or the one that was asked for; empty in MailEmailTaken
	Language string        // an Accept-Language (RFC 9110 section 12.5.4); empty: not said
	Code     string        // empty in messages that bring none
	TTL      time.Duration // of the code
	QueuedAt time.Time     // by the store's clock
	Age      time.Duration // since then, by the same clock
}

// MailRef names one attempt to send a mail that is in the outbox. What an earlier
// attempt says of the mail, after its lease, is not believed.
type MailRef struct {
	ID      int64
	Attempt int // 1 is the first
}

// MessagePurpose is what a message is about; it chooses the template.
type MessagePurpose string

// What messages are about. The first three bring a code.
const (
	MailVerification    MessagePurpose = "verification"     // here is your code to verify the address
	MailRecovery        MessagePurpose = "recovery"         // here is your code to set a new password
	MailEmailChange     MessagePurpose = "email_change"     // here is your code to change the address
	MailEmailTaken      MessagePurpose = "email_taken"      // someone tried to use your address for another account
	MailUsernameTaken   MessagePurpose = "username_taken"   // your sign-up made no account: choose another username
	MailPasswordChanged MessagePurpose = "password_changed" // your password was changed; was it you?
	MailEmailChanged    MessagePurpose = "email_changed"    // your account has another address now; was it you?
)
