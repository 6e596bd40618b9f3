package identity_test

import (
	"net/netip"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

func TestAnEventNamesWhoAndWhichSessionAndForWhichRequest(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	session := w.Introspect(tokens.AccessToken).SessionID
	ctx := identity.WithCaller(t.Context(), identity.Caller{RequestID: "request-1", Address: netip.MustParseAddr("2001:db8::1")})
	w.ok(w.service.SignOut(ctx, tokens.RefreshToken))
	events := must(w.memory.Events(t.Context()))(w)
	var names []identity.EventName
	for _, e := range events {
		names = append(names, e.Name)
	}
	want := []identity.EventName{identity.EventSignedUp, identity.EventEmailVerified, identity.EventSignedOut}
	if len(names) != 3 || names[0] != want[0] || names[1] != want[1] || names[2] != want[2] {
		t.Fatalf("recorded %q; want %q", names, want)
	}
	last := events[2]
	w.equal("user", last.UserID, p.id)
	w.equal("the session", last.SessionID, session)
	w.equal("the request", last.RequestID, "request-1")
	w.equal("the address", last.Address, netip.MustParseAddr("2001:db8::1"))
	w.equal("an address is recorded for an unknown client", events[0].Address.IsValid(), false)
}

func TestWhereThePolicyKeepsNoTrailTheLogHasIt(t *testing.T) {
	w := newWorld(t, func(p *identity.Policy) { p.KeepAudit = false })
	p, _ := w.verified("grace")
	w.signIn(p)
	events := must(w.memory.Events(t.Context()))(w)
	w.equal("events of the table", len(events), 0)
	w.equal("sign-ins in the log", w.audited("signed in"), 1)
}
