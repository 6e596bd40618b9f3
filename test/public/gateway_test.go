package public

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// gateway is a gateway of exposure public with the usual settings, but cheap hashes: slow ones would hide a difference
// in time.
type gateway struct {
	t      *testing.T
	base   string // the URL of the API
	config postgres.Config
	db     *sql.DB
	mail   *mailbox
	client *testenv.Client
}

// prepare sets up a gateway except for its server.
func prepare(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{t: t, config: postgrestest.Config(t), mail: receive(t), client: testenv.NewClient(t, "")}
	connection := testenv.Must(sql.Open("pgx", postgrestest.DSN(g.config)))(t)
	t.Cleanup(func() { _ = connection.Close() })
	g.db = connection
	return g
}

func (g *gateway) environ(changes map[string]string) map[string]string {
	host, port, _ := net.SplitHostPort(g.mail.address)
	return gatewaytest.Environ(g.config, gatewaytest.Settings{
		"METRICS_PORT": "0", "EXPOSURE": "public",
		"SMTP_HOST": host, "SMTP_PORT": port, "SMTP_TLS": "none", "MAIL_FROM": "no-reply@auth.test",
	}, changes)
}

// start starts a gateway in this process.
func start(t *testing.T, changes map[string]string) *gateway {
	t.Helper()
	g := prepare(t)
	server := testenv.Must(gatewaytest.Start(t, gatewaytest.Settings(g.environ(changes)).Load(t), authserver.Options{}))(t)
	t.Cleanup(func() { testenv.NoError(t, server.End()) })
	g.base = server.API
	testenv.Until(t, time.Minute, "the gateway is ready", func() bool {
		// A rejected sign-in has used every component.
		return g.post("/tokens/signin", nil, map[string]string{"username": "nobody",
			"password": "nothing here"}).status == http.StatusUnauthorized
	})
	return g
}

// reply is what a client sees.
type reply struct {
	status int
	header http.Header
	body   string
}

// post sends a request on persistent connections.
func (g *gateway) post(path string, header http.Header, body map[string]string) reply {
	g.t.Helper()
	return g.send(g.base+path, header, body)
}

func (g *gateway) send(url string, header http.Header, body any) reply {
	g.t.Helper()
	r := g.client.Do(http.MethodPost, url, header, body)
	return reply{r.Status, r.Header, string(r.Body)}
}

// from returns the header of a trusted proxy for a client's address.
func from(address string) http.Header { return http.Header{"X-Forwarded-For": {address}} }

// delayed returns the URL of a proxy in front of the gateway that delays requests with a text, which plants a fault.
func (g *gateway) delayed(holding string, by time.Duration) string {
	target, err := url.Parse(g.base)
	if err != nil {
		g.t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		if bytes.Contains(content, []byte(holding)) {
			time.Sleep(by)
		}
		r.Body = io.NopCloser(bytes.NewReader(content))
		proxy.ServeHTTP(w, r)
	})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	g.t.Cleanup(func() { _ = server.Close() })
	return "http://" + listener.Addr().String()
}

// exec runs a statement, and number returns the number that a query selects.
func (g *gateway) exec(statement string, args ...any) {
	g.t.Helper()
	if _, err := g.db.ExecContext(g.t.Context(), statement, args...); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) number(query string, args ...any) (n int) {
	g.t.Helper()
	if err := g.db.QueryRowContext(g.t.Context(), query, args...).Scan(&n); err != nil {
		g.t.Fatal(err)
	}
	return n
}

// name returns names of the same length, so that all requests have the same length.
func name(kind string, i int) string { return fmt.Sprintf("%s.%05d", kind, i) }

func address(kind string, i int) string { return name(kind, i) + "@mailbox.example" }
