package identity_test

import (
	"net/netip"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

func TestEventNamesTheUserTheSessionAndTheRequest(t *testing.T) {
	f := newFixture(t)
	p, tokens := f.verified("grace")
	session := f.Introspect(tokens.AccessToken).SessionID
	ctx := identity.WithCaller(t.Context(), identity.Caller{RequestID: "request-1", Address: netip.MustParseAddr("2001:db8::1")})
	f.ok(f.service.SignOut(ctx, tokens.RefreshToken))
	events := must(f.memory.Events(t.Context()))(f)
	var names []identity.EventName
	for _, e := range events {
		names = append(names, e.Name)
	}
	want := []identity.EventName{identity.EventSignedUp, identity.EventEmailVerified, identity.EventSignedOut}
	if len(names) != 3 || names[0] != want[0] || names[1] != want[1] || names[2] != want[2] {
		t.Fatalf("recorded %q; want %q", names, want)
	}
	last := events[2]
	f.equal("user", last.UserID, p.id)
	f.equal("the session", last.SessionID, session)
	f.equal("the request", last.RequestID, "request-1")
	f.equal("the address", last.Address, netip.MustParseAddr("2001:db8::1"))
	f.equal("an address is recorded for an unknown client", events[0].Address.IsValid(), false)
}

func TestEventIsOnlyLoggedIfThePolicyKeepsNoTrail(t *testing.T) {
	f := newFixture(t, func(p *identity.Policy) { p.KeepAudit = false })
	p, _ := f.verified("grace")
	f.signIn(p)
	events := must(f.memory.Events(t.Context()))(f)
	f.equal("events of the table", len(events), 0)
	f.equal("sign-ins in the log", f.audited("signed in"), 1)
}
