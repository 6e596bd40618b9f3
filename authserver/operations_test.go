package authserver_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestMetricsDescribeTheServerWithoutSecrets(t *testing.T) {
	t.Parallel()
	c, n := single(t, always)
	u := n.newUser()
	want(t, http.StatusOK, n.renew(n.signIn(u).refresh))
	want(t, http.StatusUnauthorized, n.trySignIn(u.username, "a wrong password"))
	want(t, http.StatusNoContent, n.signOut(u.refresh))
	n.get("/there/is/no/such/path")
	want(t, http.StatusMethodNotAllowed, n.try("BREW", "/users", nil, nil))

	text := n.metrics()
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
			t.Errorf("the metric %s is missing", line)
		}
	}
	if t.Failed() {
		t.Log(regexp.MustCompile(`(?m)^http_requests_total.*$`).FindAllString(text, -1))
	}
	c.logs.hasNone(t, "the metrics", text)
}

func TestOperationsAreNotOnThePublicPort(t *testing.T) {
	t.Parallel()
	_, n := single(t)
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/state", "/debug/pprof/", "/debug/vars"} {
		want(t, http.StatusNotFound, n.get(path), path)
	}
	for _, path := range []string{"/users", "/tokens/keys", "/debug/pprof/", "/", "/metrics/"} {
		n.wantProbe(path, http.StatusNotFound, "the operations port")
	}
	for path, wanted := range map[string]string{"/healthz": `{"status":"ok"}`, "/readyz": `{"status":"ready"}`} {
		if status, body := n.Probe(path); status != http.StatusOK || strings.TrimSpace(body) != wanted {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestHousekeepingRemovesWhatHasExpired(t *testing.T) {
	t.Parallel()
	c := start(t, 2, env{"REFRESH_TOKEN_EXPIRY": "3600"})
	n := c.nodes[0]
	u, late := n.newUser(), n.newUser()
	forgotten, _ := n.signUp() // never verified
	waiting, code := n.signUp()
	n.recoveryCode(late)
	want(t, http.StatusUnauthorized, n.trySignIn("unknown.user", "a wrong password"))
	expect := func(about string, wanted map[string]string) {
		t.Helper()
		for _, n := range c.nodes {
			n.CleanUp(t.Context())
		}
		for table, number := range wanted {
			if got := column(t, c.db, "SELECT count(*)::text FROM "+table)[0]; got != number {
				t.Errorf("%s: %s rows in %s, want %s", about, got, table, number)
			}
		}
	}
	expect("at first", map[string]string{"users": "2", "signups": "2", "sessions": "2", "codes": "3", "throttles": "1"})

	// Sessions use the clock of the test; the rest uses the database's clock.
	c.clock.Advance(49 * time.Hour)
	late.tokens = n.signIn(late)
	expect("two days later", map[string]string{"users": "2", "signups": "2", "sessions": "1", "codes": "3"})
	c.dead("tokens of the expired session", u.tokens)
	c.alive("a token of the newer session", late.access)

	postgrestest.Exec(t, c.db, "UPDATE signups SET created_at = now() - interval '169 hours' WHERE username <> $1", waiting.username)
	postgrestest.Exec(t, c.db,
		"UPDATE codes SET expires_at = now() WHERE signup_id = (SELECT id FROM signups WHERE username = $1)", forgotten.username)
	postgrestest.Exec(t, c.db, "UPDATE codes SET expires_at = now() WHERE purpose = 'recovery'")
	postgrestest.Exec(t, c.db, "UPDATE throttles SET last_failure_at = now() - interval '25 hours'")
	expect("later", map[string]string{"users": "2", "signups": "1", "sessions": "1", "codes": "1", "throttles": "0"})
	want(t, http.StatusCreated, n.post("/users", forgotten.signUpBody()), "the name is free again")
	want(t, http.StatusOK, n.verify(code), "the newer sign-up")
}
