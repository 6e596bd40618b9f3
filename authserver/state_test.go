package authserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func (n *node) state() config.State {
	n.t.Helper()
	status, text := n.Probe(config.StatePath)
	var s config.State
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil || status != http.StatusOK {
		n.t.Fatalf("%s: %d %s %v", config.StatePath, status, text, err)
	}
	return s
}

// metric returns the value of a metric without labels.
func metric(t testing.TB, n *node, name string) float64 {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(n.metrics())
	if found == nil {
		t.Fatalf("there is no metric %s", name)
	}
	number := testenv.Must(strconv.ParseFloat(found[1], 64))(t)
	return number
}

func TestStateDescribesTheServer(t *testing.T) {
	t.Parallel()
	c, n := single(t)
	k := kids(t, n)
	limit, err := strconv.Atoi(column(t, c.db, `SELECT ((SELECT setting::int FROM pg_settings WHERE name = 'max_connections')
		- (SELECT setting::int FROM pg_settings WHERE name = 'superuser_reserved_connections'))::text`)[0])
	testenv.NoError(t, err)
	s := n.state()
	if !s.Ready || s.Reason != "" || s.Version != "test" || s.Database.MaxConnections != limit ||
		strconv.FormatInt(s.Keys.Generation, 10) != c.generation() ||
		!slices.Equal(sorted(s.Keys.Ready...), sorted(k.access[0], k.refresh[0])) || !slices.Equal(s.Keys.Held, s.Keys.Ready) {
		t.Errorf("%+v", s)
	}
	if got := c.call([]string{"keys", "rotate"}); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	// A published key is held at once, and ready when it has been decrypted.
	testenv.Until(t, time.Minute, "the new keys are ready", func() bool {
		now := n.state()
		return now.Keys.Generation > s.Keys.Generation && len(now.Keys.Held) == 4 && len(now.Keys.Ready) == 4
	})
	if got := c.call([]string{"keys", "revoke", k.access[0]}); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	testenv.Until(t, time.Minute, "a revoked key is not held", func() bool {
		now := n.state()
		return !slices.Contains(now.Keys.Held, k.access[0]) && !slices.Contains(now.Keys.Ready, k.access[0])
	})
}

func TestStateShowsNoSecret(t *testing.T) {
	t.Parallel()
	c, n := single(t)
	n.newUser()
	response := testenv.Must(http.Get(n.Ops + config.StatePath))(t)
	defer response.Body.Close()
	if h := response.Header; h.Get("Content-Type") != "application/json" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("the fields are %v", h)
	}
	_, text := n.Probe(config.StatePath)
	c.logs.hasNone(t, "the state", text)
}

// unready waits until a replica is not ready for a reason that contains a text, and checks the rules of reasons.
func (n *node) unready(about, wanted string, secrets ...string) config.State {
	n.t.Helper()
	var s config.State
	var probed struct{ Reason string }
	testenv.Eventually(n.t, time.Minute, about, func() error {
		s = n.state()
		status, text := n.Probe("/readyz")
		testenv.NoError(n.t, json.Unmarshal([]byte(text), &probed))
		if strings.Contains(s.Reason, wanted) && status == http.StatusServiceUnavailable && probed.Reason == s.Reason {
			return nil
		}
		return fmt.Errorf("/readyz is %d %q, and the state %q, want %q", status, probed.Reason, s.Reason, wanted)
	})
	if s.Ready || len(s.Reason) >= 512 || !utf8.ValidString(s.Reason) || strings.ContainsAny(s.Reason, "\n\t") {
		n.t.Errorf("%s: %d bytes: %+v", about, len(s.Reason), s)
	}
	n.hasNoSecret(about, s.Reason, secrets)
	n.wantProbe("/healthz", http.StatusOK, about)
	return s
}

// hasNoSecret checks the reason for a problem, and logs it.
func (n *node) hasNoSecret(about, reason string, secrets []string) {
	n.t.Helper()
	for _, secret := range append(secrets, accessPassphrase, refreshPassphrase) {
		if strings.Contains(reason, secret) {
			n.t.Errorf("%s: the reason shows %q: %s", about, secret, reason)
		}
	}
	n.t.Logf("%s: %s", about, reason)
}

