package identitytest

import (
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

const lease = 3 * time.Minute

// limit allows a recipient two mails at once, and one more every half hour.
var limit = identity.Rate{Count: 2, Per: time.Hour}

func newMail(about identity.MessagePurpose, to string) identity.NewMail {
	return identity.NewMail{Purpose: about, To: to, Language: "de"}
}

// queue requests a mail to an address.
func (s *suite) queue(about identity.MessagePurpose, to string) {
	s.Helper()
	s.ok(s.QueueMail(s.Context(), newMail(about, to)))
}

// signUpConcealed stores a sign-up and requests its mail.
func (s *suite) signUpConcealed(n identity.NewSignUp) {
	s.Helper()
	s.ok(s.CreateSignUpConcealed(s.Context(), n, newMail(identity.MailVerification, n.CanonicalEmail), noEvent))
}

// claimMail claims a mail and returns the hash of its code.
func (s *suite) claimMail() (identity.ClaimedMail, identity.CodeHash, bool) {
	s.Helper()
	return s.claimMailRecording(noEvent)
}

// claimMailRecording claims a mail. It records the event if the mail brings a code or is withheld.
func (s *suite) claimMailRecording(e identity.Event) (identity.ClaimedMail, identity.CodeHash, bool) {
	s.Helper()
	var code identity.NewCode
	m, ok, err := identity.ClaimMail(s.Context(), s.Store, identity.MailClaim{
		Lease: lease, Now: s.now, Limit: s.limit, Withheld: e, Invitation: 3 * codeTTL,
		Issue: func(_ int64, p identity.Purpose) (identity.NewCode, identity.Event) {
			code = newCode(p)
			return code, e
		},
	})
	s.ok(err)
	return m, code.Hash, ok
}

// finish ends a claim.
func (s *suite) finish(ref identity.MailRef, r identity.MailResult) error {
	return s.FinishMail(s.Context(), ref, identity.MailOutcome{Result: r}, s.limit)
}

// postpone makes a claimed mail due again after some time.
func (s *suite) postpone(ref identity.MailRef, after time.Duration) error {
	return s.FinishMail(s.Context(), ref, identity.MailOutcome{Result: identity.MailPostponed, After: after}, s.limit)
}

// next claims the mail that must be there.
func (s *suite) next() (identity.ClaimedMail, identity.CodeHash) {
	s.Helper()
	m, h, ok := s.claimMail()
	if !ok {
		s.Fatal("no mail is due")
	}
	return m, h
}

// noMail fails if a mail is due.
func (s *suite) noMail() {
	s.Helper()
	if m, _, ok := s.claimMail(); ok {
		s.Errorf("a mail is due: %+v", m)
	}
}

// empty fails if a mail is in the outbox, due or not.
func (s *suite) empty() {
	s.Helper()
	s.noMail()
	queued, oldest, err := s.CountMails(s.Context())
	s.ok(err)
	equal(s, queued, 0)
	equal(s, oldest, 0)
}

// says compares a mail with what is expected, and removes it.
func (s *suite) says(m identity.ClaimedMail, want identity.ClaimedMail) {
	s.Helper()
	s.ok(s.finish(m.Ref, identity.MailSent))
	if m.Age < 0 {
		s.Errorf("queued %v ago", m.Age)
	}
	m.Ref, m.Age = identity.MailRef{}, 0
	equal(s, m, want)
}

func mailTo(about identity.MessagePurpose, to, username, language, userID string) identity.ClaimedMail {
	return identity.ClaimedMail{
		Message: identity.Message{Purpose: about, To: to, Username: username, Language: language}, UserID: userID,
	}
}

var mailSentences = []sentence{
	{"the mail of a concealed sign-up brings the code that proves it, to the canonical address", func(s *suite) {
		n := newSignUp("ada")
		n.Username, n.Email, n.Language = "Ada", "Ada@Example.com", "fr"
		s.signUpConcealed(n)
		m, h := s.next()
		s.says(m, mailTo(identity.MailVerification, "ada@example.com", "Ada", "fr", n.ID))
		s.empty()
		u := must(s.alone(h))(s)
		equal(s, u.ID, n.ID)
		equal(s, u.Language, "fr")
	}},
	{"each of several concealed sign-ups has its own code, whatever usernames accounts have", func(s *suite) {
		s.create("grace")
		first, second := at(address, "ada"), at(address, "grace")
		s.signUpConcealed(first)
		s.signUpConcealed(second)
		m, one := s.next()
		s.says(m, mailTo(identity.MailVerification, address, "ada", "de", first.ID))
		m, two := s.next()
		s.says(m, mailTo(identity.MailVerification, address, "grace", "de", second.ID))
		s.empty()
		s.taken(errOf(s.proves(one, second)), identity.TakenError{Username: true})
		must(s.proves(two, first))(s)
	}},
	{"a concealed sign-up with the address of an account changes nothing, and its owner is told by mail", func(s *suite) {
		first := newSignUp("ada")
		first.Language = "fr"
		u := s.prove(first)
		before := s.credentials(u)
		for _, name := range []string{"ada", "mallory"} {
			s.signUpConcealed(at(u.Email, name))
			m, h := s.next()
			s.says(m, mailTo(identity.MailEmailTaken, u.Email, "", "fr", ""))
			s.empty()
			s.is(errOf(s.alone(h)), identity.ErrNoCode)
		}
		equal(s, s.credentials(u), before)
	}},
	{"a mail of a sign-up brings nothing once that is gone", func(s *suite) {
		first, second := at(address, "ada"), at(address, "grace")
		s.signUpConcealed(second)
		must(s.proves(s.signUp(first), first))(s)
		u := s.credentials(identity.User{Email: address}).User
		s.ok(s.DeleteUser(s.Context(), s.openWith(u, first.PasswordHash), noEvent))
		s.empty()
	}},
	{"a mail that was asked for by address brings a code to whom it is of use, and to no one else", func(s *suite) {
		n := newSignUp("edsger")
		n.Email = "Edsger@Example.com"
		s.signUp(n)
		grace, barbara := s.create("grace"), s.create("barbara")
		s.suspend(barbara, true)
		mallory := s.create("mallory")
		ref := s.open(mallory)
		must(s.change(ref, s.issueEmailChange(ref, ""), newAddress))(s)
		for _, tc := range []struct {
			about    identity.MessagePurpose
			to, name string // empty: no mail
			id       string
		}{
			{identity.MailVerification, "edsger@example.com", "edsger", n.ID},
			{identity.MailVerification, newAddress, "mallory", mallory.ID},
			{identity.MailVerification, mallory.Email, "", ""},
			{identity.MailVerification, grace.Email, "", ""},
			{identity.MailVerification, "nobody@example.com", "", ""},
			{identity.MailRecovery, "edsger@example.com", "edsger", n.ID},
			{identity.MailRecovery, grace.Email, "grace", grace.ID},
			{identity.MailRecovery, barbara.Email, "barbara", barbara.ID},
			{identity.MailRecovery, newAddress, "", ""},
			{identity.MailRecovery, mallory.Email, "mallory", mallory.ID},
			{identity.MailRecovery, "nobody@example.com", "", ""},
			{identity.MailInvitation, barbara.Email, "barbara", barbara.ID},
			{identity.MailInvitation, "nobody@example.com", "", ""},
		} {
			s.queue(tc.about, tc.to)
			if tc.id == "" {
				s.empty()
				continue
			}
			m, h := s.next()
			s.says(m, mailTo(tc.about, tc.to, tc.name, "de", tc.id))
			if tc.about != identity.MailVerification {
				c := must(s.FindRecovery(s.Context(), h))(s)
				equal(s, c.ID, tc.id)
				continue
			}
			claims := must(s.FindClaims(s.Context(), h))(s)
			equal(s, claims[0].ID, tc.id)
		}
		s.empty()
	}},
	{"a code that is mailed lives from when its mail is taken, and takes the place of the one before", func(s *suite) {
		u := s.create("ada")
		former := s.issue(u, identity.Recovery)
		s.queue(identity.MailRecovery, u.Email)
		s.pass(2 * codeTTL)
		m, first := s.next()
		equal(s, m.Age >= 2*codeTTL, true)
		must(s.FindRecovery(s.Context(), first))(s)
		s.is(s.recover(u, former, otherHash, ""), identity.ErrNoCode)
		s.ok(s.postpone(m.Ref, 0))
		_, second := s.next()
		s.is(errOf(s.FindRecovery(s.Context(), first)), identity.ErrNoCode)
		s.ok(s.recover(u, second, otherHash, ""))
	}},
	{"the code of an invitation lives longer than that of a forgotten password", func(s *suite) {
		u := s.create("ada")
		for about, lives := range map[identity.MessagePurpose]error{identity.MailInvitation: nil, identity.MailRecovery: identity.ErrNoCode} {
			s.queue(about, u.Email)
			m, code := s.next()
			s.ok(s.finish(m.Ref, identity.MailSent))
			s.pass(2 * codeTTL)
			s.is(s.recover(u, code, otherHash, ""), lives)
		}
	}},
	{"the code of a mail and its event are both there, or neither", func(s *suite) {
		u := s.create("ada")
		issued := identity.Event{Name: "code issued"}
		s.queue(identity.MailRecovery, "nobody@example.com")
		_, _, ok := s.claimMailRecording(issued)
		equal(s, ok, false)
		equal(s, len(s.recorded()), 0)
		n := newSignUp("grace")
		s.signUpConcealed(n)
		s.queue(identity.MailRecovery, u.Email)
		s.ok(s.QueueEmailChange(s.Context(), s.open(u), newMail(identity.MailEmailChange, newAddress)))
		for _, owner := range []string{n.ID, u.ID, u.ID} {
			_, _, ok = s.claimMailRecording(issued)
			equal(s, ok, true)
			if got := s.recorded(); len(got) != 1 || !same(got[0], identity.Event{Name: "code issued", UserID: owner}) {
				s.Errorf("recorded %+v", got)
			}
		}
	}},
	{"a change of address is asked for by a live session, and its mail brings a code that is good for the address", func(s *suite) {
		n := newSignUp("ada")
		n.Email, n.Language = "Ada@Example.com", "fr"
		u := s.prove(n)
		u.Email = n.CanonicalEmail // the suite finds the account by its email
		ref := s.open(u)
		to := newMail(identity.MailEmailChange, newAddress)
		s.ok(s.QueueEmailChange(s.Context(), ref, to))
		m, h := s.next()
		s.says(m, mailTo(identity.MailEmailChange, newAddress, "ada", "fr", u.ID))
		s.is(errOf(s.change(ref, h, "else@example.com")), identity.ErrNoCode)

		anywhere := newMail(identity.MailEmailChange, "")
		s.ok(s.QueueEmailChange(s.Context(), ref, anywhere))
		m, h = s.next()
		s.says(m, mailTo(identity.MailEmailChange, "ada@example.com", "ada", "fr", u.ID))
		got := must(s.change(ref, h, "else@example.com"))(s)
		equal(s, got.EmailVerified, false)

		s.ok(s.QueueEmailChange(s.Context(), ref, to))
		_, h = s.next()
		got = must(s.change(ref, h, newAddress))(s)
		equal(s, got.EmailVerified, true)

		must(s.EndSession(s.Context(), ref, noEvent))(s)
		s.is(s.QueueEmailChange(s.Context(), ref, anywhere), identity.ErrNoSession)
	}},
	{"a mail for a change to an address that another has tells them, and brings no code", func(s *suite) {
		n := newSignUp("grace")
		n.Language = "fr"
		s.prove(n)
		u := s.create("ada")
		ref := s.open(u)
		s.ok(s.QueueEmailChange(s.Context(), ref, newMail(identity.MailEmailChange, n.Email)))
		m, h := s.next()
		s.says(m, mailTo(identity.MailEmailTaken, n.Email, "", "fr", ""))
		s.is(errOf(s.change(ref, h, newAddress)), identity.ErrNoCode)
	}},
	{"a mail for a change of address voids the code before it, whether or not another has the address", func(s *suite) {
		s.create("grace")
		u := s.create("ada")
		ref := s.open(u)
		s.limit = limit
		for _, target := range []string{"grace@example.com", "nobody@example.com"} {
			for i := range limit.Count + 1 {
				before := s.issueEmailChange(ref, "")
				s.ok(s.QueueEmailChange(s.Context(), ref, newMail(identity.MailEmailChange, target)))
				_, _, ok := s.claimMail()
				equal(s, ok, true)
				change := identity.EmailRedemption{Code: before, Email: newAddress, CanonicalEmail: newAddress}
				_, err := s.RedeemEmailChange(s.Context(), ref, change, noRecord)
				if withheld := i == limit.Count; withheld {
					s.ok(err)
				} else {
					s.is(err, identity.ErrNoCode)
				}
			}
		}
	}},
	{"nobody uses up the mails for a change of address that another account may ask for", func(s *suite) {
		s.limit = limit
		owner, mallory := s.create("ada"), s.create("mallory")
		ref, others := s.open(owner), s.open(mallory)
		ask := func(r identity.SessionRef, to string) bool {
			s.ok(s.QueueEmailChange(s.Context(), r, newMail(identity.MailEmailChange, to)))
			m, _, ok := s.claimMail()
			equal(s, ok, true)
			if !m.Withheld {
				s.ok(s.finish(m.Ref, identity.MailSent))
			}
			return !m.Withheld
		}
		for _, to := range []string{newAddress, owner.Email} {
			for i := range limit.Count + 1 {
				equal(s, ask(others, to), i < limit.Count)
			}
			equal(s, ask(ref, to), true)
		}
		equal(s, ask(ref, ""), true)
	}},
	{"a mail for a change of address brings nothing where the session has ended meanwhile", func(s *suite) {
		u := s.create("ada")
		for _, end := range []func(ref identity.SessionRef){
			func(ref identity.SessionRef) {
				must(s.EndSession(s.Context(), ref, noEvent))(s)
			},
			func(identity.SessionRef) { s.now = s.now.Add(refreshTTL) },
			func(ref identity.SessionRef) { s.ok(s.DeleteUser(s.Context(), ref, noEvent)) },
		} {
			ref := s.open(u)
			s.ok(s.QueueEmailChange(s.Context(), ref, newMail(identity.MailEmailChange, newAddress)))
			end(ref)
			s.empty()
		}
	}},
	{"a mail for any change of address goes to the proved address that the account has when it is taken", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		for _, tc := range []struct{ target, to string }{{"", u.Email}, {newAddress, newAddress}} {
			s.ok(s.QueueEmailChange(s.Context(), ref, newMail(identity.MailEmailChange, "")))
			must(s.change(ref, s.issueEmailChange(ref, tc.target), newAddress))(s)
			m, _ := s.next()
			s.says(m, mailTo(identity.MailEmailChange, tc.to, "ada", "de", u.ID))
		}
	}},
	{"no code goes to an address that was given up meanwhile", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		s.queue(identity.MailRecovery, u.Email)
		s.queue(identity.MailVerification, u.Email)
		must(s.change(ref, s.issueEmailChange(ref, newAddress), newAddress))(s)
		s.empty()
	}},
	{"a notice is there with the change, and goes to the proved address of before in the account's language", func(s *suite) {
		n := newSignUp("ada")
		n.Username, n.Email, n.Language = "Ada", "Ada@Example.com", "fr"
		u := s.prove(n)
		u.Email = n.CanonicalEmail
		told := identity.Record{Notice: identity.Notice{Purpose: "something", Language: "de"}}
		want := mailTo("something", "ada@example.com", "Ada", "fr", "")
		ref := s.open(u)
		change := func(target, email string) error {
			_, err := s.RedeemEmailChange(s.Context(), ref, identity.EmailRedemption{
				Code: s.issueEmailChange(ref, target), Email: email, CanonicalEmail: strings.ToLower(email),
			}, told)
			return err
		}
		for _, refused := range []error{
			s.ChangePassword(s.Context(), ref, otherHash, passwordHash, told),
			s.RedeemRecovery(s.Context(), s.issue(u, identity.Recovery), identity.Claim{ID: newID()}, otherHash, "", told),
			change(newAddress, "else@example.com"),
		} {
			equal(s, refused != nil, true)
			s.empty()
		}
		s.ok(s.ChangePassword(s.Context(), ref, passwordHash, otherHash, told))
		m, _ := s.next()
		s.says(m, want)
		s.ok(s.RedeemRecovery(s.Context(), s.issue(u, identity.Recovery), identity.Claim{ID: u.ID}, passwordHash, "", told))
		m, _ = s.next()
		s.says(m, want)
		ref = s.open(u)
		s.ok(change(u.Email, "ADA@example.com"))
		s.empty()     // no notice, because the address is the same
		for range 2 { // the first one proves nothing, so the notice still goes to the first address
			s.ok(change("", newAddress))
			m, _ = s.next()
			s.says(m, want)
		}
		s.ok(change(newAddress, newAddress))
		m, _ = s.next()
		s.says(m, want)
		u.Email = newAddress
		s.ok(s.recover(u, s.issue(u, identity.Recovery), otherHash, ""))
		s.empty()
	}},
	{"a notice outlives the account, and is in the language of who made the change where that has none", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		told := identity.Record{Notice: identity.Notice{Purpose: "something", Language: "de"}}
		s.ok(s.ChangePassword(s.Context(), ref, passwordHash, otherHash, told))
		s.ok(s.DeleteUser(s.Context(), ref, noEvent))
		m, _ := s.next()
		s.says(m, mailTo("something", u.Email, "ada", "de", ""))
	}},
}
