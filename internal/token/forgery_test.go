package token_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/keystest"
)

// forge builds tokens byte by byte. It signs with the real private key, for tests of what
// the verifier checks after the signature.
type forge struct {
	tb     testing.TB
	signer keys.Signer
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (f forge) header(extra string) string {
	return fmt.Sprintf(`{"alg":%q,"typ":"at+jwt","kid":%q%s}`, f.signer.Algorithm, f.signer.ID, extra)
}

// claims returns the claims of a valid access token, in JSON. Each pair of edits is a name
// and a value, and replaces or adds a member. An empty value removes it.
func (f forge) claims(edits ...string) string {
	members := []string{
		"iss", `"` + issuer + `"`, "sub", `"` + subject + `"`, "aud", `"` + audience + `"`,
		"exp", fmt.Sprint(start.Add(accessTTL).Unix()), "iat", fmt.Sprint(start.Unix()), "jti", `"id"`,
		"scope", `"profile"`, "sid", `"` + sessionID + `"`, "username", `"ada"`, "email", `"ada@example.org"`,
		"email_verified", "true", "name", `"Ada"`, "auth_time", fmt.Sprint(start.Unix()),
	}
	for i := 0; i < len(edits); i += 2 {
		found := false
		for j := 0; j < len(members); j += 2 {
			if members[j] == edits[i] {
				members[j+1], found = edits[i+1], true
			}
		}
		if !found {
			members = append(members, edits[i], edits[i+1])
		}
	}
	var parts []string
	for j := 0; j < len(members); j += 2 {
		if members[j+1] != "" {
			parts = append(parts, fmt.Sprintf("%q:%s", members[j], members[j+1]))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// es256 signs any header and payload as an ES256 token.
func (f forge) es256(head, payload string) string {
	return f.es256With(ecKey(f.tb, f.signer.Private), b64([]byte(head))+"."+b64([]byte(payload)))
}

func (f forge) es256With(k *ecdsa.PrivateKey, text string) string {
	digest := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, k, digest[:])
	testenv.NoError(f.tb, err)
	return text + "." + b64(rs(r, s))
}

func rs(r, s *big.Int) []byte {
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
}

// refused fails if a verifier accepts a token, or if its error is not only ErrInvalid.
func refused(t *testing.T, s *token.Service, text string) {
	t.Helper()
	for range 2 { // the cache must not turn a refusal into a success
		_, err := s.VerifyAccess(text)
		_, err2 := s.VerifyRefresh(text)
		for _, err := range []error{err, err2} {
			switch {
			case err == nil:
				t.Errorf("accepted: %.200q", text)
			case !errors.Is(err, token.ErrInvalid) || errors.Is(err, token.ErrExpired):
				t.Errorf("err = %v, want ErrInvalid and not ErrExpired", err)
			}
		}
	}
}

func accepted(t *testing.T, s *token.Service, text string) {
	t.Helper()
	if _, err := s.VerifyAccess(text); err != nil {
		t.Errorf("refused: %v", err)
	}
}

func setup(t *testing.T) (forge, *token.Service, *testenv.Clock) {
	t.Helper()
	c := testenv.NewClock(start)
	o := ring(t, keys.ES256)
	return forge{t, o.Signer(keys.Access)}, service(o, c), c
}

func TestForgeMakesGoodTokens(t *testing.T) {
	f, s, _ := setup(t)
	accepted(t, s, f.es256(f.header(""), f.claims()))
}

func TestJ01AlgNone(t *testing.T) {
	f, s, _ := setup(t)
	for _, alg := range []string{"none", "None", "NONE", "noNE", "", " none", "none\x00"} {
		quoted, _ := json.Marshal(alg)
		head := fmt.Sprintf(`{"alg":%s,"typ":"at+jwt","kid":%q}`, quoted, f.signer.ID)
		text := b64([]byte(head)) + "." + b64([]byte(f.claims()))
		refused(t, s, text+".")
		refused(t, s, text)
		refused(t, s, text+"."+b64([]byte("none")))
		refused(t, s, f.es256(head, f.claims()))
	}
	refused(t, s, f.es256(fmt.Sprintf(`{"typ":"at+jwt","kid":%q}`, f.signer.ID), f.claims()))
	refused(t, s, f.es256(fmt.Sprintf(`{"alg":null,"typ":"at+jwt","kid":%q}`, f.signer.ID), f.claims()))
}

func TestJ02ThePublicKeyAsHMACSecret(t *testing.T) {
	for _, a := range algorithms {
		s := service(ring(t, a), testenv.NewClock(start))
		f := forge{t, ring(t, a).Signer(keys.Access)}
		der := testenv.Must(x509.MarshalPKIXPublicKey(f.signer.Private.Public()))(t)
		text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		jwk, _ := json.Marshal(keys.JWKS(ring(t, a).Ring(), keys.Access, false).Keys[0])
		secrets := [][]byte{
			der, text, bytes.TrimSpace(text), append(bytes.TrimSpace(text), '\r', '\n'), jwk, append(jwk, '\n'), {}, []byte(f.signer.ID),
		}
		for name, h := range map[string]func() hash.Hash{"HS256": sha256.New, "HS384": sha512.New384, "HS512": sha512.New} {
			for _, alg := range []string{name, string(a)} {
				for _, secret := range secrets {
					signed := b64(fmt.Appendf(nil, `{"alg":%q,"typ":"at+jwt","kid":%q}`, alg, f.signer.ID)) + "." + b64([]byte(f.claims()))
					mac := hmac.New(h, secret)
					mac.Write([]byte(signed))
					refused(t, s, signed+"."+b64(mac.Sum(nil)))
				}
			}
		}
	}
}

func TestJ03AnotherAlgorithmThanTheKeys(t *testing.T) {
	f, s, _ := setup(t)
	for _, alg := range []string{"ES384", "ES512", "RS256", "PS256", "EdDSA", "es256", "ES256K", "ES256 "} {
		refused(t, s, f.es256(strings.Replace(f.header(""), "ES256", alg, 1), f.claims()))
	}
	o := ring(t, keys.RS256)
	s, f = service(o, testenv.NewClock(start)), forge{t, o.Signer(keys.Access)}
	private := f.signer.Private.(*rsa.PrivateKey)
	for alg, sign := range map[string]func(text []byte) ([]byte, error){
		"PS256": func(text []byte) ([]byte, error) {
			d := sha256.Sum256(text)
			return rsa.SignPSS(rand.Reader, private, crypto.SHA256, d[:], nil)
		},
		"RS512": func(text []byte) ([]byte, error) {
			d := sha512.Sum512(text)
			return rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA512, d[:])
		},
		"RS384": func(text []byte) ([]byte, error) {
			d := sha512.Sum384(text)
			return rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA384, d[:])
		},
	} {
		for _, claimed := range []string{alg, "RS256"} {
			text := b64([]byte(strings.Replace(f.header(""), "RS256", claimed, 1))) + "." + b64([]byte(f.claims()))
			signature := testenv.Must(sign([]byte(text)))(t)
			refused(t, s, text+"."+b64(signature))
		}
	}
}

func TestJ04KeyIDsThatAreNone(t *testing.T) {
	f, s, _ := setup(t)
	for _, kid := range []string{
		`""`, `"unknown"`, `42`, `null`, `true`, `["` + f.signer.ID + `"]`, `{}`,
		`"../../etc/passwd"`, `"` + f.signer.ID + `\u0000"`, `"` + f.signer.ID + `\n"`, `" ` + f.signer.ID + `"`,
		`"' OR 1=1 --"`, `"http://127.0.0.1/"`, `"` + strings.Repeat("k", 700) + `"`, `"` + strings.Repeat("k", 1<<20) + `"`,
		`"` + strings.ToUpper(f.signer.ID) + `"`, `"` + ring(t, keys.ES256).Signer(keys.Refresh).ID + `"`,
	} {
		refused(t, s, f.es256(`{"alg":"ES256","typ":"at+jwt","kid":`+kid+`}`, f.claims()))
	}
	refused(t, s, f.es256(`{"alg":"ES256","typ":"at+jwt"}`, f.claims()))
	_, err := s.VerifyAccess(f.es256(`{"alg":"ES256","typ":"at+jwt","kid":"a marked kid"}`, f.claims()))
	if strings.Contains(fmt.Sprint(err), "marked") {
		t.Errorf("the error contains text of the token: %v", err)
	}
}

func TestJ05KeysThatATokenBringsAlong(t *testing.T) {
	calls := 0
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls++ }))
	defer trap.Close()
	trap.Config.ConnState = func(net.Conn, http.ConnState) { calls++ }

	f, s, _ := setup(t)
	attacker, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	point, _ := attacker.PublicKey.Bytes()
	jwk := fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":%q,"y":%q}`, b64(point[1:33]), b64(point[33:]))
	for _, extra := range []string{
		`,"jwk":` + jwk, `,"jku":"` + trap.URL + `"`, `,"x5u":"` + trap.URL + `"`, `,"x5c":["MIIB"]`,
		`,"x5t":"AAAA"`, `,"crit":["exp"]`, `,"crit":["b64"],"b64":false`, `,"zip":"DEF"`, `,"cty":"JWT"`, `,"epk":` + jwk,
	} {
		for _, kid := range []string{f.signer.ID, "attacker"} {
			head := fmt.Sprintf(`{"alg":"ES256","typ":"at+jwt","kid":%q%s}`, kid, extra)
			refused(t, s, f.es256With(attacker, b64([]byte(head))+"."+b64([]byte(f.claims()))))
			refused(t, s, f.es256(head, f.claims()))
		}
	}
	if calls > 0 {
		t.Errorf("the verifier opened %d connections to a URL of the token", calls)
	}
}

