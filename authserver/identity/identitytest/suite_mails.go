package identitytest

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
)

const lease = 3 * time.Minute

// limit lets one recipient have two mails at once, and one more each half hour.
var limit = identity.Rate{Count: 2, Per: time.Hour}

func newMail(about identity.MessagePurpose, to string) identity.NewMail {
	return identity.NewMail{Purpose: about, To: to, CanonicalTo: to, Language: "de"}
}

// queue asks for a mail to an address.
func (s *suite) queue(about identity.MessagePurpose, to string) {
	s.Helper()
	s.ok(s.QueueMail(s.Context(), newMail(about, to)))
}

// createQuietly makes an account, if it can, and asks for a mail.
func (s *suite) createQuietly(n identity.NewUser) bool {
	s.Helper()
	m := newMail(identity.MailVerification, n.Email)
	m.CanonicalTo = n.CanonicalEmail
	created, err := s.CreateUserQuietly(s.Context(), n, m)
	s.ok(err)
	return created
}

// takeMail takes a mail with a code that nobody knows before.
func (s *suite) takeMail(ctx context.Context) (identity.TakenMail, identity.CodeHash, bool) {
	s.Helper()
	var code identity.NewCode
	m, ok, err := s.TakeMail(ctx, identity.MailTake{
		Lease: lease, Now: s.now,
		Issue: func(ctx context.Context, _ int64, p identity.Purpose) (context.Context, identity.NewCode) {
			code = newCode(p)
			return ctx, code
		},
	})
	s.ok(err)
	return m, code.Hash, ok
}

// next takes the mail that must be there.
func (s *suite) next() (identity.TakenMail, identity.CodeHash) {
	s.Helper()
	m, h, ok := s.takeMail(s.Context())
	if !ok {
		s.Fatal("no mail is due")
	}
	return m, h
}

// noMail fails where one is due.
func (s *suite) noMail() {
	s.Helper()
	if m, _, ok := s.takeMail(s.Context()); ok {
		s.Errorf("a mail is due: %+v", m)
	}
}

// empty fails where one is in the outbox, due or not.
func (s *suite) empty() {
	s.Helper()
	s.noMail()
	queued, oldest, err := s.CountMails(s.Context())
	s.ok(err)
	equal(s, queued, 0)
	equal(s, oldest, 0)
}

// says compares what a mail says, and forgets it.
func (s *suite) says(m identity.TakenMail, want identity.TakenMail) {
	s.Helper()
	s.ok(s.RemoveMail(s.Context(), m.Ref))
	if m.Age < 0 {
		s.Errorf("queued %v ago", m.Age)
	}
	m.Ref, m.Age = identity.MailRef{}, 0
	equal(s, m, want)
}

func mailTo(about identity.MessagePurpose, to, username, language, userID string) identity.TakenMail {
	return identity.TakenMail{
		Message: identity.Message{Purpose: about, To: to, Username: username, Language: language}, UserID: userID,
	}
}

// verify verifies an account's address.
func (s *suite) verify(u identity.User, h identity.CodeHash) identity.SessionRef {
	s.Helper()
	n := s.session(u)
	_, err := s.RedeemVerification(s.Context(), h, n)
	s.ok(err)
	return s.ref(n.ID, u)
}

