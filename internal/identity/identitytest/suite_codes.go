package identitytest

import (
	"errors"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

var codeSentences = []sentence{
	{"IssueCode makes its code the only live one of its purpose", func(s *suite) {
		u := s.create("ada")
		first := s.issue(u, identity.Recovery)
		second := s.issue(u, identity.Recovery)
		s.is(errOf(s.FindRecovery(s.Context(), first)), identity.ErrNoCode)
		s.is(s.recover(u, first, otherHash, ""), identity.ErrNoCode)
		must(s.FindRecovery(s.Context(), second))(s)

		n := newSignUp("grace")
		verification := s.signUp(n)
		newer := newCode(identity.Verification)
		owner := must(s.IssueCode(s.Context(), n.Email, newer, noEvent))(s)
		equal(s, owner, n.ID)
		s.is(errOf(s.alone(verification)), identity.ErrNoCode)
		must(s.alone(newer.Hash))(s)
	}},
	{"IssueCode gives whose it is: the account's, else the newest claim's, or tells that there is none", func(s *suite) {
		for _, purpose := range []identity.Purpose{identity.Verification, identity.Recovery} {
			s.is(errOf(s.IssueCode(s.Context(), address, newCode(purpose), noEvent)), identity.ErrNoUser)
		}
		mallory := s.create("mallory")
		ref := s.open(mallory)
		must(s.change(ref, s.issueEmailChange(ref, ""), address))(s)
		s.advance(time.Second)
		s.is(errOf(s.IssueCode(s.Context(), address, newCode(identity.Recovery), noEvent)), identity.ErrNoUser)
		owner := must(s.IssueCode(s.Context(), address, newCode(identity.Verification), noEvent))(s)
		equal(s, owner, mallory.ID)

		first, second := at(address, "ada"), at(address, "grace")
		s.signUp(first)
		s.advance(time.Second)
		code := s.signUp(second)
		for _, purpose := range []identity.Purpose{identity.Recovery, identity.Verification} {
			owner := must(s.IssueCode(s.Context(), address, newCode(purpose), noEvent))(s)
			equal(s, owner, second.ID)
		}
		s.is(errOf(s.alone(code)), identity.ErrNoCode)
		c := newCode(identity.Verification)
		must(s.IssueCode(s.Context(), address, c, noEvent))(s)
		must(s.proves(c.Hash, first))(s)
		s.is(errOf(s.IssueCode(s.Context(), address, newCode(identity.Verification), noEvent)), identity.ErrAlreadyVerified)
		owner = must(s.IssueCode(s.Context(), address, newCode(identity.Recovery), noEvent))(s)
		equal(s, owner, first.ID)
	}},
	{"a code is good for its own purpose alone, and trying another does not use it up", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		codes := map[identity.Purpose]identity.CodeHash{
			identity.Verification: s.signUp(newSignUp("grace")),
			identity.Recovery:     s.issue(u, identity.Recovery),
			identity.EmailChange:  s.issueEmailChange(ref, ""),
		}
		redeem := func(p identity.Purpose, h identity.CodeHash) error {
			switch p {
			case identity.Verification:
				_, err := s.alone(h)
				return err
			case identity.Recovery:
				_, err := s.FindRecovery(s.Context(), h)
				return errors.Join(err, s.recover(u, h, otherHash, ""))
			default:
				_, err := s.change(ref, h, newAddress)
				return err
			}
		}
		for made, h := range codes {
			for used := range codes {
				if made != used {
					s.is(redeem(used, h), identity.ErrNoCode)
				}
			}
		}
		s.alive(ref)
		equal(s, s.credentials(u).User, u)
		s.ok(redeem(identity.EmailChange, codes[identity.EmailChange]))
		s.ok(redeem(identity.Verification, codes[identity.Verification]))
	}},
	{"a code expires by the store's clock", func(s *suite) {
		// The callers' clock is wrong by a day, which must not matter.
		s.now = s.now.Add(-24 * time.Hour)
		u := s.create("ada")
		ref := s.open(u)
		verification := s.signUp(newSignUp("grace"))
		recovery, change := s.issue(u, identity.Recovery), s.issueEmailChange(ref, "")
		s.advance(codeTTL - time.Minute)
		must(s.FindRecovery(s.Context(), recovery))(s)
		must(s.FindClaims(s.Context(), verification))(s)
		s.advance(2 * time.Minute)
		s.is(errOf(s.FindRecovery(s.Context(), recovery)), identity.ErrNoCode)
		s.is(s.recover(u, recovery, otherHash, ""), identity.ErrNoCode)
		s.is(errOf(s.FindClaims(s.Context(), verification)), identity.ErrNoCode)
		s.is(errOf(s.alone(verification)), identity.ErrNoCode)
		s.is(errOf(s.change(ref, change, newAddress)), identity.ErrNoCode)

		again := s.issue(u, identity.Recovery)
		must(s.FindRecovery(s.Context(), again))(s)
	}},
	{"FindRecovery reads what a code belongs to, without using it up", func(s *suite) {
		u := s.create("ada")
		h := s.issue(u, identity.Recovery)
		for range 2 {
			got := must(s.FindRecovery(s.Context(), h))(s)
			equal(s, got, identity.Claim{ID: u.ID, Username: "ada", Email: u.Email, PasswordHash: passwordHash})
		}
		s.is(errOf(s.FindRecovery(s.Context(), newHash())), identity.ErrNoCode)
	}},
	{"RedeemRecovery sets the password, and ends all sessions and codes", func(s *suite) {
		u := s.create("ada")
		other := s.create("grace")
		opened, others := s.open(u), s.open(other)
		change := s.issueEmailChange(opened, "")
		h := s.issue(u, identity.Recovery)
		s.ok(s.recover(u, h, otherHash, ""))
		c := s.credentials(u)
		equal(s, c.PasswordHash, otherHash)
		equal(s, c.User.EmailVerified, true)
		s.ended(opened)
		s.alive(others)
		s.is(s.recover(u, h, passwordHash, ""), identity.ErrNoCode)

		ref := s.openWith(u, otherHash)
		s.is(errOf(s.change(ref, change, newAddress)), identity.ErrNoCode)
	}},
	{"RedeemRecovery with another user's id does nothing, and the code still holds", func(s *suite) {
		u := s.create("ada")
		other := s.create("grace")
		h := s.issue(u, identity.Recovery)
		for _, isSignUp := range []bool{false, true} {
			for _, id := range []string{other.ID, newID(), "no id", ""} {
				owner := identity.Claim{ID: id, IsSignUp: isSignUp}
				s.is(s.RedeemRecovery(s.Context(), h, owner, otherHash, "", noRecord), identity.ErrNoCode)
			}
		}
		equal(s, s.credentials(other).PasswordHash, passwordHash)
		equal(s, s.credentials(u).PasswordHash, passwordHash)
		s.ok(s.recover(u, h, otherHash, ""))
	}},
	{"RedeemRecovery leaves a suspended account suspended", func(s *suite) {
		u := s.create("ada")
		s.suspend(u, true)
		s.ok(s.recover(u, s.issue(u, identity.Recovery), otherHash, ""))
		equal(s, s.credentials(u).Suspended, true)
		equal(s, s.credentials(u).PasswordHash, otherHash)
	}},
}

