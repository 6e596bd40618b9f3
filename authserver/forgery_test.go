package authserver_test

import (
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// uses are all ways to present a token.
var uses = []struct {
	name   string
	access bool // an access token is expected, and otherwise a refresh token
	use    func(n *node, token string) *testenv.Reply
}{
	{"GET /users", true, func(n *node, tk string) *testenv.Reply { return n.profile(tk) }},
	{"GET /users, in the body", true, func(n *node, tk string) *testenv.Reply {
		return n.try(http.MethodGet, "/users", nil, body{"access_token": tk})
	}},
	{"PUT /users", true, func(n *node, tk string) *testenv.Reply { return n.changeProfile(tk, body{"first_name": "Forged"}) }},
	{"DELETE /users", true, func(n *node, tk string) *testenv.Reply { return n.deleteUser(tk) }},
	{"change-password", true, func(n *node, tk string) *testenv.Reply {
		return n.changePassword(tk, "any old password", "any new password")
	}},
	{"change-email-request", true, func(n *node, tk string) *testenv.Reply {
		return n.as(tk, http.MethodPost, "/users/change-email-request", body{})
	}},
	{"change-email", true, func(n *node, tk string) *testenv.Reply {
		return n.changeEmail(tk, strings.Repeat("A", 43), "forged@mailbox.example.org")
	}},
	{"POST /tokens", false, func(n *node, tk string) *testenv.Reply { return n.renew(tk) }},
	{"DELETE /tokens", false, func(n *node, tk string) *testenv.Reply { return n.signOut(tk) }},
}

// forgeries returns a token of each kind of forgery that the tests of package token try. They try many more, but cannot
// tell whether each route verifies its token.
func forgeries(t testing.TB, n *node, use, genuine string) map[string]string {
	t.Helper()
	parts := strings.Split(genuine, ".")
	encode := base64.RawURLEncoding.EncodeToString
	header := string(testenv.Must(base64.RawURLEncoding.DecodeString(parts[0]))(t))
	claims := string(testenv.Must(base64.RawURLEncoding.DecodeString(parts[1]))(t))
	with := func(old, replacement string) string {
		changed := strings.Replace(header, old, replacement, 1)
		if changed == header {
			t.Fatalf("%s has no %s", header, old)
		}
		return encode([]byte(changed)) + "." + parts[1] + "."
	}
	symmetric := with(`"alg":"ES256"`, `"alg":"HS256"`)
	mac := hmac.New(sha256.New, publicPEM(t, n, use, kidOf(t, genuine)))
	mac.Write([]byte(strings.TrimSuffix(symmetric, ".")))
	return map[string]string{
		"empty":                        "",
		"no token":                     "null",
		"without a signature":          parts[0] + "." + parts[1] + ".",
		"of two parts":                 parts[0] + "." + parts[1],
		"with other claims":            parts[0] + "." + encode([]byte(strings.Replace(claims, `"exp":`, `"exp":9`, 1))) + "." + parts[2],
		"with a line break":            parts[0][:9] + "\n" + parts[0][9:] + "." + parts[1] + "." + parts[2],
		"with a zero signature":        parts[0] + "." + parts[1] + "." + encode(make([]byte, 64)),
		"without an algorithm":         with(`"alg":"ES256"`, `"alg":"none"`),
		"with a symmetric algorithm":   symmetric + encode(mac.Sum(nil)),
		"with an unknown kid":          with(`"kid":"`, `"kid":"x`) + parts[2],
		"with its type changed":        encode([]byte(strings.NewReplacer("at+jwt", "rt+jwt", "rt+jwt", "at+jwt").Replace(header))) + "." + parts[1] + "." + parts[2],
		"longer than any token":        strings.Repeat("a", 7000),
		"with one character cut off":   genuine[:len(genuine)-1],
		"with one character added":     genuine + "A",
		"with a critical header field": with("{", `{"crit":["b64"],"b64":false,`) + parts[2],
	}
}

// publicPEM returns the public key with an id, as the server publishes it.
func publicPEM(t testing.TB, n *node, use, kid string) []byte {
	t.Helper()
	var sets map[string]struct{ Keys []struct{ Kid, Pem string } }
	n.get("/tokens/keys").JSON(t, &sets)
	for _, key := range sets[use].Keys {
		if key.Kid == kid {
			return []byte(key.Pem)
		}
	}
	t.Fatalf("no %s key %s is published", use, kid)
	return nil
}

// mirrored returns (r, n-s) for (r, s), which ECDSA accepts too.
func mirrored(t testing.TB, signature string) string {
	t.Helper()
	raw := testenv.Must(base64.RawURLEncoding.DecodeString(signature))(t)
	s := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(raw[32:]))
	return base64.RawURLEncoding.EncodeToString(append(raw[:32:32], s.FillBytes(make([]byte, 32))...))
}

func TestForgedTokensAreRefusedByEveryRoute(t *testing.T) {
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
					if r := n.introspect(token); about != "of the other kind" && string(r.Body) != `{"active":false}` {
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

func TestSignOutAlsoInvalidatesTheMirroredSignature(t *testing.T) {
	t.Parallel()
	_, n := single(t)
	u := n.newUser()
	parts := strings.Split(u.access, ".")
	other := parts[0] + "." + parts[1] + "." + mirrored(t, parts[2])
	want(t, http.StatusNoContent, n.signOut(u.refresh))
	want(t, http.StatusUnauthorized, n.profile(other))
	want(t, http.StatusUnauthorized, n.profile(u.access))
}

func TestTokenLifetimes(t *testing.T) {
	t.Parallel()
	c, n := single(t, env{"ACCESS_TOKEN_EXPIRY": "300", "REFRESH_TOKEN_EXPIRY": "600"})
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

func TestHostileValuesInEveryParameterAreAnsweredInShape(t *testing.T) {
	t.Parallel()
	c, n := single(t)
	u := n.newUser()
	revoked := n.signIn(u) // POST /tokens/revoke ends this session
	apitest.Hostile(t, n.Client, map[string]string{
		"username": "somebody.else", "email": "somebody.else@mailbox.example.org", "first_name": "First", "last_name": "Last",
		"password": "some password of theirs", "old_password": "some other password", "scope": "profile email",
		"code": strings.Repeat("A", 43), "id": "00000000-0000-4000-8000-000000000000", "refresh_token": "a.b.c",
		"grant_type": "refresh_token", "token": revoked.access, "access_token": u.access,
	})
	want(t, http.StatusOK, n.profile(u.access), "the user has not changed")
	names := column(t, c.db, "SELECT canonical_username FROM users")
	if slices.ContainsFunc(names, func(name string) bool { return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" }) {
		t.Errorf("stored usernames: %q", names)
	}
}
