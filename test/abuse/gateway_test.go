package abuse

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/authserver/config"
	"github.com/auth-gateway/auth-gateway/authserver/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// gateway is a public one, as its owner would run it, with cheap hashes: what
// bcrypt takes at a higher cost, a difference would hide behind.
type gateway struct {
	t    *testing.T
	base string // its URL
	db   *sql.DB
	mail *mailbox
}

func start(t *testing.T, changes map[string]string) *gateway {
	t.Helper()
	db := postgrestest.Config(t)
	connection, err := sql.Open("pgx", postgrestest.DSN(db))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	g := &gateway{t: t, mail: receive(t), db: connection}
	host, port, _ := net.SplitHostPort(g.mail.address)
	environ := map[string]string{
		"HOST": "127.0.0.1", "PORT": "1", "METRICS_PORT": "0", "ISSUER": "http://auth.test",
		"ACCESS_PASSPHRASE": "the passphrase of access tokens", "REFRESH_PASSPHRASE": "the passphrase of refresh tokens",
		"SALT_ROUNDS": "4", "EXPOSURE": "public",
		"SMTP_HOST": host, "SMTP_PORT": port, "SMTP_TLS": "none", "MAIL_FROM": "no-reply@auth.test",
		"DB_HOST": db.Host, "DB_PORT": strconv.Itoa(db.Port), "DB_NAME": db.Database,
		"DB_USER": db.User, "DB_PASSWORD": db.Password, "DB_SSLMODE": "disable",
	}
	maps.Copy(environ, changes)
	settings, err := config.Load(func(name string) (string, bool) { v, ok := environ[name]; return v, ok }, os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	settings.Port = 0
	server, err := authserver.New(settings, authserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	g.base = "http://" + (<-server.Listening()).API
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		// A sign-in that is refused has gone all the way.
		if g.post("/tokens/signin", nil, map[string]string{"username": "nobody", "password": "nothing here"}).status == http.StatusUnauthorized {
			return g
		}
		if time.Now().After(deadline) {
			t.Fatal("the gateway is not ready")
		}
	}
}

// reply is what a stranger sees.
type reply struct {
	status int
	header http.Header
	body   string
}

// post sends a request as a stranger would, over connections that are kept.
func (g *gateway) post(path string, header http.Header, body map[string]string) reply {
	g.t.Helper()
	content, err := json.Marshal(body)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.send(g.base+path, header, content)
}

func (g *gateway) send(url string, header http.Header, content []byte) reply {
	g.t.Helper()
	request, err := http.NewRequestWithContext(g.t.Context(), http.MethodPost, url, bytes.NewReader(content))
	if err != nil {
		g.t.Fatal(err)
	}
	if header != nil {
		request.Header = header.Clone()
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		g.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, string(text)}
}

// from says that a request comes from an address, as a trusted proxy does.
func from(address string) http.Header { return http.Header{"X-Forwarded-For": {address}} }

// delayed is the gateway behind something that takes longer for requests that
// hold a text: a planted fault.
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

// mailbox is an SMTP server that takes every mail.
type mailbox struct {
	address string
	mu      sync.Mutex
	mails   map[string][]string // by recipient
}

func receive(t *testing.T) *mailbox {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	box := &mailbox{address: listener.Addr().String(), mails: map[string][]string{}}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &delivery{box: box}, nil }))
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return box
}

// count is how many mails an address has been sent.
func (b *mailbox) count(address string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.mails[address])
}

// all is how many mails have been sent to anybody.
func (b *mailbox) all() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, mails := range b.mails {
		n += len(mails)
	}
	return n
}

type delivery struct {
	box *mailbox
	to  []string
}

func (d *delivery) Mail(string, *smtp.MailOptions) error { return nil }
func (d *delivery) Rcpt(to string, _ *smtp.RcptOptions) error {
	d.to = append(d.to, to)
	return nil
}

func (d *delivery) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	d.box.mu.Lock()
	defer d.box.mu.Unlock()
	for _, to := range d.to {
		d.box.mails[to] = append(d.box.mails[to], string(text))
	}
	return nil
}
func (d *delivery) Reset()        { d.to = nil }
func (d *delivery) Logout() error { return nil }

// exec runs a statement, and number gives the one that a query gives.
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

// name makes names of one length, so that no request is longer than another.
func name(kind string, i int) string { return fmt.Sprintf("%s.%05d", kind, i) }

func address(kind string, i int) string { return name(kind, i) + "@mailbox.example" }
