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
			u := must(s.RedeemVerification(s.Context(), identity.ClaimProof{Code: s.signUp(n)}, opened, noRecord))(s)
			equal(s, u, identity.User{
				ID: n.ID, Email: email, Scope: scope, EmailVerified: true, Metadata: "{}", CreatedAt: u.CreatedAt, UpdatedAt: u.UpdatedAt,
			})
			ref := s.ref(opened.ID, u)
			found := must(s.FindUser(s.Context(), ref))(s)
			equal(s, found, u)
			session := must(s.FindSession(s.Context(), ref))(s)
			equal(s, session.User, u)
			equal(s, s.credentials(u).User, u)
		}
		equal(s, s.found(identity.Login{}), false)
	}},
	{"a sign-up without a username is a claim without one, and its code may bring one", func(s *suite) {
		n := nameless(address)
		code := s.signUp(n)
		want := identity.Claim{ID: n.ID, IsSignUp: true, Email: address, PasswordHash: passwordHash}
		claims := must(s.FindClaims(s.Context(), code))(s)
		waiting := must(s.FindSignUps(s.Context(), identity.Login{CanonicalEmail: address}))(s)
		for _, got := range [][]identity.Claim{claims, waiting} {
			if len(got) != 1 || got[0] != want {
				s.Errorf("the claims are %+v; want %+v", got, want)
			}
		}
		proof := identity.ClaimProof{Code: code, Username: "Ada", CanonicalUsername: "ada"}
		u := must(s.RedeemVerification(s.Context(), proof, s.newSession(), noRecord))(s)
		equal(s, u.Username, "Ada")
		equal(s, s.found(identity.Login{CanonicalUsername: "ada"}), true)
	}},
	{"a recovery code of a sign-up without a username makes an account without one", func(s *suite) {
		n := nameless(address)
		s.signUp(n)
		c := newCode(identity.Recovery)
		must(s.IssueCode(s.Context(), address, c, noEvent))(s)
		owner := must(s.FindRecovery(s.Context(), c.Hash))(s)
		equal(s, owner, identity.Claim{ID: n.ID, IsSignUp: true, Email: address, PasswordHash: passwordHash})
		s.ok(s.RedeemRecovery(s.Context(), c.Hash, owner, otherHash, "", noRecord))
		equal(s, s.credentials(identity.User{Email: address}).User.Username, "")
	}},
	{"a username can be taken, removed, and then be another account's", func(s *suite) {
		one, two := s.prove(nameless("one@example.com")), s.prove(nameless("two@example.com"))
		first, second := s.open(one), s.open(two)
		u := must(s.rename(first, "ada"))(s)
		equal(s, u.Username, "ada")
		s.taken(errOf(s.rename(second, "ada")), identity.TakenError{Username: true})
		for range 2 {
			u = must(s.rename(first, ""))(s)
			equal(s, u.Username, "")
		}
		equal(s, s.found(identity.Login{CanonicalUsername: "ada"}), false)
		u = must(s.rename(second, "ada"))(s)
		equal(s, u.Username, "ada")
	}},
	{"wrong old passwords of accounts without a username are counted apart", func(s *suite) {
		one, two := s.prove(nameless("one@example.com")), s.prove(nameless("two@example.com"))
		first, second := s.open(one), s.open(two)
		c := must(s.FindPassword(s.Context(), first, ""))(s)
		s.ok(s.CountFailure(s.Context(), c.ThrottleKey, noEvent))
		for ref, want := range map[identity.SessionRef]int{first: 1, second: 0} {
			c := must(s.FindPassword(s.Context(), ref, ""))(s)
			equal(s, c.Failures, want)
			equal(s, c.User.Username, "")
		}
	}},
	{"mails to a person without a username name none", func(s *suite) {
		n := nameless(address)
		s.signUpConcealed(n)
		m, code := s.next()
		s.says(m, mailTo(identity.MailVerification, address, "", "de", n.ID))
		u := must(s.alone(code))(s)
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
