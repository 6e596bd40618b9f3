package authserver_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

var always = env{"REFRESH_TOKEN_ROTATION": "always"}

func TestRenewalOfOneTokenTwentyTimesAtOnceHasOneSuccessor(t *testing.T) {
	t.Parallel()
	c := start(t, 3, always)
	u := c.nodes[0].newUser()
	refresh := u.refresh
	for round := range 10 {
		replies := atOnce(20, func(i int) *testenv.Reply { return c.any(i).renew(refresh) })
		if got := statuses(replies); got[http.StatusOK] != 20 {
			t.Fatalf("round %d: got %v, want twenty 200", round, got)
		}
		successor := replies[0].Text("refresh_token")
		if successor == refresh {
			t.Fatal("the token was not replaced")
		}
		for _, r := range replies {
			if r.Text("refresh_token") != successor {
				t.Fatal("two successors of one token")
			}
			want(t, http.StatusOK, c.any(round).profile(r.Text("access_token")))
		}
		refresh = successor
	}
	if rows := column(t, c.db, "SELECT generation FROM sessions"); len(rows) != 1 || rows[0] != "10" {
		t.Errorf("the generations of the sessions are %q, want only 10", rows)
	}
}

func TestRenewalKeepsATokenThatNeedsNoSuccessor(t *testing.T) {
	t.Parallel()
	c := start(t, 3, env{"REFRESH_TOKEN_EXPIRY": "1000"})
	u := c.nodes[0].newUser()
	for _, r := range atOnce(20, func(i int) *testenv.Reply { return c.any(i).renew(u.refresh) }) {
		if want(t, http.StatusOK, r); r.Text("refresh_token") != u.refresh {
			t.Error("the token was replaced in the first half of its life")
		}
	}
	c.clock.Advance(501 * time.Second)
	replies := atOnce(20, func(i int) *testenv.Reply { return c.any(i).renew(u.refresh) })
	for _, r := range replies {
		if want(t, http.StatusOK, r); r.Text("refresh_token") == u.refresh || r.Text("refresh_token") != replies[0].Text("refresh_token") {
			t.Error("after half of its life the token does not have one successor")
		}
	}
	// A slow machine answers some seconds after the renewal.
	if left, err := strconv.Atoi(replies[0].Text("refresh_expires_in")); err != nil || left > 1000 || left < 900 {
		t.Errorf("the successor expires in %d s, want 1000; %v", left, err)
	}
}

func TestRenewalCanBeRepeatedWithinTheGrace(t *testing.T) {
	t.Parallel()
	c := start(t, 2, always)
	u := c.nodes[0].newUser()
	successor := want(t, http.StatusOK, c.nodes[0].renew(u.refresh)).Text("refresh_token")
	for range 11 {
		c.clock.Advance(5 * time.Second)
		if got := want(t, http.StatusOK, c.nodes[1].renew(u.refresh)).Text("refresh_token"); got != successor {
			t.Fatal("the second time the successor is another one")
		}
	}
	// The grace begins at the first use. Further attempts do not extend it.
	c.clock.Advance(6 * time.Second)
	want(t, http.StatusUnauthorized, c.nodes[1].renew(u.refresh), "61 s after the first use")
	c.dead("after the reuse", tokens{u.access, successor})
}

func TestRenewalAfterTheGraceEndsTheSessionAtEveryReplica(t *testing.T) {
	t.Parallel()
	c := start(t, 3, always)
	u := c.nodes[0].newUser()
	other := c.nodes[1].signIn(u)
	next := tokensOf(want(t, http.StatusOK, c.nodes[0].renew(u.refresh)))
	c.clock.Advance(61 * time.Second)
	want(t, http.StatusUnauthorized, c.nodes[2].renew(u.refresh))
	c.dead("tokens of the stolen session", next, u.tokens)
	c.alive("a token of another session", other.access)
	if !c.logs.Contains("refresh token reused") {
		t.Error("the audit log does not have the reuse")
	}
	if !strings.Contains(c.nodes[2].metrics(), `authgateway_sessions_total{event="ended_by_reuse"} 1`) {
		t.Error("the metrics do not have the reuse")
	}
}

