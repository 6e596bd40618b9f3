package identity_test

import (
	"testing"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
	"github.com/auth-gateway/auth-gateway/authserver/token"
)

func TestBeforeThereAreKeysNoTokenIsCalledWrong(t *testing.T) {
	w := newWorld(t)
	p, tokens := w.verified("grace")
	_, code := w.unverified("edsger")
	loaded := w.service
	w.service = identity.New(w.policy, identity.Dependencies{
		Store: w.store, Tokens: token.New(token.Config{Issuer: issuer, Now: w.Now}), Hasher: w.hasher, Now: w.Now,
	})
	const message = "the signing keys are not loaded yet"
	_, err := w.Profile(tokens.AccessToken)
	w.fails(err, identity.Unavailable, message)
	_, err = w.Renew(tokens.RefreshToken)
	w.fails(err, identity.Unavailable, message)
	w.fails(w.service.SignOut(t.Context(), tokens.RefreshToken), identity.Unavailable, message)
	_, err = w.service.Introspect(t.Context(), tokens.AccessToken)
	w.fails(err, identity.Unavailable, message)
	_, err = w.SignIn(p.username, p.password)
	w.fails(err, identity.Unavailable, message)
	_, err = w.VerifyUser(code)
	w.fails(err, identity.Unavailable, message)
	w.service = loaded
	_, err = w.VerifyUser(code) // it was not used up
	w.ok(err)
}
