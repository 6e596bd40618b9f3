package authserver_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

var always = env{"REFRESH_TOKEN_ROTATION": "always"}

func TestTwentyRenewalsOfOneTokenAtOnceHaveOneSuccessor(t *testing.T) {
	t.Parallel()
	c := start(t, 3, always)
	u := c.nodes[0].newUser()
	refresh := u.refresh
	for round := range 10 {
		replies := atOnce(20, func(i int) *apitest.Reply { return c.any(i).renew(refresh) })
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
		t.Errorf("the sessions' generations are %q, not one of 10", rows)
	}
}

func TestATokenThatNeedsNoSuccessorStaysTheSame(t *testing.T) {
	t.Parallel()
	c := start(t, 3, env{"REFRESH_TOKEN_EXPIRY": "1000"})
	u := c.nodes[0].newUser()
	for _, r := range atOnce(20, func(i int) *apitest.Reply { return c.any(i).renew(u.refresh) }) {
		if want(t, http.StatusOK, r); r.Text("refresh_token") != u.refresh {
			t.Error("the token was replaced in the first half of its life")
		}
	}
	c.clock.Advance(501 * time.Second)
	replies := atOnce(20, func(i int) *apitest.Reply { return c.any(i).renew(u.refresh) })
	for _, r := range replies {
		if want(t, http.StatusOK, r); r.Text("refresh_token") == u.refresh || r.Text("refresh_token") != replies[0].Text("refresh_token") {
			t.Error("past half of its life the token has not one successor")
		}
	}
	if left := replies[0].Text("refresh_expires_in"); left != "1000" {
		t.Errorf("the successor lives %s s, not 1000", left)
	}
}

func TestALostReplyIsMadeGoodWithinTheGrace(t *testing.T) {
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
	// The grace counts from the first use: trying again has not prolonged it.
	c.clock.Advance(6 * time.Second)
	want(t, http.StatusUnauthorized, c.nodes[1].renew(u.refresh), "61 s after it was replaced")
	c.dead("after the theft", tokens{u.access, successor})
}

func TestATokenThatIsUsedAgainAfterTheGraceEndsItsSessionEverywhere(t *testing.T) {
	t.Parallel()
	c := start(t, 3, always)
	u := c.nodes[0].newUser()
	other := c.nodes[1].signIn(u)
	next := tokensOf(want(t, http.StatusOK, c.nodes[0].renew(u.refresh)))
	c.clock.Advance(61 * time.Second)
	want(t, http.StatusUnauthorized, c.nodes[2].renew(u.refresh))
	c.dead("of the stolen session", next, u.tokens)
	c.alive("of another session", other.access)
	if !c.logs.Contains("refresh token reused") {
		t.Error("the audit log does not tell of the theft")
	}
	_, metrics := c.nodes[2].probe("/metrics")
	if !strings.Contains(metrics, `authgateway_sessions_total{event="ended_by_reuse"} 1`) {
		t.Error("the metrics do not tell of the theft")
	}
}

func TestATokenOfTwoGenerationsAgoEndsItsSessionAtOnce(t *testing.T) {
	t.Parallel()
	c := start(t, 3, always)
	u := c.nodes[0].newUser()
	second := tokensOf(want(t, http.StatusOK, c.nodes[1].renew(u.refresh)))
	third := tokensOf(want(t, http.StatusOK, c.nodes[2].renew(second.refresh)))
	want(t, http.StatusUnauthorized, c.nodes[0].renew(u.refresh))
	c.dead("of the stolen session", third, second, u.tokens)
}

func TestReuseIsFoundByReplicasThatStartedAfterTheRenewal(t *testing.T) {
	t.Parallel()
	c := start(t, 1, always)
	u := c.nodes[0].newUser()
	next := tokensOf(want(t, http.StatusOK, c.nodes[0].renew(u.refresh)))
	c.stop()
	c.clock.Advance(61 * time.Second)
	c.add(always).waitReady()
	want(t, http.StatusUnauthorized, c.nodes[0].renew(u.refresh))
	c.dead("of the stolen session", next)
}

func TestASessionEndsHoweverOftenItIsRenewed(t *testing.T) {
	t.Parallel()
	c := start(t, 1, always, env{"REFRESH_TOKEN_EXPIRY": "3600", "SESSION_LIFETIME": "2h"})
	n := c.nodes[0]
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

func TestTheOldestSessionsEndBeyondSoMany(t *testing.T) {
	t.Parallel()
	c := start(t, 2, env{"SESSIONS_PER_USER": "3"})
	u := c.nodes[0].newUser()
	var opened []tokens
	for i := range 5 {
		c.clock.Advance(time.Second)
		opened = append(opened, c.any(i).signIn(u))
	}
	c.dead("beyond the third", u.tokens, opened[0], opened[1])
	for _, tk := range opened[2:] {
		c.alive("of the last three", tk.access)
	}
	if rows := column(t, c.db, "SELECT id FROM sessions"); len(rows) != 3 {
		t.Errorf("%d sessions are kept", len(rows))
	}
}

func TestARenewalNeverWidensTheScope(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	n := c.nodes[0]
	u := newPerson()
	b := u.signUpBody()
	b["scope"] = "profile email extra"
	tk := tokensOf(want(t, http.StatusOK, n.post("/users/verify-user", body{"code": n.post("/users", b).Text("code")})))
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

// claimsOf reads a token's claims without asking whether they hold.
func claimsOf(t testing.TB, token string) map[string]any {
	t.Helper()
	var claims map[string]any
	part := strings.Split(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(part[1])
	if err == nil {
		err = json.Unmarshal(text, &claims)
	}
	testenv.NoError(t, err)
	return claims
}
