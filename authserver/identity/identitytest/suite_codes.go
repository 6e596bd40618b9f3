package identitytest

import (
	"errors"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
)

var codeSentences = []sentence{
	{"IssueCode makes its code the only live one of its purpose", func(s *suite) {
		u, verification := s.create("ada")
		first := s.issue(u, identity.Recovery)
		second := s.issue(u, identity.Recovery)
		_, err := s.FindRecovery(s.Context(), first)
		s.is(err, identity.ErrNoCode)
		s.is(s.RedeemRecovery(s.Context(), first, u.ID, otherHash, ""), identity.ErrNoCode)
		_, err = s.FindRecovery(s.Context(), second)
		s.ok(err)

		newer := s.issue(u, identity.Verification)
		_, err = s.RedeemVerification(s.Context(), verification, s.session(u))
		s.is(err, identity.ErrNoCode)
		_, err = s.RedeemVerification(s.Context(), newer, s.session(u))
		s.ok(err)
	}},
	{"IssueCode gives the account, or tells that there is none or that it is verified", func(s *suite) {
		u, code := s.create("ada")
		got, err := s.IssueCode(s.Context(), "ada@example.com", newCode(identity.Recovery))
		s.ok(err)
		equal(s, got, u)
		for _, purpose := range []identity.Purpose{identity.Verification, identity.Recovery} {
			_, err = s.IssueCode(s.Context(), "nobody@example.com", newCode(purpose))
			s.is(err, identity.ErrNoUser)
		}
		_, err = s.RedeemVerification(s.Context(), code, s.session(u))
		s.ok(err)
		_, err = s.IssueCode(s.Context(), "ada@example.com", newCode(identity.Verification))
		s.is(err, identity.ErrAlreadyVerified)
		_, err = s.IssueCode(s.Context(), "ada@example.com", newCode(identity.Recovery))
		s.ok(err)
	}},
	{"a code is good for its own purpose alone, and trying another does not use it up", func(s *suite) {
		u, verification := s.create("ada")
		ref := s.open(u)
		codes := map[identity.Purpose]identity.CodeHash{
			identity.Verification: verification,
			identity.Recovery:     s.issue(u, identity.Recovery),
			identity.EmailChange:  s.issueEmailChange(ref, ""),
		}
		redeem := func(p identity.Purpose, h identity.CodeHash) error {
			switch p {
			case identity.Verification:
				_, err := s.RedeemVerification(s.Context(), h, s.session(u))
				return err
			case identity.Recovery:
				_, err := s.FindRecovery(s.Context(), h)
				return errors.Join(err, s.RedeemRecovery(s.Context(), h, u.ID, otherHash, ""))
			default:
				_, err := s.RedeemEmailChange(s.Context(), ref, h, "new@example.com", "new@example.com")
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
	}},
	{"a code expires by the store's clock", func(s *suite) {
		// The callers' clock is wrong by a day, and it does not matter.
		s.now = s.now.Add(-24 * time.Hour)
		u, verification := s.create("ada")
		ref := s.open(u)
		recovery, change := s.issue(u, identity.Recovery), s.issueEmailChange(ref, "")
		s.advance(codeTTL - time.Minute)
		_, err := s.FindRecovery(s.Context(), recovery)
		s.ok(err)
		s.advance(2 * time.Minute)
		_, err = s.FindRecovery(s.Context(), recovery)
		s.is(err, identity.ErrNoCode)
		s.is(s.RedeemRecovery(s.Context(), recovery, u.ID, otherHash, ""), identity.ErrNoCode)
		_, err = s.RedeemVerification(s.Context(), verification, s.session(u))
		s.is(err, identity.ErrNoCode)
		_, err = s.RedeemEmailChange(s.Context(), ref, change, "new@example.com", "new@example.com")
		s.is(err, identity.ErrNoCode)

		again := s.issue(u, identity.Recovery)
		_, err = s.FindRecovery(s.Context(), again)
		s.ok(err)
	}},
	{"RedeemVerification verifies the email, ends what was opened before, and opens one session", func(s *suite) {
		u, code := s.create("ada")
		before := s.open(u)
		recovery := s.issue(u, identity.Recovery)
		n := s.session(u)
		n.UserID, n.Scope = "", "" // the code tells whose it is
		got, err := s.RedeemVerification(s.Context(), code, n)
		s.ok(err)
		want := u
		want.EmailVerified, want.UpdatedAt = true, got.UpdatedAt
		equal(s, got, want)
		s.ended(before)
		session, err := s.FindSession(s.Context(), s.ref(n.ID, u))
		s.ok(err)
		equal(s, session, identity.Session{
			ID: n.ID, User: got, Scope: scope,
			OpenedAt: s.now, RefreshedAt: s.now, ExpiresAt: n.ExpiresAt, EndsAt: n.EndsAt,
		})
		_, err = s.FindRecovery(s.Context(), recovery)
		s.is(err, identity.ErrNoCode)
		_, err = s.RedeemVerification(s.Context(), code, s.session(u))
		s.is(err, identity.ErrNoCode)
	}},
	{"RedeemVerification refuses a suspended account, and the code still holds", func(s *suite) {
		u, code := s.create("ada")
		n := s.session(u)
		s.suspend(u, true)
		_, err := s.RedeemVerification(s.Context(), code, n)
		s.is(err, identity.ErrSuspended)
		equal(s, s.credentials(u).Activated, false)
		s.suspend(u, false)
		_, err = s.RedeemVerification(s.Context(), code, n)
		s.ok(err)
	}},
	{"FindRecovery reads whom a code belongs to, without using it up", func(s *suite) {
		u, _ := s.create("ada")
		s.fail(u, 2)
		h := s.issue(u, identity.Recovery)
		for range 2 {
			got, err := s.FindRecovery(s.Context(), h)
			s.ok(err)
			want := s.credentials(u)
			got.SinceFailure, want.SinceFailure = 0, 0
			equal(s, got, want)
		}
		_, err := s.FindRecovery(s.Context(), newHash())
		s.is(err, identity.ErrNoCode)
	}},
	{"RedeemRecovery sets the password, verifies the email, and ends all sessions, codes and failures", func(s *suite) {
		u, verification := s.create("ada")
		other, _ := s.create("grace")
		opened, others := s.open(u), s.open(other)
		change := s.issueEmailChange(opened, "")
		h := s.issue(u, identity.Recovery)
		s.fail(u, 3)
		s.ok(s.RedeemRecovery(s.Context(), h, u.ID, otherHash, ""))
		c := s.credentials(u)
		equal(s, c.PasswordHash, otherHash)
		equal(s, c.Failures, 0)
		equal(s, c.Activated, true)
		equal(s, c.User.EmailVerified, true)
		s.ended(opened)
		s.alive(others)
		s.is(s.RedeemRecovery(s.Context(), h, u.ID, passwordHash, ""), identity.ErrNoCode)
		_, err := s.RedeemVerification(s.Context(), verification, s.session(u))
		s.is(err, identity.ErrNoCode)

		n := s.session(u)
		n.PasswordHash = otherHash
		s.ok(s.OpenSession(s.Context(), n))
		_, err = s.RedeemEmailChange(s.Context(), s.ref(n.ID, u), change, "new@example.com", "new@example.com")
		s.is(err, identity.ErrNoCode)
	}},
	{"RedeemRecovery with another user's id does nothing, and the code still holds", func(s *suite) {
		u, _ := s.create("ada")
		other, _ := s.create("grace")
		h := s.issue(u, identity.Recovery)
		for _, id := range []string{other.ID, newID(), "no id", ""} {
			s.is(s.RedeemRecovery(s.Context(), h, id, otherHash, ""), identity.ErrNoCode)
		}
		equal(s, s.credentials(other).PasswordHash, passwordHash)
		equal(s, s.credentials(u).PasswordHash, passwordHash)
		s.ok(s.RedeemRecovery(s.Context(), h, u.ID, otherHash, ""))
	}},
	{"RedeemRecovery leaves a suspended account suspended", func(s *suite) {
		u, _ := s.create("ada")
		h := s.issue(u, identity.Recovery)
		s.suspend(u, true)
		s.ok(s.RedeemRecovery(s.Context(), h, u.ID, otherHash, ""))
		equal(s, s.credentials(u).Suspended, true)
		equal(s, s.credentials(u).PasswordHash, otherHash)
	}},
}

const newAddress = "new@example.com"

var emailChangeSentences = []sentence{
	{"IssueEmailChange makes its code the only live one, and gives the user", func(s *suite) {
		u, _ := s.create("ada")
		ref := s.open(u)
		first := s.issueEmailChange(ref, newAddress)
		got, err := s.IssueEmailChange(s.Context(), ref, newCode(identity.EmailChange))
		s.ok(err)
		equal(s, got, u)
		_, err = s.RedeemEmailChange(s.Context(), ref, first, newAddress, newAddress)
		s.is(err, identity.ErrNoCode)
	}},
	{"IssueEmailChange refuses another account's address, and takes one's own", func(s *suite) {
		u, _ := s.create("ada")
		s.create("grace")
		ref := s.open(u)
		live := s.issueEmailChange(ref, "")
		c := newCode(identity.EmailChange)
		c.Target = "grace@example.com"
		_, err := s.IssueEmailChange(s.Context(), ref, c)
		s.taken(err, identity.TakenError{Email: true})
		_, err = s.RedeemEmailChange(s.Context(), ref, c.Hash, newAddress, newAddress)
		s.is(err, identity.ErrNoCode)
		s.issueEmailChange(ref, u.Email)
		_, err = s.RedeemEmailChange(s.Context(), ref, live, newAddress, newAddress)
		s.is(err, identity.ErrNoCode)
	}},
	{"RedeemEmailChange sets the address, verified where the code was made for it", func(s *suite) {
		for _, tc := range []struct {
			target   string
			verified bool
		}{{newAddress, true}, {"", false}} {
			u, _ := s.create("ada")
			ref := s.open(u)
			h := s.issueEmailChange(ref, tc.target)
			got, err := s.RedeemEmailChange(s.Context(), ref, h, "New@Example.com", newAddress)
			s.ok(err)
			want := u
			want.Email, want.EmailVerified, want.UpdatedAt = "New@Example.com", tc.verified, got.UpdatedAt
			equal(s, got, want)
			s.alive(ref)
			found, err := s.FindCredentials(s.Context(), identity.Login{CanonicalEmail: newAddress})
			s.ok(err)
			equal(s, found.User, want)
			equal(s, found.Activated, tc.verified)
			equal(s, s.credentials(u).Found, false)
			_, err = s.RedeemEmailChange(s.Context(), ref, h, newAddress, newAddress)
			s.is(err, identity.ErrNoCode)
			s.ok(s.DeleteUser(s.Context(), ref))
		}
	}},
	{"RedeemEmailChange to an unproved address leaves the account activated, but not verified", func(s *suite) {
		u, code := s.create("ada")
		n := s.session(u)
		_, err := s.RedeemVerification(s.Context(), code, n)
		s.ok(err)
		ref := s.ref(n.ID, u)
		got, err := s.RedeemEmailChange(s.Context(), ref, s.issueEmailChange(ref, ""), newAddress, newAddress)
		s.ok(err)
		equal(s, got.EmailVerified, false)
		equal(s, s.credentials(got).Activated, true)
		// The new address can now be verified like the first.
		_, err = s.RedeemVerification(s.Context(), s.issue(got, identity.Verification), s.session(got))
		s.ok(err)
	}},
	{"RedeemEmailChange removes the user's other codes", func(s *suite) {
		u, verification := s.create("ada")
		ref := s.open(u)
		recovery := s.issue(u, identity.Recovery)
		_, err := s.RedeemEmailChange(s.Context(), ref, s.issueEmailChange(ref, ""), newAddress, newAddress)
		s.ok(err)
		_, err = s.FindRecovery(s.Context(), recovery)
		s.is(err, identity.ErrNoCode)
		_, err = s.RedeemVerification(s.Context(), verification, s.session(identity.User{ID: u.ID, Email: newAddress}))
		s.is(err, identity.ErrNoCode)
	}},
	{"a code of another user, or for another address, does nothing and still holds", func(s *suite) {
		u, _ := s.create("ada")
		other, _ := s.create("grace")
		ref, others := s.open(u), s.open(other)
		h := s.issueEmailChange(ref, newAddress)
		_, err := s.RedeemEmailChange(s.Context(), others, h, newAddress, newAddress)
		s.is(err, identity.ErrNoCode)
		_, err = s.RedeemEmailChange(s.Context(), ref, h, "else@example.com", "else@example.com")
		s.is(err, identity.ErrNoCode)
		equal(s, s.credentials(u).User, u)
		equal(s, s.credentials(other).User, other)
		_, err = s.RedeemEmailChange(s.Context(), ref, h, newAddress, newAddress)
		s.ok(err)
	}},
	{"RedeemEmailChange to an address that was taken meanwhile does nothing, and the code still holds", func(s *suite) {
		u, _ := s.create("ada")
		other, _ := s.create("grace")
		ref, others := s.open(u), s.open(other)
		h := s.issueEmailChange(ref, newAddress)
		_, err := s.RedeemEmailChange(s.Context(), others, s.issueEmailChange(others, newAddress), newAddress, newAddress)
		s.ok(err)
		_, err = s.RedeemEmailChange(s.Context(), ref, h, newAddress, newAddress)
		s.taken(err, identity.TakenError{Email: true})
		equal(s, s.credentials(u).User, u)
		s.ok(s.DeleteUser(s.Context(), others))
		_, err = s.RedeemEmailChange(s.Context(), ref, h, newAddress, newAddress)
		s.ok(err)
	}},
}
