package identitytest

import (
	"context"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

var sessionSentences = []sentence{
	{"OpenSession inserts a session of the first generation", func(s *suite) {
		u := s.create("ada")
		n := s.session(u)
		s.ok(s.OpenSession(s.Context(), n, noEvent))
		got := must(s.FindSession(s.Context(), s.ref(n.ID, u)))(s)
		equal(s, got, identity.Session{
			ID: n.ID, User: u, Scope: scope, Generation: 0,
			OpenedAt: s.now, RefreshedAt: s.now, ExpiresAt: n.ExpiresAt, EndsAt: n.EndsAt,
		})
	}},
	{"OpenSession forgets the counted failures where it is to, and else not", func(s *suite) {
		u := s.create("ada")
		s.fail(u, 5)
		for _, forgive := range []bool{false, true} {
			n := s.session(u)
			n.Failures, n.Forgive = 5, forgive
			s.ok(s.OpenSession(s.Context(), n, noEvent))
			equal(s, s.credentials(u).Failures == 0, forgive)
		}
	}},
	{"OpenSession stores the new hash, where there is one", func(s *suite) {
		u := s.create("ada")
		n := s.session(u)
		n.Rehash = otherHash
		s.ok(s.OpenSession(s.Context(), n, noEvent))
		s.alive(s.ref(n.ID, u))
		equal(s, s.credentials(u).PasswordHash, otherHash)
		equal(s, s.credentials(u).User, u)
	}},
	{"OpenSession removes the oldest sessions beyond those to keep", func(s *suite) {
		u := s.create("ada")
		other := s.create("grace")
		others := s.open(other)
		var refs []identity.SessionRef
		for range 5 {
			n := s.session(u)
			n.Keep = 3
			s.ok(s.OpenSession(s.Context(), n, noEvent))
			refs = append(refs, s.ref(n.ID, u))
			s.pass(time.Second)
		}
		for i, ref := range refs {
			equal(s, s.isAlive(ref), i >= 2)
		}
		last := s.session(u)
		last.Keep = 1
		s.ok(s.OpenSession(s.Context(), last, noEvent))
		for _, ref := range refs {
			s.ended(ref)
		}
		s.alive(s.ref(last.ID, u))
		s.alive(others)
	}},
	{"OpenSession refuses where the account has changed, and changes nothing", func(s *suite) {
		u := s.create("ada")
		s.open(u)
		s.fail(u, 3)
		stale := func(change func(*identity.NewSession)) {
			s.Helper()
			n := s.session(u)
			n.Keep, n.Rehash = 1, "a hash that must not be stored"
			change(&n)
			s.is(s.OpenSession(s.Context(), n, noEvent), identity.ErrStale)
			n.Rehash = ""
			s.is(s.OpenSession(s.Context(), n, noEvent), identity.ErrStale)
			s.ended(s.ref(n.ID, u))
		}
		stale(func(n *identity.NewSession) { n.PasswordHash = otherHash })
		stale(func(n *identity.NewSession) { n.UserID = newID() })
		stale(func(n *identity.NewSession) { n.UserID = "no id" })
		s.suspend(u, true)
		stale(func(*identity.NewSession) {})
		s.suspend(u, false)
		equal(s, s.credentials(u).Failures, 3)
		equal(s, s.credentials(u).PasswordHash, passwordHash)
	}},
	{"OpenSession refuses where others failed meanwhile, up to the limit", func(s *suite) {
		u := s.create("ada")
		s.fail(u, failureLimit-1)
		n := s.session(u)
		s.ok(s.OpenSession(s.Context(), n, noEvent)) // fewer failures than the limit are allowed

		s.fail(u, failureLimit)
		n = s.session(u)
		n.Failures = failureLimit - 1
		s.is(s.OpenSession(s.Context(), n, noEvent), identity.ErrStale)
		equal(s, s.credentials(u).Failures, failureLimit)
		n.Failures = failureLimit // these failures were counted before the attempt was allowed
		s.ok(s.OpenSession(s.Context(), n, noEvent))
	}},
	{"a session lives until its refresh token expires, by the caller's clock", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		for after, want := range map[time.Duration]bool{
			refreshTTL - time.Second: true, refreshTTL: false, refreshTTL + time.Second: false,
		} {
			ref.Now = s.now.Add(after)
			_, err := s.FindSession(s.Context(), ref)
			equal(s, err == nil, want)
		}
	}},
	{"AdvanceSession moves a session to the next generation, once", func(s *suite) {
		u := s.create("ada")
		n := s.session(u)
		s.ok(s.OpenSession(s.Context(), n, noEvent))
		opened := s.now
		for generation := range int64(3) {
			s.pass(time.Hour)
			renewal := identity.Renewal{RefreshedAt: s.now, Lifetime: refreshTTL}
			got := s.renew(s.ref(n.ID, u), generation)
			want := identity.Session{
				ID: n.ID, User: u, Scope: scope, Generation: generation + 1,
				OpenedAt: opened, RefreshedAt: s.now, ExpiresAt: s.now.Add(refreshTTL), EndsAt: n.EndsAt,
			}
			equal(s, got, want)
			for _, wrong := range []int64{generation, generation - 1} {
				_, advanced, err := s.AdvanceSession(s.Context(), s.ref(n.ID, u), wrong, renewal)
				s.ok(err)
				equal(s, advanced, false)
			}
			found := must(s.FindSession(s.Context(), s.ref(n.ID, u)))(s)
			equal(s, found, want)
		}
	}},
	{"AdvanceSession moves a session that has lost renewals to the generation after the presented one", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		s.renew(ref, 0)
		s.pass(time.Hour)
		ref.Now = s.now
		equal(s, s.renew(ref, 5).Generation, 6)
		for _, replaced := range []int64{5, 2, 1} {
			renewal := identity.Renewal{RefreshedAt: s.now, Lifetime: refreshTTL}
			_, advanced, err := s.AdvanceSession(s.Context(), ref, replaced, renewal)
			s.ok(err)
			equal(s, advanced, false)
		}
	}},
	{"AdvanceSession cuts the new generation at the session's end", func(s *suite) {
		u := s.create("ada")
		n := s.session(u)
		s.ok(s.OpenSession(s.Context(), n, noEvent))
		for generation := int64(0); s.now.Before(n.EndsAt.Add(-refreshTTL / 2)); generation++ {
			s.pass(refreshTTL / 2)
			got := s.renew(s.ref(n.ID, u), generation)
			if got.ExpiresAt.After(n.EndsAt) {
				s.Errorf("expires at %v, after the session's end at %v", got.ExpiresAt, n.EndsAt)
			}
		}
		s.now = n.EndsAt
		s.ended(s.ref(n.ID, u))
	}},
	{"AdvanceSession keeps the moment of a renewal to the microsecond", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		renewed := s.now.Add(999_999 * time.Microsecond)
		ref.Now = renewed
		got, advanced, err := s.AdvanceSession(s.Context(), ref, 0, identity.Renewal{RefreshedAt: renewed, Lifetime: refreshTTL})
		s.ok(err)
		equal(s, advanced, true)
		equal(s, got.RefreshedAt, renewed)
		equal(s, got.ExpiresAt, renewed.Add(refreshTTL))
		found := must(s.FindSession(s.Context(), ref))(s)
		equal(s, found, got)
	}},
	{"FindSession and AdvanceSession give the user as they are now", func(s *suite) {
		u := s.create("ada")
		ref := s.open(u)
		first := "Countess"
		u = must(s.UpdateUser(s.Context(), ref, identity.ProfileChange{FirstName: &first}, noEvent))(s)
		found := must(s.FindSession(s.Context(), ref))(s)
		equal(s, found.User, u)
		got := s.renew(ref, 0)
		equal(s, got.User, u)
	}},
	{"EndSession removes a session, and is no error where there is none", func(s *suite) {
		u := s.create("ada")
		other := s.create("grace")
		ref, second, others := s.open(u), s.open(u), s.open(other)
		for _, tc := range []struct {
			name string
			ref  identity.SessionRef
			want bool
		}{
			{"another user's", s.ref(others.ID, u), false},
			{"unknown", s.ref(newID(), u), false},
			{"not an id", s.ref("x", u), false},
			{"alive", ref, true},
			{"ended already", ref, false},
		} {
			ended := must(s.EndSession(s.Context(), tc.ref, noEvent))(s)
			if ended != tc.want {
				s.Errorf("%s: ended is %v", tc.name, ended)
			}
		}
		s.ended(ref)
		s.alive(second)
		s.alive(others)
		_, advanced, err := s.AdvanceSession(s.Context(), ref, 0, identity.Renewal{RefreshedAt: s.now, Lifetime: refreshTTL})
		s.ok(err)
		equal(s, advanced, false)
	}},
	{"FindOwnSessions lists the live sessions of one user, the youngest first", func(s *suite) {
		u := s.create("ada")
		other := s.create("grace")
		s.open(other)
		s.open(u) // will have expired by then
		s.pass(refreshTTL)
		elder, younger := s.session(u), s.session(u)
		elder.UserAgent = "a browser/1.0 (é)"
		younger.OpenedAt = s.now.Add(time.Second)
		s.ok(s.OpenSession(s.Context(), elder, noEvent))
		s.ok(s.OpenSession(s.Context(), younger, noEvent))
		s.pass(time.Hour)
		renewed := s.renew(s.ref(elder.ID, u), 0)
		for _, current := range []string{elder.ID, younger.ID} {
			got := must(s.FindOwnSessions(s.Context(), s.ref(current, u)))(s)
			want := []identity.OwnSession{
				{
					ID: younger.ID, OpenedAt: younger.OpenedAt, RefreshedAt: younger.OpenedAt,
					ExpiresAt: younger.ExpiresAt, Current: current == younger.ID,
				},
				{
					ID: elder.ID, OpenedAt: elder.OpenedAt, RefreshedAt: s.now,
					ExpiresAt: renewed.ExpiresAt, UserAgent: elder.UserAgent, Current: current == elder.ID,
				},
			}
			if !slices.Equal(got, want) {
				s.Errorf("got\n%+v, want\n%+v", got, want)
			}
		}
	}},
	{"EndOwnSession ends one session of the user, and no one else's", func(s *suite) {
		u := s.create("ada")
		other := s.create("grace")
		here, there, others := s.open(u), s.open(u), s.open(other)
		expired := s.session(u)
		expired.ExpiresAt = s.now
		s.ok(s.OpenSession(s.Context(), expired, noEvent))
		for _, tc := range []struct {
			name, id string
			want     bool
		}{
			{"another user's", others.ID, false},
			{"unknown", newID(), false},
			{"not an id", "x", false},
			{"expired", expired.ID, false},
			{"alive", there.ID, true},
			{"ended already", there.ID, false},
		} {
			ended := must(s.EndOwnSession(s.Context(), here, tc.id, noEvent))(s)
			if ended != tc.want {
				s.Errorf("%s: ended is %v", tc.name, ended)
			}
		}
		s.ended(there)
		s.alive(here)
		s.alive(others)
		ended := must(s.EndOwnSession(s.Context(), here, here.ID, noEvent))(s)
		equal(s, ended, true)
		s.ended(here)
	}},
	{"FindOwnSessions and EndOwnSession are for the user of a live session alone", func(s *suite) {
		u := s.create("ada")
		other := s.create("grace")
		target, gone, suspended := s.open(u), s.open(u), s.open(u)
		must(s.EndSession(s.Context(), gone, noEvent))(s)
		late := s.ref(target.ID, u)
		late.Now = s.now.Add(refreshTTL)
		refuse := func(ref identity.SessionRef) {
			s.Helper()
			s.is(errOf(s.FindOwnSessions(s.Context(), ref)), identity.ErrNoSession)
			s.is(errOf(s.EndOwnSession(s.Context(), ref, target.ID, noEvent)), identity.ErrNoSession)
			s.alive(target)
		}
		refuse(gone)
		refuse(late)
		refuse(s.ref("x", u))
		refuse(s.ref(target.ID, other))
		s.suspend(u, true)
		for range 2 {
			s.is(errOf(s.FindOwnSessions(s.Context(), suspended)), identity.ErrNoSession)
			s.is(errOf(s.EndOwnSession(s.Context(), suspended, target.ID, noEvent)), identity.ErrNoSession)
			s.suspend(u, false)
		}
	}},
	{"a caller's cancellation stays a cancellation", func(s *suite) {
		ctx, cancel := context.WithCancel(s.Context())
		cancel()
		s.is(errOf(s.FindCredentials(ctx, identity.Login{CanonicalUsername: "ada"})), context.Canceled)
	}},
}
