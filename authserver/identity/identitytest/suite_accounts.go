package identitytest

import (
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
)

var accountSentences = []sentence{
	{"CreateUser inserts the user, not verified, and a code for them", func(s *suite) {
		n := newUser("ada")
		n.Username, n.Email = "Ada", "Ada@Example.com"
		c := newCode(identity.Verification)
		u, err := s.CreateUser(s.Context(), n, c)
		s.ok(err)
		if u.CreatedAt.IsZero() || !u.UpdatedAt.Equal(u.CreatedAt) {
			s.Errorf("created at %v, updated at %v", u.CreatedAt, u.UpdatedAt)
		}
		want := identity.User{
			ID: n.ID, Username: "Ada", Email: "Ada@Example.com", FirstName: "Ada", LastName: "Lovelace",
			Scope: scope, CreatedAt: u.CreatedAt, UpdatedAt: u.UpdatedAt,
		}
		equal(s, u, want)
		verified, err := s.RedeemVerification(s.Context(), c.Hash, identity.NewSession{
			ID: newID(), OpenedAt: s.now, ExpiresAt: s.now.Add(refreshTTL), EndsAt: s.now.Add(lifetime),
		})
		s.ok(err)
		equal(s, verified.ID, n.ID)
	}},
	{"CreateUser names all that is taken", func(s *suite) {
		s.create("ada")
		s.create("grace")
		for _, tc := range []struct {
			username, email string
			want            identity.TakenError
		}{
			{"ada", "new@example.com", identity.TakenError{Username: true}},
			{"new", "ada@example.com", identity.TakenError{Email: true}},
			{"ada", "ada@example.com", identity.TakenError{Username: true, Email: true}},
			{"ada", "grace@example.com", identity.TakenError{Username: true, Email: true}},
		} {
			n := newUser("new")
			n.Username, n.CanonicalUsername = tc.username, tc.username
			n.Email, n.CanonicalEmail = tc.email, tc.email
			_, err := s.CreateUser(s.Context(), n, newCode(identity.Verification))
			s.taken(err, tc.want)
		}
	}},
	{"CreateUser inserts nothing where something is taken", func(s *suite) {
		s.create("ada")
		n, c := newUser("ada"), newCode(identity.Verification)
		n.Email, n.CanonicalEmail = "new@example.com", "new@example.com"
		_, err := s.CreateUser(s.Context(), n, c)
		s.taken(err, identity.TakenError{Username: true})
		found, err := s.FindCredentials(s.Context(), identity.Login{CanonicalEmail: "new@example.com"})
		s.ok(err)
		equal(s, found.Found, false)
		_, err = s.RedeemVerification(s.Context(), c.Hash, identity.NewSession{ID: newID()})
		s.is(err, identity.ErrNoCode)
	}},
	{"FindCredentials finds an account by its canonical username or email", func(s *suite) {
		u, _ := s.create("ada")
		for _, login := range []identity.Login{{CanonicalUsername: "ada"}, {CanonicalEmail: "ada@example.com"}} {
			c, err := s.FindCredentials(s.Context(), login)
			s.ok(err)
			want := identity.Credentials{Found: true, User: u, PasswordHash: passwordHash, ThrottleKey: c.ThrottleKey}
			equal(s, c, want)
		}
		for _, login := range []identity.Login{
			{CanonicalUsername: "ada@example.com"}, {CanonicalEmail: "ada"}, {CanonicalUsername: "ADA"}, {},
		} {
			c, err := s.FindCredentials(s.Context(), login)
			s.ok(err)
			equal(s, c, identity.Credentials{ThrottleKey: c.ThrottleKey})
		}
	}},
	{"FindCredentials tells of activation and suspension", func(s *suite) {
		u, code := s.create("ada")
		equal(s, s.credentials(u).Activated, false)
		_, err := s.RedeemVerification(s.Context(), code, s.session(u))
		s.ok(err)
		equal(s, s.credentials(u).Activated, true)
		equal(s, s.credentials(u).User.EmailVerified, true)
		equal(s, s.credentials(u).Suspended, false)
		s.suspend(u, true)
		equal(s, s.credentials(u).Suspended, true)
	}},
	{"failures of an account are counted under one key, however it is named", func(s *suite) {
		s.create("ada")
		s.create("grace")
		key := func(l identity.Login) identity.ThrottleKey {
			c, err := s.FindCredentials(s.Context(), l)
			s.ok(err)
			return c.ThrottleKey
		}
		byName := key(identity.Login{CanonicalUsername: "ada"})
		byEmail := key(identity.Login{CanonicalEmail: "ada@example.com"})
		equal(s, byName, byEmail)
		distinct := map[identity.ThrottleKey]bool{
			{}:     true,
			byName: true,
			key(identity.Login{CanonicalUsername: "grace"}):            true,
			key(identity.Login{CanonicalUsername: "nobody"}):           true,
			key(identity.Login{CanonicalEmail: "nobody@example.com"}):  true,
			key(identity.Login{CanonicalEmail: "nobody2@example.com"}): true,
		}
		equal(s, len(distinct), 6)
		equal(s, key(identity.Login{CanonicalUsername: "nobody"}), key(identity.Login{CanonicalUsername: "nobody"}))
	}},
	{"CountFailure adds one, for known and unknown alike, and they age by the store's clock", func(s *suite) {
		s.create("ada")
		for _, login := range []identity.Login{{CanonicalUsername: "ada"}, {CanonicalUsername: "nobody"}} {
			for want := range 3 {
				c, err := s.FindCredentials(s.Context(), login)
				s.ok(err)
				equal(s, c.Failures, want)
				s.ok(s.CountFailure(s.Context(), c.ThrottleKey))
			}
		}
		s.pass(time.Hour)
		for _, login := range []identity.Login{{CanonicalUsername: "ada"}, {CanonicalUsername: "nobody"}} {
			c, err := s.FindCredentials(s.Context(), login)
			s.ok(err)
			equal(s, c.Failures, 3)
			if c.SinceFailure < time.Hour || c.SinceFailure > time.Hour+time.Minute {
				s.Errorf("the failure was %v ago; want an hour", c.SinceFailure)
			}
		}
	}},
	{"UpdateUser changes the names that are not nil", func(s *suite) {
		before, _ := s.create("ada")
		ref := s.open(before)
		s.pass(time.Second)
		empty, countess := "", "Countess"
		got, err := s.UpdateUser(s.Context(), ref, identity.ProfileChange{FirstName: &countess, LastName: &empty})
		s.ok(err)
		if got.UpdatedAt.Before(before.UpdatedAt) {
			s.Errorf("updated at %v, before %v", got.UpdatedAt, before.UpdatedAt)
		}
		want := before
		want.FirstName, want.LastName, want.UpdatedAt = "Countess", "", got.UpdatedAt
		equal(s, got, want)

		name, canonical := "Countess.Ada", "countess.ada"
		got, err = s.UpdateUser(s.Context(), ref, identity.ProfileChange{Username: &name, CanonicalUsername: &canonical})
		s.ok(err)
		want.Username, want.UpdatedAt = name, got.UpdatedAt
		equal(s, got, want)
		found, err := s.FindCredentials(s.Context(), identity.Login{CanonicalUsername: canonical})
		s.ok(err)
		equal(s, found.User, want)
	}},
	{"UpdateUser refuses another account's username, and takes one's own in another case", func(s *suite) {
		s.create("grace")
		u, _ := s.create("ada")
		ref := s.open(u)
		name, first := "grace", "changed"
		_, err := s.UpdateUser(s.Context(), ref, identity.ProfileChange{Username: &name, CanonicalUsername: &name, FirstName: &first})
		s.taken(err, identity.TakenError{Username: true})
		equal(s, s.credentials(u).User, u)

		name, canonical := "ADA", "ada"
		got, err := s.UpdateUser(s.Context(), ref, identity.ProfileChange{Username: &name, CanonicalUsername: &canonical})
		s.ok(err)
		equal(s, got.Username, "ADA")
	}},
	{"DeleteUser removes the user with every session, code and counted failure", func(s *suite) {
		u, code := s.create("ada")
		here, there := s.open(u), s.open(u)
		recovery := s.issue(u, identity.Recovery)
		s.fail(u, 3)
		key := s.credentials(u).ThrottleKey

		s.ok(s.DeleteUser(s.Context(), here))
		s.ended(here)
		s.ended(there)
		s.is(s.DeleteUser(s.Context(), here), identity.ErrNoSession)
		equal(s, s.credentials(u).Found, false)

		// The same names are free, and nothing of before works for their new owner.
		again, err := s.CreateUser(s.Context(), newUser("ada"), newCode(identity.Verification))
		s.ok(err)
		_, err = s.RedeemVerification(s.Context(), code, s.session(again))
		s.is(err, identity.ErrNoCode)
		s.is(s.RedeemRecovery(s.Context(), recovery, again.ID, otherHash, ""), identity.ErrNoCode)
		equal(s, s.credentials(again).Failures, 0)
		if s.credentials(again).ThrottleKey == key {
			s.Error("the new account has the old one's throttle")
		}
		equal(s, s.isAlive(identity.SessionRef{ID: here.ID, UserID: again.ID}), false)
	}},
	{"FindUser and FindPassword read the user of a live session", func(s *suite) {
		u, _ := s.create("ada")
		ref := s.open(u)
		s.fail(u, 2)
		got, err := s.FindUser(s.Context(), ref)
		s.ok(err)
		equal(s, got, u)
		c, err := s.FindPassword(s.Context(), ref, "")
		s.ok(err)
		want := s.credentials(u)
		want.SinceFailure, c.SinceFailure = 0, 0
		equal(s, c, want)
		equal(s, c.Failures, 2)
	}},
	{"ChangePassword replaces the hash, and ends all but this session, codes and failures", func(s *suite) {
		u, code := s.create("ada")
		other, _ := s.create("grace")
		here, there, others := s.open(u), s.open(u), s.open(other)
		recovery := s.issue(u, identity.Recovery)
		s.fail(u, 3)

		s.ok(s.ChangePassword(s.Context(), here, passwordHash, otherHash))
		equal(s, s.credentials(u).PasswordHash, otherHash)
		equal(s, s.credentials(u).Failures, 0)
		s.alive(here)
		s.ended(there)
		s.alive(others)
		_, err := s.RedeemVerification(s.Context(), code, s.session(u))
		s.is(err, identity.ErrNoCode)
		_, err = s.FindRecovery(s.Context(), recovery)
		s.is(err, identity.ErrNoCode)
		equal(s, s.credentials(other).PasswordHash, passwordHash)
	}},
	{"ChangePassword does nothing where the hash is no longer the one that was read", func(s *suite) {
		u, _ := s.create("ada")
		here, there := s.open(u), s.open(u)
		s.fail(u, 3)
		s.is(s.ChangePassword(s.Context(), here, "another hash", otherHash), identity.ErrStale)
		equal(s, s.credentials(u).PasswordHash, passwordHash)
		equal(s, s.credentials(u).Failures, 3)
		s.alive(there)
	}},
	{"a sign-in that read the old hash opens no session after ChangePassword", func(s *suite) {
		u, _ := s.create("ada")
		here, late := s.open(u), s.session(u)
		s.ok(s.ChangePassword(s.Context(), here, passwordHash, otherHash))
		s.is(s.OpenSession(s.Context(), late), identity.ErrStale)
		s.ended(s.ref(late.ID, u))
	}},
	{"what takes a live session refuses every other one", func(s *suite) {
		u, _ := s.create("ada")
		other, _ := s.create("grace")
		ref, others := s.open(u), s.open(other)
		code := s.issueEmailChange(ref, "")
		signedOut := s.open(u)
		_, err := s.EndSession(s.Context(), signedOut)
		s.ok(err)

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
		s.suspend(u, true)
		s.refuses("suspended", ref, code)
		s.suspend(u, false)

		equal(s, s.credentials(u).User, u)
		equal(s, s.credentials(u).PasswordHash, passwordHash)
		_, err = s.RedeemEmailChange(s.Context(), ref, code, "new@example.com", "new@example.com")
		s.ok(err)
	}},
}

// refuses calls all that takes a live session with one that is not.
func (s *suite) refuses(name string, ref identity.SessionRef, code identity.CodeHash) {
	s.Helper()
	ctx, first := s.Context(), "changed"
	calls := map[string]func() error{
		"FindUser":     func() error { _, err := s.FindUser(ctx, ref); return err },
		"FindSession":  func() error { _, err := s.FindSession(ctx, ref); return err },
		"FindPassword": func() error { _, err := s.FindPassword(ctx, ref, ""); return err },
		"UpdateUser": func() error {
			_, err := s.UpdateUser(ctx, ref, identity.ProfileChange{FirstName: &first})
			return err
		},
		"DeleteUser":       func() error { return s.DeleteUser(ctx, ref) },
		"ChangePassword":   func() error { return s.ChangePassword(ctx, ref, passwordHash, otherHash) },
		"IssueEmailChange": func() error { _, err := s.IssueEmailChange(ctx, ref, newCode(identity.EmailChange)); return err },
		"RedeemEmailChange": func() error {
			_, err := s.RedeemEmailChange(ctx, ref, code, "new@example.com", "new@example.com")
			return err
		},
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
