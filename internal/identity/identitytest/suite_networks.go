package identitytest

import (
	"fmt"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

const (
	home   identity.Network = "192.0.2.1/32"
	office identity.Network = "2001:db8:1:2::/64"
	abroad identity.Network = "198.51.100.7/32"
)

// from reads the credentials of a user, like a sign-in from a network.
func (s *suite) from(u identity.User, network identity.Network) identity.Credentials {
	s.Helper()
	return must(s.FindCredentials(s.Context(), identity.Login{CanonicalEmail: u.Email, From: network}))(s)
}

func (s *suite) failFrom(u identity.User, network identity.Network, times int) {
	s.Helper()
	for range times {
		s.ok(s.CountFailure(s.Context(), s.from(u, network).ThrottleKey, noEvent))
	}
}

// openFrom opens a session from a network.
func (s *suite) openFrom(u identity.User, network identity.Network) identity.SessionRef {
	s.Helper()
	c, n := s.from(u, network), s.session(u)
	n.From, n.PasswordHash = network, c.PasswordHash
	n.ThrottleKey, n.Failures, n.Forgive = c.ThrottleKey, c.Failures, c.KnownNetwork
	s.ok(s.OpenSession(s.Context(), n, noEvent))
	return s.ref(n.ID, u)
}

// known checks whether a network is known: wrong passwords from it are then counted separately.
func (s *suite) known(u identity.User, network identity.Network, want bool) {
	s.Helper()
	if got := s.from(u, network).ThrottleKey != s.from(u, "").ThrottleKey; got != want {
		s.Errorf("network %s is known: %v; want %v", network, got, want)
	}
}

var networkSentences = []sentence{
	{"a place becomes familiar where a session is opened from it, or a password reset", func(s *suite) {
		other := s.create("grace")
		n := s.newSession()
		n.From = home
		u := must(s.RedeemVerification(s.Context(), identity.ClaimProof{Code: s.signUp(newSignUp("ada"))}, n, noRecord))(s)
		s.known(u, home, true)
		s.known(u, office, false)

		s.openFrom(u, office)
		s.known(u, office, true)
		s.known(u, abroad, false)

		s.ok(s.recover(u, s.issue(u, identity.Recovery), passwordHash, abroad))
		for _, network := range []identity.Network{home, office, abroad} {
			s.known(u, network, true)
			s.known(other, network, false)
		}
	}},
	{"a place does not become familiar where nothing was opened or reset from it", func(s *suite) {
		u := s.create("ada")
		s.failFrom(u, abroad, 3)
		stale := s.session(u)
		stale.From, stale.PasswordHash = abroad, otherHash
		s.is(s.OpenSession(s.Context(), stale, noEvent), identity.ErrStale)
		s.is(s.recover(u, newHash(), otherHash, abroad), identity.ErrNoCode)
		s.is(errOf(s.RedeemVerification(s.Context(), identity.ClaimProof{Code: newHash()}, stale, noRecord)), identity.ErrNoCode)
		s.known(u, abroad, false)
	}},
	{"where the place is not known, all failures are counted together", func(s *suite) {
		u := s.create("ada")
		s.openFrom(u, "")
		equal(s, s.from(u, "").ThrottleKey, s.from(u, home).ThrottleKey)
		s.failFrom(u, home, 1)
		equal(s, s.from(u, "").Failures, 1)
	}},
	{"failures from a familiar place are counted apart from those of strangers", func(s *suite) {
		u := s.create("ada")
		ref := s.openFrom(u, home)
		s.openFrom(u, office)
		s.failFrom(u, abroad, 20)
		s.failFrom(u, "203.0.113.9/32", 20)
		s.failFrom(u, home, 3)
		for network, failures := range map[identity.Network]int{home: 3, office: 0, abroad: 40, "": 40} {
			equal(s, s.from(u, network).Failures, failures)
			equal(s, s.from(u, network).KnownNetwork, network == home || network == office)
			byName := must(s.FindCredentials(s.Context(), identity.Login{CanonicalUsername: "ada", From: network}))(s)
			equal(s, byName.Failures, 0)
			signedIn := must(s.FindPassword(s.Context(), ref, network))(s)
			equal(s, signedIn.ThrottleKey, byName.ThrottleKey)
			equal(s, signedIn.KnownNetwork, byName.KnownNetwork)
		}
	}},
	{"failures of a login that no account has are counted together, wherever they come from", func(s *suite) {
		nobody := identity.Login{CanonicalUsername: "nobody"}
		here := must(s.FindCredentials(s.Context(), nobody))(s)
		nobody.From = home
		there := must(s.FindCredentials(s.Context(), nobody))(s)
		equal(s, here.ThrottleKey, there.ThrottleKey)
	}},
	{"OpenSession forgets the failures of the place that it is from, and no others", func(s *suite) {
		u := s.create("ada")
		s.openFrom(u, home)
		s.openFrom(u, office)
		s.failFrom(u, abroad, 12)
		s.failFrom(u, home, 3)
		s.failFrom(u, office, 2)
		s.openFrom(u, home)
		equal(s, s.from(u, home).Failures, 0)
		equal(s, s.from(u, office).Failures, 2)
		equal(s, s.from(u, abroad).Failures, 12)
		s.openFrom(u, abroad) // after the wait, with the right password
		equal(s, s.from(u, abroad).Failures, 0)
		equal(s, s.from(u, "").Failures, 12) // the failures of unknown networks remain
	}},
	{"OpenSession is stopped by failures from the same place alone", func(s *suite) {
		u := s.create("ada")
		s.openFrom(u, home)
		late := func(network identity.Network) identity.NewSession {
			n := s.session(u)
			n.From, n.ThrottleKey = network, s.from(u, network).ThrottleKey
			return n
		}
		here, there := late(home), late(abroad)
		s.failFrom(u, abroad, failureLimit)
		s.ok(s.OpenSession(s.Context(), here, noEvent))
		s.is(s.OpenSession(s.Context(), there, noEvent), identity.ErrStale)
		here = late(home)
		s.failFrom(u, home, failureLimit)
		s.is(s.OpenSession(s.Context(), here, noEvent), identity.ErrStale)
	}},
	{"ChangePassword, RedeemRecovery and DeleteUser forget failures from familiar places, and those of strangers stay", func(s *suite) {
		u := s.create("ada")
		ref := s.openFrom(u, home)
		s.openFrom(u, office)
		failed := func(strangers int) {
			s.Helper()
			for network, want := range map[identity.Network]int{home: 0, office: 0, abroad: strangers} {
				equal(s, s.from(u, network).Failures, want)
			}
		}
		fail := func() {
			s.Helper()
			for _, network := range []identity.Network{home, office, abroad} {
				s.failFrom(u, network, 2)
			}
		}
		fail()
		s.ok(s.ChangePassword(s.Context(), ref, passwordHash, passwordHash, noRecord))
		failed(2)
		fail()
		s.ok(s.recover(u, s.issue(u, identity.Recovery), passwordHash, home))
		failed(4)
		fail()
		s.ok(s.DeleteUser(s.Context(), s.openFrom(u, home), noEvent))
		equal(s, s.from(u, home).Found, false)
		equal(s, s.from(u, home).Failures, 6)
	}},
	{"an account has only so many familiar places: those that were seen last", func(s *suite) {
		u := s.create("ada")
		network := func(i int) identity.Network { return identity.Network(fmt.Sprintf("192.0.2.%d/32", i)) }
		for i := range identity.KnownNetworks {
			s.openFrom(u, network(i))
			s.pass(25 * time.Hour)
		}
		s.openFrom(u, network(0)) // so that network 1 is the oldest
		s.pass(25 * time.Hour)
		s.openFrom(u, network(100))
		s.known(u, network(100), true)
		s.known(u, network(1), false)
		for i := range identity.KnownNetworks {
			if i != 1 {
				s.known(u, network(i), true)
			}
		}
	}},
	{"of many sign-ins at once from one new place all succeed, and it is familiar", func(s *suite) {
		u := s.create("ada")
		sessions := make([]identity.NewSession, 20)
		for i := range sessions {
			sessions[i] = s.session(u)
			sessions[i].From = home
		}
		equal(s, s.winners(len(sessions), nil, func(i int) error { return s.OpenSession(s.Context(), sessions[i], noEvent) }), len(sessions))
		s.known(u, home, true)
	}},
	{"no familiar place outlives DeleteUser against OpenSession", func(s *suite) {
		for i := range rounds {
			u := s.create(fmt.Sprintf("user%d", i))
			here, late := s.open(u), s.session(u)
			late.From = home
			var opening, deleting error
			atOnce(
				func() { opening = s.OpenSession(s.Context(), late, noEvent) },
				func() { deleting = s.DeleteUser(s.Context(), here, noEvent) },
			)
			s.ok(deleting)
			s.okOr(opening, identity.ErrStale)
			s.known(u, home, false)
		}
	}},
}