var mailSentences = []sentence{
	{"CreateUserQuietly makes an account, and its mail brings the code that verifies it", func(s *suite) {
		n := newUser("ada")
		n.Username, n.Email, n.Language = "Ada", "Ada@Example.com", "fr"
		equal(s, s.createQuietly(n), true)
		m, h := s.next()
		s.says(m, mailTo(identity.MailVerification, "Ada@Example.com", "Ada", "fr", n.ID))
		s.empty()
		u := s.credentials(identity.User{Email: n.CanonicalEmail}).User
		equal(s, u.ID, n.ID)
		equal(s, u.Language, "fr")
		s.verify(u, h)
	}},
	{"CreateUserQuietly makes no second account of a name or address, and tells its owner by mail", func(s *suite) {
		first := newUser("ada")
		first.Language = "fr"
		_, err := s.CreateUser(s.Context(), first, newCode(identity.Verification))
		s.ok(err)
		before := s.credentials(identity.User{Email: first.Email})
		for _, tc := range []struct {
			username, email string
			want            identity.TakenMail
		}{
			{"ada", "new@example.com", mailTo(identity.MailUsernameTaken, "new@example.com", "ada", "de", "")},
			{"new", first.Email, mailTo(identity.MailEmailTaken, first.Email, "", "fr", "")},
			{"ada", first.Email, mailTo(identity.MailEmailTaken, first.Email, "", "fr", "")},
		} {
			n := newUser(tc.username)
			n.Email, n.CanonicalEmail = tc.email, tc.email
			equal(s, s.createQuietly(n), false)
			m, _ := s.next()
			s.says(m, tc.want)
		}
		s.empty()
		equal(s, s.credentials(identity.User{Email: first.Email}), before)
		equal(s, s.credentials(identity.User{Email: "new@example.com"}).Found, false)
	}},
	{"CreateUserQuietly records that an account was made, or that none was, as nobody's", func(s *suite) {
		for _, created := range []bool{true, false} {
			n := newUser("ada")
			e := identity.Event{Name: "made", UserID: n.ID, RequestID: "request", Details: []slog.Attr{slog.Int("number", 5)}}
			got, err := s.CreateUserQuietly(identity.WithEvent(s.Context(), e), n, newMail(identity.MailVerification, n.Email))
			s.ok(err)
			equal(s, got, created)
			if !created {
				e.Name, e.UserID = identity.EventSignUpRefused, ""
			}
			if got := s.recorded(); len(got) != 1 || !same(got[0], e) {
				s.Errorf("recorded %+v; want %+v", got, e)
			}
		}
	}},
	{"a mail of a sign-up brings nothing where the address is verified already, or has changed, or the account is gone", func(s *suite) {
		for i, change := range []func(u identity.User, ref identity.SessionRef){
			func(identity.User, identity.SessionRef) {},
			func(_ identity.User, ref identity.SessionRef) {
				_, err := s.RedeemEmailChange(s.Context(), ref, s.issueEmailChange(ref, ""), newAddress, newAddress)
				s.ok(err)
			},
			func(_ identity.User, ref identity.SessionRef) { s.ok(s.DeleteUser(s.Context(), ref)) },
		} {
			n := newUser(fmt.Sprintf("ada%d", i))
			equal(s, s.createQuietly(n), true)
			u := s.credentials(identity.User{Email: n.Email}).User
			change(u, s.verify(u, s.issue(u, identity.Verification)))
			s.empty()
		}
	}},
	{"a mail that was asked for by address brings a code to whom it is of use, and nobody else gets one", func(s *suite) {
		n := newUser("edsger")
		n.Email = "Edsger@Example.com"
		edsger, err := s.CreateUser(s.Context(), n, newCode(identity.Verification))
		s.ok(err)
		grace, code := s.create("grace")
		s.verify(grace, code)
		barbara, code := s.create("barbara")
		s.verify(barbara, code)
		s.suspend(barbara, true)
		for _, tc := range []struct {
			about identity.MessagePurpose
			to    string
			whose identity.User // nobody: nothing
		}{
			{identity.MailVerification, "edsger@example.com", edsger},
			{identity.MailVerification, grace.Email, identity.User{}},
			{identity.MailVerification, "nobody@example.com", identity.User{}},
			{identity.MailRecovery, "edsger@example.com", edsger},
			{identity.MailRecovery, grace.Email, grace},
			{identity.MailRecovery, barbara.Email, barbara},
			{identity.MailRecovery, "nobody@example.com", identity.User{}},
		} {
			s.queue(tc.about, tc.to)
			if tc.whose.ID == "" {
				s.empty()
				continue
			}
			m, h := s.next()
			s.says(m, mailTo(tc.about, tc.whose.Email, tc.whose.Username, "de", tc.whose.ID))
			if tc.about == identity.MailRecovery {
				c, err := s.FindRecovery(s.Context(), h)
				s.ok(err)
				equal(s, c.User.ID, tc.whose.ID)
			}
		}
		s.empty()
	}},
	{"a code that is mailed lives from when its mail is taken, and takes the place of the one before", func(s *suite) {
		u, _ := s.create("ada")
		former := s.issue(u, identity.Recovery)
		s.queue(identity.MailRecovery, u.Email)
		s.pass(2 * codeTTL)
		m, first := s.next()
		equal(s, m.Age >= 2*codeTTL, true)
		_, err := s.FindRecovery(s.Context(), first)
		s.ok(err)
		s.is(s.RedeemRecovery(s.Context(), former, u.ID, otherHash, ""), identity.ErrNoCode)
		s.ok(s.PostponeMail(s.Context(), m.Ref, 0))
		_, second := s.next()
		_, err = s.FindRecovery(s.Context(), first)
		s.is(err, identity.ErrNoCode)
		s.ok(s.RedeemRecovery(s.Context(), second, u.ID, otherHash, ""))
	}},
	{"the code of a mail and its event are both there, or neither", func(s *suite) {
		u, _ := s.create("ada")
		ctx := identity.WithEvent(s.Context(), identity.Event{Name: "code issued"})
		s.queue(identity.MailRecovery, "nobody@example.com")
		_, _, ok := s.takeMail(ctx)
		equal(s, ok, false)
		equal(s, len(s.recorded()), 0)
		s.createQuietly(newUser("grace"))
		grace := s.credentials(identity.User{Email: "grace@example.com"}).User
		s.queue(identity.MailRecovery, u.Email)
		s.ok(s.QueueEmailChange(s.Context(), s.open(u), newMail(identity.MailEmailChange, newAddress)))
		for _, owner := range []identity.User{grace, u, u} {
			_, _, ok = s.takeMail(ctx)
			equal(s, ok, true)
			if got := s.recorded(); len(got) != 1 || !same(got[0], identity.Event{Name: "code issued", UserID: owner.ID}) {
				s.Errorf("recorded %+v", got)
			}
		}
	}},
	{"a change of address is asked for by a live session, and its mail brings a code that is good for the address", func(s *suite) {
		n := newUser("ada")
		n.Email, n.Language = "Ada@Example.com", "fr"
		u, err := s.CreateUser(s.Context(), n, newCode(identity.Verification))
		s.ok(err)
		u.Email = n.CanonicalEmail // which is what the suite looks it up by
		ref := s.open(u)
		to := newMail(identity.MailEmailChange, "New@Example.com")
		to.CanonicalTo = newAddress
		s.ok(s.QueueEmailChange(s.Context(), ref, to))
		m, h := s.next()
		s.says(m, mailTo(identity.MailEmailChange, "New@Example.com", "ada", "fr", u.ID))
		_, err = s.RedeemEmailChange(s.Context(), ref, h, "else@example.com", "else@example.com")
		s.is(err, identity.ErrNoCode)

		anywhere := newMail(identity.MailEmailChange, "")
		s.ok(s.QueueEmailChange(s.Context(), ref, anywhere))
		m, h = s.next()
		s.says(m, mailTo(identity.MailEmailChange, "Ada@Example.com", "ada", "fr", u.ID))
		got, err := s.RedeemEmailChange(s.Context(), ref, h, "else@example.com", "else@example.com")
		s.ok(err)
		equal(s, got.EmailVerified, false)

		s.ok(s.QueueEmailChange(s.Context(), ref, to))
		_, h = s.next()
		got, err = s.RedeemEmailChange(s.Context(), ref, h, newAddress, newAddress)
		s.ok(err)
		equal(s, got.EmailVerified, true)

		_, err = s.EndSession(s.Context(), ref)
		s.ok(err)
		s.is(s.QueueEmailChange(s.Context(), ref, anywhere), identity.ErrNoSession)
	}},
	{"a mail for a change to an address that another has tells them, and brings no code", func(s *suite) {
		n := newUser("grace")
		n.Language = "fr"
		_, err := s.CreateUser(s.Context(), n, newCode(identity.Verification))
		s.ok(err)
		u, _ := s.create("ada")
		ref := s.open(u)
		s.ok(s.QueueEmailChange(s.Context(), ref, newMail(identity.MailEmailChange, n.Email)))
		m, h := s.next()
		s.says(m, mailTo(identity.MailEmailTaken, n.Email, "", "fr", ""))
		_, err = s.RedeemEmailChange(s.Context(), ref, h, newAddress, newAddress)
		s.is(err, identity.ErrNoCode)
	}},
	{"a mail for a change of address brings nothing where the session has ended meanwhile", func(s *suite) {
		u, _ := s.create("ada")
		for _, end := range []func(ref identity.SessionRef){
			func(ref identity.SessionRef) {
				_, err := s.EndSession(s.Context(), ref)
				s.ok(err)
			},
			func(identity.SessionRef) { s.now = s.now.Add(refreshTTL) },
			func(ref identity.SessionRef) { s.ok(s.DeleteUser(s.Context(), ref)) },
		} {
			ref := s.open(u)
			s.ok(s.QueueEmailChange(s.Context(), ref, newMail(identity.MailEmailChange, newAddress)))
			end(ref)
			s.empty()
		}
	}},
	{"a mail for any change of address goes to the address that the account has when it is taken", func(s *suite) {
		u, _ := s.create("ada")
		ref := s.open(u)
		s.ok(s.QueueEmailChange(s.Context(), ref, newMail(identity.MailEmailChange, "")))
		_, err := s.RedeemEmailChange(s.Context(), ref, s.issueEmailChange(ref, ""), newAddress, newAddress)
		s.ok(err)
		m, _ := s.next()
		s.says(m, mailTo(identity.MailEmailChange, newAddress, "ada", "de", u.ID))
	}},
	{"no code goes to an address that was given up meanwhile", func(s *suite) {
		u, _ := s.create("ada")
		ref := s.open(u)
		s.queue(identity.MailRecovery, u.Email)
		s.queue(identity.MailVerification, u.Email)
		_, err := s.RedeemEmailChange(s.Context(), ref, s.issueEmailChange(ref, ""), newAddress, newAddress)
		s.ok(err)
		s.empty()
	}},
	{"a notice is there with the change, and goes to the address of before in the account's language", func(s *suite) {
		n := newUser("ada")
		n.Username, n.Email, n.Language = "Ada", "Ada@Example.com", "fr"
		u, err := s.CreateUser(s.Context(), n, newCode(identity.Verification))
		s.ok(err)
		u.Email = n.CanonicalEmail
		told := identity.WithNotice(s.Context(), identity.Notice{Purpose: "something", Language: "de"})
		want := mailTo("something", "Ada@Example.com", "Ada", "fr", "")
		ref := s.open(u)
		recovery := s.issue(u, identity.Recovery)
		for _, refused := range []error{
			s.ChangePassword(told, ref, otherHash, passwordHash),
			s.RedeemRecovery(told, recovery, newID(), otherHash, ""),
			func() error { _, err := s.RedeemEmailChange(told, ref, newHash(), newAddress, newAddress); return err }(),
		} {
			equal(s, refused != nil, true)
			s.empty()
		}
		s.ok(s.ChangePassword(told, ref, passwordHash, otherHash))
		m, _ := s.next()
		s.says(m, want)
		s.ok(s.RedeemRecovery(told, s.issue(u, identity.Recovery), u.ID, passwordHash, ""))
		m, _ = s.next()
		s.says(m, want)
		ref = s.open(u)
		_, err = s.RedeemEmailChange(told, ref, s.issueEmailChange(ref, u.Email), "ADA@example.com", u.Email)
		s.ok(err)
		s.empty() // it is the same address
		want.To = "ADA@example.com"
		changed, err := s.RedeemEmailChange(told, ref, s.issueEmailChange(ref, newAddress), newAddress, newAddress)
		s.ok(err)
		m, _ = s.next()
		s.says(m, want)
		s.ok(s.RedeemRecovery(s.Context(), s.issue(changed, identity.Recovery), u.ID, otherHash, ""))
		s.empty()
	}},
	{"a notice outlives the account, and is in the language of who made the change where that has none", func(s *suite) {
		u, _ := s.create("ada")
		ref := s.open(u)
		told := identity.WithNotice(s.Context(), identity.Notice{Purpose: "something", Language: "de"})
		s.ok(s.ChangePassword(told, ref, passwordHash, otherHash))
		s.ok(s.DeleteUser(s.Context(), ref))
		m, _ := s.next()
		s.says(m, mailTo("something", u.Email, "ada", "de", ""))
	}},
	{"a recipient is sent no more mails than the limit lets them, whoever asks and however, but all notices", func(s *suite) {
		u, _ := s.create("ada")
		ref := s.open(u)
		asks := []func(m identity.NewMail) error{
			func(m identity.NewMail) error { return s.QueueMail(s.Context(), m) },
			func(m identity.NewMail) error { return s.QueueEmailChange(s.Context(), ref, m) },
			func(m identity.NewMail) error {
				m.To, m.CanonicalTo = "", ""
				return s.QueueEmailChange(s.Context(), ref, m)
			},
			func(m identity.NewMail) error {
				n := newUser("ada")
				created, err := s.CreateUserQuietly(s.Context(), n, m)
				equal(s, created, false)
				return err
			},
		}
		queued := func(want int) {
			s.Helper()
			got, _, err := s.CountMails(s.Context())
			s.ok(err)
			equal(s, got, want)
		}
		m := newMail(identity.MailRecovery, u.Email)
		m.Limit = limit
		for range 3 {
			for _, ask := range asks {
				s.ok(ask(m))
			}
		}
		queued(2)
		other := newMail(identity.MailRecovery, "other@example.com")
		other.Limit = limit
		s.ok(s.QueueMail(s.Context(), other))
		queued(3)
		s.ok(s.ChangePassword(identity.WithNotice(s.Context(), identity.Notice{Purpose: "something"}), ref, passwordHash, otherHash))
		queued(4)
		s.advance(limit.Per/2 + time.Minute)
		for _, ask := range asks {
			s.ok(ask(m))
		}
		queued(5)
		s.advance(10 * limit.Per) // what was not used does not add up
		for range 2 {
			for _, ask := range asks {
				s.ok(ask(m))
			}
		}
		queued(7)
	}},
	{"CreateUserQuietly makes the account though its address is sent no more mails", func(s *suite) {
		m := newMail(identity.MailVerification, "ada@example.com")
		m.Limit = identity.Rate{Count: 1, Per: time.Hour}
		s.ok(s.QueueMail(s.Context(), m))
		created, err := s.CreateUserQuietly(s.Context(), newUser("ada"), m)
		s.ok(err)
		equal(s, created, true)
		queued, _, err := s.CountMails(s.Context())
		s.ok(err)
		equal(s, queued, 1)
	}},
	{"a mail is taken once until its lease has passed, and then again, and only the last taker is believed", func(s *suite) {
		u, _ := s.create("ada")
		s.queue(identity.MailRecovery, u.Email)
		first, _ := s.next()
		equal(s, first.Ref.Attempt, 1)
		s.noMail()
		s.pass(lease - time.Minute)
		s.noMail()
		s.pass(2 * time.Minute)
		second, _ := s.next()
		equal(s, second.Ref.ID, first.Ref.ID)
		equal(s, second.Ref.Attempt, 2)
		for _, end := range []func() error{
			func() error { return s.RemoveMail(s.Context(), first.Ref) },
			func() error { return s.PostponeMail(s.Context(), first.Ref, 0) },
			func() error { return s.ReturnMail(s.Context(), first.Ref) },
		} {
			s.ok(end())
			s.noMail()
		}
		queued, oldest, err := s.CountMails(s.Context())
		s.ok(err)
		equal(s, queued, 1)
		equal(s, oldest >= lease, true)
		s.ok(s.RemoveMail(s.Context(), second.Ref))
		s.empty()
		s.ok(s.RemoveMail(s.Context(), second.Ref))
	}},
	{"a mail that is postponed is due again after that, and its attempt counts", func(s *suite) {
		u, _ := s.create("ada")
		s.queue(identity.MailRecovery, u.Email)
		m, _ := s.next()
		s.ok(s.PostponeMail(s.Context(), m.Ref, 10*time.Minute))
		s.pass(9 * time.Minute)
		s.noMail()
		s.pass(2 * time.Minute)
		m, _ = s.next()
		equal(s, m.Ref.Attempt, 2)
	}},
	{"a mail that is returned is due at once, its attempt does not count, and whoever had it is not believed", func(s *suite) {
		u, _ := s.create("ada")
		s.queue(identity.MailRecovery, u.Email)
		stalled, _ := s.next()
		s.pass(lease + time.Minute)
		m, _ := s.next()
		s.ok(s.ReturnMail(s.Context(), m.Ref))
		again, _ := s.next()
		equal(s, again.Ref.Attempt, m.Ref.Attempt)
		for _, ref := range []identity.MailRef{stalled.Ref, m.Ref} {
			s.ok(s.RemoveMail(s.Context(), ref))
		}
		s.ok(s.PostponeMail(s.Context(), again.Ref, 0))
		s.next()
	}},
	{"the mail that is due longest comes first", func(s *suite) {
		for i := range 3 {
			s.queue(identity.MessagePurpose(fmt.Sprint("notice ", i)), "ada@example.com")
			s.advance(time.Minute)
		}
		first, _ := s.next()
		equal(s, first.Purpose, "notice 0")
		s.ok(s.PostponeMail(s.Context(), first.Ref, 0))
		for _, want := range []identity.MessagePurpose{"notice 1", "notice 2", "notice 0"} {
			m, _ := s.next()
			equal(s, m.Purpose, want)
		}
	}},
	{"of many TakeMail at once, none is given a mail that another is given, and none is left", func(s *suite) {
		const mails, takers = 40, 8
		for i := range mails {
			s.queue("notice", fmt.Sprintf("ada%d@example.com", i))
			s.queue(identity.MailRecovery, "nobody@example.com")
		}
		taken := make([][]string, takers)
		functions := make([]func(), takers)
		for i := range functions {
			functions[i] = func() {
				for {
					m, ok, err := s.TakeMail(s.Context(), identity.MailTake{Lease: lease, Now: s.now, Issue: issueUnknown})
					if err != nil {
						s.Error(err)
					}
					if err != nil || !ok {
						return
					}
					taken[i] = append(taken[i], m.To)
				}
			}
		}
		atOnce(functions...)
		whose := map[string]int{}
		for _, list := range taken {
			for _, to := range list {
				whose[to]++
			}
		}
		equal(s, len(whose), mails)
		for to, n := range whose {
			if n != 1 {
				s.Errorf("the mail to %s was given %d times", to, n)
			}
		}
	}},
	{"of 20 mails to one recipient that are asked for at once, as many as the limit lets are queued", func(s *suite) {
		m := newMail(identity.MailRecovery, "ada@example.com")
		m.Limit = limit
		equal(s, s.winners(20, nil, func(int) error { return s.QueueMail(s.Context(), m) }), 20)
		queued, _, err := s.CountMails(s.Context())
		s.ok(err)
		equal(s, queued, limit.Count)
	}},
	{"of 20 CreateUserQuietly at once with one name, one makes an account, and all are told by mail", func(s *suite) {
		made := s.winners(20, errNotMade, func(i int) error {
			n := newUser("ada")
			if i%2 == 0 {
				n.Email = fmt.Sprintf("ada%d@example.com", i)
				n.CanonicalEmail = n.Email
			}
			m := newMail(identity.MailVerification, n.Email)
			m.Limit = identity.Rate{Count: 20, Per: time.Hour}
			created, err := s.CreateUserQuietly(s.Context(), n, m)
			if err == nil && !created {
				return errNotMade
			}
			return err
		})
		equal(s, made, 1)
		about := map[identity.MessagePurpose]int{}
		for range 20 {
			m, _ := s.next()
			about[m.Purpose]++
		}
		s.noMail()
		equal(s, about[identity.MailVerification], 1)
		equal(s, about[identity.MailEmailTaken]+about[identity.MailUsernameTaken], 19)
	}},
	{"no code that is mailed to the old address survives a change of address", func(s *suite) {
		u, _ := s.create("ada")
		ref := s.open(u)
		for i := range rounds {
			s.queue(identity.MailRecovery, u.Email)
			change := s.issueEmailChange(ref, "")
			next := fmt.Sprintf("ada%d@example.com", i)
			recovery := newCode(identity.Recovery)
			var taking, changing error
			changed := u
			atOnce(
				func() {
					var m identity.TakenMail
					var ok bool
					m, ok, taking = s.TakeMail(s.Context(), identity.MailTake{
						Lease: lease, Now: s.now,
						Issue: func(ctx context.Context, _ int64, _ identity.Purpose) (context.Context, identity.NewCode) {
							return ctx, recovery
						},
					})
					if taking == nil && ok {
						taking = s.RemoveMail(s.Context(), m.Ref)
					}
				},
				func() { changed, changing = s.RedeemEmailChange(s.Context(), ref, change, next, next) },
			)
			s.ok(taking)
			s.ok(changing)
			_, err := s.FindRecovery(s.Context(), recovery.Hash)
			s.is(err, identity.ErrNoCode)
			s.empty()
			u = changed
		}
	}},
}

func issueUnknown(ctx context.Context, _ int64, p identity.Purpose) (context.Context, identity.NewCode) {
	return ctx, newCode(p)
}
