package identitytest

import (
	"fmt"
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

var accountSentences = []sentence{
	{"FindCredentials finds an account by its canonical username or email", func(s *suite) {
		u := s.create("ada")
		for _, login := range []identity.Login{{CanonicalUsername: "ada"}, {CanonicalEmail: "ada@example.com"}} {
			c := must(s.FindCredentials(s.Context(), login))(s)
			want := identity.Credentials{Found: true, User: u, PasswordHash: passwordHash, Activated: true, ThrottleKey: c.ThrottleKey}
			equal(s, c, want)
		}
		for _, login := range []identity.Login{
			{CanonicalUsername: "ada@example.com"}, {CanonicalEmail: "ada"}, {CanonicalUsername: "ADA"}, {},
		} {
			c := must(s.FindCredentials(s.Context(), login))(s)
			equal(s, c, identity.Credentials{ThrottleKey: c.ThrottleKey})
		}
	}},
	{"FindCredentials tells of activation and suspension", func(s *suite) {
		u := s.create("ada")
		equal(s, s.credentials(u).Activated, true)
		equal(s, s.credentials(u).User.EmailVerified, true)
		equal(s, s.credentials(u).Suspended, false)
		s.suspend(u, true)
		equal(s, s.credentials(u).Suspended, true)
	}},
	{"failures are counted under the login as it was given, whether an account has it or not", func(s *suite) {
		key := func(l identity.Login) identity.ThrottleKey {
			c := must(s.FindCredentials(s.Context(), l))(s)
			return c.ThrottleKey
		}
		logins := []identity.Login{
			{CanonicalUsername: "ada"}, {CanonicalEmail: "ada@example.com"},
			{CanonicalUsername: "grace"}, {CanonicalUsername: "nobody"}, {CanonicalEmail: "nobody@example.com"},
		}
		before := map[identity.ThrottleKey]bool{{}: true}
		for _, login := range logins {
			before[key(login)] = true
		}
		equal(s, len(before), len(logins)+1)
		s.create("ada")
		s.create("grace")
		for _, login := range logins {
			equal(s, before[key(login)], true)
		}
	}},
	{"CountFailure adds one, for known and unknown alike, and they age by the store's clock", func(s *suite) {
		s.create("ada")
		for _, login := range []identity.Login{{CanonicalUsername: "ada"}, {CanonicalUsername: "nobody"}} {
			for want := range 3 {
				c := must(s.FindCredentials(s.Context(), login))(s)
				equal(s, c.Failures, want)
				s.ok(s.CountFailure(s.Context(), c.ThrottleKey, noEvent))
			}
		}
		s.pass(time.Hour)
		for _, login := range []identity.Login{{CanonicalUsername: "ada"}, {CanonicalUsername: "nobody"}} {
			c := must(s.FindCredentials(s.Context(), login))(s)
			equal(s, c.Failures, 3)
			if c.SinceFailure < time.Hour || c.SinceFailure > time.Hour+time.Minute {
				s.Errorf("the failure was %v ago; want an hour", c.SinceFailure)
			}
		}
	}},
	{"UpdateUser changes the names that are not nil", func(s *suite) {
		before := s.create("ada")
		ref := s.open(before)
		s.pass(time.Second)
		empty, countess := "", "Countess"
		got := must(s.UpdateUser(s.Context(), ref, identity.ProfileChange{FirstName: &countess, LastName: &empty}, noEvent))(s)
		if got.UpdatedAt.Before(before.UpdatedAt) {
			s.Errorf("updated at %v, before %v", got.UpdatedAt, before.UpdatedAt)
		}
		want := before
		want.FirstName, want.LastName, want.UpdatedAt = "Countess", "", got.UpdatedAt
		equal(s, got, want)

		name, canonical := "Countess.Ada", "countess.ada"
		got = must(s.UpdateUser(s.Context(), ref, identity.ProfileChange{Username: &name, CanonicalUsername: &canonical}, noEvent))(s)
		want.Username, want.UpdatedAt = name, got.UpdatedAt
		equal(s, got, want)
		found := must(s.FindCredentials(s.Context(), identity.Login{CanonicalUsername: canonical}))(s)
		equal(s, found.User, want)
	}},
	{"UpdateUser refuses another account's username, and takes one's own in another case", func(s *suite) {
		s.create("grace")
		u := s.create("ada")
		ref := s.open(u)
		name, first := "grace", "changed"
		_, err := s.UpdateUser(s.Context(), ref, identity.ProfileChange{Username: &name, CanonicalUsername: &name, FirstName: &first}, noEvent)
		s.taken(err, identity.TakenError{Username: true})
		equal(s, s.credentials(u).User, u)

		name, canonical := "ADA", "ada"
		got, err := s.UpdateUser(s.Context(), ref, identity.ProfileChange{Username: &name, CanonicalUsername: &canonical}, noEvent)
		s.ok(err)
		equal(s, got.Username, "ADA")
	}},
	{"DeleteUser removes the user with every session and code", func(s *suite) {
		u := s.create("ada")
		here, there := s.open(u), s.open(u)
		recovery := s.issue(u, identity.Recovery)

		s.ok(s.DeleteUser(s.Context(), here, noEvent))
		s.ended(here)
		s.ended(there)
		s.is(s.DeleteUser(s.Context(), here, noEvent), identity.ErrNoSession)
		equal(s, s.credentials(u).Found, false)

		// The same names are free, and nothing of the former account works for the new one.
		again := s.create("ada")
		s.is(errOf(s.FindRecovery(s.Context(), recovery)), identity.ErrNoCode)
		s.is(s.recover(again, recovery, otherHash, ""), identity.ErrNoCode)
		equal(s, s.isAlive(identity.SessionRef{ID: here.ID, UserID: again.ID}), false)
	}},
	{"FindUser and FindPassword read the user of a live session", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		got := must(s.FindUser(s.Context(), ref))(s)
		equal(s, got, u)
		for want := range 3 {
			c := must(s.FindPassword(s.Context(), ref, ""))(s)
			equal(s, c, identity.Credentials{
				Found: true, User: u, PasswordHash: passwordHash, Activated: true,
				ThrottleKey: c.ThrottleKey, Failures: want, SinceFailure: c.SinceFailure,
			})
			s.ok(s.CountFailure(s.Context(), c.ThrottleKey, noEvent))
		}
		c := must(s.FindCredentials(s.Context(), identity.Login{CanonicalUsername: "ada"}))(s)
		equal(s, c.Failures, 3)
	}},
	{"ChangePassword replaces the hash, and ends all but this session and all codes", func(s *suite) {
		u := s.create("ada")
		other := s.create("grace")
		here, there, others := s.open(u), s.open(u), s.open(other)
		recovery := s.issue(u, identity.Recovery)

		s.ok(s.ChangePassword(s.Context(), here, passwordHash, otherHash, noRecord))
		equal(s, s.credentials(u).PasswordHash, otherHash)
		s.alive(here)
		s.ended(there)
		s.alive(others)
		s.is(errOf(s.FindRecovery(s.Context(), recovery)), identity.ErrNoCode)
		equal(s, s.credentials(other).PasswordHash, passwordHash)
	}},
	{"ChangePassword does nothing where the hash is no longer the one that was read", func(s *suite) {
		u := s.create("ada")
		here, there := s.open(u), s.open(u)
		s.fail(u, 3)
		s.is(s.ChangePassword(s.Context(), here, "another hash", otherHash, noRecord), identity.ErrStale)
		equal(s, s.credentials(u).PasswordHash, passwordHash)
		equal(s, s.credentials(u).Failures, 3)
		s.alive(there)
	}},
	{"a sign-in that read the old hash opens no session after ChangePassword", func(s *suite) {
		u := s.create("ada")
		here, late := s.open(u), s.session(u)
		s.ok(s.ChangePassword(s.Context(), here, passwordHash, otherHash, noRecord))
		s.is(s.OpenSession(s.Context(), late, noEvent), identity.ErrStale)
		s.ended(s.ref(late.ID, u))
	}},
	{"what takes a live session refuses every other one", func(s *suite) {
		u := s.create("ada")
		other := s.create("grace")
		ref, others := s.open(u), s.open(other)
		code := s.issueEmailChange(ref, "")
		signedOut := s.open(u)
		must(s.EndSession(s.Context(), signedOut, noEvent))(s)

		expired := ref
		expired.Now = s.now.Add(refreshTTL)
		dead := map[string]identity.SessionRef{
			"signed out":     signedOut,
			"expired":        expired,
			"unknown":        s.ref(newID(), u),
			"another user's": s.ref(others.ID, u),
			"of no user":     {ID: ref.ID, UserID: newID(), Now: s.now},
			"upper case":     {ID: strings.ToUpper(ref.ID), UserID: u.ID, Now: s.now},
			"in braces":      {ID: "{" + ref.ID + "}", UserID: u.ID, Now: s.now},
			"without dashes": {ID: strings.ReplaceAll(ref.ID, "-", ""), UserID: u.ID, Now: s.now},
			"not an id":      {ID: "x", UserID: "y", Now: s.now},
			"empty":          {Now: s.now},
		}
		for name, ref := range dead {
			s.refuses(name, ref, code)
		}
		equal(s, s.credentials(u).User, u)
		equal(s, s.credentials(u).PasswordHash, passwordHash)
		must(s.change(ref, code, "new@example.com"))(s)
	}},
	{"a suspension ends every session and code, and lifting it gives none of them back", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		change, recovery := s.issueEmailChange(ref, ""), s.issue(u, identity.Recovery)
		for _, suspended := range []bool{true, false} {
			s.suspend(u, suspended)
			s.refuses(fmt.Sprint("of one who was suspended; still: ", suspended), ref, change)
			s.is(s.recover(u, recovery, otherHash, ""), identity.ErrNoCode)
		}
		again := s.open(u)
		s.is(errOf(s.change(again, change, newAddress)), identity.ErrNoCode)
		s.ok(s.RedeemRecovery(s.Context(), s.issue(u, identity.Recovery), identity.Claim{ID: u.ID}, otherHash, "", noRecord))
	}},
}

