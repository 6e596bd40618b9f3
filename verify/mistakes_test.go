package verify_test

import (
	"context"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/verify"
	"github.com/auth-gateway/auth-gateway/verify/verifytest"
)

// TestEachUsualMistakeIsNamed has the mistakes that consumers make with tokens.
func TestEachUsualMistakeIsNamed(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	other := verifytest.NewIssuer(t, verifytest.Name("https://auth.staging.example.com"))
	twin := verifytest.NewIssuer(t)
	rsa := verifytest.NewIssuer(t, verifytest.Algorithm(verifytest.RS256))
	v := open(t, issuer.Source())
	now := time.Now().Unix()
	claim, header, without := verifytest.Claim, verifytest.Header, verifytest.Without
	good := issuer.Token()
	parts := strings.Split(good, ".")
	headerOf := func(alg string) string { return `{"alg":"` + alg + `","kid":"` + issuer.KeyID() + `","typ":"at+jwt"}` }
	claimsOf := func(token string) string {
		payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		return string(payload)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: issuer.JWKS()})
	raw, _ := base64.RawURLEncoding.DecodeString(parts[2])
	der, _ := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])})

	for _, tt := range []struct {
		mistake, token string
		check          verify.Check
		reason         verify.Reason
		message        string
	}{
		{"a refresh token", issuer.Token(header("typ", "rt+jwt"), claim("gen", 1)), verify.ErrType, verify.ReasonRefreshToken, "this is a refresh token"},
		{"an ID token", issuer.Token(header("typ", "JWT"), claim("nonce", "x")), verify.ErrType, verify.ReasonIDToken, "this is an ID token"},
		{"a token of ACCESS_TOKEN_TYP=JWT", issuer.Token(header("typ", "JWT")), verify.ErrType, verify.ReasonPlainJWT, "use the option TokenType"},
		{"another typ", issuer.Token(header("typ", "dpop+jwt")), verify.ErrType, verify.ReasonOtherType, `the typ is "dpop+jwt"`},
		{"a typ that differs in case", issuer.Token(header("typ", "AT+JWT")), verify.ErrType, verify.ReasonOtherType, "is required"},
		{"alg none", verifytest.Forge(headerOf("none"), claimsOf(good), nil), verify.ErrAlgorithm, verify.ReasonUnsigned, "alg none"},
		{"HS256 with the public key", verifytest.Forge(headerOf("HS256"), claimsOf(good), publicPEM), verify.ErrAlgorithm, verify.ReasonHMAC, "a well-known forgery"},
		{"an algorithm that is not the key's", issuer.Token(header("alg", "RS256")), verify.ErrAlgorithm, verify.ReasonOtherAlgorithm, "its key is for ES256"},
		{"an unsupported algorithm", issuer.Token(header("alg", "PS256")), verify.ErrAlgorithm, verify.ReasonOtherAlgorithm, "not ES256, RS256 or EdDSA"},
		{"a token of another gateway", other.Token(), verify.ErrKey, verify.ReasonOtherGateway, "names the issuer \"https://auth.staging.example.com\""},
		{"a token of another gateway with the same issuer", twin.Token(), verify.ErrKey, verify.ReasonUnknownKey, "another gateway with the same issuer"},
		{"an expired token of a former key", twin.Token(claim("exp", now-60), claim("iat", now-900)), verify.ErrKey, verify.ReasonUnknownKey, "probably removed since"},
		{"another algorithm's key with this kid", rsa.Token(header("kid", issuer.KeyID())), verify.ErrAlgorithm, verify.ReasonOtherAlgorithm, "its key is for ES256"},
		{"no kid", issuer.Token(header("kid", "")), verify.ErrKey, verify.ReasonNoKeyID, "no kid"},
		{"http instead of https", issuer.Token(claim("iss", "http://auth.example.com")), verify.ErrIssuer, verify.ReasonHTTPIssuer, "only http and https differ"},
		{"a slash at the end of the issuer", issuer.Token(claim("iss", "https://auth.example.com/")), verify.ErrIssuer, verify.ReasonIssuerSlash, "only the slash"},
		{"another issuer", issuer.Token(claim("iss", "https://auth.example.org")), verify.ErrIssuer, verify.ReasonOtherIssuer, "\"https://auth.example.com\" is configured"},
		{"another audience", issuer.Token(claim("aud", []string{"https://bank.example.com"})), verify.ErrAudience, verify.ReasonOtherAudience, "the gateway's AUDIENCE"},
		{"a prefix of the audience", issuer.Token(claim("aud", "https://shop.example.com.evil.example")), verify.ErrAudience, verify.ReasonAudiencePrefix, "a prefix of the other"},
		{"a slash at the end of the audience", issuer.Token(claim("aud", verifytest.Audience+"/")), verify.ErrAudience, verify.ReasonAudiencePrefix, "only the slash"},
		{"an audience in other case", issuer.Token(claim("aud", "https://Shop.example.com")), verify.ErrAudience, verify.ReasonAudiencePrefix, "upper and lower case"},
		{"no audience", issuer.Token(claim("aud", []string{})), verify.ErrAudience, verify.ReasonOtherAudience, "this service is"},
		{"an expired token", issuer.Token(claim("exp", now-120), claim("iat", now-900)), verify.ErrExpired, verify.ReasonExpired, "expired 2 minutes ago"},
		{"a clock that is an hour ahead", issuer.Token(claim("exp", now-2700), claim("iat", now-3600)), verify.ErrExpired, verify.ReasonClock, "about an hour ahead"},
		{"a clock that is an hour behind", issuer.Token(claim("exp", now+4500), claim("iat", now+3600)), verify.ErrNotYet, verify.ReasonClock, "differs from the gateway's: it is about an hour behind"},
		{"a token for later", issuer.Token(claim("nbf", now+120)), verify.ErrNotYet, verify.ReasonNotYet, "becomes valid in"},
		{"milliseconds", issuer.Token(claim("exp", (now+900)*1000)), verify.ErrClaims, verify.ReasonMilliseconds, "milliseconds"},
		{"a time with a fraction", issuer.Token(claim("exp", float64(now)+900.5)), verify.ErrClaims, verify.ReasonMalformedClaims, "the claim exp has the wrong type"},
		{"a time as text", issuer.Token(claim("exp", "tomorrow")), verify.ErrClaims, verify.ReasonMalformedClaims, "the claim exp has the wrong type"},
		{"an expiry before the issue", issuer.Token(claim("exp", now-900)), verify.ErrClaims, verify.ReasonMalformedClaims, "expires before it was issued"},
		{"no exp", issuer.Token(without("exp")), verify.ErrClaims, verify.ReasonMissingClaim, "no claim exp"},
		{"no iat", issuer.Token(without("iat")), verify.ErrClaims, verify.ReasonMissingClaim, "no claim iat"},
		{"no sub", issuer.Token(without("sub")), verify.ErrClaims, verify.ReasonMissingClaim, "no claim sub"},
		{"an empty sub", issuer.Token(claim("sub", "")), verify.ErrClaims, verify.ReasonMissingClaim, "sub is empty"},
		{"null as a name", issuer.Token(claim("name", nil)), verify.ErrClaims, verify.ReasonMalformedClaims, "the claim name has the wrong type"},
		{"crit", issuer.Token(header("crit", []string{"b64"}), header("b64", false)), verify.ErrHeader, verify.ReasonCritical, "crit"},
		{"a claim twice", issuer.Sign([]byte(headerOf("ES256")), []byte(`{"sub":"a","sub":"b"}`)), verify.ErrClaims, verify.ReasonDuplicateClaim, "two claims sub"},
		{"a claim twice, with an escape", issuer.Sign([]byte(headerOf("ES256")), []byte(`{"sub":"a","\u0073ub":"b"}`)), verify.ErrClaims, verify.ReasonDuplicateClaim, "two claims sub"},
		{"an unknown claim twice", issuer.Sign([]byte(headerOf("ES256")), []byte(`{"x":1,"x":2}`)), verify.ErrClaims, verify.ReasonDuplicateClaim, "twice"},
		{"a claim in other case", issuer.Sign([]byte(headerOf("ES256")), []byte(`{"SUB":"a"}`)), verify.ErrClaims, verify.ReasonMalformedClaims, "only in case"},
		{"text after the claims", issuer.Sign([]byte(headerOf("ES256")), []byte(claimsOf(good)+"{}")), verify.ErrClaims, verify.ReasonMalformedClaims, "strict JSON"},
		{"claims that are no object", issuer.Sign([]byte(headerOf("ES256")), []byte(`[]`)), verify.ErrClaims, verify.ReasonMalformedClaims, "strict JSON"},
		{"a header member twice", issuer.Sign([]byte(`{"alg":"none",`+headerOf("ES256")[1:]), []byte(claimsOf(good))), verify.ErrHeader, verify.ReasonMalformedHeader, "strict JSON"},
		{"a long header", issuer.Token(header("x", strings.Repeat("x", 1000))), verify.ErrHeader, verify.ReasonMalformedHeader, "longer than 1 KiB"},
		{"a long token", issuer.Token(claim("x", strings.Repeat("x", 8000))), verify.ErrForm, verify.ReasonTooLong, "longer than 8 KiB"},
		{"no token", "", verify.ErrForm, verify.ReasonNoToken, "empty"},
		{"the scheme and the token", "Bearer " + good, verify.ErrForm, verify.ReasonBearerInToken, `pass only what follows it`},
		{"quotes", `"` + good + `"`, verify.ErrForm, verify.ReasonQuoted, "quotes"},
		{"a line break at the end", good + "\n", verify.ErrForm, verify.ReasonQuoted, "line breaks"},
		{"a line break inside", good[:80] + "\r\n" + good[80:], verify.ErrForm, verify.ReasonQuoted, "wrapped"},
		{"an opaque token", "ya29.a0AfH6SMBx"[5:], verify.ErrForm, verify.ReasonOpaque, "an opaque token"},
		{"a JWE", "a.b.c.d.e", verify.ErrForm, verify.ReasonEncrypted, "JWE"},
		{"two parts", parts[0] + "." + parts[1], verify.ErrForm, verify.ReasonTruncated, "truncated"},
		{"a truncated signature", good[:len(good)-2], verify.ErrSignature, verify.ReasonTruncated, "truncated"},
		{"no signature", parts[0] + "." + parts[1] + ".", verify.ErrSignature, verify.ReasonTruncated, "truncated"},
		{"base64 with padding", good + "==", verify.ErrForm, verify.ReasonNotBase64URL, "without padding"},
		{"a signature in DER", parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(der), verify.ErrSignature, verify.ReasonDERSignature, "DER"},
		{"claims of another token", parts[0] + "." + strings.Split(issuer.Token(), ".")[1] + "." + parts[2], verify.ErrSignature, verify.ReasonSignature, "does not match"},
	} {
		t.Run(tt.mistake, func(t *testing.T) {
			c, err := v.Verify(context.Background(), tt.token)
			if c != nil || err == nil {
				t.Fatal("accepted")
			}
			refused(t, err, tt.token, tt.check, tt.reason, tt.message)
			if status, challenge := v.Challenge(err); status != http.StatusUnauthorized || !strings.Contains(challenge, `error="invalid_token"`) ||
				tt.reason == verify.ReasonOtherGateway && strings.Contains(challenge, "staging") {
				t.Errorf("the challenge: %d %s", status, challenge)
			}
		})
	}
	if _, err := v.Verify(context.Background(), good); err != nil {
		t.Error("the good token is refused:", err)
	}
}

