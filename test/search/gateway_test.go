package search

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// gateway is a whole server in this process with its own database. One clock drives both: time passes only when a test
// says so.
type gateway struct {
	t        testing.TB
	exposure string
	server   *gatewaytest.Server
	settings config.Config
	db       *pgxpool.Pool
	store    *postgres.Store // for the server's background work
	clock    *testenv.Clock
	mail     *postOffice
	client   *testenv.Client
	admin    *testenv.Client // of administrators
	adminKey string

	mu         sync.Mutex
	statements []string
	hold       *hold // may be nil
}

// hold stops the server before a statement of a request.
type hold struct {
	before         int // statements that are still to come
	reached, ended chan struct{}
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

	key, entry, err := admin.NewKey("admin", []string{"editor"}, epoch.AddDate(10, 0, 0))
	testenv.NoError(t, err)
	file := filepath.Join(t.TempDir(), "admins.json")
	testenv.NoError(t, os.WriteFile(file, []byte("["+string(entry)+"]"), 0o600))
	environ := gatewaytest.Environ(db, gatewaytest.Settings{
		"KEY_ROTATION_INTERVAL": "87600h", "TRUSTED_PROXY_HOPS": "1", "TRUSTED_PROXY_FIELD": "X-Forwarded-For", "EXPOSURE": exposure,
		"ADMIN_PORT": "3", "ADMIN_KEYS": file,
	})
	if exposure == "public" {
		// No mail server listens there: the post office sends the mails on demand, and its statements are not counted
		// as a request's.
		environ = environ.With(gatewaytest.Settings{"SMTP_HOST": "127.0.0.1", "SMTP_PORT": "1", "SMTP_TLS": "none",
			"MAIL_FROM": "no-reply@auth.test"})
	}
	g.settings = environ.Load(t)
	options := authserver.Options{Now: g.clock.Now, Statement: g.noteStatement}
	g.server = testenv.Must(gatewaytest.Start(t, g.settings, options))(t)
	t.Cleanup(func() { testenv.NoError(t, g.server.End()) })
	g.client, g.admin, g.adminKey = testenv.NewClient(t, g.server.API), testenv.NewClient(t, g.server.Admin), key
	testenv.Until(t, time.Minute, "the server is ready", func() bool {
		status, _ := g.server.Probe("/readyz")
		return status == http.StatusOK
	})
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

func (g *gateway) noteStatement(ctx context.Context, sql string) {
	if identity.CallerOf(ctx).RequestID == "" {
		return // background work
	}
	if h := g.noteRequest(sql); h != nil {
		close(h.reached)
		<-h.ended
	}
}

// noteRequest notes a statement of a request. It returns the hold that the statement has reached.
func (g *gateway) noteRequest(sql string) *hold {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.statements = append(g.statements, sql)
	if g.hold == nil {
		return nil
	}
	if g.hold.before--; g.hold.before != 0 {
		return nil
	}
	return g.hold
}

// holdStatement stops the server before the nth statement of the next request, until release is called. A receive from
// held waits until it stands there.
func (g *gateway) holdStatement(n int) (held <-chan struct{}, release func()) {
	h := &hold{before: n, reached: make(chan struct{}), ended: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hold = h
	return h.reached, sync.OnceFunc(func() {
		g.mu.Lock()
		g.hold = nil
		g.mu.Unlock()
		close(h.ended)
	})
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

// metrics returns the text of /metrics.
func (g *gateway) metrics() string {
	_, text := g.server.Probe("/metrics")
	return text
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
	header := http.Header{"X-Forwarded-For": {q.from}}
	if q.bearer != "" {
		header.Set("Authorization", "Bearer "+q.bearer)
	}
	var body any = "{}"
	if q.parameters != nil {
		body = q.parameters
	}
	r := g.client.Do(q.method, q.path, header, body)
	return reply{r.Status, r.Header, r.Body}
}

// text returns a member of a JSON body, or "".
func (r reply) text(member string) string {
	return (&testenv.Reply{Body: r.body}).Text(member)
}

func (r reply) ok() bool { return r.status/100 == 2 }
