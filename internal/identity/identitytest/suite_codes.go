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
		_, err := s.FindRecovery(s.Context(), first)
		s.is(err, identity.ErrNoCode)
		s.is(s.recover(u, first, otherHash, ""), identity.ErrNoCode)
		_, err = s.FindRecovery(s.Context(), second)
		s.ok(err)

		n := newSignUp("grace")
		verification := s.signUp(n)
		newer := newCode(identity.Verification)
		owner, err := s.IssueCode(s.Context(), n.Email, newer, noEvent)
		s.ok(err)
		equal(s, owner, n.ID)
		_, err = s.alone(verification)
		s.is(err, identity.ErrNoCode)
		_, err = s.alone(newer.Hash)
		s.ok(err)
	}},
	{"IssueCode gives whose it is: the account's, else the newest claim's, or tells that there is none", func(s *suite) {
		for _, purpose := range []identity.Purpose{identity.Verification, identity.Recovery} {
			_, err := s.IssueCode(s.Context(), address, newCode(purpose), noEvent)
			s.is(err, identity.ErrNoUser)
		}
		mallory := s.create("mallory")
		ref := s.open(mallory)
		_, err := s.change(ref, s.issueEmailChange(ref, ""), address)
		s.ok(err)
		s.advance(time.Second)
		_, err = s.IssueCode(s.Context(), address, newCode(identity.Recovery), noEvent)
		s.is(err, identity.ErrNoUser)
		owner, err := s.IssueCode(s.Context(), address, newCode(identity.Verification), noEvent)
		s.ok(err)
		equal(s, owner, mallory.ID)

		first, second := at(address, "ada"), at(address, "grace")
		s.signUp(first)
		s.advance(time.Second)
		code := s.signUp(second)
		for _, purpose := range []identity.Purpose{identity.Recovery, identity.Verification} {
			owner, err := s.IssueCode(s.Context(), address, newCode(purpose), noEvent)
			s.ok(err)
			equal(s, owner, second.ID)
		}
		_, err = s.alone(code)
		s.is(err, identity.ErrNoCode)
		c := newCode(identity.Verification)
		_, err = s.IssueCode(s.Context(), address, c, noEvent)
		s.ok(err)
		_, err = s.proves(c.Hash, first)
		s.ok(err)
		_, err = s.IssueCode(s.Context(), address, newCode(identity.Verification), noEvent)
		s.is(err, identity.ErrAlreadyVerified)
		owner, err = s.IssueCode(s.Context(), address, newCode(identity.Recovery), noEvent)
		s.ok(err)
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
		_, err := s.FindRecovery(s.Context(), recovery)
		s.ok(err)
		_, err = s.FindClaims(s.Context(), verification)
		s.ok(err)
		s.advance(2 * time.Minute)
		_, err = s.FindRecovery(s.Context(), recovery)
		s.is(err, identity.ErrNoCode)
		s.is(s.recover(u, recovery, otherHash, ""), identity.ErrNoCode)
		_, err = s.FindClaims(s.Context(), verification)
		s.is(err, identity.ErrNoCode)
		_, err = s.alone(verification)
		s.is(err, identity.ErrNoCode)
		_, err = s.change(ref, change, newAddress)
		s.is(err, identity.ErrNoCode)

		again := s.issue(u, identity.Recovery)
		_, err = s.FindRecovery(s.Context(), again)
		s.ok(err)
	}},
	{"FindRecovery reads what a code belongs to, without using it up", func(s *suite) {
		u := s.create("ada")
		h := s.issue(u, identity.Recovery)
		for range 2 {
			got, err := s.FindRecovery(s.Context(), h)
			s.ok(err)
			equal(s, got, identity.Claim{ID: u.ID, Username: "ada", Email: u.Email, PasswordHash: passwordHash})
		}
		_, err := s.FindRecovery(s.Context(), newHash())
		s.is(err, identity.ErrNoCode)
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
		_, err := s.change(ref, change, newAddress)
		s.is(err, identity.ErrNoCode)
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
		_, err := s.change(ref, first, newAddress)
		s.is(err, identity.ErrNoCode)
	}},
	{"IssueEmailChange refuses another account's address, and takes one's own", func(s *suite) {
		u := s.create("ada")
		s.create("grace")
		ref := s.open(u)
		live := s.issueEmailChange(ref, "")
		c := newCode(identity.EmailChange)
		c.Target = "grace@example.com"
		s.taken(s.IssueEmailChange(s.Context(), ref, c, noEvent), identity.TakenError{Email: true})
		_, err := s.change(ref, c.Hash, newAddress)
		s.is(err, identity.ErrNoCode)
		s.issueEmailChange(ref, u.Email)
		_, err = s.change(ref, live, newAddress)
		s.is(err, identity.ErrNoCode)
	}},
	{"RedeemEmailChange sets the address that its code was made for", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		h := s.issueEmailChange(ref, newAddress)
		got, err := s.change(ref, h, "New@Example.com")
		s.ok(err)
		want := u
		want.Email, want.UpdatedAt = "New@Example.com", got.UpdatedAt
		equal(s, got, want)
		s.alive(ref)
		found, err := s.FindCredentials(s.Context(), identity.Login{CanonicalEmail: newAddress})
		s.ok(err)
		equal(s, found.User, want)
		equal(s, s.credentials(u).Found, false)
		_, err = s.change(ref, h, newAddress)
		s.is(err, identity.ErrNoCode)
	}},
	{"RedeemEmailChange to an unproved address that another has is refused where that may be told", func(s *suite) {
		u := s.create("ada")
		s.create("grace")
		ref := s.open(u)
		h := s.issueEmailChange(ref, "")
		_, err := s.change(ref, h, "grace@example.com")
		s.taken(err, identity.TakenError{Email: true})
		equal(s, s.credentials(u).User, u)
		got, err := s.RedeemEmailChange(s.Context(), ref, identity.EmailRedemption{
			Code: h, Email: "grace@example.com", CanonicalEmail: "grace@example.com",
		}, noRecord)
		s.ok(err)
		equal(s, got.EmailVerified, false)
		_, err = s.IssueCode(s.Context(), "grace@example.com", newCode(identity.Verification), noEvent)
		s.is(err, identity.ErrAlreadyVerified)
	}},
	{"RedeemEmailChange to one's own address gives up one that was not proved", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		changed, err := s.change(ref, s.issueEmailChange(ref, ""), newAddress)
		s.ok(err)
		code := s.issue(changed, identity.Verification)
		got, err := s.change(ref, s.issueEmailChange(ref, ""), "ADA@example.com")
		s.ok(err)
		equal(s, got.Email, "ADA@example.com")
		equal(s, got.EmailVerified, true)
		_, err = s.alone(code)
		s.is(err, identity.ErrNoCode)
	}},
	{"RedeemEmailChange removes the user's other codes", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		recovery := s.issue(u, identity.Recovery)
		_, err := s.change(ref, s.issueEmailChange(ref, ""), newAddress)
		s.ok(err)
		_, err = s.FindRecovery(s.Context(), recovery)
		s.is(err, identity.ErrNoCode)
	}},
	{"a code of another user, or for another address, does nothing and still holds", func(s *suite) {
		u := s.create("ada")
		other := s.create("grace")
		ref, others := s.open(u), s.open(other)
		h := s.issueEmailChange(ref, newAddress)
		_, err := s.change(others, h, newAddress)
		s.is(err, identity.ErrNoCode)
		_, err = s.change(ref, h, "else@example.com")
		s.is(err, identity.ErrNoCode)
		equal(s, s.credentials(u).User, u)
		equal(s, s.credentials(other).User, other)
		_, err = s.change(ref, h, newAddress)
		s.ok(err)
	}},
	{"RedeemEmailChange to an address that was taken meanwhile does nothing, and the code still holds", func(s *suite) {
		u := s.create("ada")
		other := s.create("grace")
		ref, others := s.open(u), s.open(other)
		h := s.issueEmailChange(ref, newAddress)
		_, err := s.change(others, s.issueEmailChange(others, newAddress), newAddress)
		s.ok(err)
		_, err = s.change(ref, h, newAddress)
		s.taken(err, identity.TakenError{Email: true})
		equal(s, s.credentials(u).User, u)
		s.ok(s.DeleteUser(s.Context(), others, noEvent))
		_, err = s.change(ref, h, newAddress)
		s.ok(err)
	}},
}