func TestRenewalWithATokenTwoGenerationsOldEndsTheSession(t *testing.T) {
	t.Parallel()
	c := start(t, 3, always)
	u := c.nodes[0].newUser()
	second := tokensOf(want(t, http.StatusOK, c.nodes[1].renew(u.refresh)))
	third := tokensOf(want(t, http.StatusOK, c.nodes[2].renew(second.refresh)))
	want(t, http.StatusUnauthorized, c.nodes[0].renew(u.refresh))
	c.dead("tokens of the stolen session", third, second, u.tokens)
}

func TestRenewalReuseIsDetectedByReplicasThatStartLater(t *testing.T) {
	t.Parallel()
	c := start(t, 1, always)
	u := c.nodes[0].newUser()
	next := tokensOf(want(t, http.StatusOK, c.nodes[0].renew(u.refresh)))
	c.stop()
	c.clock.Advance(61 * time.Second)
	c.addReady(1, always)
	want(t, http.StatusUnauthorized, c.nodes[0].renew(u.refresh))
	c.dead("tokens of the stolen session", next)
}

func TestRenewalsDoNotExtendASessionBeyondItsLifetime(t *testing.T) {
	t.Parallel()
	c, n := single(t, always, env{"REFRESH_TOKEN_EXPIRY": "3600", "SESSION_LIFETIME": "2h"})
	u := n.newUser()
	tk := u.tokens
	for range 3 {
		c.clock.Advance(30 * time.Minute)
		tk = tokensOf(want(t, http.StatusOK, n.renew(tk.refresh)))
	}
	c.clock.Advance(20 * time.Minute)
	r := want(t, http.StatusOK, n.renew(tk.refresh))
	if claims := claimsOf(t, r.Text("refresh_token")); claims["exp"].(float64) > float64(c.clock.Now().Add(10*time.Minute).Unix()) {
		t.Errorf("a token outlives its session: %v", claims)
	}
	c.clock.Advance(11 * time.Minute)
	c.dead("after SESSION_LIFETIME", tokensOf(r))
}

func TestSessionsBeyondTheMaximumEndOldestFirst(t *testing.T) {
	t.Parallel()
	c := start(t, 2, env{"SESSIONS_PER_USER": "3"})
	u := c.nodes[0].newUser()
	var opened []tokens
	for i := range 5 {
		c.clock.Advance(time.Second)
		opened = append(opened, c.any(i).signIn(u))
	}
	c.dead("sessions beyond the maximum", u.tokens, opened[0], opened[1])
	for _, tk := range opened[2:] {
		c.alive("a token of the last three sessions", tk.access)
	}
	if rows := column(t, c.db, "SELECT id FROM sessions"); len(rows) != 3 {
		t.Errorf("%d sessions are kept", len(rows))
	}
}

func TestRenewalNeverWidensTheScope(t *testing.T) {
	t.Parallel()
	c, n := single(t)
	reply := n.post("/users", newPerson().signUpBody(body{"scope": "profile email extra"}))
	tk := n.mustVerify(reply.Text("code"))
	for _, step := range []struct{ granted, renewed string }{
		{"profile email", "profile email"},
		{"profile email extra wider", "profile email extra"},
		{"wider", ""},
	} {
		column(t, c.db, "UPDATE users SET scope = $1 RETURNING id", step.granted)
		r := want(t, http.StatusOK, n.renew(tk.refresh))
		if r.Text("scope") != step.renewed {
			t.Errorf("with the scope %q granted, a renewal gives %q, not %q", step.granted, r.Text("scope"), step.renewed)
		}
	}
}

// claimsOf returns the claims of a token without verifying it.
func claimsOf(t testing.TB, token string) map[string]any {
	t.Helper()
	return decodePart(t, token, 1)
}

// decodePart decodes the header (0) or the claims (1) of a token.
func decodePart(t testing.TB, token string, part int) (members map[string]any) {
	t.Helper()
	text := testenv.Must(base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[part]))(t)
	testenv.NoError(t, json.Unmarshal(text, &members))
	return members
}

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
