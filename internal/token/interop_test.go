package token_test

import (
	"encoding/json"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/keys"
)

// An independent library reads the published JWKS and verifies our tokens.
func TestInteropAnotherLibraryVerifiesOurTokens(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			o := ring(t, a)
			s := service(o, testenv.NewClock(start))
			for use, text := range map[keys.Use]string{keys.Access: mustAccess(t, s), keys.Refresh: mustRefresh(t, s)} {
				document := testenv.Must(json.Marshal(keys.JWKS(o.Ring(), use, true)))(t)
				var set jose.JSONWebKeySet
				testenv.OK(t, json.Unmarshal(document, &set))
				for _, k := range set.Keys {
					if !k.Valid() || !k.IsPublic() || k.Use != "sig" || k.Algorithm != string(a) {
						t.Errorf("key %+v", k)
					}
				}
				parsed := testenv.Must(jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(a)}))(t)
				var claims jwt.Claims
				if err := parsed.Claims(set, &claims); err != nil {
					t.Fatalf("%s: %v", use, err)
				}
				want := jwt.Expected{Issuer: issuer, Subject: subject, Time: start}
				if use == keys.Access {
					want.AnyAudience = jwt.Audience{audience}
				} else {
					want.AnyAudience = jwt.Audience{issuer}
				}
				if err := claims.Validate(want); err != nil {
					t.Errorf("%s: %v", use, err)
				}
			}
		})
	}
}

// We verify a token that an independent library signed.
func TestInteropTokenOfAnotherLibraryVerifies(t *testing.T) {
	for _, a := range algorithms {
		o := ring(t, a)
		k := o.Signer(keys.Access)
		signer, err := jose.NewSigner(
			jose.SigningKey{Algorithm: jose.SignatureAlgorithm(a), Key: jose.JSONWebKey{Key: k.Private, KeyID: k.ID}},
			(&jose.SignerOptions{}).WithType("at+jwt"))
		testenv.OK(t, err)
		object := testenv.Must(signer.Sign([]byte(forge{t, k}.claims())))(t)
		text := testenv.Must(object.CompactSerialize())(t)
		accepted(t, service(o, testenv.NewClock(start)), text)
	}
}
