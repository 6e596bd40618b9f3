package search

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// gateway is a whole server in this process with its own database. One clock drives both: time passes only when a test
// says so.
type gateway struct {
	t        testing.TB
	exposure string
	base     string // the URL of the API
	ops      string // the URL of its metrics
	settings config.Config
	db       *pgxpool.Pool
	store    *postgres.Store // for the server's background work
	clock    *testenv.Clock
	mail     *postOffice
	client   *http.Client

	mu         sync.Mutex
	statements []string
}

// epoch is the time at which every run starts.
var epoch = time.Now().Truncate(time.Hour)

// databaseClock makes the database use our clock: a function in public hides the one of the same name in pg_catalog, in
// everything that is created or requested later.
const databaseClock = `
	CREATE TABLE clock (at timestamptz NOT NULL);
	INSERT INTO clock VALUES ('epoch');
	CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM public.clock';
	CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM public.clock'`

func start(t testing.TB, exposure string) *gateway {
	t.Helper()
	db := postgrestest.Unmigrated(t)
	postgrestest.Exec(t, db, `ALTER DATABASE `+db.Database+` SET search_path = public, pg_catalog`)
	pool := testenv.Must(pgxpool.New(t.Context(), postgrestest.DSN(db)))(t)
	t.Cleanup(pool.Close)
	g := &gateway{t: t, exposure: exposure, db: pool, clock: testenv.NewClock(epoch)}
	g.exec(databaseClock)
	g.setClock(epoch)

	environ := map[string]string{
		"HOST": "127.0.0.1", "PORT": "1", "METRICS_PORT": "2", "ISSUER": "http://auth.test", "SALT_ROUNDS": "4",
		"ACCESS_PASSPHRASE": "the passphrase of access tokens", "REFRESH_PASSPHRASE": "the passphrase of refresh tokens",
		"KEY_ROTATION_INTERVAL": "87600h", "TRUSTED_PROXY_HOPS": "1", "TRUSTED_PROXY_FIELD": "X-Forwarded-For",
		"DB_HOST": db.Host, "DB_PORT": strconv.Itoa(db.Port), "DB_NAME": db.Database,
		"DB_USER": db.User, "DB_PASSWORD": db.Password, "DB_SSLMODE": "disable",
		"EXPOSURE": exposure,
	}
	if exposure == "public" {
		// No mail server listens there: the post office sends the mails on demand, and its statements are not counted
		// as a request's.
		for name, value := range map[string]string{"SMTP_HOST": "127.0.0.1", "SMTP_PORT": "1", "SMTP_TLS": "none",
			"MAIL_FROM": "no-reply@auth.test"} {
			environ[name] = value
		}
	}
	lookup := func(name string) (string, bool) { v, ok := environ[name]; return v, ok }
	g.settings = testenv.Must(config.Load(lookup, os.ReadFile))(t)
	g.settings.Port, g.settings.MetricsPort = 0, testenv.FreePort(t)
	server := testenv.Must(authserver.New(g.settings, authserver.Options{Now: g.clock.Now, Statement: g.noteStatement}))(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case at := <-server.Listening():
		g.base, g.ops = "http://"+at.API, "http://"+at.Ops
	case err := <-ended:
		t.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	t.Cleanup(transport.CloseIdleConnections)
	g.client = &http.Client{Transport: transport, Timeout: time.Minute}
	testenv.Until(t, time.Minute, "the server is ready", func() bool { return g.get("/readyz") == "200 OK" })
	g.store = postgrestest.Open(t, db)
	g.mail = openPostOffice(t, g)
	return g
}

// setClock sets the time of the server and the database.
func (g *gateway) setClock(at time.Time) {
	g.clock.Set(at)
	g.exec(`UPDATE clock SET at = $1`, at)
}

// passes advances the time.
func (g *gateway) passes(d time.Duration) { g.setClock(g.clock.Now().Add(d)) }

// checkClock fails if the database does not use our clock: the searches would then find little without reporting it.
func (g *gateway) checkClock() {
	g.t.Helper()
	var at time.Time
	g.row(`SELECT created_at FROM users ORDER BY created_at DESC LIMIT 1`, nil, &at)
	if at.Before(epoch) || at.After(epoch.Add(365*24*time.Hour)) {
		g.t.Fatalf("a user was created at %v, and the test's clock shows %v: the database does not use it", at, g.clock.Now())
	}
}

func (g *gateway) noteStatement(sql string) {
	for _, own := range []string{"key_ring", "min(created_at)", "pg_is_in_recovery", "FROM gateway"} {
		if strings.Contains(sql, own) {
			return // background work of every server
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.statements = append(g.statements, sql)
}

// takeStatements returns the statements since the last call.
func (g *gateway) takeStatements() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	taken := g.statements
	g.statements = nil
	return taken
}

func (g *gateway) exec(sql string, args ...any) {
	g.t.Helper()
	mode := []any{}
	if len(args) == 0 {
		mode = []any{pgx.QueryExecModeSimpleProtocol} // several statements
	}
	if _, err := g.db.Exec(context.Background(), sql, append(mode, args...)...); err != nil {
		g.t.Fatalf("%s: %v", sql, err)
	}
}

func (g *gateway) row(sql string, args []any, into ...any) {
	g.t.Helper()
	if err := g.db.QueryRow(context.Background(), sql, args...).Scan(into...); err != nil {
		g.t.Fatalf("%s: %v", sql, err)
	}
}

// get sends a request to the operations port, and returns the status, or the body of /metrics.
func (g *gateway) get(path string) string {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, g.ops+path, http.NoBody)
	if err != nil {
		g.t.Fatal(err)
	}
	response, err := g.client.Do(request)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	if path == "/metrics" {
		return string(text)
	}
	return response.Status
}

// request is a request to a route with parameters.
type request struct {
	method, path string
	from         string // the client's address
	bearer       string
	parameters   map[string]string
}

type reply struct {
	status int
	header http.Header
	body   []byte
}

func (g *gateway) send(q request) reply {
	content := []byte("{}")
	if q.parameters != nil {
		content, _ = json.Marshal(q.parameters) // of texts, which always works
	}
	r, err := http.NewRequestWithContext(context.Background(), q.method, g.base+q.path, bytes.NewReader(content))
	if err != nil {
		g.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Forwarded-For", q.from)
	if q.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+q.bearer)
	}
	response, err := g.client.Do(r)
	if err != nil {
		g.t.Fatalf("%s %s: %v", q.method, q.path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, text}
}

// text returns a member of a JSON body, or "".
func (r reply) text(member string) string {
	var members map[string]any
	if json.Unmarshal(r.body, &members) != nil || members[member] == nil {
		return ""
	}
	return fmt.Sprint(members[member])
}

func (r reply) ok() bool { return r.status/100 == 2 }