// TestEachMistakeOfASourceIsNamed has the mistakes that consumers make with keys.
func TestEachMistakeOfASourceIsNamed(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	key := strings.TrimSuffix(strings.TrimPrefix(string(issuer.JWKS()), `{"keys":[`), `]}`)
	jwks := func(text string) verify.Source {
		return verify.FromFunc(func(context.Context) (verify.Document, error) {
			return verify.Document{Issuer: issuer.Name(), JWKS: []byte(text)}, nil
		})
	}
	served := func(path, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == path {
				_, _ = w.Write([]byte(body))
			} else {
				http.Redirect(w, r, "http://other.invalid/", http.StatusFound)
			}
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	const metadata = "/.well-known/openid-configuration"
	dir := func(files map[string]string) string {
		d := t.TempDir()
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(d, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return d
	}
	var document map[string]any
	if err := json.Unmarshal([]byte(key), &document); err != nil {
		t.Fatal(err)
	}
	with := func(name string, value any) string {
		changed := map[string]any{}
		for k, v := range document {
			changed[k] = v
		}
		changed[name] = value
		text, _ := json.Marshal(map[string]any{"keys": []any{changed}})
		return string(text)
	}
	file := filepath.Join(dir(map[string]string{"jwks.json": string(issuer.JWKS())}), "jwks.json")

	for _, tt := range []struct {
		mistake string
		source  verify.Source
		reason  verify.Reason
		message string
	}{
		{"an empty key set", jwks(`{"keys":[]}`), verify.ReasonEmptyKeySet, "the key set is empty"},
		{"an empty file", jwks("\n"), verify.ReasonEmptyKeySet, "empty text"},
		{"PEM", jwks("-----BEGIN PUBLIC KEY-----\nMFk=\n-----END PUBLIC KEY-----\n"), verify.ReasonPEM, "a JWK Set (jwks.json) is needed"},
		{"a sign-in page", jwks("<!doctype html><html>"), verify.ReasonHTML, "HTML"},
		{"a single JWK", jwks(key), verify.ReasonNotAKeySet, "a single JWK"},
		{"the document of /tokens/keys", jwks(`{"access_token":{"keys":[]},"refresh_token":{"keys":[]}}`), verify.ReasonNotAKeySet, "use /.well-known/jwks.json"},
		{"other JSON", jwks(`{"a":1}`), verify.ReasonNotAKeySet, "no member keys"},
		{"an array", jwks(`[]`), verify.ReasonNotAKeySet, "not a JSON object"},
		{"truncated JSON", jwks(`{"keys":[`), verify.ReasonNotAKeySet, "not a JWK Set"},
		{"a private key", jwks(with("d", "AQAB")), verify.ReasonPrivateKey, "replace this one now"},
		{"a symmetric key", jwks(`{"keys":[{"kty":"oct","k":"AAAA","kid":"1"}]}`), verify.ReasonPrivateKey, "symmetric"},
		{"a kid twice", jwks(`{"keys":[` + key + "," + key + `]}`), verify.ReasonAmbiguousKeySet, "two keys"},
		{"a point that is not on the curve", jwks(with("x", strings.Repeat("A", 43))), verify.ReasonNoUsableKey, "not on P-256"},
		{"a short RSA key", jwks(`{"keys":[{"kty":"RSA","kid":"1","e":"AQAB","n":"` + strings.Repeat("_", 171) + `w"}]}`), verify.ReasonNoUsableKey, "RSA keys of 2048"},
		{"a key without kid", jwks(with("kid", "")), verify.ReasonNoUsableKey, "no kid"},
		{"a key for encryption", jwks(with("use", "enc")), verify.ReasonNoUsableKey, "use is not sig"},
		{"an alg that does not fit", jwks(with("alg", "RS256")), verify.ReasonNoUsableKey, "used with ES256"},
		{"an unknown curve", jwks(with("crv", "P-384")), verify.ReasonNoUsableKey, "neither EC"},
		{"the URL of the keys", verify.FromURL("https://auth.example.com/.well-known/jwks.json"), verify.ReasonNotIssuerURL, `name the issuer, "https://auth.example.com"`},
		{"no URL", verify.FromURL("auth.example.com"), verify.ReasonNotIssuerURL, "must be a URL"},
		{"another program", verify.FromURL(served(metadata, "<html>")), verify.ReasonHTML, "HTML page"},
		{"text", verify.FromURL(served(metadata, "ok")), verify.ReasonMalformedMetadata, "not the gateway's metadata"},
		{"https in the metadata", verify.FromURL(served(metadata, `{"issuer":"https://auth.example.com"}`)), verify.ReasonOtherIssuer, "names the issuer"},
		{"a redirect to another host", verify.FromURL(served("/", "")), verify.ReasonRedirect, "another host"},
		{"no directory", verify.FromDir("/no/such/directory"), verify.ReasonNoDirectory, "there is no directory"},
		{"a file", verify.FromDir(file), verify.ReasonNotADirectory, "name the directory"},
		{"another ConfigMap", verify.FromDir(dir(map[string]string{"app.yaml": "a: b"})), verify.ReasonNoKeyFile, `"app.yaml"`},
		{"no issuer in the directory", verify.FromDir(filepath.Dir(file)), verify.ReasonNoIssuer, "mount keys.json too"},
		{"PEM in jwks.json", verify.FromDir(dir(map[string]string{"jwks.json": "-----BEGIN PUBLIC KEY-----", "keys.json": `{"issuer":"https://auth.example.com"}`})), verify.ReasonPEM, "PEM"},
	} {
		t.Run(tt.mistake, func(t *testing.T) {
			v, err := verify.New(context.Background(), tt.source, audience)
			if v != nil || err == nil {
				t.Fatal("accepted")
			}
			refused(t, err, "", verify.ErrSource, tt.reason, tt.message)
		})
	}
}

func TestHTTPInsteadOfHTTPSIsNamed(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	for configured, want := range map[string]verify.Reason{
		"http://auth.example.com": verify.ReasonHTTPIssuer, "https://auth.example.com/": verify.ReasonIssuerSlash,
		"https://login.example.com": verify.ReasonOtherIssuer,
	} {
		_, err := verify.New(context.Background(), issuer.Source(), audience, verify.Issuer(configured))
		refused(t, err, "", verify.ErrSource, want, "https://auth.example.com")
	}
}

func TestInvalidOptionsAreNamed(t *testing.T) {
	source := verifytest.NewIssuer(t).Source()
	for message, f := range map[string]func() (*verify.Verifier, error){
		"the audience is empty": func() (*verify.Verifier, error) {
			return verify.New(context.Background(), source, verify.Audiences{})
		},
		"name this service": func() (*verify.Verifier, error) {
			return verify.New(context.Background(), source, verify.Audience(""))
		},
		"the source is empty": func() (*verify.Verifier, error) {
			return verify.New(context.Background(), verify.Source{}, audience)
		},
		"Leeway must be 0 to 1m0s": func() (*verify.Verifier, error) {
			return verify.New(context.Background(), source, audience, verify.Leeway(time.Hour))
		},
		"MaxLag must be 2s or more": func() (*verify.Verifier, error) {
			return verify.New(context.Background(), source, audience, verify.WithRevocations(verify.Feed{}, 0, verify.FailClosed))
		},
	} {
		v, err := f()
		if v != nil {
			t.Errorf("%s: accepted", message)
			continue
		}
		refused(t, err, "", verify.ErrOptions, verify.ReasonOptions, message)
	}
}
