package verify_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/verify"
	"github.com/auth-gateway/auth-gateway/verify/verifytest"
)

var algorithms = []string{verifytest.ES256, verifytest.RS256, verifytest.EdDSA}

func TestTokensOfEachAlgorithmAreAccepted(t *testing.T) {
	for _, algorithm := range algorithms {
		issuer := verifytest.NewIssuer(t, verifytest.Algorithm(algorithm))
		v := open(t, issuer.Source())
		for i := range 30 { // some signatures begin with zeros
			token := issuer.Token(verifytest.Claim("n", i))
			c, err := v.Verify(context.Background(), token)
			if err != nil {
				t.Fatalf("%s: %v", algorithm, err)
			}
			if i > 0 {
				continue
			}
			if c.Issuer != issuer.Name() || c.Subject == "" || !slices.Equal(c.Audience, []string{verifytest.Audience}) ||
				c.ClientID != "auth-gateway" || c.ID == "" ||
				c.SessionID == "" || c.Scope != "profile email" || c.Username != "ada" ||
				c.Name != "Ada Lovelace" || c.Email != "ada@example.com" || !c.EmailVerified || c.KeyID != issuer.KeyID() ||
				c.ExpiresAt.Sub(c.IssuedAt) != verifytest.Lifetime || !c.AuthTime.Equal(c.IssuedAt) || !c.NotBefore.IsZero() {
				t.Errorf("%s: %+v", algorithm, c)
			}
		}
	}
}

func TestClaimsGiveScopesAndOtherClaims(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v := open(t, issuer.Source())
	c, err := v.Verify(context.Background(), issuer.Token(verifytest.Claim("scope", "orders:read  orders"),
		verifytest.Claim("roles", []string{"admin", "ä\u2028"}), verifytest.Claim("aud", []string{"a", verifytest.Audience}),
		verifytest.Claim("name", "Ada \"Countess\" 𝒜\u0001")))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Scopes(); !slices.Equal(got, []string{"orders:read", "orders"}) {
		t.Errorf("scopes: %q", got)
	}
	for scope, want := range map[string]bool{"orders": true, "orders:read": true, "order": false, "": false,
		"read": false, "orders:read  orders": false} {
		if c.HasScope(scope) != want {
			t.Errorf("HasScope(%q) is not %v", scope, want)
		}
	}
	var roles []string
	if err := c.Decode("roles", &roles); err != nil || !slices.Equal(roles, []string{"admin", "ä\u2028"}) {
		t.Errorf("roles: %q, %v", roles, err)
	}
	if c.Raw("role") != nil || c.Decode("role", &roles) == nil || c.Decode("roles", new(int)) == nil {
		t.Error("a claim that is missing or of another type is found")
	}
	if c.Name != "Ada \"Countess\" 𝒜\u0001" || len(c.Audience) != 2 {
		t.Errorf("%+v", c)
	}
}

func TestTimesHaveALeeway(t *testing.T) {
	clock := newClock()
	issuer := verifytest.NewIssuer(t, verifytest.Clock(clock.now))
	for _, leeway := range []time.Duration{0, 10 * time.Second, time.Minute} {
		v := open(t, issuer.Source(), verify.Clock(clock.now), verify.Leeway(leeway))
		now, l := clock.now().Unix(), int64(leeway/time.Second)
		for _, tt := range []struct {
			name     string
			token    string
			accepted bool
		}{
			{"expires now", issuer.Token(verifytest.Claim("iat", now-900), verifytest.Claim("exp", now-l)), false},
			{"expires in a second", issuer.Token(verifytest.Claim("iat", now-900), verifytest.Claim("exp", now-l+1)), true},
			{"issued in the future", issuer.Token(verifytest.Claim("iat", now+l+1)), false},
			{"issued now", issuer.Token(verifytest.Claim("iat", now+l)), true},
			{"valid later", issuer.Token(verifytest.Claim("nbf", now+l+1)), false},
			{"valid now", issuer.Token(verifytest.Claim("nbf", now+l)), true},
		} {
			if _, err := v.Verify(context.Background(), tt.token); (err == nil) != tt.accepted {
				t.Errorf("leeway %v, %s: %v", leeway, tt.name, err)
			}
		}
	}
}

