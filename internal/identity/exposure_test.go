package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

func TestSignUpInPublicIsAnsweredTheSameWhicheverAccountsExist(t *testing.T) {
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
			f := newFixture(t, public)
			edsger, _ := f.verified("edsger")
			f.store.take()
			hashed := f.hasher.Stats().Done
			in := signUpOf(c.username)
			in.Email = c.email
			code := must(f.SignUp(in))(f)
			f.equal("the answer", code, identity.Code{})
			f.equal("calls of the store", f.store.take(), "CreateSignUpConcealed")
			f.equal("number of hashes", f.hasher.Stats().Done-hashed, int64(1))
			f.equal("sign-ups audited", f.audited("signed up"), 2)
			m := f.mail()
			f.equal("a code was mailed", m.Code != "", c.want.Purpose == identity.MailVerification)
			m.Code = ""
			f.equal("the message", m, c.want)
			f.signIn(edsger) // their account has not changed
		})
	}
}

func TestCodeRequestInPublicIsAnsweredTheSameWhicheverAccountsExist(t *testing.T) {
	type ask = func(f *fixture, email string) (identity.Code, error)
	asks := map[identity.MessagePurpose]ask{
		identity.MailVerification: (*fixture).NewVerificationCode,
		identity.MailRecovery:     (*fixture).ForgotPassword,
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
			f := newFixture(t, public)
			f.verified("grace")
			f.unverified("edsger")
			suspended, _ := f.verified("barbara")
			f.ok(f.memory.Suspend(t.Context(), suspended.id, true))
			f.store.take()
			audit := f.audit.String()
			code := must(asks[c.purpose](f, c.email))(f)
			f.equal("the answer", code, identity.Code{})
			f.equal("calls of the store", f.store.take(), "QueueMail")
			f.equal("audit trail", f.audit.String(), audit)
			if !c.mailed {
				f.noMail()
				return
			}
			m := f.mail()
			f.equal("codes issued, audited", f.audited("code issued"), strings.Count(audit, `"code issued"`)+1)
			f.equal("purpose of the mail", m.Purpose, c.purpose)
			f.equal("recipient", m.To, strings.ToLower(c.email))
			f.equal("length of the code", len(m.Code), 26)
		})
	}
}

func TestCodeThatWasMailedIsValid(t *testing.T) {
	f := newFixture(t, public)
	p, _ := f.verified("grace")
	must(f.ForgotPassword(p.email))(f)
	f.ok(f.ResetPassword(f.mail().Code, "", another))
	f.equal("purpose of the mail to the owner", f.mail().Purpose, identity.MailPasswordChanged)
	p.password = another
	tokens := f.signIn(p)

	code := must(f.RequestEmailChange(tokens.AccessToken, "new@mail.example"))(f)
	f.equal("the answer", code, identity.Code{})
	m := f.mail()
	f.equal("recipient", m.To, "new@mail.example")
	u := must(f.ChangeEmail(tokens.AccessToken, m.Code, "new@mail.example"))(f)
	f.equal("recipient of the notice", f.mail().To, p.email)
	f.equal("it is verified", u.EmailVerified, true)

	must(f.RequestEmailChange(tokens.AccessToken, ""))(f)
	m = f.mail()
	f.equal("recipient of a code for any address", m.To, "new@mail.example")
	f.equal("purpose of the mail", m.Purpose, identity.MailEmailChange)
	u = must(f.ChangeEmail(tokens.AccessToken, m.Code, "newer@mail.example"))(f)
	f.equal("it is verified", u.EmailVerified, false)
}

func TestEmailChangeInPublicRevealsNoOtherAccount(t *testing.T) {
	f := newFixture(t, public)
	_, tokens := f.verified("grace")
	other, _ := f.verified("edsger")

	f.store.take()
	code := must(f.RequestEmailChange(tokens.AccessToken, other.email))(f)
	f.equal("the answer", code, identity.Code{})
	f.equal("calls of the store", f.store.take(), "QueueEmailChange")
	f.equal("mail to the owner", f.mail(), identity.Message{To: other.email, Purpose: identity.MailEmailTaken})

	must(f.RequestEmailChange(tokens.AccessToken, ""))(f)
	for _, email := range []string{other.email, "nobody@mail.example"} {
		u := must(f.ChangeEmail(tokens.AccessToken, f.mail().Code, email))(f)
		f.equal("the address", u.Email, email)
		f.equal("it is verified", u.EmailVerified, false)
		f.equal("mail to the owner", f.mail().Purpose, identity.MailEmailChanged)
		must(f.RequestEmailChange(tokens.AccessToken, ""))(f)
	}
	f.mail()
	must(f.NewVerificationCode(other.email))(f)
	f.noMail()
	f.signIn(other)
}