func TestJ07TypesOfToken(t *testing.T) {
	f, s, _ := setup(t)
	for _, typ := range []string{`"at+jwt"`, `"AT+JWT"`, `"application/at+jwt"`, `"Application/At+Jwt"`, `"JWT"`, `"jwt"`} {
		accepted(t, s, f.es256(fmt.Sprintf(`{"alg":"ES256","typ":%s,"kid":%q}`, typ, f.signer.ID), f.claims()))
	}
	for _, typ := range []string{
		`"rt+jwt"`, `"application/rt+jwt"`, `""`, `null`, `7`, `["at+jwt"]`, `"text/at+jwt"`,
		`"application/"`, `"application/application/at+jwt"`, `"at+jwt "`,
	} {
		refused(t, s, f.es256(fmt.Sprintf(`{"alg":"ES256","typ":%s,"kid":%q}`, typ, f.signer.ID), f.claims()))
	}
	refused(t, s, f.es256(fmt.Sprintf(`{"alg":"ES256","kid":%q}`, f.signer.ID), f.claims()))
}

func TestJ08OneKindIsNotTheOther(t *testing.T) {
	_, s, c := setup(t)
	fresh := service(ring(t, keys.ES256), c)
	for _, s := range []*token.Service{s, fresh} { // with the tokens in the cache, and without
		if _, err := s.VerifyAccess(mustRefresh(t, service(ring(t, keys.ES256), c))); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("a refresh token as an access token: %v", err)
		}
		if _, err := s.VerifyRefresh(mustAccess(t, s)); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("an access token as a refresh token: %v", err)
		}
	}
	text := mustRefresh(t, s)
	for range 2 {
		if _, err := s.VerifyAccess(text); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("a cached refresh token as an access token: %v", err)
		}
		if _, err := s.VerifyRefresh(text); err != nil {
			t.Error(err)
		}
	}
	// The refresh key signed it and its type matches, but aud is an access token's.
	f := forge{t, ring(t, keys.ES256).Signer(keys.Refresh)}
	refused(t, s, f.es256(strings.Replace(f.header(""), "at+jwt", "rt+jwt", 1), f.claims("gen", "1")))
}

