package judges

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	golangjwt "github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/httprc/v3"
	"github.com/lestrrat-go/jwx/v3/jwk"
	jwxjwt "github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/auth-gateway/auth-gateway/verify"
)

// verifyModule is ours, and is held to the same.
func verifyModule(ctx context.Context, issuer, audience string) (judgeFunc, error) {
	v, err := verify.New(ctx, verify.FromURL(issuer), verify.Audience(audience))
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, v.Close)
	return func(token string) (string, error) {
		claims, err := v.Verify(ctx, token)
		if err != nil {
			return "", err
		}
		return claims.Subject, nil
	}, nil
}

// goOIDC finds everything in the metadata. The audience is what OpenID Connect calls the client id.
func goOIDC(ctx context.Context, issuer, audience string) (judgeFunc, error) {
	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return nil, err
	}
	verifier := provider.Verifier(&oidc.Config{ClientID: audience})
	return func(token string) (string, error) {
		verified, err := verifier.Verify(ctx, token)
		if err != nil {
			return "", err
		}
		return verified.Subject, nil
	}, nil
}

// goJOSE leaves fetching to the application.
func goJOSE(_ context.Context, issuer, audience string) (judgeFunc, error) {
	uri, err := keySetURI(issuer)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var keys jose.JSONWebKeySet
	var fetched time.Time
	return func(token string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(fetched) > time.Second {
			keys, fetched = jose.JSONWebKeySet{}, time.Now()
			if err := fetchJSON(uri, &keys); err != nil {
				return "", err
			}
		}
		parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA})
		if err != nil {
			return "", err
		}
		var claims jwt.Claims
		if err := parsed.Claims(keys, &claims); err != nil {
			return "", err
		}
		return claims.Subject, claims.Validate(jwt.Expected{Issuer: issuer, AnyAudience: jwt.Audience{audience}, Time: time.Now()})
	}, nil
}

func jwxLibrary(ctx context.Context, issuer, audience string) (judgeFunc, error) {
	uri, err := keySetURI(issuer)
	if err != nil {
		return nil, err
	}
	cache, err := jwk.NewCache(ctx, httprc.NewClient())
	if err != nil {
		return nil, err
	}
	if err := cache.Register(ctx, uri, jwk.WithConstantInterval(time.Second)); err != nil {
		return nil, err
	}
	keys, err := cache.CachedSet(uri)
	if err != nil {
		return nil, err
	}
	return func(token string) (string, error) {
		verified, err := jwxjwt.ParseString(token, jwxjwt.WithKeySet(keys), jwxjwt.WithIssuer(issuer), jwxjwt.WithAudience(audience))
		if err != nil {
			return "", err
		}
		subject, _ := verified.Subject()
		return subject, nil
	}, nil
}

func keyfuncLibrary(ctx context.Context, issuer, audience string) (judgeFunc, error) {
	uri, err := keySetURI(issuer)
	if err != nil {
		return nil, err
	}
	keys, err := keyfunc.NewDefaultOverrideCtx(ctx, []string{uri}, keyfunc.Override{RefreshInterval: time.Second})
	if err != nil {
		return nil, err
	}
	return func(token string) (string, error) {
		var claims golangjwt.RegisteredClaims
		_, err := golangjwt.ParseWithClaims(token, &claims, keys.Keyfunc, golangjwt.WithIssuer(issuer),
			golangjwt.WithAudience(audience), golangjwt.WithExpirationRequired(),
			golangjwt.WithValidMethods([]string{"ES256", "RS256", "EdDSA"}))
		return claims.Subject, err
	}, nil
}

// keySetURI returns the jwks_uri of an issuer's metadata.
func keySetURI(issuer string) (string, error) {
	var metadata struct {
		JWKSURI string `json:"jwks_uri"`
	}
	err := fetchJSON(issuer+"/.well-known/openid-configuration", &metadata)
	return metadata.JWKSURI, err
}

func fetchJSON(url string, out any) error {
	reply, err := http.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = reply.Body.Close() }()
	if reply.StatusCode != http.StatusOK {
		return errors.New(url + ": " + reply.Status)
	}
	return json.NewDecoder(reply.Body).Decode(out)
}
