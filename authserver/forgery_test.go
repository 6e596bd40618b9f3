package authserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// uses are all the ways to present a token, and whether an access token or a
// refresh token is asked for.
var uses = []struct {
	name   string
	access bool
	use    func(n *node, token string) *apitest.Reply
}{
	{"GET /users", true, func(n *node, tk string) *apitest.Reply { return n.profile(tk) }},
	{"GET /users, in the body", true, func(n *node, tk string) *apitest.Reply {
		return n.try(http.MethodGet, "/users", nil, body{"access_token": tk})
	}},
	{"PUT /users", true, func(n *node, tk string) *apitest.Reply {
		return n.as(tk, http.MethodPut, "/users", body{"first_name": "Forged"})
	}},
	{"DELETE /users", true, func(n *node, tk string) *apitest.Reply { return n.as(tk, http.MethodDelete, "/users", nil) }},
	{"change-password", true, func(n *node, tk string) *apitest.Reply {
		return n.as(tk, http.MethodPost, "/users/change-password", body{"old_password": "whatever it is", "password": "what is to come"})
	}},
	{"change-email-request", true, func(n *node, tk string) *apitest.Reply {
		return n.as(tk, http.MethodPost, "/users/change-email-request", body{})
	}},
	{"change-email", true, func(n *node, tk string) *apitest.Reply {
		return n.as(tk, http.MethodPost, "/users/change-email", body{"code": strings.Repeat("A", 43), "email": "forged@mailbox.example.org"})
	}},
	{"POST /tokens", false, func(n *node, tk string) *apitest.Reply { return n.renew(tk) }},
	{"DELETE /tokens", false, func(n *node, tk string) *apitest.Reply { return n.signOut(tk) }},
}

// jws makes a token of a header, claims and a signature over both.
func jws(header, claims string, sign func(input []byte) []byte) string {
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64([]byte(header)) + "." + b64([]byte(claims))
	return input + "." + b64(sign([]byte(input)))
}

func keyed(h func() hash.Hash, key []byte) func([]byte) []byte {
	return func(input []byte) []byte {
		mac := hmac.New(h, key)
		mac.Write(input)
		return mac.Sum(nil)
	}
}

// forgeries makes tokens out of a genuine one, and what is public.
func forgeries(t testing.TB, n *node, kind, genuine string) map[string]string {
	t.Helper()
	parts := strings.Split(genuine, ".")
	decode := func(part string) string {
		text, err := base64.RawURLEncoding.DecodeString(part)
		testenv.NoError(t, err)
		return string(text)
	}
	header, claims := decode(parts[0]), decode(parts[1])
	kid := kidOf(t, genuine)
	with := func(old, replacement string) string {
		changed := strings.Replace(header, old, replacement, 1)
		if changed == header {
			t.Fatalf("%s has no %s", header, old)
		}
		return changed
	}
	alg := func(name string) string { return with(`"alg":"ES256"`, `"alg":"`+name+`"`) }
	kidIs := func(text string) string { return with(`"kid":"`+kid+`"`, text) }

	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	testenv.NoError(t, err)
	signed := func(input []byte) []byte {
		digest := sha256.Sum256(input)
		r, s, err := ecdsa.Sign(rand.Reader, own, digest[:])
		testenv.NoError(t, err)
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	}
	nothing := func([]byte) []byte { return nil }

	forged := map[string]string{
		"signed by another key": jws(header, claims, signed),
		"without a signature":   parts[0] + "." + parts[1] + ".",
		"of two parts":          parts[0] + "." + parts[1],
		"of four parts":         genuine + "." + parts[2],
		"of five parts":         genuine + "." + parts[2] + "." + parts[2],
		"with other claims": parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(claims,
			`"exp":`, `"exp":9`, 1))) + "." + parts[2],
		"with a line break in it": parts[0][:9] + "\n" + parts[0][9:] + "." + parts[1] + "." + parts[2],
		"padded":                  genuine + "=",
		"with a space in it":      genuine[:9] + " " + genuine[9:],
		"with a zero signature":   jws(header, claims, func([]byte) []byte { return make([]byte, 64) }),
		"with a DER signature": jws(header, claims, func(in []byte) []byte {
			d := sha256.Sum256(in)
			s, _ := ecdsa.SignASN1(rand.Reader, own, d[:])
			return s
		}),
		"with its own key": jws(with("{",
			`{"jwk":{"kty":"EC"},"jku":"http://127.0.0.1:9/","x5u":"http://127.0.0.1:9/",`), claims, signed),
		"critical":                          jws(with("{", `{"crit":["b64"],"b64":false,`), claims, signed),
		"with two algorithms":               jws(with("{", `{"alg":"none",`), claims, signed),
		"without a kid":                     jws(kidIs(`"x":""`), claims, signed),
		"with an empty kid":                 jws(kidIs(`"kid":""`), claims, signed),
		"with a kid that is a number":       jws(kidIs(`"kid":1`), claims, signed),
		"with a kid that is a path":         jws(kidIs(`"kid":"../../../dev/null"`), claims, signed),
		"with a kid that is SQL":            jws(kidIs(`"kid":"' OR 1=1 --"`), claims, signed),
		"with a kid that is long":           jws(kidIs(`"kid":"`+strings.Repeat("k", 5000)+`"`), claims, signed),
		"longer than any":                   jws(header, claims[:len(claims)-1]+`,"x":"`+strings.Repeat("x", 7000)+`"}`, signed),
		"of dots":                           strings.Repeat(".", 6000),
		"whose claims are null":             jws(header, "null", signed),
		"whose claims are no JSON":          jws(header, "\xff\xfe{", signed),
		"whose header is a list":            jws("[]", claims, signed),
		"empty":                             "",
		"no token":                          "null",
		"with its type changed":             jws(strings.NewReplacer("at+jwt", "rt+jwt", "rt+jwt", "at+jwt").Replace(header), claims, signed),
		"with the trailing bits of another": genuine[:len(genuine)-1] + nextInAlphabet(genuine[len(genuine)-1]),
	}
	for _, none := range []string{"none", "None", "NONE", "nOnE", ""} {
		forged["with the algorithm "+none+" and no signature"] = jws(alg(none), claims, nothing)
		forged["with the algorithm "+none+" and the genuine signature"] =
			base64.RawURLEncoding.EncodeToString([]byte(alg(none))) + "." + parts[1] + "." + parts[2]
	}
	for _, other := range []string{"ES384", "RS256", "PS256", "EdDSA", "es256"} {
		forged["with the algorithm "+other] = jws(alg(other), claims, signed)
	}
	for form, secret := range publicForms(t, n, kind, kid) {
		forged["HS256 with the public key as "+form] = jws(alg("HS256"), claims, keyed(sha256.New, secret))
		forged["HS512 with the public key as "+form] = jws(alg("HS512"), claims, keyed(sha512.New, secret))
	}
	for cut := 1; cut <= len(genuine); cut = cut*2 + 1 {
		forged[fmt.Sprintf("%d characters short", cut)] = genuine[:len(genuine)-cut]
	}
	return forged
}