// The operator copies the reason into the status of an AuthGateway, where people read it.
func TestReadinessReportsTheReason(t *testing.T) {
	t.Parallel()
	const wrong = "a password that must stay secret"
	db := postgrestest.Config(t)
	// A user without the right to connect.
	postgrestest.Exec(t, db, `CREATE ROLE "a stranger" LOGIN PASSWORD '`+wrong+`'`)
	postgrestest.Exec(t, db, `REVOKE CONNECT ON DATABASE `+db.Database+` FROM PUBLIC`)
	t.Cleanup(func() { postgrestest.Exec(t, db, `DROP ROLE "a stranger"`) })
	for about, tc := range map[string]struct {
		changes env
		wanted  string
	}{
		"a wrong password": {env{"DB_PASSWORD": wrong},
			fmt.Sprintf(`waiting for the database: password authentication failed for user "%s" (SQLSTATE 28P01)`, db.User)},
		"a user that does not exist": {env{"DB_USER": "unknown-user", "DB_PASSWORD": wrong},
			`waiting for the database: password authentication failed for user "unknown-user" (SQLSTATE 28P01)`},
		"a user without the right": {env{"DB_USER": "a stranger", "DB_PASSWORD": wrong},
			fmt.Sprintf(`waiting for the database: permission denied for database "%s" (SQLSTATE 42501)`, db.Database)},
		"a database that does not exist": {env{"DB_NAME": "no-such-database"},
			`waiting for the database: database "no-such-database" does not exist (SQLSTATE 3D000)`},
		"a closed port": {env{"DB_PORT": "1", "DB_PASSWORD": wrong},
			"waiting for the database: cannot reach 127.0.0.1:1: connection refused"},
		"a closed port, preferring TLS": {env{"DB_PORT": "1", "DB_PASSWORD": wrong, "DB_SSLMODE": "prefer"},
			"waiting for the database: cannot reach 127.0.0.1:1: connection refused"},
		"an unknown host": {env{"DB_HOST": "no-such-host.invalid", "DB_PASSWORD": wrong},
			fmt.Sprintf("waiting for the database: cannot reach no-such-host.invalid:%d: ", db.Port)},
		"a database without TLS": {env{"DB_SSLMODE": "require"},
			fmt.Sprintf("waiting for the database: cannot reach 127.0.0.1:%d: server refused TLS connection", db.Port)},
		"a very long reason": {env{"DB_HOST": "/" + strings.Repeat("é", 1000)},
			"waiting for the database: cannot reach the socket of port "},
	} {
		c := newCluster(t, db)
		s := c.add(tc.changes).unready(about, tc.wanted, wrong, db.Password)
		if s.Keys.Generation != 0 || len(s.Keys.Held)+len(s.Keys.Ready) != 0 || s.Database.MaxConnections != 0 {
			t.Errorf("%s: %+v", about, s)
		}
		c.stop()
	}
}

// Shell scripts must not have to handle null.
func TestStateOfAServerThatStartsIsComplete(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgres.Config{Host: "127.0.0.1", Port: 1, User: "u", Database: "d"})
	n := c.add()
	n.unready("without a database", "cannot reach")
	const want = `{"version":"test","ready":false,"reason":"waiting for the database: cannot reach 127.0.0.1:1: connection refused",` +
		`"keys":{"generation":0,"held":[],"ready":[]},"database":{}}`
	if _, text := n.Probe(config.StatePath); strings.TrimSpace(text) != want {
		t.Errorf("got %s\nwant %s", text, want)
	}
}

// problem waits until a replica is ready and reports a problem of its database that contains a text, at all endpoints.
func (n *node) problem(about, wanted string, secrets ...string) config.State {
	n.t.Helper()
	var s config.State
	testenv.Until(n.t, time.Minute, about+": "+wanted, func() bool {
		s = n.state()
		ready, text := n.Probe("/readyz")
		database, why := n.Probe("/readyz/database")
		if ready != http.StatusOK || !s.Ready || s.Reason != "" {
			n.t.Fatalf("%s: /readyz is %d, %+v", about, ready, s)
		}
		return strings.Contains(s.Database.Problem, wanted) && strings.Contains(text, wanted) &&
			strings.Contains(why, wanted) && database == http.StatusServiceUnavailable && metric(n.t, n, "authgateway_database_up") == 0
	})
	n.hasNoSecret(about, s.Database.Problem, secrets)
	return s
}

// waitForDatabase waits until a replica reports no problem of its database.
func (n *node) waitForDatabase() {
	n.t.Helper()
	testenv.Until(n.t, time.Minute, "the database is available", func() bool {
		_, text := n.Probe("/readyz")
		status, _ := n.Probe("/readyz/database")
		return status == http.StatusOK && strings.TrimSpace(text) == `{"status":"ready"}` && metric(n.t, n, "authgateway_database_up") == 1
	})
}

