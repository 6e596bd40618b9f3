package verify_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/auth-gateway/auth-gateway/verify"
	"github.com/auth-gateway/auth-gateway/verify/verifytest"
)

// FuzzVerify accepts neither other text nor a good token in which something was replaced, and never panics.
func FuzzVerify(f *testing.F) {
	clock := newClock()
	issuer := verifytest.NewIssuer(f, verifytest.Clock(clock.now))
	good := []string{issuer.Token()}
	for _, algorithm := range []string{verifytest.EdDSA, verifytest.RS256} {
		issuer.RotateTo(algorithm)
		good = append(good, issuer.Token())
	}
	v := open(f, issuer.Source(), verify.Clock(clock.now))
	for i, token := range good {
		if _, err := v.Verify(context.Background(), token); err != nil {
			f.Fatal(err)
		}
		f.Add("", i, len(token)-1, 1, "A")
		f.Add("", i, len(token)-2, 2, "")
		f.Add("", i, len(token), 0, "=")
		f.Add("", i, 50, 1, "\n")
		f.Add("", i, strings.LastIndexByte(token, '.')+1, 1000, "")
		f.Add("", i, strings.IndexByte(token, '.'), 1, "")
	}
	f.Add("a.b.c", 0, 0, 0, "")
	f.Add(verifytest.Forge(`{"alg":"none","typ":"at+jwt"}`, `{"sub":"a"}`, nil), 0, 0, 0, "")
	f.Add(verifytest.Forge(`{"alg":"ES256","typ":"at+jwt","kid":"a"}`, `{"iss":"https://auth.example.com"}`, []byte("a")), 0, 0, 0, "")
	f.Fuzz(func(t *testing.T, token string, which, at, cut int, text string) {
		original := good[uint(which)%uint(len(good))]
		at = min(max(at, 0), len(original))
		cut = min(max(cut, 0), len(original)-at)
		for _, candidate := range []string{token, original[:at] + text + original[at+cut:]} {
			c, err := v.Verify(context.Background(), candidate)
			if (err == nil) != slices.Contains(good, candidate) {
				t.Fatalf("%q: %v", candidate, err)
			}
			if (c == nil) == (err == nil) {
				t.Fatal("claims and error do not exclude each other")
			}
			if err == nil {
				continue
			}
			var e *verify.Error
			if !errors.As(err, &e) || e.Check == "" || e.Reason == "" {
				t.Fatalf("the error is not typed: %v", err)
			}
			if len(candidate) > 60 && strings.Contains(err.Error(), candidate) {
				t.Fatalf("the message contains the token: %v", err)
			}
			v.Challenge(err)
		}
	})
}

// FuzzHeaderAndPayload signs any header and payload: what is accepted says what encoding/json says.
func FuzzHeaderAndPayload(f *testing.F) {
	clock := newClock()
	issuer := verifytest.NewIssuer(f, verifytest.Algorithm(verifytest.EdDSA), verifytest.Clock(clock.now))
	v := open(f, issuer.Source(), verify.Clock(clock.now))
	header := func(text string) string { return strings.ReplaceAll(text, "KID", issuer.KeyID()) }
	now := clock.now()
	const good = `{"iss":"https://auth.example.com","sub":"a","aud":["https://shop.example.com"],"exp":EXP,"iat":IAT,"scope":"a b"}`
	for _, seed := range []string{
		good, strings.ReplaceAll(good, "sub", `\u0073ub`), strings.ReplaceAll(good, `"a"`, `"\ud83d\ude00"`),
		strings.ReplaceAll(good, `"a"`, `"\ud83d"`),
		good + good, strings.ReplaceAll(good, `"aud"`, `"x":[{"y":{}},1.5e-3,-0,null,true],"aud"`), `{}`, `[`, `{"sub":1}`, "\xff", `{"a":01}`,
	} {
		f.Add(`{"alg":"EdDSA","kid":"KID","typ":"at+jwt"}`, seed)
	}
	f.Add(`{"alg":"EdDSA","kid":"KID","typ":"at+jwt","alg":"none"}`, good)
	f.Fuzz(func(t *testing.T, head, payload string) {
		payload = strings.NewReplacer("EXP", stamp(now.Add(time.Minute)), "IAT", stamp(now)).Replace(payload)
		c, err := v.Verify(context.Background(), issuer.Sign([]byte(header(head)), []byte(payload)))
		if err != nil {
			return
		}
		var h map[string]any
		var p struct {
			Iss, Sub, Scope string
			Exp             int64
		}
		if json.Unmarshal([]byte(header(head)), &h) != nil || h["alg"] != "EdDSA" || h["typ"] != "at+jwt" || h["crit"] != nil {
			t.Errorf("accepted the header %q", head)
		}
		if err := json.Unmarshal([]byte(payload), &p); err != nil || p.Iss != c.Issuer || p.Sub != c.Subject ||
			p.Scope != c.Scope || p.Exp != c.ExpiresAt.Unix() {
			t.Errorf("read %q as %+v: %v", payload, c, err)
		}
	})
}

func stamp(t time.Time) string { text, _ := json.Marshal(t.Unix()); return string(text) }

// FuzzScanner accepts a part of what encoding/json accepts, and reads it in the same way.
func FuzzScanner(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,2.5e3,{"b":null}],"c":"\u00e9\ud834\udd1e\n"}`, `"\ud800"`, "\"\x80\"", `[1,]`, `{"a":1,"a":2}`, `-0.0E+1`,
		`01`, "\t true ", `tru`, `"\x"`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if verify.ValidForTest(text) && !json.Valid([]byte(text)) {
			t.Errorf("%q is not JSON", text)
		}
		var want string
		if got, ok := verify.TextForTest(text); ok && (json.Unmarshal([]byte(text), &want) != nil || got != want || !utf8.ValidString(got)) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	})
}

// FuzzKeySet never panics, and every key that is used has a kid.
func FuzzKeySet(f *testing.F) {
	for _, algorithm := range algorithms {
		f.Add(verifytest.NewIssuer(f, verifytest.Algorithm(algorithm)).JWKS())
	}
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB","kid":"a"}]}`))
	f.Fuzz(func(t *testing.T, jwks []byte) {
		v, err := verify.New(context.Background(), verify.FromFunc(func(context.Context) (verify.Document, error) {
			return verify.Document{Issuer: "https://auth.example.com", JWKS: jwks}, nil
		}), audience)
		if err != nil {
			return
		}
		defer v.Close()
		if ids := v.Stats().KeyIDs; len(ids) == 0 || ids[0] == "" {
			t.Errorf("%q: the keys %q", jwks, ids)
		}
	})
}