// publicForms gives the public key in all the forms in which a confused server
// might use it as a secret.
func publicForms(t testing.TB, n *node, kind, kid string) map[string][]byte {
	t.Helper()
	var sets map[string]struct {
		Keys []json.RawMessage `json:"keys"`
	}
	testenv.NoError(t, json.Unmarshal(n.try(http.MethodGet, "/tokens/keys", nil, nil).Body, &sets))
	for _, raw := range sets[kind].Keys {
		var key struct{ Kid, Pem string }
		testenv.NoError(t, json.Unmarshal(raw, &key))
		if key.Kid != kid {
			continue
		}
		block, _ := pem.Decode([]byte(key.Pem))
		return map[string][]byte{
			"PEM": []byte(key.Pem), "PEM without the last line break": []byte(strings.TrimRight(key.Pem, "\n")),
			"DER": block.Bytes, "JWK": raw, "its kid": []byte(kid), "nothing": {},
		}
	}
	t.Fatalf("no %s key %s is published", kind, kid)
	return nil
}

// mirrored gives (r, n-s) for (r, s): as good a signature, to ECDSA.
func mirrored(t testing.TB, signature string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil || len(raw) != 64 {
		t.Fatalf("no ES256 signature: %v", err)
	}
	s := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(raw[32:]))
	return base64.RawURLEncoding.EncodeToString(append(raw[:32:32], s.FillBytes(make([]byte, 32))...))
}

// nextInAlphabet gives a letter that differs in the lowest bit, which stands
// for nothing at the end of a signature of 64 bytes.
func nextInAlphabet(letter byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, letter)^1])
}

