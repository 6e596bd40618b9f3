// Package bench compares the verification of one token with other libraries. Each library checks the signature, alg,
// iss, aud and exp, with keys that are already in memory, and gives the caller sub and scope.
//
//	go test -bench . -benchmem -count 6
package bench

import (
	"crypto"
	"encoding/json"
	"testing"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v3/jwk"
	jwxjwt "github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/auth-gateway/auth-gateway/verify"
	"github.com/auth-gateway/auth-gateway/verify/verifytest"
)

// verifier verifies a token and returns sub and scope.
type verifier func(token string) (subject, scope string, err error)

// libraries returns a verifier of each library, in the order in which they run.
func libraries(b testing.TB, issuer *verifytest.Issuer, algorithm string) []struct {
	name   string
	verify verifier
} {
	b.Helper()
	ctx := b.Context()
	set, err := jwk.Parse(issuer.JWKS())
	if err != nil {
		b.Fatal(err)
	}
	key, _ := set.Key(0)
	var public any
	if err := jwk.Export(key, &public); err != nil {
		b.Fatal(err)
	}
	v, err := verify.New(ctx, issuer.Source(), verify.Audience(verifytest.Audience))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(v.Close)
	cached, err := verify.New(ctx, issuer.Source(), verify.Audience(verifytest.Audience), verify.Cache(1000))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(cached.Close)
	keys, err := keyfunc.NewJWKSetJSON(json.RawMessage(issuer.JWKS()))
	if err != nil {
		b.Fatal(err)
	}
	type claims struct {
		jwt.RegisteredClaims

		Scope string `json:"scope"`
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{algorithm}), jwt.WithIssuer(issuer.Name()), jwt.WithAudience(verifytest.Audience),
		jwt.WithExpirationRequired(),
	}
	parser := jwt.NewParser(options...)
	golang := func(find jwt.Keyfunc) verifier {
		return func(token string) (string, string, error) {
			var c claims
			_, err := parser.ParseWithClaims(token, &c, find)
			return c.Subject, c.Scope, err
		}
	}
	oidcVerifier := oidc.NewVerifier(issuer.Name(), &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{public}},
		&oidc.Config{ClientID: verifytest.Audience, SupportedSigningAlgs: []string{algorithm}})
	own := func(v *verify.Verifier) verifier {
		return func(token string) (string, string, error) {
			c, err := v.Verify(ctx, token)
			if err != nil {
				return "", "", err
			}
			return c.Subject, c.Scope, nil
		}
	}
	return []struct {
		name   string
		verify verifier
	}{
		{"verify", own(v)},
		{"golang-jwt", golang(func(*jwt.Token) (any, error) { return public, nil })},
		{"keyfunc", golang(keys.Keyfunc)},
		{"jwx", func(token string) (string, string, error) {
			t, err := jwxjwt.ParseString(token, jwxjwt.WithKeySet(set), jwxjwt.WithIssuer(issuer.Name()), jwxjwt.WithAudience(verifytest.Audience))
			if err != nil {
				return "", "", err
			}
			subject, _ := t.Subject()
			var scope string
			err = t.Get("scope", &scope)
			return subject, scope, err
		}},
		{"go-oidc", func(token string) (string, string, error) {
			t, err := oidcVerifier.Verify(ctx, token)
			if err != nil {
				return "", "", err
			}
			var c struct {
				Scope string `json:"scope"`
			}
			err = t.Claims(&c)
			return t.Subject, c.Scope, err
		}},
		{"verify-cached", own(cached)},
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, algorithm := range []string{verifytest.ES256, verifytest.RS256, verifytest.EdDSA} {
		issuer := verifytest.NewIssuer(b, verifytest.Algorithm(algorithm))
		token := issuer.Token()
		for _, l := range libraries(b, issuer, algorithm) {
			b.Run(algorithm+"/"+l.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if subject, scope, err := l.verify(token); err != nil || subject == "" || scope != "profile email" {
						b.Fatal(subject, scope, err)
					}
				}
			})
		}
	}
}
