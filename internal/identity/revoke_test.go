package identity_test

import (
	"strings"
	"testing"
	"time"
)

func TestRevokeEndsTheSessionOfEitherToken(t *testing.T) {
	for _, kind := range []string{"access", "refresh"} {
		w := newWorld(t)
		p, tokens := w.verified("grace")
		other := w.signIn(p)
		text := map[string]string{"access": tokens.AccessToken, "refresh": tokens.RefreshToken}[kind]
		for range 3 {
			w.ok(w.service.Revoke(t.Context(), text))
		}
		w.equal("the session is alive", w.alive(tokens), false)
		w.equal("the other session is alive", w.alive(other), true)
		w.equal("sessions ended", w.service.Stats().SessionsEnded, uint64(1))
		w.equal("sign-outs audited", w.audited("signed out"), 1)
	}
}

func TestRevokeIgnoresInvalidTokens(t *testing.T) {
	w := newWorld(t)
	_, tokens := w.verified("grace")
	candidates := []string{"", "no token", strings.Repeat("a", 100_000)}
	for _, text := range bad(tokens.RefreshToken) {
		candidates = append(candidates, text)
	}
	for _, text := range bad(tokens.AccessToken) {
		candidates = append(candidates, text)
	}
	w.store.take()
	for _, text := range candidates {
		w.ok(w.service.Revoke(t.Context(), text))
	}
	w.equal("calls of the store", w.store.take(), "")
	w.equal("the session is alive", w.alive(tokens), true)
}

func TestRevokeTakesAnExpiredRefreshTokenButNoExpiredAccessToken(t *testing.T) {
	w := newWorld(t, rotating)
	_, first := w.verified("grace")
	next := w.renew(w.renew(first.RefreshToken).RefreshToken)
	w.pass(6 * day)
	next = w.renew(next.RefreshToken)
	w.ok(w.service.Revoke(t.Context(), first.AccessToken))
	w.equal("the session is alive", w.alive(next), true)
	w.pass(2 * day)
	w.ok(w.service.Revoke(t.Context(), first.RefreshToken))
	w.pass(time.Second)
	w.equal("the session is alive", w.alive(next), false)
}
