package authserver_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
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

// However much has expired, requests have most of the database.
func TestHousekeepingRestsAfterEachBatch(t *testing.T) {
	t.Parallel()
	c, n := single(t)
	const slow = 100 * time.Millisecond
	for _, statement := range []string{
		`INSERT INTO audit_events (at, event) SELECT now() - interval '91 days', 'signed in' FROM generate_series(1, 450)`,
		`CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$`,
		`CREATE TRIGGER slow AFTER DELETE ON audit_events EXECUTE FUNCTION be_slow()`,
	} {
		postgrestest.Exec(t, c.db, statement)
	}
	began := time.Now()
	n.CleanUp(t.Context())
	took := time.Since(began)
	if got := column(t, c.db, "SELECT count(*)::text FROM audit_events WHERE event = 'signed in'")[0]; got != "0" {
		t.Errorf("%s old events are left", got)
	}
	// Three batches, of which the last one is not full.
	if least := (3 + 2*9) * slow; took < least {
		t.Errorf("three batches of %v took only %v; with rests of nine times as long at least %v", slow, took, least)
	}
}

// statements has the SQL that a replica has sent for requests.
type statements struct {
	mu   sync.Mutex
	list []string
}

func (s *statements) add(ctx context.Context, statement string) {
	if identity.CallerOf(ctx).RequestID == "" {
		return // background work
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, statement)
}

// during returns the statements that are sent while f runs.
func (s *statements) during(f func()) []string {
	s.mu.Lock()
	before := len(s.list)
	s.mu.Unlock()
	f()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list[before:]
}

func TestStatementsPerRequest(t *testing.T) {
	t.Parallel()
	c, n := single(t, env{"REFRESH_TOKEN_EXPIRY": "1000"})
	u := n.newUser()
	counts := func(about string, wanted int, writes bool, f func()) {
		t.Helper()
		sent := n.statements.during(f)
		var wrote bool
		for _, s := range sent {
			wrote = wrote || strings.Contains(s, "INSERT") || strings.Contains(s, "UPDATE ") || strings.Contains(s, "DELETE")
		}
		if len(sent) != wanted || wrote != writes {
			t.Errorf("%s takes %d statements, want %d (writes: %v):\n%s", about, len(sent), wanted, wrote, strings.Join(sent, "\n---\n"))
		}
	}
	counts("signing in", 2, true, func() { n.signIn(u) })
	counts("renewing an access token", 1, false, func() { want(t, http.StatusOK, n.renew(u.refresh)) })
	counts("GET /users", 1, false, func() { want(t, http.StatusOK, n.profile(u.access)) })
	other := n.signIn(u)
	id := n.sessionID(other)
	counts("GET /users/sessions", 1, false, func() { want(t, http.StatusOK, n.as(u.access, http.MethodGet, "/users/sessions", nil)) })
	// Writes cost one more, for the row of their limit. In the same statement, the count would be lost if the write failed.
	counts("DELETE /users/sessions", 2, true, func() { want(t, http.StatusNoContent, n.endSession(u.access, id)) })
	other = n.signIn(u)
	counts("PUT /users", 2, true, func() {
		want(t, http.StatusOK, n.changeProfile(u.access, body{"first_name": "Ada"}))
	})
	counts("signing out", 1, true, func() { want(t, http.StatusNoContent, n.signOut(other.refresh)) })
	counts("the keys", 0, false, func() { want(t, http.StatusOK, n.get("/tokens/keys")) })
	counts("a malformed token", 0, false, func() { want(t, http.StatusUnauthorized, n.profile("a.b.c")) })
	counts("malformed parameters", 0, false, func() { want(t, http.StatusBadRequest, n.post("/users", body{"email": "x"})) })
	c.clock.Advance(501 * time.Second)
	counts("renewing a refresh token", 1, true, func() {
		if r := want(t, http.StatusOK, n.renew(u.refresh)); r.Text("refresh_token") == u.refresh {
			t.Error("it was not renewed")
		}
	})
}

func TestAuditTrailOutlivesTheAccount(t *testing.T) {
	t.Parallel()
	c := start(t, 2, always)
	n := c.nodes[0]
	u := n.newUser()
	stolen := n.signIn(u)
	want(t, http.StatusUnauthorized, n.trySignIn(u.username, "a wrong guess at it"))
	want(t, http.StatusUnauthorized, n.trySignIn("unknown.user", "a wrong guess at it"))
	want(t, http.StatusOK, n.renew(stolen.refresh))
	c.clock.Advance(2 * time.Minute)
	want(t, http.StatusUnauthorized, c.nodes[1].renew(stolen.refresh), "after its grace")
	want(t, http.StatusNoContent, n.deleteUser(u.access))

	got := column(t, c.db, "SELECT event FROM audit_events WHERE user_id = $1 ORDER BY id", u.id)
	wanted := []string{
		"signed up", "email verified", "signed in", "password refused",
		"refresh token reused: session ended", "account deleted",
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("the trail is %q; want %q", got, wanted)
	}
	if unknown := column(t, c.db,
		"SELECT details::text FROM audit_events WHERE user_id IS NULL AND event = 'password refused'"); len(unknown) != 1 {
		t.Errorf("events of an unknown login: %q", unknown)
	}
	if anonymous := column(t, c.db, "SELECT event FROM audit_events WHERE request_id IS NULL AND event <> 'keys changed'"); anonymous != nil {
		t.Errorf("events without a request: %q", anonymous)
	}
	for _, event := range wanted {
		if !c.logs.Contains(`"msg":"` + event + `"`) {
			t.Errorf("the log does not have %q", event)
		}
	}
}