// In a failover all replicas lose the database at once. If none were ready, no verifier would get the keys.
func TestReadinessStaysWithoutADatabase(t *testing.T) {
	t.Parallel()
	database, db := ownDatabase(t)
	c := newCluster(t, db)
	n := c.addReady(1)
	n.waitForDatabase()
	ready := n.state()
	for range 2 {
		testenv.NoError(t, database.StopNow())
		s := n.problem("without a database", "waiting for the database: cannot reach ", db.Password)
		if s.Keys.Generation != ready.Keys.Generation || !slices.Equal(s.Keys.Ready, ready.Keys.Ready) ||
			s.Database.MaxConnections != ready.Database.MaxConnections {
			t.Errorf("%+v became %+v", ready, s)
		}
		for _, path := range []string{"/tokens/keys", "/.well-known/jwks.json"} {
			want(t, http.StatusOK, n.get(path), "without a database")
		}
		testenv.NoError(t, database.StartAgain(t.Context()))
		n.waitForDatabase()
		if s := n.state(); s.Database.Problem != "" {
			t.Errorf("%+v", s)
		}
	}
}

func TestReadinessRepliesAtOnceIfTheDatabaseIsStuck(t *testing.T) {
	t.Parallel()
	c, n := single(t, env{"DB_STATEMENT_TIMEOUT": "60s"})
	release := lockTable(t, c.db, "schema_version")
	begun := time.Now()
	if status, text := n.Probe("/readyz"); status != http.StatusOK || time.Since(begun) > time.Second {
		t.Errorf("/readyz is %d after %v: %s", status, time.Since(begun), text)
	}
	for _, path := range []string{"/readyz/database", config.StatePath} {
		begun := time.Now()
		_, text := n.Probe(path)
		if took := time.Since(begun); took > 4*time.Second || !strings.Contains(text, `"waiting for the database: no answer in time"`) {
			t.Errorf("%s, after %v: %s", path, took, text)
		}
	}
	release()
	n.waitForDatabase()
	postgrestest.Exec(t, c.db, `DELETE FROM schema_version WHERE version_id > 0`)
	n.problem("with an older schema", "the database has schema 0, and this version needs ")
}

func TestReadinessEndsWithAShutdown(t *testing.T) {
	t.Parallel()
	_, n := single(t, env{"DRAIN_DELAY": "5s"})
	n.Cancel()
	n.unready("while it drains", "shutting down")
}

// Two replicas that derive different issuers from their host and port would silently refuse each other's tokens.
func TestIssuerIsRememberedByTheDatabase(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgrestest.Config(t))
	first := c.addReady(1, env{"ISSUER": unset, "PORT": "8080"})
	u := first.newUser()

	second := c.add(env{"ISSUER": unset, "PORT": "8081"})
	err := second.Result()
	if err == nil || !strings.Contains(err.Error(), "belongs to http://127.0.0.1:8080") || !strings.Contains(err.Error(), "set ISSUER=http://127.0.0.1:8080") {
		t.Errorf("another port: %v", err)
	}
	c.nodes = c.nodes[:1]

	// An issuer that is set replaces the former one. Replicas with the former one report it.
	changed := c.addReady(1, env{"ISSUER": "https://auth.example.com"})
	if !c.logs.Contains("ISSUER was changed") {
		t.Error("the log does not say that it was changed")
	}
	first.problem("with the former issuer", "another replica of this database was started with https://auth.example.com")
	want(t, http.StatusUnauthorized, changed.profile(u.access), "a token of the former issuer")
	changed.waitForDatabase()

	again := c.addReady(1, env{"ISSUER": "https://auth.example.com"})
	again.waitForDatabase()
}

func TestTokensWithTheLongestSettingsFit(t *testing.T) {
	t.Parallel()
	host := "https://auth.example.com/"
	scopes := "profile " + strings.Repeat("s", 992)
	for _, algorithm := range []string{"ES256", "RS256", "EdDSA"} {
		c := newCluster(t, postgrestest.Config(t))
		n := c.add(env{
			"ISSUER": host + strings.Repeat("i", 1024-len(host)), "AUDIENCE": strings.Repeat("a", 1498) + ",b",
			"CLIENT_ID": strings.Repeat(`"`, 255), "SIGNUP_SCOPES": scopes, "SIGNING_ALGORITHM": algorithm,
		})
		n.waitReady()
		const password = "the password of a user"
		username := strings.Repeat("u", 64)
		reply := want(t, http.StatusCreated, n.post("/users", body{
			"username": username, "email": strings.Repeat("e", 64) + "@" + strings.Repeat("d", 60) + "." + strings.Repeat("d", 60) + "." + strings.Repeat("d", 60) + ".com",
			"first_name": strings.Repeat("\U0001D4B6", 100), "last_name": strings.Repeat("\U0001D4B6", 100), "password": password,
		}), algorithm)
		want(t, http.StatusOK, n.verify(reply.Text("code")), algorithm)
		r := want(t, http.StatusOK, n.trySignIn(username, password), algorithm)
		t.Logf("%s: an access token of %d bytes", algorithm, len(r.Text("access_token")))
		want(t, http.StatusOK, n.profile(r.Text("access_token")), algorithm)
		want(t, http.StatusOK, n.renew(r.Text("refresh_token")), algorithm)
		c.stop()
	}
}