func TestRequirementsAreChecked(t *testing.T) {
	clock := newClock()
	issuer := verifytest.NewIssuer(t, verifytest.Clock(clock.now))
	v := open(t, issuer.Source(), verify.Clock(clock.now), verify.Leeway(10*time.Second))
	signedIn := func(ago int64) verifytest.TokenOption { return verifytest.Claim("auth_time", clock.now().Unix()-ago) }
	old := verifytest.Claim("auth_time", clock.now().Add(-time.Hour).Unix())
	for _, tt := range []struct {
		name     string
		verifier *verify.Verifier
		token    string
		check    verify.Check // empty if accepted
	}{
		{"a recent sign-in", v.With(verify.MaxAge(time.Minute)), issuer.Token(), ""},
		{"an old sign-in", v.With(verify.MaxAge(time.Minute)), issuer.Token(old), verify.ErrAuthTime},
		{"a sign-in within the age and the leeway", v.With(verify.MaxAge(time.Minute)), issuer.Token(signedIn(69)), ""},
		{"a sign-in beyond them", v.With(verify.MaxAge(time.Minute)), issuer.Token(signedIn(71)), verify.ErrAuthTime},
		{"no auth_time", v.With(verify.MaxAge(time.Minute)), issuer.Token(verifytest.Without("auth_time")), verify.ErrAuthTime},
		{"an old sign-in that is not old enough", v.With(verify.MaxAge(2 * time.Hour)), issuer.Token(old), ""},
		{"one of two acr", v.With(verify.ACR("pwd", "mfa")), issuer.Token(verifytest.Claim("acr", "mfa")), ""},
		{"another acr", v.With(verify.ACR("mfa")), issuer.Token(verifytest.Claim("acr", "pwd")), verify.ErrACR},
		{"no acr", v.With(verify.ACR("mfa")), issuer.Token(), verify.ErrACR},
		{"all scopes", v.With(verify.Scopes("profile"), verify.Scopes("email")), issuer.Token(), ""},
		{"one scope of two", v.With(verify.Scopes("profile", "admin")), issuer.Token(), verify.ErrScope},
		{"no scope", v.With(verify.Scopes("profile")), issuer.Token(verifytest.Without("scope")), verify.ErrScope},
		{"no requirement", v, issuer.Token(old), ""},
	} {
		_, err := tt.verifier.Verify(context.Background(), tt.token)
		if tt.check == "" && err != nil || tt.check != "" && !errors.Is(err, tt.check) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestTheTypeOfTokensIsASetting(t *testing.T) {
	issuer := verifytest.NewIssuer(t, verifytest.Type("JWT"))
	v := open(t, issuer.Source(), verify.TokenType("JWT"))
	if _, err := v.Verify(context.Background(), issuer.Token()); err != nil {
		t.Error(err)
	}
	token := issuer.Token(verifytest.Header("typ", "at+jwt"))
	_, err := v.Verify(context.Background(), token)
	refused(t, err, token, verify.ErrType, verify.ReasonOtherType, "the gateway's ACCESS_TOKEN_TYP")
}

// TestWycheproofSignatures has known attacks on implementations of JWS. The payloads are not claims, so a signature
// that is accepted fails at a later check.
func TestWycheproofSignatures(t *testing.T) {
	raw, err := os.ReadFile("testdata/wycheproof_jws.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		TestGroups []struct {
			Public map[string]any
			Tests  []struct {
				TcID                 int
				Comment, JWS, Result string
			}
		}
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	valid, invalid := 0, 0
	for _, g := range file.TestGroups {
		g.Public["kid"], g.Public["use"] = "wycheproof", "sig"
		jwks, _ := json.Marshal(map[string]any{"keys": []any{g.Public}})
		k, err := verify.KeyForTest(jwks)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range g.Tests {
			accepted := verify.SignatureForTest(k, tt.JWS)
			switch {
			case tt.Result == "valid" && accepted:
				valid++
			case tt.Result == "invalid" && !accepted:
				invalid++
			case tt.Result == "invalid":
				t.Errorf("%d %s: accepted", tt.TcID, tt.Comment)
			default:
				t.Logf("%d %s: refused", tt.TcID, tt.Comment)
			}
		}
	}
	t.Logf("%d accepted, %d refused", valid, invalid)
	if valid < 5 || invalid < 100 {
		t.Error("too few vectors were read")
	}
}

func TestDERHasTheShortestNumbers(t *testing.T) {
	for _, r := range []string{"00", "01", "7f", "80", "ff", "0080", "8000000000000000000000000000000000000000000000000000000000000000"} {
		n, _ := new(big.Int).SetString(r, 16)
		signature := append(n.FillBytes(make([]byte, 32)), n.FillBytes(make([]byte, 32))...)
		if got, want := verify.DERForTest(signature), verify.MarshalDERForTest(n, n); string(got) != string(want) {
			t.Errorf("%s: got %x, want %x", r, got, want)
		}
	}
}

// A stranger must not fill the cache of headers: only those of valid signatures are in it.
func TestHeadersOfForgedTokensAreNotCached(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v := open(t, issuer.Source())
	parts := strings.Split(issuer.Token(verifytest.Header("x", 1)), ".")
	forged := parts[0] + "." + parts[1] + "." + strings.Split(issuer.Token(), ".")[2]
	if _, err := v.Verify(context.Background(), forged); !errors.Is(err, verify.ErrSignature) || v.HeadersForTest() != 0 {
		t.Errorf("%d headers are cached: %v", v.HeadersForTest(), err)
	}
	if _, err := v.Verify(context.Background(), strings.Join(parts, ".")); err != nil || v.HeadersForTest() != 1 {
		t.Errorf("%d headers are cached: %v", v.HeadersForTest(), err)
	}
}

func TestVerifierIsSafeForConcurrentUse(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v := open(t, issuer.Source(), verify.Cache(100))
	tokens := []string{issuer.Token(), issuer.Token()}
	var group sync.WaitGroup
	for range 4 {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := range 200 {
				if _, err := v.Verify(context.Background(), tokens[i%2]); err != nil {
					t.Error(err)
				}
				if _, err := v.Verify(context.Background(), strings.Repeat("x", i)); err == nil {
					t.Error("accepted")
				}
				v.Stats()
			}
		}()
	}
	for range 5 {
		issuer.Rotate()
		if err := v.Refresh(context.Background()); err != nil {
			t.Error(err)
		}
	}
	group.Wait()
}
