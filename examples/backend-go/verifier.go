package main

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

// Verifier checks access tokens with the gateway's public keys, without a call per
// token.
type Verifier struct {
	issuer string
	keys   keyfunc.Keyfunc
}

// NewVerifier fetches the keys now and every minute, so a revoked key is rejected
// within that time. If the gateway is unreachable at first, it retries.
func NewVerifier(ctx context.Context, issuer string) (*Verifier, error) {
	keys, err := keyfunc.NewDefaultOverrideCtx(ctx, []string{issuer + "/.well-known/jwks.json"},
		keyfunc.Override{RefreshInterval: time.Minute})
	return &Verifier{issuer, keys}, err
}

// User is the user that a token was issued to.
type User struct {
	ID    string // a UUID; never reused
	Name  string
	Scope []string
}

type contextKey struct{}

// UserOf returns the user of a request that Require let through.
func UserOf(ctx context.Context) User {
	user, _ := ctx.Value(contextKey{}).(User)
	return user
}

// Verify returns the user of an access token.
func (v *Verifier) Verify(token string) (User, error) {
	var claims struct {
		jwt.RegisteredClaims
		Scope string `json:"scope"`
		Name  string `json:"name"`
	}
	parsed, err := jwt.ParseWithClaims(token, &claims, v.keys.Keyfunc,
		jwt.WithValidMethods([]string{"ES256", "RS256", "EdDSA"}), // all public-key algorithms: never HS256
		jwt.WithIssuer(v.issuer), jwt.WithAudience(v.issuer), jwt.WithExpirationRequired())
	if err != nil {
		return User{}, err
	}
	if parsed.Header["typ"] != "at+jwt" {
		return User{}, jwt.ErrTokenInvalidClaims // such as a refresh token
	}
	return User{claims.Subject, claims.Name, strings.Fields(claims.Scope)}, nil
}

// Require admits only requests with an access token that has the scope.
func (v *Verifier) Require(scope string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		user, err := v.Verify(token)
		switch {
		case !found || err != nil:
			w.Header().Set("WWW-Authenticate", "Bearer")
			reply(w, http.StatusUnauthorized, map[string]string{"error_description": "Sign in first."})
		case !slices.Contains(user.Scope, scope):
			reply(w, http.StatusForbidden, map[string]string{"error_description": "You are not allowed to do this."})
		default:
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, user)))
		}
	})
}
