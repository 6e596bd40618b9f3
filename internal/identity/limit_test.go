package identity_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// limiting sets limits for each client.
func limiting(p *identity.Policy) {
	p.LimitSignIn = identity.Rate{Count: 3, Per: 3 * time.Minute}
	p.LimitCodes = identity.Rate{Count: 1, Per: time.Hour}
}

// from returns the context of a request from this address.
func from(address string) context.Context {
	return identity.WithCaller(context.Background(), identity.Caller{Address: netip.MustParseAddr(address)})
}

// admits fails the test unless exactly n requests of the class are admitted from the address.
func (f *fixture) admits(n int, class identity.LimitClass, address string) {
	f.Helper()
	for i := range n {
		a := must(f.service.Admit(from(address), class))(f)
		f.equal("allowed", a.Allowed, true)
		f.equal("remaining requests", a.Remaining, n-i-1)
	}
	a, err := f.service.Admit(from(address), class)
	f.fails(err, identity.RateLimited, "too many requests of this kind from your network; wait for as many seconds as Retry-After says")
	f.equal("allowed", a.Allowed, false)
}

func TestLimitAdmitsAsOftenAsThePolicySays(t *testing.T) {
	f := newFixture(t, limiting)
	f.admits(3, identity.LimitSignIn, "192.0.2.1")
	f.admits(3, identity.LimitSignIn, "192.0.2.2")
	f.admits(1, identity.LimitCodes, "192.0.2.1")
	f.pass(time.Minute)
	f.admits(1, identity.LimitSignIn, "192.0.2.1")
	f.pass(3 * time.Minute)
	f.admits(3, identity.LimitSignIn, "192.0.2.1")
	f.equal("refused sign-ins", f.service.Limited(identity.LimitSignIn), uint64(4))
	f.equal("refused codes", f.service.Limited(identity.LimitCodes), uint64(1))
}

func TestLimitCountsAnIPv6AddressWithItsNetwork(t *testing.T) {
	f := newFixture(t, limiting)
	f.admits(3, identity.LimitSignIn, "2001:db8:0:1::1")
	f.admits(0, identity.LimitSignIn, "2001:db8:0:1:ffff:ffff:ffff:ffff")
	f.admits(3, identity.LimitSignIn, "2001:db8:0:2::1")
	f.admits(3, identity.LimitSignIn, "::ffff:192.0.2.1")
	f.admits(0, identity.LimitSignIn, "192.0.2.1")
	f.admits(3, identity.LimitSignIn, "::ffff:192.0.2.2") // IPv4-mapped addresses do not share one IPv6 network
}

func TestLimitIsSharedByClientsWithoutAnAddress(t *testing.T) {
	f := newFixture(t, limiting)
	for range 3 {
		must(f.service.Admit(t.Context(), identity.LimitSignIn))(f)
	}
	f.equal("the kind", identity.KindOf(errOf(f.service.Admit(t.Context(), identity.LimitSignIn))), identity.RateLimited)
}

func TestLimitThatIsNotSetCostsNoQuery(t *testing.T) {
	f := newFixture(t)
	for _, class := range identity.LimitClasses() {
		a := must(f.service.Admit(from("192.0.2.1"), class))(f)
		f.equal("the allowance", a, identity.Allowance{Allowed: true})
	}
	f.equal("calls of the store", f.store.take(), "")
}

func TestLimitRefusesAFloodWithoutQueries(t *testing.T) {
	f := newFixture(t, limiting)
	f.admits(3, identity.LimitSignIn, "192.0.2.1")
	f.store.take()
	for _, passed := range []time.Duration{0, 30 * time.Second, 29 * time.Second} {
		f.pass(passed)
		for range 100 {
			f.equal("the kind", identity.KindOf(errOf(f.service.Admit(from("192.0.2.1"), identity.LimitSignIn))), identity.RateLimited)
		}
	}
	a, err := f.service.Admit(from("192.0.2.1"), identity.LimitSignIn)
	e, _ := errors.AsType[*identity.Error](err)
	f.equal("the wait", e.RetryAfter, time.Second)
	f.equal("the allowance", a, identity.Allowance{Limit: 3, Window: 3 * time.Minute, Reset: 2*time.Minute + time.Second,
		RetryAfter: time.Second})
	f.equal("calls of the store", f.store.take(), "")
	f.pass(time.Second)
	f.admits(1, identity.LimitSignIn, "192.0.2.1")
}

