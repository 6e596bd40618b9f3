package authserver_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

const callerKey = "the key of the trusted caller"

func TestOnlyTheTrustedCallerSeesCodesChoosesScopesAndIntrospects(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"TRUSTED_CALLER_KEY": callerKey})
	c.logs.secrets(body{"token": callerKey})
	n := c.nodes[0]
	trusted := http.Header{"X-Caller-Key": {callerKey}}

	u := newPerson()
	reply := want(t, http.StatusCreated, n.try(http.MethodPost, "/users", trusted, u.signUpBody()))
	u.tokens = tokensOf(want(t, http.StatusOK, n.post("/users/verify-user", body{"code": reply.Text("code")}),
		"a code may be redeemed by anyone"))
	want(t, http.StatusOK, n.profile(u.access))
	want(t, http.StatusOK, n.renew(u.refresh))
	want(t, http.StatusOK, n.trySignIn(u.username, u.password))

	withoutScope := newPerson().signUpBody()
	delete(withoutScope, "scope")
	requests := []struct {
		path   string
		header http.Header
		body   body
		status int
	}{
		{"/users", nil, newPerson().signUpBody(), http.StatusCreated},
		{"/users", nil, withoutScope, http.StatusCreated},
		{"/users/verification-code", nil, body{"email": "nobody@mailbox.example.org"}, http.StatusNotFound},
		{"/users/forgot-password", nil, body{"email": u.email}, http.StatusOK},
		{"/users/change-email-request", apitest.Bearer(u.access), body{}, http.StatusOK},
		{"/tokens/introspect", nil, body{"token": u.access}, http.StatusOK},
	}
	for _, r := range requests {
		for _, wrong := range [][]string{nil, {""}, {"wrong"}, {callerKey + "x"}, {callerKey[1:]}, {"THE KEY OF THE TRUSTED CALLER"}} {
			header := r.header.Clone()
			if header == nil {
				header = http.Header{}
			}
			if wrong != nil {
				header["X-Caller-Key"] = wrong
			}
			want(t, http.StatusForbidden, n.try(http.MethodPost, r.path, header, r.body), r.path, wrong)
		}
		header := trusted.Clone()
		for name, values := range r.header {
			header[name] = values
		}
		want(t, r.status, n.try(http.MethodPost, r.path, header, r.body), r.path)
	}
	if users := column(t, c.db, "SELECT id::text FROM users UNION ALL SELECT id::text FROM signups"); len(users) != 3 {
		t.Errorf("there are %d accounts and sign-ups, not 3: a refused sign-up was kept", len(users))
	}
}

func TestIntrospectionTellsOfLiveTokensAlone(t *testing.T) {
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
		if r := want(t, http.StatusOK, c.nodes[1].post("/tokens/introspect", body{"token": token})); string(r.Body) != `{"active":false}` {
			t.Errorf("got %v", r)
		}
	}
}

func TestPagesOfTheOriginsInTheSettingsMayCall(t *testing.T) {
	t.Parallel()
	n := start(t, 1, env{"CORS_ALLOWED_ORIGINS": "https://app.example.com,http://localhost:3000"}).nodes[0]
	for origin, status := range map[string]int{
		"https://app.example.com": http.StatusNoContent, "http://localhost:3000": http.StatusNoContent,
		"https://other.example.com": http.StatusMethodNotAllowed,
	} {
		preflight := http.Header{"Origin": {origin}, "Access-Control-Request-Method": {http.MethodPost}}
		want(t, status, n.try(http.MethodOptions, "/tokens/signin", preflight, nil), origin)
	}
}

// Sign-in has one answer for all who may not know more.
func TestSignInTellsNobodyWhoExists(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	n := c.nodes[0]
	u := n.newUser()
	unverified, _ := n.signUp()
	suspended := n.newUser()
	postgrestest.Exec(t, c.db, "UPDATE users SET suspended_at = now() WHERE username = $1", suspended.username)
	first := n.trySignIn(u.username, "a wrong password")
	for about, r := range map[string]*apitest.Reply{
		"unknown":                          n.trySignIn("nobody.of.this.name", "a wrong password"),
		"an unknown address":               n.trySignIn("nobody@mailbox.example.org", "a wrong password"),
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
	for _, login := range []string{u.username, "another.that.nobody.has"} {
		var last *apitest.Reply
		for range 12 {
			last = n.trySignIn(login, "a wrong password")
		}
		want(t, http.StatusTooManyRequests, last, login)
	}
}

// Every byte of a password counts, and only its composition in Unicode does not.
func TestEveryByteOfAPasswordCounts(t *testing.T) {
	t.Parallel()
	n := start(t, 1).nodes[0]
	long := func(n int, last string) string {
		s := ""
		for len(s) < n {
			s += "every byte of it counts "
		}
		return s[:n-len(last)] + last
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
		b := u.signUpBody()
		b["password"] = p.set
		want(t, http.StatusOK, n.post("/users/verify-user", body{"code": want(t, http.StatusCreated, n.post("/users", b)).Text("code")}))
		want(t, http.StatusOK, n.trySignIn(u.username, p.right), p.right)
		want(t, http.StatusUnauthorized, n.trySignIn(u.username, p.wrong), p.wrong)
	}
	for _, refused := range []string{"", "short", "password1", "qwertyuiop", long(257, "a"), "nul\x00nul\x00nul"} {
		b := newPerson().signUpBody()
		b["password"] = refused
		want(t, http.StatusBadRequest, n.post("/users", b), refused)
	}
	u := newPerson()
	for _, refused := range []string{u.username, u.email} {
		b := u.signUpBody()
		b["password"] = refused
		want(t, http.StatusBadRequest, n.post("/users", b), refused)
	}
}

func TestAHashOfAnotherCostIsRenewedAtTheNextSignIn(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	u := c.nodes[0].newUser()
	c.stop()
	c.add(env{"SALT_ROUNDS": "5"}).waitReady()
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