func TestAuditTrailIsOnlyLoggedWithoutARetention(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"AUDIT_RETENTION": "0"})
	c.nodes[0].newUser()
	if got := column(t, c.db, "SELECT event FROM audit_events WHERE event <> 'keys changed'"); got != nil {
		t.Errorf("the table has %q", got)
	}
	if !c.logs.Contains(`"msg":"signed up"`) {
		t.Error("the log does not have the event")
	}
}

// logs has everything that the replicas of a test log, at level debug, and every secret in their requests and replies.
// At the end of a test no secret may be in the logs: row L01 of the security decisions, in all tests.
type logs struct {
	testenv.Output

	mu      sync.Mutex
	private map[string]string // the secrets, and what they are
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// secretMembers are the parameters and the members of replies that only their user may see, including personal data.
var secretMembers = []string{
	"password", "old_password", "code", "token", "access_token", "refresh_token",
	"username", "email", "first_name", "last_name", "name",
}

// probeLength is the number of bytes of a secret that the test searches for first. Shorter secrets may occur by chance.
const probeLength = 10

func (l *logs) secrets(members body) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range secretMembers {
		l.note(name, members[name])
	}
	if code := members["code"]; code != "" {
		digest := sha256.Sum256([]byte(code))
		l.note("hash of a code", hex.EncodeToString(digest[:]))
		l.note("hash of a code", base64.StdEncoding.EncodeToString(digest[:]))
	}
}

// note is called with mu held.
func (l *logs) note(what, secret string) {
	if len(secret) < probeLength {
		return
	}
	if l.private == nil {
		l.private = map[string]string{}
	}
	l.private[secret] = what
}

func (l *logs) check(t testing.TB, db postgres.Config) {
	t.Helper()
	l.mu.Lock()
	l.note("the access passphrase", accessPassphrase)
	l.note("the refresh passphrase", refreshPassphrase)
	l.note("the database's password", db.Password)
	for _, hash := range column(t, db, "SELECT password_hash FROM users") {
		l.note("password hash", hash)
	}
	l.mu.Unlock()
	l.hasNone(t, "the log", l.String())
	l.hasNone(t, "the audit trail", strings.Join(column(t, db, "SELECT e::text FROM audit_events e"), "\n"))
	if t.Failed() && testing.Verbose() {
		t.Logf("the logs:\n%s", l)
	}
}

// hasNone reports an error for each secret in a text.
func (l *logs) hasNone(t testing.TB, what, text string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, found := range findSecrets([]byte(text), l.private) {
		t.Errorf("%s contains the %s %q", what, l.private[found], found)
	}
}

// findSecrets searches for all secrets in one pass over the text.
func findSecrets(text []byte, secrets map[string]string) (found []string) {
	byPrefix := map[string][]string{}
	for secret := range secrets {
		byPrefix[secret[:probeLength]] = append(byPrefix[secret[:probeLength]], secret)
	}
	seen := map[string]bool{}
	for i := 0; i+probeLength <= len(text); i++ {
		for _, secret := range byPrefix[string(text[i:i+probeLength])] {
			if !seen[secret] && bytes.HasPrefix(text[i:], []byte(secret)) {
				seen[secret] = true
				found = append(found, secret)
			}
		}
	}
	return found
}

// column runs a query without the server. A database that has been dropped, or has no such table, has no rows.
func column(t testing.TB, c postgres.Config, query string, args ...any) (values []string) {
	t.Helper()
	db := testenv.Must(sql.Open("pgx", postgrestest.DSN(c)))(t)
	defer db.Close()
	rows, err := db.Query(query, args...)
	if err != nil {
		return nil
	}
	defer rows.Close()
	for rows.Next() {
		var value string
		testenv.NoError(t, rows.Scan(&value))
		values = append(values, value)
	}
	testenv.NoError(t, rows.Err())
	return values
}

func TestLogCheckFindsSecrets(t *testing.T) {
	l := new(logs)
	l.secrets(body{"password": "correct horse battery", "code": "0123456789abcdef", "scope": "profile email"})
	if _, err := l.Write([]byte(`{"msg":"correct horse battery","scope":"profile email","x":"0123456789abcdeX"}`)); err != nil {
		t.Fatal(err)
	}
	found := findSecrets([]byte(l.String()), l.private)
	if len(found) != 1 || found[0] != "correct horse battery" {
		t.Errorf("found %q", found)
	}
}
