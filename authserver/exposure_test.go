package authserver_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

const callerKey = "the key of the trusted caller"

func TestTrustedCallerOnlySeesCodesChoosesScopesAndIntrospects(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"TRUSTED_CALLER_KEY": callerKey})
	c.logs.secrets(body{"token": callerKey})
	n := c.nodes[0]
	trusted := http.Header{"X-Caller-Key": {callerKey}}

	// Package httpapi tests each route and each wrong key. The users of codes and tokens need no key.
	u := newPerson()
	reply := want(t, http.StatusCreated, n.try(http.MethodPost, "/users", trusted, u.signUpBody()))
	u.tokens = n.mustVerify(reply.Text("code"))
	want(t, http.StatusOK, n.profile(u.access))
	want(t, http.StatusOK, n.renew(u.refresh))
	want(t, http.StatusOK, n.trySignIn(u.username, u.password))
	want(t, http.StatusOK, n.try(http.MethodPost, "/tokens/introspect", trusted, body{"token": u.access}))
	want(t, http.StatusForbidden, n.introspect(u.access))
	for _, wrong := range []string{"", "wrong", callerKey + "x", callerKey[1:], strings.ToUpper(callerKey)} {
		want(t, http.StatusForbidden, n.try(http.MethodPost, "/users", http.Header{"X-Caller-Key": {wrong}}, newPerson().signUpBody()), wrong)
	}
	want(t, http.StatusForbidden, n.post("/users", newPerson().signUpBody()), "no key")
	if signups := column(t, c.db, "SELECT id::text FROM signups"); len(signups) != 0 {
		t.Errorf("%d refused sign-ups were stored", len(signups))
	}
}

func TestIntrospectionDescribesOnlyLiveTokens(t *testing.T) {
	t.Parallel()
	c := start(t, 2)
	n := c.nodes[0]
	u := n.newUser()
	for kind, token := range map[string]string{"access_token": u.access, "refresh_token": u.refresh} {
		r := want(t, http.StatusOK, n.try(http.MethodPost, "/tokens/introspect", nil, url.Values{"token": {token},
			"token_type_hint": {"access_token"}}))
		if r.Text("active") != "true" || r.Text("sub") != u.id || r.Text("iss") != issuer || r.Text("token_use") != kind {
			t.Errorf("%s: %v", kind, r)
		}
	}
	want(t, http.StatusNoContent, n.signOut(u.refresh))
	for _, token := range []string{u.access, u.refresh, "garbage"} {
		if r := want(t, http.StatusOK, c.nodes[1].introspect(token)); string(r.Body) != `{"active":false}` {
			t.Errorf("got %v", r)
		}
	}
}

func TestCORSAllowsTheOriginsOfTheSettings(t *testing.T) {
	t.Parallel()
	_, n := single(t, env{"CORS_ALLOWED_ORIGINS": "https://app.example.com,http://localhost:3000"})
	for origin, status := range map[string]int{
		"https://app.example.com": http.StatusNoContent, "http://localhost:3000": http.StatusNoContent,
		"https://other.example.com": http.StatusMethodNotAllowed,
	} {
		preflight := http.Header{"Origin": {origin}, "Access-Control-Request-Method": {http.MethodPost}}
		want(t, status, n.try(http.MethodOptions, "/tokens/signin", preflight, nil), origin)
	}
}