const newAddress = "new@example.com"

var emailChangeSentences = []sentence{
	{"IssueEmailChange makes its code the only live one", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		first := s.issueEmailChange(ref, newAddress)
		s.issueEmailChange(ref, "")
		s.is(errOf(s.change(ref, first, newAddress)), identity.ErrNoCode)
	}},
	{"IssueEmailChange refuses another account's address, and takes one's own", func(s *suite) {
		u := s.create("ada")
		s.create("grace")
		ref := s.open(u)
		live := s.issueEmailChange(ref, "")
		c := newCode(identity.EmailChange)
		c.Target = "grace@example.com"
		s.taken(s.IssueEmailChange(s.Context(), ref, c, noEvent), identity.TakenError{Email: true})
		s.is(errOf(s.change(ref, c.Hash, newAddress)), identity.ErrNoCode)
		s.issueEmailChange(ref, u.Email)
		s.is(errOf(s.change(ref, live, newAddress)), identity.ErrNoCode)
	}},
	{"RedeemEmailChange sets the address that its code was made for", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		h := s.issueEmailChange(ref, newAddress)
		got := must(s.change(ref, h, "New@Example.com"))(s)
		want := u
		want.Email, want.UpdatedAt = "New@Example.com", got.UpdatedAt
		equal(s, got, want)
		s.alive(ref)
		found := must(s.FindCredentials(s.Context(), identity.Login{CanonicalEmail: newAddress}))(s)
		equal(s, found.User, want)
		equal(s, s.credentials(u).Found, false)
		s.is(errOf(s.change(ref, h, newAddress)), identity.ErrNoCode)
	}},
	{"RedeemEmailChange to an unproved address that another has is refused where that may be told", func(s *suite) {
		u := s.create("ada")
		s.create("grace")
		ref := s.open(u)
		h := s.issueEmailChange(ref, "")
		s.taken(errOf(s.change(ref, h, "grace@example.com")), identity.TakenError{Email: true})
		equal(s, s.credentials(u).User, u)
		got := must(s.RedeemEmailChange(s.Context(), ref, identity.EmailRedemption{
			Code: h, Email: "grace@example.com", CanonicalEmail: "grace@example.com",
		}, noRecord))(s)
		equal(s, got.EmailVerified, false)
		s.is(errOf(s.IssueCode(s.Context(), "grace@example.com", newCode(identity.Verification), noEvent)), identity.ErrAlreadyVerified)
	}},
	{"RedeemEmailChange to one's own address gives up one that was not proved", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		changed := must(s.change(ref, s.issueEmailChange(ref, ""), newAddress))(s)
		code := s.issue(changed, identity.Verification)
		got := must(s.change(ref, s.issueEmailChange(ref, ""), "ADA@example.com"))(s)
		equal(s, got.Email, "ADA@example.com")
		equal(s, got.EmailVerified, true)
		s.is(errOf(s.alone(code)), identity.ErrNoCode)
	}},
	{"RedeemEmailChange removes the user's other codes", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		recovery := s.issue(u, identity.Recovery)
		must(s.change(ref, s.issueEmailChange(ref, ""), newAddress))(s)
		s.is(errOf(s.FindRecovery(s.Context(), recovery)), identity.ErrNoCode)
	}},
	{"a code of another user, or for another address, does nothing and still holds", func(s *suite) {
		u := s.create("ada")
		other := s.create("grace")
		ref, others := s.open(u), s.open(other)
		h := s.issueEmailChange(ref, newAddress)
		s.is(errOf(s.change(others, h, newAddress)), identity.ErrNoCode)
		s.is(errOf(s.change(ref, h, "else@example.com")), identity.ErrNoCode)
		equal(s, s.credentials(u).User, u)
		equal(s, s.credentials(other).User, other)
		must(s.change(ref, h, newAddress))(s)
	}},
	{"RedeemEmailChange to an address that was taken meanwhile does nothing, and the code still holds", func(s *suite) {
		u := s.create("ada")
		other := s.create("grace")
		ref, others := s.open(u), s.open(other)
		h := s.issueEmailChange(ref, newAddress)
		must(s.change(others, s.issueEmailChange(others, newAddress), newAddress))(s)
		s.taken(errOf(s.change(ref, h, newAddress)), identity.TakenError{Email: true})
		equal(s, s.credentials(u).User, u)
		s.ok(s.DeleteUser(s.Context(), others, noEvent))
		must(s.change(ref, h, newAddress))(s)
	}},
}
