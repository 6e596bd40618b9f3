package identity_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

func TestNetworkIsAnAddressOrThePrefixOfOne(t *testing.T) {
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
func (f *fixture) signInFrom(address, username, password string) error {
	f.keep(username, password)
	_, err := f.tokens(f.service.SignIn(from(address), username, password))
	return err
}

const home, stranger = "192.0.2.1", "198.51.100.7"

func TestThrottleOfStrangersDoesNotSlowDownTheOwnerOnAKnownNetwork(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	f.ok(f.signInFrom(home, p.username, p.password))
	for range 30 {
		_ = f.signInFrom(stranger, p.username, "a guess that is wrong")
	}
	f.fails(f.signInFrom(stranger, p.username, p.password), identity.RateLimited, tooManyWrong)
	for range 3 {
		f.ok(f.signInFrom(home, p.username, p.password))
		f.fails(f.signInFrom(stranger, p.username, p.password), identity.RateLimited, tooManyWrong)
	}
}

func TestThrottleAppliesToAKnownNetworkToo(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	f.ok(f.signInFrom(home, p.username, p.password))
	for range 10 {
		f.fails(f.signInFrom(home, p.username, "a guess that is wrong"), identity.Unauthenticated, wrongCredentials)
	}
	f.fails(f.signInFrom(home, p.username, p.password), identity.RateLimited, tooManyWrong)
	// An attacker in the owner's network cannot lock the owner out elsewhere.
	f.ok(f.signInFrom(stranger, p.username, p.password))
	f.pass(time.Second)
	f.ok(f.signInFrom(home, p.username, p.password))
}

func TestThrottleOfStrangersCountsGuessesWithAStolenToken(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	f.ok(f.signInFrom(home, p.username, p.password))
	stolen := f.signIn(p)
	change := func(address, old string) error {
		return f.service.ChangePassword(from(address), stolen.AccessToken, old, "another password of mine")
	}
	for range 10 {
		f.fails(change(stranger, "a guess that is wrong"), identity.Unauthenticated, wrongOld)
	}
	f.fails(change(stranger, p.password), identity.RateLimited, tooManyWrong)
	f.fails(f.signInFrom("203.0.113.9", p.username, p.password), identity.RateLimited, tooManyWrong)
	f.ok(change(home, p.password))
	// The throttle of strangers is unchanged.
	f.fails(f.signInFrom("203.0.113.9", p.username, p.password), identity.RateLimited, tooManyWrong)
}

func TestResetPasswordMakesTheNetworkKnown(t *testing.T) {
	f := newFixture(t)
	p, _ := f.verified("grace")
	code := must(f.ForgotPassword(p.email))(f)
	const fresh = "another password of mine"
	f.keep(fresh)
	f.ok(f.service.ResetPassword(from(home), code.Text, "", fresh))
	f.fail(p.username, 30)
	f.fails(f.signInFrom(stranger, p.username, fresh), identity.RateLimited, tooManyWrong)
	f.ok(f.signInFrom(home, p.username, fresh))
}
