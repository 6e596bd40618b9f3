package identity_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

func TestAPlaceIsAnAddressOrTheNetworkOfOne(t *testing.T) {
	for address, want := range map[string]identity.Network{
		"192.0.2.1":              "192.0.2.1/32",
		"::ffff:192.0.2.1":       "192.0.2.1/32",
		"2001:db8:1:2:3:4:5:6":   "2001:db8:1:2::/64",
		"2001:db8:1:2::":         "2001:db8:1:2::/64",
		"fe80::1%eth0":           "fe80::/64",
		"::ffff:192.0.2.1%a":     "192.0.2.1/32",
		"2001:0DB8:0001:0002::1": "2001:db8:1:2::/64",
	} {
		if got := identity.NetworkOf(netip.MustParseAddr(address)); got != want {
			t.Errorf("the network of %s is %q; want %q", address, got, want)
		}
	}
	if got := identity.NetworkOf(netip.Addr{}); got != "" {
		t.Errorf("the network of no address is %q", got)
	}
}

// signInFrom signs in from an address.
func (w *world) signInFrom(address, username, password string) error {
	w.keep(username, password)
	_, err := w.tokens(w.service.SignIn(from(address), username, password))
	return err
}

const home, stranger = "192.0.2.1", "198.51.100.7"

func TestStrangersWhoGuessDoNotSlowDownTheOwnerAtHome(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	w.ok(w.signInFrom(home, p.username, p.password))
	for range 30 {
		_ = w.signInFrom(stranger, p.username, "a guess that is wrong")
	}
	w.fails(w.signInFrom(stranger, p.username, p.password), identity.RateLimited, tooManyWrong)
	for range 3 {
		w.ok(w.signInFrom(home, p.username, p.password))
		w.fails(w.signInFrom(stranger, p.username, p.password), identity.RateLimited, tooManyWrong)
	}
}

func TestGuessesFromAFamiliarPlaceAreSlowedDownToo(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	w.ok(w.signInFrom(home, p.username, p.password))
	for range 10 {
		w.fails(w.signInFrom(home, p.username, "a guess that is wrong"), identity.Unauthenticated, wrongCredentials)
	}
	w.fails(w.signInFrom(home, p.username, p.password), identity.RateLimited, tooManyWrong)
	// An attacker in the owner's network cannot lock the owner out elsewhere.
	w.ok(w.signInFrom(stranger, p.username, p.password))
	w.pass(time.Second)
	w.ok(w.signInFrom(home, p.username, p.password))
}

func TestAStolenTokenIsNoWayRoundTheCountOfStrangers(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	w.ok(w.signInFrom(home, p.username, p.password))
	stolen := w.signIn(p)
	change := func(address, old string) error {
		return w.service.ChangePassword(from(address), stolen.AccessToken, old, "another password of mine")
	}
	for range 10 {
		w.fails(change(stranger, "a guess that is wrong"), identity.Unauthenticated, wrongOld)
	}
	w.fails(change(stranger, p.password), identity.RateLimited, tooManyWrong)
	w.fails(w.signInFrom("203.0.113.9", p.username, p.password), identity.RateLimited, tooManyWrong)
	w.ok(change(home, p.password))
	// The throttle of strangers is unchanged.
	w.fails(w.signInFrom("203.0.113.9", p.username, p.password), identity.RateLimited, tooManyWrong)
}

func TestWhereAPasswordWasResetFromIsFamiliar(t *testing.T) {
	w := newWorld(t)
	p, _ := w.verified("grace")
	code := must(w.ForgotPassword(p.email))(w)
	const fresh = "another password of mine"
	w.keep(fresh)
	w.ok(w.service.ResetPassword(from(home), code.Text, "", fresh))
	w.fail(p.username, 30)
	w.fails(w.signInFrom(stranger, p.username, fresh), identity.RateLimited, tooManyWrong)
	w.ok(w.signInFrom(home, p.username, fresh))
}
