package identity_test

import (
	"strings"
	"testing"
	"time"
)

func TestRevokeEndsTheSessionOfEitherToken(t *testing.T) {
	for _, kind := range []string{"access", "refresh"} {
		f := newFixture(t)
		p, tokens := f.verified("grace")
		other := f.signIn(p)
		text := map[string]string{"access": tokens.AccessToken, "refresh": tokens.RefreshToken}[kind]
		for range 3 {
			f.ok(f.service.Revoke(t.Context(), text))
		}
		f.equal("the session is alive", f.alive(tokens), false)
		f.equal("the other session is alive", f.alive(other), true)
		f.equal("sessions ended", f.service.Stats().SessionsEnded, uint64(1))
		f.equal("sign-outs audited", f.audited("signed out"), 1)
	}
}

func TestRevokeIgnoresInvalidTokens(t *testing.T) {
	f := newFixture(t)
	_, tokens := f.verified("grace")
	candidates := []string{"", "no token", strings.Repeat("a", 100_000)}
	for _, text := range bad(tokens.RefreshToken) {
		candidates = append(candidates, text)
	}
	for _, text := range bad(tokens.AccessToken) {
		candidates = append(candidates, text)
	}
	f.store.take()
	for _, text := range candidates {
		f.ok(f.service.Revoke(t.Context(), text))
	}
	f.equal("calls of the store", f.store.take(), "")
	f.equal("the session is alive", f.alive(tokens), true)
}

func TestRevokeTakesAnExpiredRefreshTokenButNoExpiredAccessToken(t *testing.T) {
	f := newFixture(t, rotating)
	_, first := f.verified("grace")
	next := f.renew(f.renew(first.RefreshToken).RefreshToken)
	f.pass(6 * day)
	next = f.renew(next.RefreshToken)
	f.ok(f.service.Revoke(t.Context(), first.AccessToken))
	f.equal("the session is alive", f.alive(next), true)
	f.pass(2 * day)
	f.ok(f.service.Revoke(t.Context(), first.RefreshToken))
	f.pass(time.Second)
	f.equal("the session is alive", f.alive(next), false)
}
