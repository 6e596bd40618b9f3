package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
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
			identity.Message{To: "edsger@mail.example", Purpose: identity.MailEmailTaken},
		},
		{ // they learn that when they prove the address
			"the username is taken", "Edsger", "grace@mail.example",
			identity.Message{To: "grace@mail.example", Purpose: identity.MailVerification, Username: "Edsger", TTL: 24 * time.Hour},
		},
		{
			"both are taken", "Edsger", "Edsger@mail.example",
			identity.Message{To: "edsger@mail.example", Purpose: identity.MailEmailTaken},
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t, public)
			edsger, _ := w.verified("edsger")
			w.store.take()
			hashed := w.hasher.Stats().Done
			in := signUpOf(c.username)
			in.Email = c.email
			code := must(w.SignUp(in))(w)
			w.equal("the answer", code, identity.Code{})
			w.equal("calls of the store", w.store.take(), "CreateSignUpConcealed")
			w.equal("number of hashes", w.hasher.Stats().Done-hashed, int64(1))
			w.equal("sign-ups audited", w.audited("signed up"), 2)
			m := w.mail()
			w.equal("a code was mailed", m.Code != "", c.want.Purpose == identity.MailVerification)
			m.Code = ""
			w.equal("the message", m, c.want)
			w.signIn(edsger) // their account has not changed
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
			audit := w.audit.String()
			code := must(asks[c.purpose](w, c.email))(w)
			w.equal("the answer", code, identity.Code{})
			w.equal("calls of the store", w.store.take(), "QueueMail")
			w.equal("audit trail", w.audit.String(), audit)
			if !c.mailed {
				w.noMail()
				return
			}
			m := w.mail()
			w.equal("codes issued, audited", w.audited("code issued"), strings.Count(audit, `"code issued"`)+1)
			w.equal("purpose of the mail", m.Purpose, c.purpose)
			w.equal("recipient", m.To, strings.ToLower(c.email))
			w.equal("length of the code", len(m.Code), 26)
		})
	}
}

func TestCodesThatWereMailedHold(t *testing.T) {
	w := newWorld(t, public)
	p, _ := w.verified("grace")
	must(w.ForgotPassword(p.email))(w)
	w.ok(w.ResetPassword(w.mail().Code, "", another))
	w.equal("purpose of the mail to the owner", w.mail().Purpose, identity.MailPasswordChanged)
	p.password = another
	tokens := w.signIn(p)

	code := must(w.RequestEmailChange(tokens.AccessToken, "new@mail.example"))(w)
	w.equal("the answer", code, identity.Code{})
	m := w.mail()
	w.equal("recipient", m.To, "new@mail.example")
	u := must(w.ChangeEmail(tokens.AccessToken, m.Code, "new@mail.example"))(w)
	w.equal("recipient of the notice", w.mail().To, p.email)
	w.equal("it is verified", u.EmailVerified, true)

	must(w.RequestEmailChange(tokens.AccessToken, ""))(w)
	m = w.mail()
	w.equal("recipient of a code for any address", m.To, "new@mail.example")
	w.equal("purpose of the mail", m.Purpose, identity.MailEmailChange)
	u = must(w.ChangeEmail(tokens.AccessToken, m.Code, "newer@mail.example"))(w)
	w.equal("it is verified", u.EmailVerified, false)
}

func TestAChangeOfAddressTellsThePublicNothingOfOthers(t *testing.T) {
	w := newWorld(t, public)
	_, tokens := w.verified("grace")
	other, _ := w.verified("edsger")

	w.store.take()
	code := must(w.RequestEmailChange(tokens.AccessToken, other.email))(w)
	w.equal("the answer", code, identity.Code{})
	w.equal("calls of the store", w.store.take(), "QueueEmailChange")
	w.equal("mail to the owner", w.mail(), identity.Message{To: other.email, Purpose: identity.MailEmailTaken})

	must(w.RequestEmailChange(tokens.AccessToken, ""))(w)
	for _, email := range []string{other.email, "nobody@mail.example"} {
		u := must(w.ChangeEmail(tokens.AccessToken, w.mail().Code, email))(w)
		w.equal("the address", u.Email, email)
		w.equal("it is verified", u.EmailVerified, false)
		w.equal("mail to the owner", w.mail().Purpose, identity.MailEmailChanged)
		must(w.RequestEmailChange(tokens.AccessToken, ""))(w)
	}
	w.mail()
	must(w.NewVerificationCode(other.email))(w)
	w.noMail()
	w.signIn(other)
}