// The duration of the query must not be added to the client's wait, even if another replica
// admitted the requests that used up the limit.
func TestLimitMemoryNeverRefusesWhatTheStoreAllows(t *testing.T) {
	f := newFixture(t, limiting)
	f.admits(3, identity.LimitSignIn, "192.0.2.1")
	f.pass(30 * time.Second)
	other := f.replica(f.hasher)
	f.store.before["TakeLimit"] = func() { f.pass(10 * time.Second) }
	f.equal("the kind", identity.KindOf(errOf(other.Admit(from("192.0.2.1"), identity.LimitSignIn))), identity.RateLimited)
	f.pass(20 * time.Second)
	must(other.Admit(from("192.0.2.1"), identity.LimitSignIn))(f)
}

func TestLimitMemoryIsBounded(t *testing.T) {
	f := newFixture(t, limiting)
	for i := range 12_000 {
		address := fmt.Sprintf("2001:db8:%x:%x::", i>>8, i&0xff)
		for range 2 {
			_, _ = f.service.Admit(from(address), identity.LimitCodes)
		}
	}
	f.equal("entries of the trail", f.audited("limit exceeded"), 100)
	f.store.take()
	f.admits(0, identity.LimitCodes, "2001:db8::") // for a forgotten client the Store is queried, which refuses too
	f.equal("calls of the store", f.store.take(), "TakeLimit")
	f.admits(0, identity.LimitCodes, "2001:db8:2e:df::")
	f.equal("calls of the store", f.store.take(), "")
}

func TestLimitThatCannotBeCountedAdmitsNoClient(t *testing.T) {
	f := newFixture(t, limiting)
	f.memory.Break(&identity.Error{Kind: identity.Unavailable, Message: "the database is down"})
	a, err := f.service.Admit(from("192.0.2.1"), identity.LimitSignIn)
	f.fails(err, identity.Unavailable, "the database is down")
	f.equal("the allowance", a, identity.Allowance{})
}

func TestLimitCountsChangesByUserAndEndingsBySession(t *testing.T) {
	f := newFixture(t, func(p *identity.Policy) { p.LimitWrites = identity.Rate{Count: 3, Per: 3 * time.Minute} })
	p, thief := f.verified("grace")
	owner := f.signIn(p)
	_, other := f.verified("edsger")
	refused := func(err error) {
		t.Helper()
		f.fails(err, identity.RateLimited, "too many changes; wait for as many seconds as Retry-After says")
	}
	// All sessions of a user share one limit for changes.
	for i := range 3 {
		a := must(f.service.AdmitChange(from("192.0.2.1"), thief.AccessToken))(f)
		f.equal("remaining requests", a.Remaining, 2-i)
	}
	f.refusals()
	_, err := f.service.AdmitChange(from("192.0.2.2"), owner.AccessToken)
	refused(err)
	if got := f.refusals(); len(got) != 1 || got[0].user != p.id || got[0].because != "writes" {
		t.Errorf("the refusals in the trail are %+v", got)
	}
	must(f.service.AdmitChange(from("192.0.2.1"), other.AccessToken))(f)
	// A thief cannot stop the owner from ending the stolen session.
	for range 3 {
		must(f.service.AdmitEnding(from("192.0.2.1"), thief.AccessToken))(f)
	}
	_, err = f.service.AdmitEnding(from("192.0.2.1"), thief.AccessToken)
	refused(err)
	must(f.service.AdmitEnding(from("192.0.2.2"), owner.AccessToken))(f)
	// Requests with an ended session do not count.
	f.ok(f.service.SignOut(t.Context(), thief.RefreshToken))
	f.pass(3 * time.Minute)
	for range 5 {
		f.fails(errOf(f.service.AdmitChange(from("192.0.2.1"), thief.AccessToken)), identity.Unauthenticated, endedSession)
	}
	a := must(f.service.AdmitChange(from("192.0.2.2"), owner.AccessToken))(f)
	f.equal("remaining requests", a.Remaining, 2)
	f.store.take()
	f.fails(errOf(f.service.AdmitChange(t.Context(), "no token")), identity.Unauthenticated, wrongToken)
	f.equal("calls of the store", f.store.take(), "")
}
