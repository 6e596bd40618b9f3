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

// admits fails the test unless exactly n requests of the class are admitted from the
// address.
func (w *world) admits(n int, class identity.LimitClass, address string) {
	w.Helper()
	for i := range n {
		a := must(w.service.Admit(from(address), class))(w)
		w.equal("allowed", a.Allowed, true)
		w.equal("remaining requests", a.Remaining, n-i-1)
	}
	a, err := w.service.Admit(from(address), class)
	w.fails(err, identity.RateLimited, "too many requests of this kind from your network; wait for as many seconds as Retry-After says")
	w.equal("allowed", a.Allowed, false)
}

func TestLimitAdmitsAsOftenAsThePolicySays(t *testing.T) {
	w := newWorld(t, limiting)
	w.admits(3, identity.LimitSignIn, "192.0.2.1")
	w.admits(3, identity.LimitSignIn, "192.0.2.2")
	w.admits(1, identity.LimitCodes, "192.0.2.1")
	w.pass(time.Minute)
	w.admits(1, identity.LimitSignIn, "192.0.2.1")
	w.pass(3 * time.Minute)
	w.admits(3, identity.LimitSignIn, "192.0.2.1")
	w.equal("refused sign-ins", w.service.Limited(identity.LimitSignIn), uint64(4))
	w.equal("refused codes", w.service.Limited(identity.LimitCodes), uint64(1))
}

func TestLimitCountsAnIPv6AddressWithItsNetwork(t *testing.T) {
	w := newWorld(t, limiting)
	w.admits(3, identity.LimitSignIn, "2001:db8:0:1::1")
	w.admits(0, identity.LimitSignIn, "2001:db8:0:1:ffff:ffff:ffff:ffff")
	w.admits(3, identity.LimitSignIn, "2001:db8:0:2::1")
	w.admits(3, identity.LimitSignIn, "::ffff:192.0.2.1")
	w.admits(0, identity.LimitSignIn, "192.0.2.1")
	w.admits(3, identity.LimitSignIn, "::ffff:192.0.2.2") // IPv4-mapped addresses do not share one IPv6 network
}

func TestLimitIsSharedByClientsWithoutAnAddress(t *testing.T) {
	w := newWorld(t, limiting)
	for range 3 {
		must(w.service.Admit(t.Context(), identity.LimitSignIn))(w)
	}
	w.equal("the kind", identity.KindOf(errOf(w.service.Admit(t.Context(), identity.LimitSignIn))), identity.RateLimited)
}

func TestLimitThatIsNotSetCostsNoQuery(t *testing.T) {
	w := newWorld(t)
	for _, class := range identity.LimitClasses() {
		a := must(w.service.Admit(from("192.0.2.1"), class))(w)
		w.equal("the allowance", a, identity.Allowance{Allowed: true})
	}
	w.equal("calls of the store", w.store.take(), "")
}

func TestLimitRefusesAFloodWithoutQueries(t *testing.T) {
	w := newWorld(t, limiting)
	w.admits(3, identity.LimitSignIn, "192.0.2.1")
	w.store.take()
	for _, passed := range []time.Duration{0, 30 * time.Second, 29 * time.Second} {
		w.pass(passed)
		for range 100 {
			w.equal("the kind", identity.KindOf(errOf(w.service.Admit(from("192.0.2.1"), identity.LimitSignIn))), identity.RateLimited)
		}
	}
	a, err := w.service.Admit(from("192.0.2.1"), identity.LimitSignIn)
	e, _ := errors.AsType[*identity.Error](err)
	w.equal("the wait", e.RetryAfter, time.Second)
	w.equal("the allowance", a, identity.Allowance{Limit: 3, Window: 3 * time.Minute, Reset: 2*time.Minute + time.Second,
		RetryAfter: time.Second})
	w.equal("calls of the store", w.store.take(), "")
	w.pass(time.Second)
	w.admits(1, identity.LimitSignIn, "192.0.2.1")
}