// refuses calls every method that needs a live session with one that is not alive.
func (s *suite) refuses(name string, ref identity.SessionRef, code identity.CodeHash) {
	s.Helper()
	ctx, first := s.Context(), "changed"
	calls := map[string]func() error{
		"FindUser":          func() error { _, err := s.FindUser(ctx, ref); return err },
		"FindSession":       func() error { _, err := s.FindSession(ctx, ref); return err },
		"FindPassword":      func() error { _, err := s.FindPassword(ctx, ref, ""); return err },
		"UpdateUser":        func() error { return errOf(s.UpdateUser(ctx, ref, identity.ProfileChange{FirstName: &first}, noEvent)) },
		"DeleteUser":        func() error { return s.DeleteUser(ctx, ref, noEvent) },
		"ChangePassword":    func() error { return s.ChangePassword(ctx, ref, passwordHash, otherHash, noRecord) },
		"IssueEmailChange":  func() error { return s.IssueEmailChange(ctx, ref, newCode(identity.EmailChange), noEvent) },
		"RedeemEmailChange": func() error { return errOf(s.change(ref, code, newAddress)) },
		"AdvanceSession": func() error {
			_, advanced, err := s.AdvanceSession(ctx, ref, 0, identity.Renewal{RefreshedAt: s.now, Lifetime: refreshTTL})
			if err == nil && !advanced {
				return identity.ErrNoSession
			}
			return err
		},
	}
	for method, call := range calls {
		if err := call(); err != identity.ErrNoSession {
			s.Errorf("%s with a session that is %s: the error is %v", method, name, err)
		}
	}
}