// All sign-ins that fail get the same reply.
func TestSignInRevealsNoAccounts(t *testing.T) {
	t.Parallel()
	c, n := single(t)
	u := n.newUser()
	unverified, _ := n.signUp()
	suspended := n.newUser()
	postgrestest.Exec(t, c.db, "UPDATE users SET suspended_at = now() WHERE username = $1", suspended.username)
	first := n.trySignIn(u.username, "a wrong password")
	for about, r := range map[string]*testenv.Reply{
		"unknown":                          n.trySignIn("unknown.user", "a wrong password"),
		"an unknown address":               n.trySignIn("unknown@mailbox.example.org", "a wrong password"),
		"no name at all":                   n.trySignIn("no name, at all", "a wrong password"),
		"an address, wrong password":       n.trySignIn(u.email, "a wrong password"),
		"not verified, wrong password":     n.trySignIn(unverified.username, "a wrong password"),
		"suspended, wrong password":        n.trySignIn(suspended.username, "a wrong password"),
		"suspended, right password":        n.trySignIn(suspended.username, suspended.password),
		"an impossible password":           n.trySignIn(u.username, "x"),
		"a password that is longer":        n.trySignIn(u.username, u.password+"x"),
		"a password in capital letters":    n.trySignIn(u.username, mixedCase(u.password, 31)),
		"a password with a space after it": n.trySignIn(u.username, u.password+" "),
	} {
		want(t, http.StatusUnauthorized, r, about)
		if string(r.Body) != string(first.Body) || len(r.Header) != len(first.Header) ||
			r.Header.Get("WWW-Authenticate") != first.Header.Get("WWW-Authenticate") {
			t.Errorf("%s: %v %v, not %v %v", about, r, r.Header, first, first.Header)
		}
	}
	// The delay after ten failures is the same for known and unknown names.
	for _, login := range []string{u.username, "another.unknown.user"} {
		var last *testenv.Reply
		for range 12 {
			last = n.trySignIn(login, "a wrong password")
		}
		want(t, http.StatusTooManyRequests, last, login)
	}
}

// Only the composition of Unicode characters makes no difference.
func TestPasswordBytesAllCount(t *testing.T) {
	t.Parallel()
	_, n := single(t)
	long := func(n int, last string) string {
		return strings.Repeat("every byte of it counts ", 11)[:n-len(last)] + last
	}
	for _, p := range []struct{ set, right, wrong string }{
		{long(72, "a"), long(72, "a"), long(73, "b")},
		{long(73, "a"), long(73, "a"), long(73, "b")},
		{long(256, "a"), long(256, "a"), long(256, "b")},
		{"caf\u00e9 au lait", "cafe\u0301 au lait", "cafe au lait"},
		{"  spaces count  ", "  spaces count  ", "spaces count"},
		{"🔑🔑🔑🔑🔑🔑🔑🔑", "🔑🔑🔑🔑🔑🔑🔑🔑", "🔑🔑🔑🔑🔑🔑🔑🔒"},
	} {
		u := newPerson()
		reply := want(t, http.StatusCreated, n.post("/users", u.signUpBody(body{"password": p.set})))
		want(t, http.StatusOK, n.verify(reply.Text("code")))
		want(t, http.StatusOK, n.trySignIn(u.username, p.right), p.right)
		want(t, http.StatusUnauthorized, n.trySignIn(u.username, p.wrong), p.wrong)
	}
	for _, refused := range []string{"", "short", "password1", "qwertyuiop", long(257, "a"), "nul\x00nul\x00nul"} {
		want(t, http.StatusBadRequest, n.post("/users", newPerson().signUpBody(body{"password": refused})), refused)
	}
	u := newPerson()
	for _, refused := range []string{u.username, u.email} {
		want(t, http.StatusBadRequest, n.post("/users", u.signUpBody(body{"password": refused})), refused)
	}
}

func TestPasswordHashOfAnotherCostIsRenewedAtSignIn(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	u := c.nodes[0].newUser()
	c.stop()
	c.addReady(1, env{"SALT_ROUNDS": "5"})
	before := column(t, c.db, "SELECT password_hash FROM users")
	c.nodes[0].signIn(u)
	after := column(t, c.db, "SELECT password_hash FROM users")
	if before[0] == after[0] {
		t.Error("the hash is still the old one")
	}
	c.nodes[0].signIn(u)
	if again := column(t, c.db, "SELECT password_hash FROM users"); again[0] != after[0] {
		t.Error("the hash was renewed again")
	}
	c.alive("through all that", u.access)
}
