package token_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
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

// What fits into Room fits into a token, whatever its other claims are.
func TestRoomIsEnoughForTheLongestToken(t *testing.T) {
	longest := access()
	longest.Scope, longest.Username = strings.Repeat("s", 1000), strings.Repeat("u", 64)
	longest.Email = strings.Repeat(`"`, 127) + "@" + strings.Repeat("d", 126)
	longest.Name = strings.Repeat("\U0001D4B6", 100) + " " + strings.Repeat("\U0001D4B6", 100)
	for _, tc := range []struct{ issuer, audience, client int }{{30, 30, 10}, {500, 500, 100}, {1024, 700, 255}} {
		for _, a := range algorithms {
			config := token.Config{
				Issuer: strings.Repeat("i", tc.issuer), Audience: []string{strings.Repeat("a", tc.audience), "b"},
				ClientID: strings.Repeat("c", tc.client), AccessTTL: accessTTL, Now: testenv.NewClock(start).Now,
			}
			s, other, opened := token.New(config), token.New(config), ring(t, a)
			s.Use(opened)
			other.Use(opened)
			of := longest
			of.Roles = "a bc"
			rest := s.Room() - token.Needs(of.Roles, `"plan":""`)
			if tc.issuer == 30 && rest < 1900 || rest < 0 {
				t.Errorf("%+v: there is room for %d bytes more", tc, rest)
			}
			of.More = `"plan":"` + strings.Repeat("p", max(0, rest)) + `"`
			text, err := s.SignAccess(of)
			if err != nil {
				t.Errorf("%+v, %s: %v", tc, a, err)
				continue
			}
			t.Logf("%+v, %s: %d bytes", tc, a, len(text))
			_, payload := decode(t, text)
			if roles, _ := payload["roles"].([]any); len(roles) != 2 || roles[1] != "bc" || len(fmt.Sprint(payload["plan"])) != rest {
				t.Errorf("%+v, %s: roles are %v, plan has %d bytes", tc, a, payload["roles"], len(fmt.Sprint(payload["plan"])))
			}
			if got, err := other.VerifyAccess(text); err != nil || got.Subject != of.Subject {
				t.Errorf("%+v, %s: another replica: %v", tc, a, err)
			}
		}
	}
}

// What Fitting returns takes no more than the room, and what it leaves out does not fit.
func TestFittingLeavesOutWhatHasNoRoom(t *testing.T) {
	const object = `{"long":"0123456789","a":1,"b":2}`
	names := []string{"long", "a", "none", "b"}
	for room, want := range map[int]string{
		-1: "", 0: "", 5: "", 6: `"a":1`, 11: `"a":1`, 12: `"a":1,"b":2`, 19: `"a":1,"b":2`, 20: `"long":"0123456789"`,
		31: `"long":"0123456789","a":1`, 32: `"long":"0123456789","a":1,"b":2`,
	} {
		more, left, err := token.Fitting(object, names, room)
		if err != nil || more != want || more != "" && token.Needs("", more) > room || strings.Count(more, ":")+len(left) != 3 {
			t.Errorf("in %d bytes: %s, without %q, %v; want %s", room, more, left, err, want)
		}
	}
}

func TestMembersOfAnObjectBecomeClaims(t *testing.T) {
	for _, tc := range []struct {
		object string
		names  []string
		want   string
		fails  bool
	}{
		{"", []string{"a"}, "", false},
		{`{"a":1}`, nil, "", false},
		{`{"a":1,"b":{"c":[ "\u0000" ]}}`, []string{"b", "x", "a"}, `"b":{"c":["\u0000"]},"a":1`, false},
		{`{"a":1,"a":2}`, []string{"a"}, "", true},
		{`[1]`, []string{"a"}, "", true},
	} {
		got, err := token.Members(tc.object, tc.names)
		if strings.ReplaceAll(got, " ", "") != tc.want || (err != nil) != tc.fails {
			t.Errorf("%s of %s: %s, %v", tc.names, tc.object, got, err)
		}
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
		testenv.NoError(tb, json.Unmarshal(raw, into))
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

// An independent library reads the published JWKS and verifies our tokens.
func TestInteropAnotherLibraryVerifiesOurTokens(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			o := ring(t, a)
			s := service(o, testenv.NewClock(start))
			for use, text := range map[keys.Use]string{keys.Access: mustAccess(t, s), keys.Refresh: mustRefresh(t, s)} {
				document := testenv.Must(json.Marshal(keys.JWKS(o.Ring(), use, true)))(t)
				var set jose.JSONWebKeySet
				testenv.NoError(t, json.Unmarshal(document, &set))
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
		testenv.NoError(t, err)
		object := testenv.Must(signer.Sign([]byte(forge{t, k}.claims())))(t)
		text := testenv.Must(object.CompactSerialize())(t)
		accepted(t, service(o, testenv.NewClock(start)), text)
	}
}

func TestCacheIsDiscardedWithTheKeys(t *testing.T) {
	c := testenv.NewClock(start)
	s := service(ring(t, keys.ES256), c)
	text := mustAccess(t, s)
	accepted(t, s, text)
	s.Use(ring(t, keys.EdDSA))
	refused(t, s, text)
}

func TestCacheIsBounded(t *testing.T) {
	c := testenv.NewClock(start)
	s := token.New(token.Config{Issuer: issuer, Audience: []string{audience}, CacheSize: 2, Now: c.Now})
	s.Use(ring(t, keys.ES256))
	first := mustAccess(t, s)
	hit := testing.AllocsPerRun(10, func() { _, _ = s.VerifyAccess(first) })
	for range 3 {
		mustAccess(t, s)
	}
	missed := testing.AllocsPerRun(1, func() {
		_, _ = s.VerifyAccess(first)
		mustAccess(t, s)
		mustAccess(t, s)
	})
	const ids = 2 // sub and sid: the cache stores each as 16 bytes
	if hit > ids || missed <= ids {
		t.Errorf("%v allocations for a cached token, %v for an evicted one", hit, missed)
	}
	accepted(t, s, first)
}

// Run with -race: keys are replaced while tokens are signed and verified.
func TestUseReplacesKeysUnderLoad(t *testing.T) {
	c := testenv.NewClock(start)
	s := service(ring(t, keys.ES256), c)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				text, err := s.SignAccess(access())
				if err != nil {
					t.Error(err)
				}
				if a, err := s.VerifyAccess(text); err == nil && a.Subject != subject || err != nil && !errors.Is(err, token.ErrInvalid) {
					t.Errorf("got %+v, %v, want the subject or ErrInvalid", a, err)
				}
			}
		})
	}
	for i := range 50 {
		s.Use(ring(t, []keys.Algorithm{keys.ES256, keys.EdDSA}[i%2]))
	}
	wg.Wait()
}

