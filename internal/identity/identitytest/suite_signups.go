package identitytest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// at returns a sign-up with this name for an address.
func at(address, name string) identity.NewSignUp {
	n := newSignUp(name)
	n.Email, n.CanonicalEmail = address, address
	n.PasswordHash = "hash of the password of " + name
	return n
}

// proves redeems a code for a sign-up with the password of the sign-up.
func (s *suite) proves(h identity.CodeHash, n identity.NewSignUp) (identity.User, error) {
	proof := identity.ClaimProof{Code: h, ClaimID: n.ID, PasswordHash: n.PasswordHash}
	return s.RedeemVerification(s.Context(), proof, s.newSession(), noRecord)
}

// alone redeems a code without a password.
func (s *suite) alone(h identity.CodeHash) (identity.User, error) {
	return s.RedeemVerification(s.Context(), identity.ClaimProof{Code: h}, s.newSession(), noRecord)
}

// found reports whether an account has a username or an email.
func (s *suite) found(login identity.Login) bool {
	s.Helper()
	c := must(s.FindCredentials(s.Context(), login))(s)
	return c.Found
}

const address = "ada@example.com"

var signUpSentences = []sentence{
	{"a sign-up becomes an account as it was given when its code is redeemed, and not before", func(s *suite) {
		n := newSignUp("ada")
		n.Username, n.Email, n.Language = "Ada", "Ada@Example.com", "fr"
		code := s.signUp(n)
		equal(s, s.found(identity.Login{CanonicalEmail: address}), false)
		equal(s, s.found(identity.Login{CanonicalUsername: "ada"}), false)
		opened := s.newSession()
		opened.UserAgent = "a browser/1.0"
		u := must(s.RedeemVerification(s.Context(), identity.ClaimProof{Code: code}, opened, noRecord))(s)
		if u.CreatedAt.IsZero() || u.UpdatedAt.IsZero() {
			s.Errorf("created at %v, updated at %v", u.CreatedAt, u.UpdatedAt)
		}
		equal(s, u, identity.User{
			ID: n.ID, Username: "Ada", Email: "Ada@Example.com", FirstName: "Ada", LastName: "Lovelace",
			Scope: scope, EmailVerified: true, Language: "fr", Metadata: "{}", CreatedAt: u.CreatedAt, UpdatedAt: u.UpdatedAt,
		})
		session := must(s.FindSession(s.Context(), s.ref(opened.ID, u)))(s)
		equal(s, session, identity.Session{
			ID: opened.ID, User: u, Scope: scope,
			OpenedAt: s.now, RefreshedAt: s.now, ExpiresAt: opened.ExpiresAt, EndsAt: opened.EndsAt,
		})
		own := must(s.FindOwnSessions(s.Context(), s.ref(opened.ID, u)))(s)
		if len(own) != 1 || own[0].UserAgent != opened.UserAgent {
			s.Errorf("the sessions are %+v", own)
		}
		s.is(errOf(s.alone(code)), identity.ErrNoCode)
	}},
	{"CreateSignUp names all that accounts have, and keeps nothing then", func(s *suite) {
		s.create("ada")
		s.create("grace")
		for _, tc := range []struct {
			username, email string
			want            identity.TakenError
		}{
			{"ada", "new@example.com", identity.TakenError{Username: true}},
			{"new", "ada@example.com", identity.TakenError{Email: true}},
			{"ada", "grace@example.com", identity.TakenError{Username: true, Email: true}},
		} {
			n, c := at(tc.email, tc.username), newCode(identity.Verification)
			s.taken(s.CreateSignUp(s.Context(), n, c, noEvent), tc.want)
			s.is(errOf(s.alone(c.Hash)), identity.ErrNoCode)
			waiting := must(s.FindSignUps(s.Context(), identity.Login{CanonicalEmail: tc.email}))(s)
			equal(s, len(waiting), 0)
		}
	}},
	{"sign-ups that wait hold neither the username nor the address", func(s *suite) {
		for i := range 3 {
			s.signUp(at(address, "ada"))
			s.signUp(at(fmt.Sprintf("other%d@example.com", i), "ada"))
		}
		grace := s.create("grace")
		ref := s.open(grace)
		name := "ada"
		must(s.UpdateUser(s.Context(), ref, identity.ProfileChange{Username: &name, CanonicalUsername: &name}, noEvent))(s)
		must(s.change(ref, s.issueEmailChange(ref, address), address))(s)
	}},
	{"of many sign-ups of one username one is proved with it, and the others choose another with the same code", func(s *suite) {
		first, second := at("one@example.com", "ada"), at("two@example.com", "ada")
		codes := []identity.CodeHash{s.signUp(first), s.signUp(second)}
		must(s.alone(codes[0]))(s)
		for range 2 {
			s.taken(errOf(s.alone(codes[1])), identity.TakenError{Username: true})
		}
		u := must(s.RedeemVerification(s.Context(), identity.ClaimProof{
			Code: codes[1], Username: "Countess", CanonicalUsername: "countess",
		}, s.newSession(), noRecord))(s)
		equal(s, u.Username, "Countess")
		equal(s, u.ID, second.ID)
		equal(s, s.found(identity.Login{CanonicalUsername: "countess"}), true)
	}},
	{"FindSignUps gives those that wait under a name or an address, the newest first", func(s *suite) {
		var names []string
		for i := range identity.MaxClaims + 2 {
			n := at(address, fmt.Sprintf("ada%d", i))
			s.signUp(n)
			names = slices.Insert(names, 0, n.Username)
			s.advance(time.Second)
		}
		waiting := must(s.FindSignUps(s.Context(), identity.Login{CanonicalEmail: address}))(s)
		var got []string
		for _, c := range waiting {
			got = append(got, c.Username)
			equal(s, c.PasswordHash, "hash of the password of "+c.Username)
			equal(s, c.IsSignUp, true)
		}
		if !slices.Equal(got, names[:identity.MaxClaims]) {
			s.Errorf("got %v; want the newest of %v", got, names)
		}
		waiting = must(s.FindSignUps(s.Context(), identity.Login{CanonicalUsername: "ada3"}))(s)
		equal(s, len(waiting), 1)
		for _, none := range []identity.Login{{CanonicalUsername: address}, {CanonicalEmail: "ada3"}, {}} {
			waiting = must(s.FindSignUps(s.Context(), none))(s)
			equal(s, len(waiting), 0)
		}
	}},
	{"FindCredentials does not look at sign-ups: what it gives is that of an unknown login", func(s *suite) {
		login := identity.Login{CanonicalEmail: address}
		before := must(s.FindCredentials(s.Context(), login))(s)
		s.ok(s.CountFailure(s.Context(), before.ThrottleKey, noEvent))
		s.signUp(at(address, "ada"))
		after := must(s.FindCredentials(s.Context(), login))(s)
		equal(s, after.Found, false)
		equal(s, after.ThrottleKey, before.ThrottleKey)
		equal(s, after.Failures, 1)
	}},
}

