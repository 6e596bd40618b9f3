package identitytest

import "github.com/auth-gateway/auth-gateway/internal/identity"

// nameless returns a sign-up without any name.
func nameless(email string) identity.NewSignUp {
	n := newSignUp("")
	n.Email, n.CanonicalEmail, n.FirstName, n.LastName = email, email, "", ""
	return n
}

// rename changes the username of the user of a session; "" removes it.
func (s *suite) rename(ref identity.SessionRef, name string) (identity.User, error) {
	return s.UpdateUser(s.Context(), ref, identity.ProfileChange{Username: &name, CanonicalUsername: &name}, noEvent)
}

var namelessSentences = []sentence{
	{"any number of accounts may be without a username and without a name", func(s *suite) {
		for _, email := range []string{"one@example.com", "two@example.com"} {
			n := nameless(email)
			opened := s.newSession()
			u, err := s.RedeemVerification(s.Context(), identity.ClaimProof{Code: s.signUp(n)}, opened, noRecord)
			s.ok(err)
			equal(s, u, identity.User{
				ID: n.ID, Email: email, Scope: scope, EmailVerified: true, CreatedAt: u.CreatedAt, UpdatedAt: u.UpdatedAt,
			})
			ref := s.ref(opened.ID, u)
			found, err := s.FindUser(s.Context(), ref)
			s.ok(err)
			equal(s, found, u)
			session, err := s.FindSession(s.Context(), ref)
			s.ok(err)
			equal(s, session.User, u)
			equal(s, s.credentials(u).User, u)
		}
		equal(s, s.found(identity.Login{}), false)
	}},
	{"a sign-up without a username is a claim without one, and its code may bring one", func(s *suite) {
		n := nameless(address)
		code := s.signUp(n)
		want := identity.Claim{ID: n.ID, IsSignUp: true, Email: address, PasswordHash: passwordHash}
		claims, err := s.FindClaims(s.Context(), code)
		s.ok(err)
		waiting, err := s.FindSignUps(s.Context(), identity.Login{CanonicalEmail: address})
		s.ok(err)
		for _, got := range [][]identity.Claim{claims, waiting} {
			if len(got) != 1 || got[0] != want {
				s.Errorf("the claims are %+v; want %+v", got, want)
			}
		}
		proof := identity.ClaimProof{Code: code, Username: "Ada", CanonicalUsername: "ada"}
		u, err := s.RedeemVerification(s.Context(), proof, s.newSession(), noRecord)
		s.ok(err)
		equal(s, u.Username, "Ada")
		equal(s, s.found(identity.Login{CanonicalUsername: "ada"}), true)
	}},
	{"a recovery code of a sign-up without a username makes an account without one", func(s *suite) {
		n := nameless(address)
		s.signUp(n)
		c := newCode(identity.Recovery)
		_, err := s.IssueCode(s.Context(), address, c, noEvent)
		s.ok(err)
		owner, err := s.FindRecovery(s.Context(), c.Hash)
		s.ok(err)
		equal(s, owner, identity.Claim{ID: n.ID, IsSignUp: true, Email: address, PasswordHash: passwordHash})
		s.ok(s.RedeemRecovery(s.Context(), c.Hash, owner, otherHash, "", noRecord))
		equal(s, s.credentials(identity.User{Email: address}).User.Username, "")
	}},
	{"a username can be taken, removed, and then be another account's", func(s *suite) {
		one, two := s.prove(nameless("one@example.com")), s.prove(nameless("two@example.com"))
		first, second := s.open(one), s.open(two)
		u, err := s.rename(first, "ada")
		s.ok(err)
		equal(s, u.Username, "ada")
		_, err = s.rename(second, "ada")
		s.taken(err, identity.TakenError{Username: true})
		for range 2 {
			u, err = s.rename(first, "")
			s.ok(err)
			equal(s, u.Username, "")
		}
		equal(s, s.found(identity.Login{CanonicalUsername: "ada"}), false)
		u, err = s.rename(second, "ada")
		s.ok(err)
		equal(s, u.Username, "ada")
	}},
	{"wrong old passwords of accounts without a username are counted apart", func(s *suite) {
		one, two := s.prove(nameless("one@example.com")), s.prove(nameless("two@example.com"))
		first, second := s.open(one), s.open(two)
		c, err := s.FindPassword(s.Context(), first, "")
		s.ok(err)
		s.ok(s.CountFailure(s.Context(), c.ThrottleKey, noEvent))
		for ref, want := range map[identity.SessionRef]int{first: 1, second: 0} {
			c, err := s.FindPassword(s.Context(), ref, "")
			s.ok(err)
			equal(s, c.Failures, want)
			equal(s, c.User.Username, "")
		}
	}},
	{"mails to a person without a username name none", func(s *suite) {
		n := nameless(address)
		s.signUpConcealed(n)
		m, code := s.next()
		s.says(m, mailTo(identity.MailVerification, address, "", "de", n.ID))
		u, err := s.alone(code)
		s.ok(err)
		s.queue(identity.MailRecovery, address)
		m, _ = s.next()
		s.says(m, mailTo(identity.MailRecovery, address, "", "de", u.ID))
		ref := s.open(u)
		s.ok(s.QueueEmailChange(s.Context(), ref, newMail(identity.MailEmailChange, "")))
		m, _ = s.next()
		s.says(m, mailTo(identity.MailEmailChange, address, "", "de", u.ID))
		told := identity.Record{Notice: identity.Notice{Purpose: identity.MailPasswordChanged, Language: "de"}}
		s.ok(s.ChangePassword(s.Context(), ref, passwordHash, otherHash, told))
		m, _ = s.next()
		s.says(m, mailTo(identity.MailPasswordChanged, address, "", "de", ""))
		s.empty()
	}},
}
