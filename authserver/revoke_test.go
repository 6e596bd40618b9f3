package authserver_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestRevokedTokenIsInvalidAtEveryReplica(t *testing.T) {
	t.Parallel()
	c := start(t, 2)
	for name, choose := range map[string]func(tokens) string{
		"access":  func(tk tokens) string { return tk.access },
		"refresh": func(tk tokens) string { return tk.refresh },
	} {
		u := c.nodes[0].newUser()
		other := c.nodes[1].signIn(u)
		for _, hint := range []string{name + "_token", "another"} {
			r := c.nodes[1].try(http.MethodPost, "/tokens/revoke", nil, url.Values{"token": {choose(u.tokens)}, "token_type_hint": {hint}})
			if want(t, http.StatusOK, r, name); string(r.Body) != "{}" {
				t.Errorf("the revocation of the %s token got %v", name, r)
			}
		}
		c.dead("after the revocation of the "+name+" token", u.tokens)
		c.alive("a token of another session", other.access)
	}
	another := start(t, 1)
	foreign := another.nodes[0].newUser()
	for _, text := range []string{foreign.access, foreign.refresh, "no token"} {
		want(t, http.StatusOK, c.nodes[0].post("/tokens/revoke", body{"token": text}), "a foreign token")
	}
	another.alive("a token of another gateway", foreign.access)
}

func TestMetadataURLsAllAnswer(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgrestest.Config(t))
	n := c.addReady(1, env{"ISSUER": "https://auth.example.com/", "SIGNUP_SCOPES": "profile orders"})
	r := want(t, http.StatusOK, n.get("/.well-known/openid-configuration"))
	if r.Text("issuer") != "https://auth.example.com/" || !strings.Contains(r.Text("scopes_supported"), "orders") {
		t.Errorf("the metadata is %s", r.Body)
	}
	for member, call := range map[string]struct {
		method string
		status int
	}{
		"jwks_uri": {http.MethodGet, 200}, "token_endpoint": {http.MethodPost, 400},
		"revocation_endpoint": {http.MethodPost, 400}, "introspection_endpoint": {http.MethodPost, 400},
	} {
		path, found := strings.CutPrefix(r.Text(member), "https://auth.example.com")
		if !found {
			t.Errorf("%s is %s", member, r.Text(member))
		}
		var form any
		if call.method == http.MethodPost {
			form = url.Values{}
		}
		want(t, call.status, n.try(call.method, path, nil, form), member)
	}
}