func TestForgedTokensAreRefusedEverywhereAndTouchNothing(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	foreign := newCluster(t, postgrestest.Config(t)) // another gateway, of the same issuer
	foreign.add().waitReady()
	n := c.nodes[0]
	u, other := n.newUser(), n.newUser()
	stranger := foreign.nodes[0].newUser()

	for _, kind := range []struct{ name, genuine, wrong, stranger, another string }{
		{"access_token", u.access, u.refresh, stranger.access, other.access},
		{"refresh_token", u.refresh, u.access, stranger.refresh, other.refresh},
	} {
		forged := forgeries(t, n, kind.name, kind.genuine)
		forged["of the other kind"] = kind.wrong
		forged["of another gateway"] = kind.stranger
		swapped := strings.Split(kind.genuine, ".")
		swapped[2] = strings.Split(kind.another, ".")[2]
		forged["with the signature of another"] = strings.Join(swapped, ".")
		sent := n.statements.during(func() {
			for about, token := range forged {
				for _, use := range uses {
					if use.access != (kind.name == "access_token") {
						continue
					}
					r := use.use(n, token)
					// A value that is empty, or that a header cannot contain, is malformed.
					if r.Status != http.StatusUnauthorized && !(r.Status == http.StatusBadRequest && (token == "" || strings.Contains(token, "\n"))) &&
						!(r.Status == 0 && strings.Contains(token, "\n")) {
						t.Errorf("%s with a %s %s: %v", use.name, kind.name, about, r)
					}
				}
				if token != "" {
					if r := n.post("/tokens/introspect", body{"token": token}); about != "of the other kind" && string(r.Body) != `{"active":false}` {
						t.Errorf("introspection of a %s %s: %v", kind.name, about, r)
					}
				}
			}
		})
		for _, s := range sent {
			// The introspection of a genuine token of the other kind asks for its session.
			if !strings.Contains(s, "SELECT") || strings.Contains(s, "UPDATE ") || strings.Contains(s, "DELETE") {
				t.Errorf("a forged token got as far as %s", s)
			}
		}
	}
	want(t, http.StatusOK, n.profile(u.access), "nothing of it touched the session")
	want(t, http.StatusOK, n.renew(u.refresh), "nothing of it touched the session")
	if first := n.profile(u.access).Text("first_name"); first == "Forged" {
		t.Error("a forged token changed the name")
	}
}

func TestASessionIsRevokedHoweverItsTokenIsWritten(t *testing.T) {
	t.Parallel()
	n := start(t, 1).nodes[0]
	u := n.newUser()
	parts := strings.Split(u.access, ".")
	other := parts[0] + "." + parts[1] + "." + mirrored(t, parts[2])
	want(t, http.StatusNoContent, n.signOut(u.refresh))
	want(t, http.StatusUnauthorized, n.profile(other))
	want(t, http.StatusUnauthorized, n.profile(u.access))
}

func TestATokenHoldsAsLongAsItSaysAndNoLonger(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"ACCESS_TOKEN_EXPIRY": "300", "REFRESH_TOKEN_EXPIRY": "600"})
	n := c.nodes[0]
	u := n.newUser()
	c.clock.Advance(290 * time.Second)
	want(t, http.StatusOK, n.profile(u.access))
	c.clock.Advance(20*time.Second + 15*time.Second) // and what clocks may differ
	expired := want(t, http.StatusUnauthorized, n.profile(u.access))
	forged := want(t, http.StatusUnauthorized, n.profile(u.access[:len(u.access)-8]+"AAAAAAAA"))
	if expired.Text("reason") != "token_expired" || forged.Text("reason") != "token_invalid" {
		t.Errorf("expired: %v, forged: %v", expired, forged)
	}
	c.clock.Advance(300 * time.Second)
	if expired := want(t, http.StatusUnauthorized, n.renew(u.refresh)); expired.Text("reason") != "token_expired" {
		t.Errorf("expired: %v", expired)
	}
	// A clock that steps back by an hour has issued tokens from the future.
	u.tokens = n.signIn(u)
	c.clock.Advance(-time.Hour)
	want(t, http.StatusUnauthorized, n.profile(u.access), "from the future")
}

func TestATokenIsTakenWhereItBelongsAlone(t *testing.T) {
	t.Parallel()
	n := start(t, 1).nodes[0]
	u, other := n.newUser(), n.newUser()
	want(t, http.StatusBadRequest, n.try(http.MethodGet, "/users?access_token="+u.access, nil, nil), "in the query")
	for about, header := range map[string]http.Header{
		"in a cookie":    {"Cookie": {"access_token=" + u.access}},
		"without Bearer": {"Authorization": {u.access}},
		"as Basic":       {"Authorization": {"Basic " + u.access}},
		"after two":      {"Authorization": {"Bearer  " + u.access}},
		"in X-":          {"X-Access-Token": {u.access}},
	} {
		want(t, http.StatusUnauthorized, n.try(http.MethodGet, "/users", header, nil), about)
	}
	want(t, http.StatusBadRequest, n.try(http.MethodGet, "/users", apitest.Bearer(u.access),
		body{"access_token": other.access}), "two different ones")
	want(t, http.StatusOK, n.try(http.MethodGet, "/users", http.Header{"Authorization": {"bearer " + u.access}}, nil),
		"the scheme has no case")
}