func FuzzVerify(f *testing.F) {
	c := testenv.NewClock(start)
	o := ring(f, keys.ES256)
	s := service(o, c)
	maker := forge{f, o.Signer(keys.Access)}
	good := maker.es256(maker.header(""), maker.claims())
	for _, seed := range []string{
		good, mustAccess(f, s), mustRefresh(f, s), "", "..", "a.b.c", good[:40], good + "=", strings.Replace(good, ".", "..", 1),
		"eyJhbGciOiJub25lIn0.e30.", maker.es256(maker.header(""), "null"), maker.es256("{}", maker.claims()),
		maker.es256(maker.header(`,"x":[{}]`), maker.claims("exp", "1e300")),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := s.VerifyAccess(text)
		if err == nil && a.Subject != subject || err != nil && !errors.Is(err, token.ErrInvalid) {
			t.Errorf("VerifyAccess(%q) = %+v, %v", text, a, err)
		}
		if _, err := s.VerifyRefresh(text); err != nil && !errors.Is(err, token.ErrInvalid) {
			t.Errorf("VerifyRefresh(%q): %v", text, err)
		}
	})
}

// FuzzClaims signs every input, so that the verifier reads the claims.
func FuzzClaims(f *testing.F) {
	c := testenv.NewClock(start)
	o := ring(f, keys.ES256)
	maker := forge{f, o.Signer(keys.Access)}
	s := token.New(token.Config{Issuer: issuer, Audience: []string{audience}, CacheSize: 16, Now: c.Now})
	s.Use(o)
	for _, payload := range []string{
		maker.claims(), maker.claims("exp", "1e300"), maker.claims("aud", `["a",[]]`), "null", "[]",
		`{"sub":1,"sub":2}`, `{"a":{"b":[1,2,{"c":null}]}}`,
	} {
		f.Add(maker.header(""), payload)
	}
	f.Add(`{"alg":"ES256"}`, "{}")
	f.Fuzz(func(t *testing.T, head, payload string) {
		a, err := s.VerifyAccess(forge{t, maker.signer}.es256(head, payload))
		switch {
		case err != nil && !errors.Is(err, token.ErrInvalid):
			t.Errorf("err = %v, want ErrInvalid", err)
		case err == nil && (len(a.Subject) != 36 || !a.ExpiresAt.After(start.Add(-leeway)) || a.ExpiresAt.Sub(a.IssuedAt) > accessTTL):
			t.Errorf("%q was accepted as %+v", payload, a)
		}
	})
}

func BenchmarkSignAccess(b *testing.B) {
	for _, a := range algorithms {
		b.Run(string(a), func(b *testing.B) {
			s := service(ring(b, a), testenv.NewClock(start))
			claims := access()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.SignAccess(claims); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerifyAccess(b *testing.B) {
	for _, a := range algorithms {
		c := testenv.NewClock(start)
		text := mustAccess(b, service(ring(b, a), c))
		b.Run(string(a)+"/first", func(b *testing.B) {
			s := token.New(token.Config{Issuer: issuer, Audience: []string{audience}, CacheSize: 1, Now: c.Now})
			s.Use(ring(b, a))
			other := mustAccess(b, service(ring(b, a), c))
			b.ReportAllocs()
			for b.Loop() { // each token evicts the other from the cache
				if _, err := s.VerifyAccess(text); err != nil {
					b.Fatal(err)
				}
				text, other = other, text
			}
		})
		b.Run(string(a)+"/again", func(b *testing.B) {
			s := service(ring(b, a), c)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.VerifyAccess(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