func TestTheOwnerHearsOfAChangeByMailWhereThereIsAny(t *testing.T) {
	for _, sends := range []bool{true, false} {
		w := newWorld(t, func(p *identity.Policy) { p.SendsMail = sends })
		p, tokens := w.verified("grace")
		hears := func(about identity.MessagePurpose) {
			t.Helper()
			if !sends {
				w.noMail()
				return
			}
			w.equal("the message", w.mail(), identity.Message{To: p.email, Purpose: about, Username: p.username})
		}
		w.ok(w.ChangePassword(tokens.AccessToken, p.password, another))
		hears(identity.MailPasswordChanged)
		code := must(w.ForgotPassword(p.email))(w)
		w.ok(w.ResetPassword(code.Text, "", p.password))
		hears(identity.MailPasswordChanged)
		tokens = w.signIn(p)
		code = must(w.RequestEmailChange(tokens.AccessToken, ""))(w)
		must(w.ChangeEmail(tokens.AccessToken, code.Text, "new@mail.example"))(w)
		hears(identity.MailEmailChanged)
	}
}

func TestARecipientIsSentAsManyMailsAsThePolicySays(t *testing.T) {
	w := newWorld(t, public, func(p *identity.Policy) { p.LimitMails = identity.Rate{Count: 3, Per: time.Hour} })
	p, _ := w.verified("grace")
	for range 5 { // these send no mail, so they do not count
		must(w.NewVerificationCode(p.email))(w)
		w.noMail()
	}
	ask := func() {
		must(w.ForgotPassword("Grace@mail.EXAMPLE"))(w)
	}
	var last string
	for range 3 {
		ask()
		last = w.mail().Code
	}
	for range 3 {
		ask()
		w.noMail()
	}
	w.equal("withheld, audited", w.audited("mail withheld: too many to its recipient"), 3)
	w.ok(w.ResetPassword(last, "", another)) // the code that was sent last is valid
}

func TestAMailThatIsTakenAgainBringsAnotherCode(t *testing.T) {
	w := newWorld(t, public)
	p, _ := w.verified("grace")
	must(w.ForgotPassword(p.email))(w)
	take := func(attempt int) identity.Message {
		t.Helper()
		m, ok, err := w.service.ClaimMail(t.Context(), time.Minute)
		w.ok(err)
		if !ok || m.Ref.Attempt != attempt || m.TTL != time.Hour {
			t.Fatalf("claimed: %v, attempt %d, lifetime of the code %v", ok, m.Ref.Attempt, m.TTL)
		}
		w.keep(m.Code)
		return m
	}
	first := take(1)
	w.pass(2 * time.Minute) // the replica that claimed it is killed
	second := take(2)
	w.ok(w.finish(first, identity.MailSent, 0)) // the claim is stale, so this has no effect
	w.ok(w.finish(second, identity.MailReturned, 0))
	third := take(2)
	w.ok(w.finish(third, identity.MailPostponed, time.Hour))
	_, ok, err := w.service.ClaimMail(t.Context(), time.Minute)
	w.ok(err)
	w.equal("the mail is due", ok, false)
	w.pass(time.Hour)
	fourth := take(3)
	for _, m := range []identity.Message{first, second, third} {
		w.fails(w.ResetPassword(m.Code, "", another), identity.Invalid, wrongCode)
	}
	w.ok(w.ResetPassword(fourth.Code, "", another))
	w.ok(w.finish(fourth, identity.MailGivenUp, 0))
	w.equal("the remaining mail", w.mail().Purpose, identity.MailPasswordChanged)
}

func TestMailIsInTheLanguageOfTheSignUpElseOfTheRequest(t *testing.T) {
	for _, c := range []struct{ signUp, request, want string }{
		{"de-CH, de;q=0.9", "fr", "de-CH, de;q=0.9"},
		{"", "fr", "fr"},
		{"", "", ""},
		{"d\x00e\n", "fr", "de"},
		{"dé", "fr", "d"},
		{strings.Repeat("de,", 100), "fr", strings.Repeat("de,", 84) + "de"},
		{strings.Repeat("x", 300), "fr", "fr"},
	} {
		w := newWorld(t, public)
		in := signUpOf("grace")
		must(w.service.SignUp(identity.WithCaller(t.Context(), identity.Caller{Language: c.signUp}), in))(w)
		w.mail()
		must(w.service.ForgotPassword(identity.WithCaller(t.Context(), identity.Caller{Language: c.request}), in.Email))(w)
		w.equal("the language", w.mail().Language, c.want)
	}
}
