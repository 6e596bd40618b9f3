package identitytest

import (
	"errors"
	"fmt"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// rounds is how often a race of two is run. The order differs from round to round.
const rounds = 150

var raceSentences = []sentence{
	{"CountFailure loses none of 30 at once", func(s *suite) {
		u := s.create("ada")
		key := s.credentials(u).ThrottleKey
		equal(s, s.winners(30, nil, func(int) error { return s.CountFailure(s.Context(), key, noEvent) }), 30)
		equal(s, s.credentials(u).Failures, 30)
	}},
	{"of 50 RedeemVerification at once, one succeeds, and one session is open", func(s *suite) {
		n := newSignUp("ada")
		code := s.signUp(n)
		sessions := make([]identity.NewSession, 50)
		for i := range sessions {
			sessions[i] = s.newSession()
		}
		won := s.winners(len(sessions), identity.ErrNoCode, func(i int) error {
			_, err := s.RedeemVerification(s.Context(), identity.ClaimProof{Code: code}, sessions[i], noRecord)
			return err
		})
		equal(s, won, 1)
		open := 0
		for _, opened := range sessions {
			if s.isAlive(s.ref(opened.ID, identity.User{ID: n.ID})) {
				open++
			}
		}
		equal(s, open, 1)
	}},
	{"of 50 RedeemRecovery at once, one succeeds, and its password is the one", func(s *suite) {
		u := s.create("ada")
		h := s.issue(u, identity.Recovery)
		var winner string
		won := s.winners(50, identity.ErrNoCode, func(i int) error {
			newHash := fmt.Sprintf("hash %d", i)
			err := s.recover(u, h, newHash, "")
			if err == nil {
				winner = newHash
			}
			return err
		})
		equal(s, won, 1)
		equal(s, s.credentials(u).PasswordHash, winner)
	}},
	{"of 50 RedeemEmailChange at once, one succeeds", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		h := s.issueEmailChange(ref, "")
		won := s.winners(50, identity.ErrNoCode, func(i int) error {
			email := fmt.Sprintf("ada%d@example.com", i)
			_, err := s.change(ref, h, email)
			return err
		})
		equal(s, won, 1)
	}},
	{"of 20 users who change to one address at once, one succeeds", func(s *suite) {
		refs, codes := make([]identity.SessionRef, 20), make([]identity.CodeHash, 20)
		for i := range refs {
			u := s.create(fmt.Sprintf("user%d", i))
			refs[i] = s.open(u)
			codes[i] = s.issueEmailChange(refs[i], newAddress)
		}
		won := s.winners(len(refs), nil, func(i int) error { return errOf(s.change(refs[i], codes[i], newAddress)) })
		equal(s, won, 1)
	}},
	{"of 64 AdvanceSession at once, one advances", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		won := s.winners(64, errNotAdvanced, func(int) error {
			_, advanced, err := s.AdvanceSession(s.Context(), ref, 0, identity.Renewal{RefreshedAt: s.now, Lifetime: refreshTTL})
			if err == nil && !advanced {
				return errNotAdvanced
			}
			return err
		})
		equal(s, won, 1)
		found := must(s.FindSession(s.Context(), ref))(s)
		equal(s, found.Generation, 1)
	}},
	{"of 64 EndOwnSession at once, one ends the session", func(s *suite) {
		u := s.create("ada")
		here, there := s.open(u), s.open(u)
		won := s.winners(64, errNotEnded, func(int) error {
			ended, err := s.EndOwnSession(s.Context(), here, there.ID, noEvent)
			if err == nil && !ended {
				return errNotEnded
			}
			return err
		})
		equal(s, won, 1)
		s.ended(there)
	}},
	{"no session with the old password survives OpenSession against ChangePassword", func(s *suite) {
		u := s.create("ada")
		here := s.open(u)
		current := passwordHash
		for i := range rounds {
			late, next := s.session(u), fmt.Sprintf("hash %d", i)
			late.PasswordHash = current
			var opening, changing error
			atOnce(
				func() { opening = s.OpenSession(s.Context(), late, noEvent) },
				func() { changing = s.ChangePassword(s.Context(), here, current, next, noRecord) },
			)
			s.ok(changing)
			s.okOr(opening, identity.ErrStale)
			s.ended(s.ref(late.ID, u))
			s.alive(here)
			current = next
		}
	}},
	{"no session with the old password survives OpenSession against RedeemRecovery", func(s *suite) {
		u := s.create("ada")
		current := passwordHash
		for i := range rounds {
			late, next, h := s.session(u), fmt.Sprintf("hash %d", i), s.issue(u, identity.Recovery)
			late.PasswordHash = current
			if i%2 == 0 {
				late.Rehash = "the old password at another cost"
			}
			var opening, redeeming error
			atOnce(
				func() { opening = s.OpenSession(s.Context(), late, noEvent) },
				func() { redeeming = s.recover(u, h, next, "") },
			)
			s.ok(redeeming)
			s.okOr(opening, identity.ErrStale)
			s.ended(s.ref(late.ID, u))
			equal(s, s.credentials(u).PasswordHash, next)
			current = next
		}
	}},
	{"of two ChangePassword at once from two sessions, one succeeds and its session lives", func(s *suite) {
		u := s.create("ada")
		current := passwordHash
		for i := range rounds {
			var refs [2]identity.SessionRef
			var errs [2]error
			hashes := [2]string{fmt.Sprintf("hash %d a", i), fmt.Sprintf("hash %d b", i)}
			for j := range refs {
				n := s.session(u)
				n.PasswordHash = current
				s.ok(s.OpenSession(s.Context(), n, noEvent))
				refs[j] = s.ref(n.ID, u)
			}
			atOnce(
				func() { errs[0] = s.ChangePassword(s.Context(), refs[0], current, hashes[0], noRecord) },
				func() { errs[1] = s.ChangePassword(s.Context(), refs[1], current, hashes[1], noRecord) },
			)
			winner := 0
			if errs[0] != nil {
				winner = 1
			}
			s.ok(errs[winner])
			s.is(errs[1-winner], identity.ErrNoSession)
			s.alive(refs[winner])
			s.ended(refs[1-winner])
			current = s.credentials(u).PasswordHash
			equal(s, current, hashes[winner])
		}
	}},
	{"nothing lives after EndSession and AdvanceSession have both returned", func(s *suite) {
		u := s.create("ada")
		for range rounds {
			ref := s.open(u)
			var ended bool
			var ending, advancing error
			atOnce(
				func() { ended, ending = s.EndSession(s.Context(), ref, noEvent) },
				func() {
					_, _, advancing = s.AdvanceSession(s.Context(), ref, 0, identity.Renewal{RefreshedAt: s.now, Lifetime: refreshTTL})
				},
			)
			s.ok(errors.Join(ending, advancing))
			equal(s, ended, true)
			s.ended(ref)
		}
	}},
	{"nothing lives after ChangePassword has ended a session that is being renewed", func(s *suite) {
		u := s.create("ada")
		here := s.open(u)
		current := passwordHash
		for i := range rounds {
			n, next := s.session(u), fmt.Sprintf("hash %d", i)
			n.PasswordHash = current
			s.ok(s.OpenSession(s.Context(), n, noEvent))
			other := s.ref(n.ID, u)
			var changing, advancing error
			atOnce(
				func() { changing = s.ChangePassword(s.Context(), here, current, next, noRecord) },
				func() {
					_, _, advancing = s.AdvanceSession(s.Context(), other, 0, identity.Renewal{RefreshedAt: s.now, Lifetime: refreshTTL})
				},
			)
			s.ok(errors.Join(changing, advancing))
			s.ended(other)
			current = next
		}
	}},
	{"nothing lives after DeleteUser and OpenSession have both returned", func(s *suite) {
		for i := range rounds {
			u := s.create(fmt.Sprintf("user%d", i))
			here, late := s.open(u), s.session(u)
			var opening, deleting error
			atOnce(
				func() { opening = s.OpenSession(s.Context(), late, noEvent) },
				func() { deleting = s.DeleteUser(s.Context(), here, noEvent) },
			)
			s.ok(deleting)
			s.okOr(opening, identity.ErrStale)
			s.ended(s.ref(late.ID, u))
			s.ended(here)
		}
	}},
	{"no recovery code for the old address survives a change of address", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		for i := range rounds {
			next := fmt.Sprintf("ada%d@example.com", i)
			recovery, change := newCode(identity.Recovery), s.issueEmailChange(ref, next)
			var issuing, changing error
			changed := u
			atOnce(
				func() { _, issuing = s.IssueCode(s.Context(), u.Email, recovery, noEvent) },
				func() { changed, changing = s.change(ref, change, next) },
			)
			s.ok(changing)
			s.okOr(issuing, identity.ErrNoUser)
			s.is(errOf(s.FindRecovery(s.Context(), recovery.Hash)), identity.ErrNoCode)
			u = changed
		}
	}},
	{"many sign-ins of one user at once all succeed, and the next one keeps to the limit", func(s *suite) {
		u := s.create("ada")
		sessions := make([]identity.NewSession, 20)
		for i := range sessions {
			sessions[i] = s.session(u)
			sessions[i].Keep = 5
		}
		equal(s, s.winners(len(sessions), nil, func(i int) error { return s.OpenSession(s.Context(), sessions[i], noEvent) }), len(sessions))
		last := s.session(u)
		last.Keep = 5
		s.ok(s.OpenSession(s.Context(), last, noEvent))
		s.alive(s.ref(last.ID, u))
		others := 0
		for _, n := range sessions {
			if s.isAlive(s.ref(n.ID, u)) {
				others++
			}
		}
		equal(s, others, 4)
	}},
}

var (
	errNotAdvanced = errors.New("not advanced")
	errNotEnded    = errors.New("not ended")
)

// okOr fails on every error except the one that the race allows.
func (s *suite) okOr(err, allowed error) {
	s.Helper()
	if err != nil {
		s.is(err, allowed)
	}
}