var claimSentences = []sentence{
	{"a code alone proves its sign-up while that is the only claim to the address", func(s *suite) {
		owner, stranger := at(address, "ada"), at(address, "mallory")
		code := s.signUp(stranger)
		s.signUp(owner)
		for range 2 {
			s.is(errOf(s.alone(code)), identity.ErrSeveralClaims)
		}
		equal(s, s.found(identity.Login{CanonicalEmail: address}), false)
	}},
	{"any code of the address proves the sign-up whose password comes with it, and all others go", func(s *suite) {
		owner, stranger := at(address, "ada"), at(address, "mallory")
		for _, swapped := range []bool{false, true} {
			theirs := s.signUp(stranger)
			own := s.signUp(owner)
			code := own
			if swapped { // the owner's own mail was withheld: any other code works too
				code = theirs
			}
			claims := must(s.FindClaims(s.Context(), code))(s)
			equal(s, len(claims), 2)
			equal(s, claims[0].ID == stranger.ID, swapped)
			u := must(s.proves(code, owner))(s)
			equal(s, u.ID, owner.ID)
			equal(s, s.credentials(u).PasswordHash, owner.PasswordHash)
			for _, dead := range []identity.CodeHash{own, theirs} {
				s.is(errOf(s.alone(dead)), identity.ErrNoCode)
				s.is(errOf(s.proves(dead, stranger)), identity.ErrNoCode)
				s.is(errOf(s.FindClaims(s.Context(), dead)), identity.ErrNoCode)
			}
			equal(s, s.found(identity.Login{CanonicalUsername: "mallory"}), false)
			s.ok(s.DeleteUser(s.Context(), s.openWith(u, owner.PasswordHash), noEvent))
			owner.ID, stranger.ID = newID(), newID()
		}
	}},
	{"a password that no claim has, or that was changed, proves none, and the code still holds", func(s *suite) {
		n := at(address, "ada")
		code := s.signUp(n)
		for _, p := range []identity.ClaimProof{
			{Code: code, ClaimID: n.ID, PasswordHash: otherHash},
			{Code: code, ClaimID: newID(), PasswordHash: n.PasswordHash},
			{Code: code, ClaimID: "no id", PasswordHash: n.PasswordHash},
		} {
			s.is(errOf(s.RedeemVerification(s.Context(), p, s.newSession(), noRecord)), identity.ErrStale)
		}
		elsewhere := at("else@example.com", "grace")
		s.signUp(elsewhere)
		s.is(errOf(s.proves(code, elsewhere)), identity.ErrStale)
		must(s.proves(code, n))(s)
	}},
	{"the claim of a code comes first among its claims, however many strangers come after it", func(s *suite) {
		owner := at(address, "ada")
		code := s.signUp(owner)
		for i := range identity.MaxClaims + 3 {
			s.advance(time.Second)
			s.signUp(at(address, fmt.Sprintf("mallory%d", i)))
		}
		claims := must(s.FindClaims(s.Context(), code))(s)
		equal(s, len(claims), identity.MaxClaims)
		equal(s, claims[0], identity.Claim{ID: owner.ID, IsSignUp: true, Username: "ada", Email: address, PasswordHash: owner.PasswordHash})
		equal(s, claims[1].Username, fmt.Sprintf("mallory%d", identity.MaxClaims+2))
		must(s.proves(code, owner))(s)
	}},
	{"an account that has an address leaves nothing to prove there", func(s *suite) {
		late := s.signUp(at(address, "mallory"))
		grace := s.create("grace")
		ref := s.open(grace)
		must(s.change(ref, s.issueEmailChange(ref, address), address))(s)
		s.is(errOf(s.alone(late)), identity.ErrNoCode)
		s.is(errOf(s.IssueCode(s.Context(), address, newCode(identity.Verification), noEvent)), identity.ErrAlreadyVerified)
	}},
	{"a new address that was not proved is shown, and holds nothing", func(s *suite) {
		u := s.create("grace")
		ref := s.open(u)
		got := must(s.change(ref, s.issueEmailChange(ref, ""), "Ada@Example.com"))(s)
		want := u
		want.Email, want.EmailVerified, want.UpdatedAt = "Ada@Example.com", false, got.UpdatedAt
		equal(s, got, want)
		equal(s, s.found(identity.Login{CanonicalEmail: address}), false)
		equal(s, s.credentials(u).User, want)
		owner := must(s.IssueCode(s.Context(), u.Email, newCode(identity.Recovery), noEvent))(s)
		equal(s, owner, u.ID)
		s.is(errOf(s.IssueCode(s.Context(), address, newCode(identity.Recovery), noEvent)), identity.ErrNoUser)

		n := at(address, "ada") // another sign-up for the address
		must(s.proves(s.signUp(n), n))(s)
		s.is(errOf(s.IssueCode(s.Context(), address, newCode(identity.Verification), noEvent)), identity.ErrAlreadyVerified)
	}},
	{"a new address is proved like that of a sign-up, which ends what was opened before", func(s *suite) {
		u := s.create("grace")
		ref := s.open(u)
		changed := must(s.change(ref, s.issueEmailChange(ref, ""), address))(s)
		code := s.issue(changed, identity.Verification)
		recovery := s.issue(u, identity.Recovery)
		told := identity.Record{Notice: identity.Notice{Purpose: "something"}}
		got := must(s.RedeemVerification(s.Context(), identity.ClaimProof{Code: code}, s.newSession(), told))(s)
		want := changed
		want.EmailVerified, want.UpdatedAt = true, got.UpdatedAt
		equal(s, got, want)
		equal(s, s.found(identity.Login{CanonicalEmail: address}), true)
		equal(s, s.found(identity.Login{CanonicalEmail: u.Email}), false)
		s.ended(ref)
		s.is(errOf(s.FindRecovery(s.Context(), recovery)), identity.ErrNoCode)
		s.is(errOf(s.alone(code)), identity.ErrNoCode)
		m, _ := s.next()
		s.says(m, mailTo("something", u.Email, "grace", "", ""))
	}},
	{"a sign-up and an account that changed to one address are told apart by their passwords", func(s *suite) {
		mallory := s.create("mallory")
		ref := s.open(mallory)
		changed := must(s.change(ref, s.issueEmailChange(ref, ""), address))(s)
		code := s.issue(changed, identity.Verification)
		owner := at(address, "ada")
		s.signUp(owner)
		s.is(errOf(s.alone(code)), identity.ErrSeveralClaims)
		claims := must(s.FindClaims(s.Context(), code))(s)
		equal(s, len(claims), 2)
		equal(s, claims[0], identity.Claim{ID: mallory.ID, Username: "mallory", Email: address, PasswordHash: passwordHash})
		u := must(s.proves(code, owner))(s)
		equal(s, u.ID, owner.ID)
		equal(s, s.credentials(mallory).User.ID, mallory.ID)
		_, err := s.change(ref, s.issueEmailChange(ref, ""), mallory.Email) // back to its own address
		s.ok(err)
		equal(s, s.credentials(mallory).User.EmailVerified, true)
	}},
	{"a new address of a suspended account is not proved", func(s *suite) {
		u := s.create("grace")
		ref := s.open(u)
		changed := must(s.change(ref, s.issueEmailChange(ref, ""), address))(s)
		s.suspend(u, true)
		code := s.issue(changed, identity.Verification)
		s.is(errOf(s.alone(code)), identity.ErrSuspended)
		s.suspend(u, false)
		must(s.alone(code))(s)
	}},
	{"a recovery code of a sign-up makes an account with the password of its reader", func(s *suite) {
		stranger := at(address, "mallory")
		theirs := s.signUp(stranger)
		c := newCode(identity.Recovery)
		owner := must(s.IssueCode(s.Context(), address, c, noEvent))(s)
		equal(s, owner, stranger.ID)
		claim := must(s.FindRecovery(s.Context(), c.Hash))(s)
		equal(s, claim, identity.Claim{ID: stranger.ID, IsSignUp: true, Username: "mallory", Email: address, PasswordHash: stranger.PasswordHash})
		s.ok(s.RedeemRecovery(s.Context(), c.Hash, claim, otherHash, home, noRecord))
		u := s.credentials(identity.User{Email: address})
		equal(s, u.User.ID, stranger.ID)
		equal(s, u.User.EmailVerified, true)
		equal(s, u.PasswordHash, otherHash)
		s.known(u.User, home, true)
		s.is(errOf(s.proves(theirs, stranger)), identity.ErrNoCode)
		s.is(s.RedeemRecovery(s.Context(), c.Hash, claim, passwordHash, home, noRecord), identity.ErrNoCode)
	}},
	{"a recovery code of a sign-up whose username is taken by now still holds", func(s *suite) {
		s.signUp(at(address, "grace"))
		c := newCode(identity.Recovery)
		must(s.IssueCode(s.Context(), address, c, noEvent))(s)
		grace := s.create("grace")
		claim := must(s.FindRecovery(s.Context(), c.Hash))(s)
		s.taken(s.RedeemRecovery(s.Context(), c.Hash, claim, otherHash, "", noRecord), identity.TakenError{Username: true})
		s.ok(s.DeleteUser(s.Context(), s.open(grace), noEvent))
		s.ok(s.RedeemRecovery(s.Context(), c.Hash, claim, otherHash, "", noRecord))
	}},
	{"of 30 proofs of one address at once, of different sign-ups and codes, one succeeds", func(s *suite) {
		for range 5 {
			signUps := make([]identity.NewSignUp, 6)
			codes := make([]identity.CodeHash, len(signUps))
			for i := range signUps {
				signUps[i] = at(address, fmt.Sprintf("ada%d", i))
				codes[i] = s.signUp(signUps[i])
			}
			var winner string
			won := s.winners(30, identity.ErrNoCode, func(i int) error {
				u, err := s.proves(codes[i%6], signUps[(i/6+i)%6])
				if err == nil {
					winner = u.ID
				}
				if errors.Is(err, identity.ErrStale) { // the sign-up was removed with the others
					err = identity.ErrNoCode
				}
				return err
			})
			equal(s, won, 1)
			c := s.credentials(identity.User{Email: address})
			equal(s, c.User.ID, winner)
			s.ok(s.DeleteUser(s.Context(), s.openWith(c.User, c.PasswordHash), noEvent))
		}
	}},
	{"of 20 proofs at once of sign-ups of one username, each for its own address, one succeeds", func(s *suite) {
		codes := make([]identity.CodeHash, 20)
		for i := range codes {
			codes[i] = s.signUp(at(fmt.Sprintf("ada%d@example.com", i), "ada"))
		}
		equal(s, s.winners(len(codes), nil, func(i int) error { return errOf(s.alone(codes[i])) }), 1)
	}},
	{"an address goes to one of a sign-up that is proved and an account that changes to it", func(s *suite) {
		for i := range rounds {
			u := s.create(fmt.Sprintf("grace%d", i))
			ref := s.open(u)
			target := fmt.Sprintf("new%d@example.com", i)
			change := s.issueEmailChange(ref, target)
			if i%2 == 0 {
				change = s.issueEmailChange(ref, "")
			}
			code := s.signUp(at(target, fmt.Sprintf("ada%d", i)))
			var proving, changing error
			atOnce(
				func() { _, proving = s.alone(code) },
				func() { _, changing = s.change(ref, change, target) },
			)
			if i%2 == 0 { // it waits beside the sign-up, so the code proves neither without a password
				s.okOr(proving, identity.ErrSeveralClaims)
				if _, taken := errors.AsType[*identity.TakenError](changing); changing != nil && !taken {
					s.Error(changing)
				}
				continue
			}
			if (proving == nil) == (changing == nil) {
				s.Errorf("exactly one of proof and change must succeed: %v, %v", proving, changing)
			}
		}
	}},
	{"a code that is issued while its sign-up is proved is of no use afterwards", func(s *suite) {
		for i := range rounds {
			target := fmt.Sprintf("ada%d@example.com", i)
			n := at(target, fmt.Sprintf("ada%d", i))
			code := s.signUp(n)
			c := newCode(identity.Recovery)
			var proving, issuing error
			atOnce(
				func() { _, proving = s.alone(code) },
				func() { _, issuing = s.IssueCode(s.Context(), target, c, noEvent) },
			)
			s.ok(proving)
			s.okOr(issuing, identity.ErrNoUser)
			if issuing != nil {
				continue
			}
			claim, err := s.FindRecovery(s.Context(), c.Hash)
			if err == nil { // it belongs to the account, and not to the sign-up
				equal(s, claim.IsSignUp, false)
			} else {
				s.is(err, identity.ErrNoCode)
			}
		}
	}},
}

// openWith opens a session of an account with this password hash.
func (s *suite) openWith(u identity.User, passwordHash string) identity.SessionRef {
	s.Helper()
	n := s.session(u)
	n.PasswordHash = passwordHash
	s.ok(s.OpenSession(s.Context(), n, noEvent))
	return s.ref(n.ID, u)
}
