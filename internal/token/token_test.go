package token_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
)

var algorithms = []keys.Algorithm{keys.ES256, keys.RS256, keys.EdDSA}

func TestSignedTokensVerifyWithEachAlgorithm(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			c := testenv.NewClock(start)
			issuing, verifying := service(ring(t, a), c), service(ring(t, a), c)

			want := access()
			text := mustAccess(t, issuing)
			for name, s := range map[string]*token.Service{"remembered from signing": issuing, "checked": verifying} {
				got, err := s.VerifyAccess(text)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				want := token.Access{
					Subject: subject, SessionID: want.SessionID, Scope: want.Scope, IssuedAt: start, ExpiresAt: start.Add(accessTTL),
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s: access claims (-want +got):\n%s", name, diff)
				}
			}
			_, payload := decode(t, text)
			for claim, value := range map[string]any{
				"username": want.Username, "email": want.Email, "name": want.Name, "email_verified": want.EmailVerified,
				"auth_time": float64(want.AuthTime.Unix()), "scope": want.Scope, "sid": want.SessionID, "sub": want.Subject,
			} {
				if payload[claim] != value {
					t.Errorf("%s is %v, want %v", claim, payload[claim], value)
				}
			}
			if payload["jti"] == "" {
				t.Error("the token has no jti")
			}

			text = mustRefresh(t, issuing)
			for name, s := range map[string]*token.Service{"remembered from signing": issuing, "checked": verifying} {
				got, err := s.VerifyRefresh(text)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if diff := cmp.Diff(refresh(), got); diff != "" {
					t.Errorf("%s: refresh claims (-want +got):\n%s", name, diff)
				}
			}
		})
	}
}

func TestClaimsAreThoseOfTheContract(t *testing.T) {
	s := service(ring(t, keys.ES256), testenv.NewClock(start))
	for _, tt := range []struct {
		text, header string
		claims       []string
	}{
		{mustAccess(t, s), "at+jwt", strings.Fields("iss client_id sub aud exp iat jti scope sid username email email_verified name auth_time")},
		{mustRefresh(t, s), "rt+jwt", strings.Fields("iss sub aud exp iat jti sid gen")},
	} {
		header, payload := decode(t, tt.text)
		if header["typ"] != tt.header || header["alg"] != "ES256" || len(header) != 3 {
			t.Errorf("header %v", header)
		}
		if len(payload) != len(tt.claims) {
			t.Errorf("%d claims, want %v: %v", len(payload), tt.claims, payload)
		}
		for _, name := range tt.claims {
			if _, ok := payload[name]; !ok {
				t.Errorf("no claim %s in %v", name, payload)
			}
		}
	}
}

func decode(tb testing.TB, text string) (header, payload map[string]any) {
	tb.Helper()
	parts := strings.Split(text, ".")
	for i, into := range []*map[string]any{&header, &payload} {
		raw := testenv.Must(base64.RawURLEncoding.DecodeString(parts[i]))(tb)
		testenv.OK(tb, json.Unmarshal(raw, into))
	}
	return header, payload
}

func TestRefreshTokenIsSignedAgainWithTheSameBytes(t *testing.T) {
	for _, a := range algorithms {
		c := testenv.NewClock(start)
		first := mustRefresh(t, service(ring(t, a), c))
		c.Set(start.Add(time.Minute))
		if again := mustRefresh(t, service(ring(t, a), c)); again != first {
			t.Errorf("%s: another replica issued %s a minute later, the first one %s", a, again, first)
		}
		next := refresh()
		next.Generation++
		if other, _ := service(ring(t, a), c).SignRefresh(next); other == first {
			t.Errorf("%s: the next generation has the same token", a)
		}
	}
}

func TestRefreshTokenThatExpiredReturnsItsClaims(t *testing.T) {
	c := testenv.NewClock(start)
	s := service(ring(t, keys.ES256), c)
	text := mustRefresh(t, s)
	c.Set(start.Add(30 * 24 * time.Hour))
	for range 2 { // from the cache, then verified again
		got, err := s.VerifyRefresh(text)
		if !errors.Is(err, token.ErrExpired) || !errors.Is(err, token.ErrInvalid) {
			t.Errorf("err = %v, want ErrExpired, which wraps ErrInvalid", err)
		}
		if got != refresh() {
			t.Errorf("claims %+v, want those of the token", got)
		}
		s.Use(ring(t, keys.ES256))
	}
}

func TestNoKeysIsAnErrorOfItsOwn(t *testing.T) {
	c := testenv.NewClock(start)
	text := mustAccess(t, service(ring(t, keys.ES256), c))
	s := service(nil, c)
	if s.Ready() {
		t.Error("Ready returns true without keys")
	}
	_, err1 := s.VerifyAccess(text)
	_, err2 := s.VerifyRefresh(text)
	_, err3 := s.SignAccess(access())
	_, err4 := s.SignRefresh(refresh())
	for _, err := range []error{err1, err2, err3, err4} {
		if !errors.Is(err, token.ErrNoKeys) || errors.Is(err, token.ErrInvalid) {
			t.Errorf("err = %v, want only ErrNoKeys", err)
		}
	}
	if s.Use(ring(t, keys.ES256)); !s.Ready() {
		t.Error("Ready returns false with keys")
	}
}

func TestSignRefusesClaimsThatWouldNotVerify(t *testing.T) {
	s := service(ring(t, keys.ES256), testenv.NewClock(start))
	for name, change := range map[string]func(*token.Access){
		"a subject that is no UUID":  func(a *token.Access) { a.Subject = "42" },
		"a subject in upper case":    func(a *token.Access) { a.Subject = strings.ToUpper(a.Subject) },
		"no session":                 func(a *token.Access) { a.SessionID = "" },
		"a name that is not UTF-8":   func(a *token.Access) { a.Name = "\xff" },
		"a name that is far too big": func(a *token.Access) { a.Name = strings.Repeat("n", 9000) },
		"a lifetime beyond AccessTTL": func(a *token.Access) {
			a.IssuedAt, a.ExpiresAt = start, start.Add(accessTTL+time.Second)
		},
	} {
		a := access()
		change(&a)
		if text, err := s.SignAccess(a); err == nil {
			t.Errorf("%s: signed %s", name, text)
		}
	}
	for name, change := range map[string]func(*token.Refresh){
		"no expiry":             func(r *token.Refresh) { r.ExpiresAt = time.Time{} },
		"a negative generation": func(r *token.Refresh) { r.Generation = -1 },
		"no subject":            func(r *token.Refresh) { r.Subject = "" },
	} {
		r := refresh()
		change(&r)
		if text, err := s.SignRefresh(r); err == nil {
			t.Errorf("%s: signed %s", name, text)
		}
	}
}

// Values that users choose cannot become other claims.
func TestClaimValuesCannotBecomeOtherClaims(t *testing.T) {
	s := service(ring(t, keys.ES256), testenv.NewClock(start))
	a := access()
	a.Name = `x","sub":"someone else","SUB":"`
	a.Username = "line\r\nbreak\x00 "
	text := testenv.Must(s.SignAccess(a))(t)
	s.Use(ring(t, keys.ES256)) // empties the cache
	got, err := s.VerifyAccess(text)
	_, payload := decode(t, text)
	if err != nil || got.Subject != subject || payload["sub"] != subject || payload["name"] != a.Name || payload["username"] != a.Username {
		t.Errorf("got %+v, %v, %v", got, payload, err)
	}
}
