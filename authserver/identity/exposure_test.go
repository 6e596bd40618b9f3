package identity_test

import (
	"errors"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
)

func TestThePublicIsAnsweredTheSameAtSignUpWhoeverExists(t *testing.T) {
	for _, c := range []struct {
		what, username, email string
		want                  identity.Message
	}{
		{
			"free", "grace", "grace@mail.example",
			identity.Message{To: "grace@mail.example", Purpose: identity.MailVerification, Username: "grace", TTL: 24 * time.Hour},
		},
		{
			"the email is taken", "grace", "Edsger@mail.example",
			identity.Message{To: "Edsger@mail.example", Purpose: identity.MailEmailTaken},
		},
		{
			"the username is taken", "Edsger", "grace@mail.example",
			identity.Message{To: "grace@mail.example", Purpose: identity.MailUsernameTaken, Username: "Edsger"},
		},
		{
			"both are taken", "Edsger", "Edsger@mail.example",
			identity.Message{To: "Edsger@mail.example", Purpose: identity.MailEmailTaken},
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t, public)
			edsger, _ := w.unverified("edsger")
			w.store.take()
			hashed := w.hasher.Stats().Done
			in := signUpOf(c.username)
			in.Email = c.email
			code, err := w.SignUp(in)
			w.ok(err)
			w.equal("the answer", code, identity.Code{})
			w.equal("what the store was asked", w.store.take(), "CreateUser")
			w.equal("how much was hashed", w.hasher.Stats().Done-hashed, int64(1))
			m := w.mail.take(t)
			w.keep(m.Code)
			w.equal("a code was mailed:", m.Code != "", c.what == "free")
			m.Code = ""
			w.equal("the message", m, c.want)

			_, err = w.SignIn(edsger.username, edsger.password) // nothing of theirs has changed
			w.fails(err, identity.Forbidden, notVerified)

			w.mail.refuse = errors.New("the queue is full")
			_, err = w.SignUp(in)
			w.fails(err, identity.Unavailable, "mail cannot be sent now")
		})
	}
}

func TestThePublicIsAnsweredTheSameWhereACodeIsAskedForWhoeverExists(t *testing.T) {
	type ask = func(w *world, email string) (identity.Code, error)
	asks := map[identity.MessagePurpose]ask{
		identity.MailVerification: (*world).NewVerificationCode,
		identity.MailRecovery:     (*world).ForgotPassword,
	}
	for _, c := range []struct {
		what, email string
		purpose     identity.MessagePurpose
		mailed      bool
	}{
		{"verification, unknown", "nobody@mail.example", identity.MailVerification, false},
		{"verification, verified", "grace@mail.example", identity.MailVerification, false},
		{"verification, not verified", "Edsger@mail.example", identity.MailVerification, true},
		{"recovery, unknown", "nobody@mail.example", identity.MailRecovery, false},
		{"recovery, verified", "Grace@mail.example", identity.MailRecovery, true},
		{"recovery, not verified", "edsger@mail.example", identity.MailRecovery, true},
		{"recovery, suspended", "barbara@mail.example", identity.MailRecovery, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t, public)
			w.verified("grace")
			w.unverified("edsger")
			suspended, _ := w.verified("barbara")
			w.ok(w.memory.Suspend(t.Context(), suspended.id, true))
			w.store.take()
			for _, refuse := range []error{errors.New("the queue is full"), nil} {
				w.mail.refuse = refuse // as little as anything else does that tell who exists
				code, err := asks[c.purpose](w, c.email)
				w.ok(err)
				w.equal("the answer", code, identity.Code{})
				w.equal("what the store was asked", w.store.take(), "IssueCode")
			}
			if !c.mailed {
				w.equal("messages", len(w.mail.messages), 0)
				return
			}
			w.equal("mails not taken, audited", w.audited("mail not taken"), 1)
			m := w.mail.take(t)
			w.keep(m.Code)
			w.equal("what it is about", m.Purpose, c.purpose)
			c, err := w.memory.FindCredentials(t.Context(), identity.Login{CanonicalUsername: m.Username})
			w.ok(err)
			w.equal("it goes to the address as the owner gave it:", m.To, c.User.Email)
			w.equal("it brings a code:", len(m.Code), 26)
		})
	}
}

func TestCodesThatWereMailedHold(t *testing.T) {
	w := newWorld(t, public)
	p, _ := w.verified("grace")
	_, err := w.ForgotPassword(p.email)
	w.ok(err)
	w.ok(w.ResetPassword(w.mail.take(t).Code, "", another))
	p.password = another
	tokens := w.signIn(p)

	code, err := w.RequestEmailChange(tokens.AccessToken, "new@mail.example")
	w.ok(err)
	w.equal("the answer", code, identity.Code{})
	m := w.mail.take(t)
	w.equal("it goes to the new address:", m.To, "new@mail.example")
	u, err := w.ChangeEmail(tokens.AccessToken, m.Code, "new@mail.example")
	w.ok(err)
	w.equal("it is verified:", u.EmailVerified, true)

	_, err = w.RequestEmailChange(tokens.AccessToken, "")
	w.ok(err)
	m = w.mail.take(t)
	w.equal("a code for any address goes to the present one:", m.To, "new@mail.example")
	w.equal("what it is about", m.Purpose, identity.MailEmailChange)
	u, err = w.ChangeEmail(tokens.AccessToken, m.Code, "newer@mail.example")
	w.ok(err)
	w.equal("it is verified:", u.EmailVerified, false)
}

func TestAChangeOfAddressTellsThePublicNothingOfOthers(t *testing.T) {
	w := newWorld(t, public)
	_, tokens := w.verified("grace")
	other, _ := w.unverified("edsger")

	w.store.take()
	code, err := w.RequestEmailChange(tokens.AccessToken, other.email)
	w.ok(err)
	w.equal("the answer", code, identity.Code{})
	w.equal("what the store was asked", w.store.take(), "IssueEmailChange")
	w.equal("what the owner hears", w.mail.take(t), identity.Message{To: other.email, Purpose: identity.MailEmailTaken})
	w.mail.refuse = errors.New("the queue is full")
	for _, address := range []string{other.email, "free@mail.example"} {
		_, err = w.RequestEmailChange(tokens.AccessToken, address)
		w.fails(err, identity.Unavailable, "mail cannot be sent now")
	}
	w.mail.refuse = nil

	_, err = w.RequestEmailChange(tokens.AccessToken, "")
	w.ok(err)
	m := w.mail.take(t)
	_, err = w.ChangeEmail(tokens.AccessToken, m.Code, other.email)
	w.fails(err, identity.Invalid, wrongCode)
	_, err = w.ChangeEmail(tokens.AccessToken, m.Code, "free@mail.example") // another try costs another mail
	w.fails(err, identity.Invalid, wrongCode)
}
