package authserver_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestMetricsTellHowTheServerDoesAndNobodysSecrets(t *testing.T) {
	t.Parallel()
	c := start(t, 1, always)
	n := c.nodes[0]
	u := n.newUser()
	want(t, http.StatusOK, n.renew(n.signIn(u).refresh))
	want(t, http.StatusUnauthorized, n.trySignIn(u.username, "a wrong password"))
	want(t, http.StatusNoContent, n.signOut(u.refresh))
	n.try(http.MethodGet, "/there/is/no/such/path", nil, nil)
	want(t, http.StatusMethodNotAllowed, n.try("BREW", "/users", nil, nil))

	_, text := n.probe("/metrics")
	for _, line := range []string{
		`authgateway_build_info{version="test"} 1`,
		`authgateway_hashing_jobs{state="waiting"} 0`,
		`authgateway_hashing_jobs{state="running"} 0`,
		`authgateway_hashing_jobs_total{outcome="done"} 3`,
		`authgateway_hashing_jobs_total{outcome="shed"} 0`,
		`authgateway_hashing_jobs_total{outcome="gone"} 0`,
		`authgateway_sessions_total{event="opened"} 2`,
		`authgateway_sessions_total{event="renewed"} 1`,
		`authgateway_sessions_total{event="ended_by_reuse"} 0`,
		`authgateway_sessions_total{event="ended"} 1`,
		`authgateway_database_connections{state="max"} 10`,
		`authgateway_database_connection_waits_total `,
		`authgateway_database_connection_wait_seconds_total `,
		`authgateway_database_connection_timeouts_total 0`,
		`authgateway_key_ring_generation `,
		`authgateway_key_rotation_interval_seconds{use="access"} 2.592e+06`,
		`authgateway_key_rotation_interval_seconds{use="refresh"} 2.592e+06`,
		`authgateway_key_ring_reload_failures_total 0`,
		`authgateway_signing_key_age_seconds{`, `authgateway_signing_key_phase_seconds{`, `phase="Signing"`, `use="access"`, `use="refresh"`,
		`http_requests_total{method="POST",route="/tokens/signin",status="200"} 1`,
		`http_requests_total{method="POST",route="/tokens/signin",status="401"} 1`,
		`http_requests_total{method="GET",route="other",status="404"} 1`,
		`http_requests_total{method="other",route="/users",status="405"} 1`,
		`http_request_duration_seconds_bucket{method="POST",route="/users",status="201",le="+Inf"} 1`,
		`http_requests_in_flight 0`,
		"go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(text, "\n"+line) && !regexp.MustCompile(`(?m)^[^#\n]*`+regexp.QuoteMeta(line)).MatchString(text) {
			t.Errorf("the metrics do not have %s", line)
		}
	}
	if t.Failed() {
		t.Log(regexp.MustCompile(`(?m)^http_requests_total.*$`).FindAllString(text, -1))
	}
	c.logs.mu.Lock()
	defer c.logs.mu.Unlock()
	for _, found := range findSecrets([]byte(text), c.logs.private) {
		t.Errorf("the metrics hold the %s %q", c.logs.private[found], found)
	}
}

func TestWhatIsForOperatorsIsNotOnThePublicPort(t *testing.T) {
	t.Parallel()
	n := start(t, 1).nodes[0]
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/state", "/debug/pprof/", "/debug/vars"} {
		want(t, http.StatusNotFound, n.try(http.MethodGet, path, nil, nil), path)
	}
	for _, path := range []string{"/users", "/tokens/keys", "/debug/pprof/", "/", "/metrics/"} {
		if status, body := n.probe(path); status != http.StatusNotFound {
			t.Errorf("the operators' port answers %s with %d %s", path, status, body)
		}
	}
	for path, wanted := range map[string]string{"/healthz": `{"status":"ok"}`, "/readyz": `{"status":"ready"}`} {
		if status, body := n.probe(path); status != http.StatusOK || strings.TrimSpace(body) != wanted {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestWhatHasExpiredIsRemoved(t *testing.T) {
	t.Parallel()
	c := start(t, 2, env{"REFRESH_TOKEN_EXPIRY": "3600"})
	n := c.nodes[0]
	u, late := n.newUser(), n.newUser()
	forgotten, _ := n.signUp() // never verified
	waiting, code := n.signUp()
	n.recoveryCode(late)
	want(t, http.StatusUnauthorized, n.trySignIn("nobody.of.this.name", "a wrong password"))
	count := func(table string) string { return column(t, c.db, "SELECT count(*)::text FROM "+table)[0] }
	expect := func(about string, wanted map[string]string) {
		t.Helper()
		for _, n := range c.nodes {
			n.server.CleanUp(t.Context())
		}
		for table, number := range wanted {
			if got := count(table); got != number {
				t.Errorf("%s there are %s rows in %s, not %s", about, got, table, number)
			}
		}
	}
	expect("at first", map[string]string{"users": "2", "signups": "2", "sessions": "2", "codes": "3", "throttles": "1"})

	// Sessions use the clock of the test; the rest uses the database's clock.
	c.clock.Advance(49 * time.Hour)
	late.tokens = n.signIn(late)
	expect("two days later", map[string]string{"users": "2", "signups": "2", "sessions": "1", "codes": "3"})
	c.dead("of the session that expired", u.tokens)
	c.alive("of the one after", late.access)

	postgrestest.Exec(t, c.db, "UPDATE signups SET created_at = now() - interval '169 hours' WHERE username <> $1", waiting.username)
	postgrestest.Exec(t, c.db,
		"UPDATE codes SET expires_at = now() WHERE signup_id = (SELECT id FROM signups WHERE username = $1)", forgotten.username)
	postgrestest.Exec(t, c.db, "UPDATE codes SET expires_at = now() WHERE purpose = 'recovery'")
	postgrestest.Exec(t, c.db, "UPDATE throttles SET last_failure_at = now() - interval '25 hours'")
	expect("in the end", map[string]string{"users": "2", "signups": "1", "sessions": "1", "codes": "1", "throttles": "0"})
	want(t, http.StatusCreated, n.post("/users", forgotten.signUpBody()), "the name is free again")
	want(t, http.StatusOK, n.post("/users/verify-user", body{"code": code}), "who signed up later")
}