func TestMailNotifiesTheOwnerOfAChange(t *testing.T) {
	for _, sends := range []bool{true, false} {
		f := newFixture(t, func(p *identity.Policy) { p.SendsMail = sends })
		p, tokens := f.verified("grace")
		hears := func(about identity.MessagePurpose) {
			t.Helper()
			if !sends {
				f.noMail()
				return
			}
			f.equal("the message", f.mail(), identity.Message{To: p.email, Purpose: about, Username: p.username})
		}
		f.ok(f.ChangePassword(tokens.AccessToken, p.password, another))
		hears(identity.MailPasswordChanged)
		code := must(f.ForgotPassword(p.email))(f)
		f.ok(f.ResetPassword(code.Text, "", p.password))
		hears(identity.MailPasswordChanged)
		tokens = f.signIn(p)
		code = must(f.RequestEmailChange(tokens.AccessToken, ""))(f)
		must(f.ChangeEmail(tokens.AccessToken, code.Text, "new@mail.example"))(f)
		hears(identity.MailEmailChanged)
	}
}

func TestMailIsLimitedForEachRecipient(t *testing.T) {
	f := newFixture(t, public, func(p *identity.Policy) { p.LimitMails = identity.Rate{Count: 3, Per: time.Hour} })
	p, _ := f.verified("grace")
	for range 5 { // these send no mail, so they do not count
		must(f.NewVerificationCode(p.email))(f)
		f.noMail()
	}
	ask := func() {
		must(f.ForgotPassword("Grace@mail.EXAMPLE"))(f)
	}
	var last string
	for range 3 {
		ask()
		last = f.mail().Code
	}
	for range 3 {
		ask()
		f.noMail()
	}
	f.equal("withheld, audited", f.audited("mail withheld: too many to its recipient"), 3)
	f.ok(f.ResetPassword(last, "", another)) // the code that was sent last is valid
}

func TestMailThatIsClaimedAgainBringsAnotherCode(t *testing.T) {
	f := newFixture(t, public)
	p, _ := f.verified("grace")
	must(f.ForgotPassword(p.email))(f)
	take := func(attempt int) identity.Message {
		t.Helper()
		m, ok, err := f.service.ClaimMail(t.Context(), time.Minute)
		f.ok(err)
		if !ok || m.Ref.Attempt != attempt || m.TTL != time.Hour {
			t.Fatalf("claimed: %v, attempt %d, lifetime of the code %v", ok, m.Ref.Attempt, m.TTL)
		}
		f.keep(m.Code)
		return m
	}
	first := take(1)
	f.pass(2 * time.Minute) // the replica that claimed it is killed
	second := take(2)
	f.ok(f.finish(first, identity.MailSent, 0)) // the claim is stale, so this has no effect
	f.ok(f.finish(second, identity.MailReturned, 0))
	third := take(2)
	f.ok(f.finish(third, identity.MailPostponed, time.Hour))
	_, ok, err := f.service.ClaimMail(t.Context(), time.Minute)
	f.ok(err)
	f.equal("the mail is due", ok, false)
	f.pass(time.Hour)
	fourth := take(3)
	for _, m := range []identity.Message{first, second, third} {
		f.fails(f.ResetPassword(m.Code, "", another), identity.Invalid, wrongCode)
	}
	f.ok(f.ResetPassword(fourth.Code, "", another))
	f.ok(f.finish(fourth, identity.MailGivenUp, 0))
	f.equal("the remaining mail", f.mail().Purpose, identity.MailPasswordChanged)
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
		f := newFixture(t, public)
		in := signUpOf("grace")
		must(f.service.SignUp(identity.WithCaller(t.Context(), identity.Caller{Language: c.signUp}), in))(f)
		f.mail()
		must(f.service.ForgotPassword(identity.WithCaller(t.Context(), identity.Caller{Language: c.request}), in.Email))(f)
		f.equal("the language", f.mail().Language, c.want)
	}
}