// The duration of the query must not be added to the client's wait, even if another replica
// admitted the requests that used up the limit.
func TestLimitMemoryNeverRefusesWhatTheStoreAllows(t *testing.T) {
	w := newWorld(t, limiting)
	w.admits(3, identity.LimitSignIn, "192.0.2.1")
	w.pass(30 * time.Second)
	other := w.replica(w.hasher)
	w.store.before["TakeLimit"] = func() { w.pass(10 * time.Second) }
	w.equal("the kind", identity.KindOf(errOf(other.Admit(from("192.0.2.1"), identity.LimitSignIn))), identity.RateLimited)
	w.pass(20 * time.Second)
	must(other.Admit(from("192.0.2.1"), identity.LimitSignIn))(w)
}

func TestLimitMemoryIsBounded(t *testing.T) {
	w := newWorld(t, limiting)
	for i := range 12_000 {
		address := fmt.Sprintf("2001:db8:%x:%x::", i>>8, i&0xff)
		for range 2 {
			_, _ = w.service.Admit(from(address), identity.LimitCodes)
		}
	}
	w.equal("entries of the trail", w.audited("limit exceeded"), 100)
	w.store.take()
	w.admits(0, identity.LimitCodes, "2001:db8::") // for a forgotten client the Store is queried, which refuses too
	w.equal("calls of the store", w.store.take(), "TakeLimit")
	w.admits(0, identity.LimitCodes, "2001:db8:2e:df::")
	w.equal("calls of the store", w.store.take(), "")
}

func TestLimitThatCannotBeCountedAdmitsNoClient(t *testing.T) {
	w := newWorld(t, limiting)
	w.memory.Break(&identity.Error{Kind: identity.Unavailable, Message: "the database is away"})
	a, err := w.service.Admit(from("192.0.2.1"), identity.LimitSignIn)
	w.fails(err, identity.Unavailable, "the database is away")
	w.equal("the allowance", a, identity.Allowance{})
}

func TestLimitCountsChangesByUserAndEndingsBySession(t *testing.T) {
	w := newWorld(t, func(p *identity.Policy) { p.LimitWrites = identity.Rate{Count: 3, Per: 3 * time.Minute} })
	p, thief := w.verified("grace")
	owner := w.signIn(p)
	_, other := w.verified("edsger")
	refused := func(err error) {
		t.Helper()
		w.fails(err, identity.RateLimited, "too many changes; wait for as many seconds as Retry-After says")
	}
	// All sessions of a user share one limit for changes.
	for i := range 3 {
		a := must(w.service.AdmitChange(from("192.0.2.1"), thief.AccessToken))(w)
		w.equal("remaining requests", a.Remaining, 2-i)
	}
	w.refusals()
	_, err := w.service.AdmitChange(from("192.0.2.2"), owner.AccessToken)
	refused(err)
	if got := w.refusals(); len(got) != 1 || got[0].user != p.id || got[0].because != "writes" {
		t.Errorf("the refusals in the trail are %+v", got)
	}
	must(w.service.AdmitChange(from("192.0.2.1"), other.AccessToken))(w)
	// A thief cannot stop the owner from ending the stolen session.
	for range 3 {
		must(w.service.AdmitEnding(from("192.0.2.1"), thief.AccessToken))(w)
	}
	_, err = w.service.AdmitEnding(from("192.0.2.1"), thief.AccessToken)
	refused(err)
	must(w.service.AdmitEnding(from("192.0.2.2"), owner.AccessToken))(w)
	// Requests with an ended session do not count.
	w.ok(w.service.SignOut(t.Context(), thief.RefreshToken))
	w.pass(3 * time.Minute)
	for range 5 {
		w.fails(errOf(w.service.AdmitChange(from("192.0.2.1"), thief.AccessToken)), identity.Unauthenticated, endedSession)
	}
	a := must(w.service.AdmitChange(from("192.0.2.2"), owner.AccessToken))(w)
	w.equal("remaining requests", a.Remaining, 2)
	w.store.take()
	w.fails(errOf(w.service.AdmitChange(t.Context(), "no token")), identity.Unauthenticated, wrongToken)
	w.equal("calls of the store", w.store.take(), "")
}