const (
	issuer    = "https://auth.example"
	audience  = "https://api.example"
	subject   = "0190c5d2-6f3a-7c11-9d4e-2b7a5f0c1d22"
	sessionID = "0190c5d2-7001-7a55-8e0f-99aabbccddee"
	keyID     = "kid"
	accessTTL = 15 * time.Minute
	leeway    = 30 * time.Second
)

var (
	start = time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)

	passphrases = keystest.Passphrases()
)

func policy(a keys.Algorithm) keys.Policy {
	return keys.Policy{
		Algorithm:   a,
		PublishLead: 10 * time.Minute,
		ClockSkew:   30 * time.Second,
		Lifetimes:   map[keys.Use]time.Duration{keys.Access: accessTTL, keys.Refresh: 7 * 24 * time.Hour},
	}
}

// opened creates a new ring and opens it.
func opened(tb testing.TB, a keys.Algorithm) *keys.Opened {
	tb.Helper()
	return keystest.Open(tb, keystest.New(tb, policy(a), passphrases, start), passphrases)
}

// shared has one ring for each algorithm. Tests must not change them.
var shared sync.Map

func ring(tb testing.TB, a keys.Algorithm) *keys.Opened {
	tb.Helper()
	if o, ok := shared.Load(a); ok {
		return o.(*keys.Opened)
	}
	o, _ := shared.LoadOrStore(a, opened(tb, a))
	return o.(*keys.Opened)
}

func service(o *keys.Opened, c *testenv.Clock) *token.Service {
	s := token.New(token.Config{
		Issuer: issuer, Audience: []string{audience, "https://other.example"},
		AccessTTL: accessTTL, Leeway: leeway, Now: c.Now,
	})
	if o != nil {
		s.Use(o)
	}
	return s
}

func access() token.Access {
	return token.Access{
		Subject: subject, SessionID: sessionID, Scope: "profile email",
		Username: "ada", Email: "ada@example.org", EmailVerified: true, Name: "Ada \"L\" <&> ∞",
		AuthTime: start.Add(-time.Hour),
	}
}

func refresh() token.Refresh {
	return token.Refresh{Subject: subject, SessionID: sessionID, Generation: 7, IssuedAt: start, ExpiresAt: start.Add(7 * 24 * time.Hour)}
}

func mustAccess(tb testing.TB, s *token.Service) string {
	tb.Helper()
	text := testenv.Must(s.SignAccess(access()))(tb)
	return text
}

func mustRefresh(tb testing.TB, s *token.Service) string {
	tb.Helper()
	text := testenv.Must(s.SignRefresh(refresh()))(tb)
	return text
}

func ecKey(tb testing.TB, private crypto.Signer) *ecdsa.PrivateKey {
	tb.Helper()
	k, ok := private.(*ecdsa.PrivateKey)
	if !ok {
		tb.Fatalf("the key is a %T, want an ECDSA key", private)
	}
	return k
}
