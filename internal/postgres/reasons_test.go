package postgres_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// stranger starts a server that is not PostgreSQL. It calls serve for each connection.
func stranger(t *testing.T, serve func(net.Conn)) (port int) {
	t.Helper()
	l := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

// startTLS returns a serve function that accepts a client's request for TLS and presents this certificate.
func startTLS(certificate tls.Certificate) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil {
			return
		}
		_, _ = conn.Write([]byte("S"))
		_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{certificate}}).Handshake()
	}
}

// The error of a failed connection names a cause that an operator can act on, in one line,
// and never contains the password.
func TestConnectionErrorExplainsWhy(t *testing.T) {
	t.Parallel()
	const secret, brief = "the password of the database", 300 * time.Millisecond
	db := postgrestest.Config(t)
	web := httptest.NewTLSServer(nil)
	t.Cleanup(web.Close)
	nameless := func(c *net.DNSError) postgres.Option {
		return postgres.WithPoolConfig(func(p *pgxpool.Config) {
			p.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) { return nil, c }
		})
	}
	twoAddresses := postgres.WithPoolConfig(func(p *pgxpool.Config) {
		p.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1", "::1"}, nil }
	})
	folder := t.TempDir()
	hangs := stranger(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	hangsUp := stranger(t, func(conn net.Conn) {})
	unsigned := stranger(t, startTLS(web.TLS.Certificates[0]))
	at := func(port int) string { return "cannot reach 127.0.0.1:" + strconv.Itoa(port) + ": " }
	for about, tc := range map[string]struct {
		change func(*postgres.Config)
		option postgres.Option
		want   string
	}{
		"a wrong password": {
			func(c *postgres.Config) {},
			nil, fmt.Sprintf(`password authentication failed for user "%s" (SQLSTATE 28P01)`, db.User),
		},
		"a wrong password, after TLS was tried": {func(c *postgres.Config) { c.SSLMode = "prefer" }, nil,
			fmt.Sprintf(`password authentication failed for user "%s" (SQLSTATE 28P01)`, db.User)},
		"no server listens": {
			func(c *postgres.Config) { c.Port = 1 },
			nil, at(1) + "connection refused",
		},
		"no server listens, and TLS was tried": {
			func(c *postgres.Config) { c.Port, c.SSLMode = 1, "prefer" },
			nil, at(1) + "connection refused",
		},
		"no server listens at either address": {
			func(c *postgres.Config) { c.Host, c.Port = "db.shop.svc", 1 },
			twoAddresses, "cannot reach db.shop.svc:1: connection refused",
		},
		"no socket": {
			func(c *postgres.Config) { c.Host, c.Port = folder, 5432 },
			nil, "cannot reach the socket of port 5432 in " + folder + ": no such file or directory",
		},
		"no name": {
			func(c *postgres.Config) { c.Host = "db.shop.svc" },
			nameless(&net.DNSError{Err: "no such host", Name: "db.shop.svc", IsNotFound: true}),
			"cannot reach db.shop.svc:" + strconv.Itoa(db.Port) + ": no such host",
		},
		"no name server": {
			func(c *postgres.Config) { c.Host = "db.shop.svc" },
			nameless(&net.DNSError{Err: "i/o timeout", Server: "10.0.0.10:53", IsTimeout: true}),
			"cannot reach db.shop.svc:" + strconv.Itoa(db.Port) + ": its name was not resolved in time",
		},
		"no answer": {
			func(c *postgres.Config) { c.Port, c.AcquireTimeout = hangs, brief },
			nil, at(hangs) + "no answer in time",
		},
		"no answer, and TLS is required": {
			func(c *postgres.Config) { c.Port, c.SSLMode, c.AcquireTimeout = hangs, "require", brief },
			nil, at(hangs) + "no answer in time",
		},
		"the server hangs up": {func(c *postgres.Config) { c.Port = hangsUp }, nil, ""},
		"no TLS": {
			func(c *postgres.Config) { c.SSLMode = "require" },
			nil, at(db.Port) + "server refused TLS connection",
		},
		"a certificate of an unknown authority": {
			func(c *postgres.Config) { c.Port, c.SSLMode = unsigned, "verify-full" },
			nil, at(unsigned) + "x509: certificate signed by unknown authority",
		},
	} {
		c := db
		c.Password, c.AcquireTimeout = secret, 10*time.Second
		tc.change(&c)
		var options []postgres.Option
		if tc.option != nil {
			options = append(options, tc.option)
		}
		err := postgrestest.Open(t, c, options...).Ready(t.Context())
		e, ok := errors.AsType[*identity.Error](err)
		if !ok || e.Kind != identity.Unavailable || e.Cause == nil {
			t.Errorf("%s: the error is %v", about, err)
			continue
		}
		if got := e.Cause.Error(); tc.want != "" && got != tc.want {
			t.Errorf("%s: the cause is %q; want %q", about, got, tc.want)
		}
		if got := fmt.Sprintf("%+v %v", e, e.Cause); strings.Contains(got, secret) || strings.Contains(e.Cause.Error(), "\n") {
			t.Errorf("%s: %s", about, got)
		}
		t.Logf("%s: %v", about, e.Cause)
	}
}

// The error distinguishes a busy pool from a broken network, because the operator has to act on them differently.
func TestConnectionTimeoutTellsABusyPoolFromAnUnreachableHost(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	c.MaxConns, c.AcquireTimeout = 1, 2*time.Second
	store := postgrestest.Open(t, c)
	var err error
	_ = store.Do(t.Context(), func() error { err = store.Ready(t.Context()); return nil })
	if err == nil || !strings.HasSuffix(err.Error(), ": no free connection in time") {
		t.Errorf("the only connection is in use: %v", err)
	}
	c.Port = stranger(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // shorter than AcquireTimeout
	defer cancel()
	err = postgrestest.Open(t, c).Ready(ctx)
	if want := fmt.Sprintf(": cannot reach 127.0.0.1:%d: no answer in time", c.Port); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("the server does not answer: %v", err)
	}
}

// role creates a user with a password and no privileges, and returns settings for it.
func role(t *testing.T, admin postgres.Config, name string) postgres.Config {
	t.Helper()
	postgrestest.Exec(t, admin, `CREATE ROLE `+name+` LOGIN PASSWORD 'its own password'`)
	t.Cleanup(func() {
		postgrestest.Exec(t, admin, `DROP OWNED BY `+name)
		postgrestest.Exec(t, admin, `DROP ROLE `+name)
	})
	c := admin
	c.User, c.Password = name, "its own password"
	return c
}

func TestMissingPrivilegeIsNamed(t *testing.T) {
	t.Parallel()
	err := postgrestest.Open(t, role(t, postgrestest.Unmigrated(t), "maker_of_nothing")).Migrate(t.Context())
	const want = "internal: the database cannot be migrated: permission denied for schema public (SQLSTATE 42501)"
	if err == nil || err.Error() != want {
		t.Errorf("without the privilege to create tables: %v", err)
	}
	err = postgrestest.Open(t, role(t, postgrestest.Config(t), "reader_of_nothing")).Ready(t.Context())
	if want := "permission denied for table schema_version (SQLSTATE 42501)"; err == nil ||
		identity.KindOf(err) != identity.Internal || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("without the privilege to read tables: %v", err)
	}
}

func TestMigrateErrorShowsWhetherToTryAgain(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c)
	signUp(t, store, "ada")
	number := postgres.SchemaVersion + 1
	for statement, tc := range map[string]struct {
		kind identity.Kind
		want string
	}{
		`DROP TABLE none;`: {identity.Internal, `migration %d: table "none" does not exist (SQLSTATE 42P01)`},
		// The error contains no data from the tables.
		`SELECT username::int FROM users;`: {identity.Internal, `migration %d: PostgreSQL: SQLSTATE 22P02`},
		`ALTER TABLE users ADD CONSTRAINT c CHECK (username = '');`: {identity.Internal,
			`migration %d: PostgreSQL: SQLSTATE 23514, constraint c`},
		`SELECT pg_terminate_backend(pg_backend_pid());`: {identity.Unavailable, ``},
		`SET statement_timeout = '50ms'; SELECT pg_sleep(5);`: {identity.Unavailable,
			`migration %d: canceling statement due to statement timeout (SQLSTATE 57014)`},
		`DO $$ BEGIN RAISE EXCEPTION SQLSTATE '55P03'; END $$;`:      {identity.Unavailable, `migration %d: 55P03 (SQLSTATE 55P03)`},
		`DO $$ BEGIN RAISE 'no room' USING ERRCODE='53100'; END $$;`: {identity.Unavailable, `migration %d: no room (SQLSTATE 53100)`},
	} {
		err := store.MigrateWith(t.Context(), next("-- +goose StatementBegin\n"+statement+"\n-- +goose StatementEnd\n"))
		e, ok := errors.AsType[*identity.Error](err)
		if !ok || e.Kind != tc.kind || (e.RetryAfter > 0) != (tc.kind == identity.Unavailable) {
			t.Errorf("%s: the error is %v", statement, err)
			continue
		}
		if got := e.Cause.Error(); tc.want != "" && got != fmt.Sprintf(tc.want, number) || strings.Contains(got, "ada") {
			t.Errorf("%s: the cause is %q", statement, got)
		}
		t.Logf("%s %v", statement, e)
	}
	if err := store.MigrateWith(t.Context(), fstest.MapFS{}); identity.KindOf(err) != identity.Internal {
		t.Errorf("a bug in the program: %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.MigrateWith(canceled, next("SELECT 1;")); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller canceled the call: %v", err)
	}
	if err := store.MigrateWith(t.Context(), next("SELECT 1;")); err != nil {
		t.Errorf("after these errors: %v", err)
	}
}

func TestMigrateIsRepeatedWhenTheDatabaseGoesAway(t *testing.T) {
	t.Parallel()
	unmigrated := postgrestest.Unmigrated(t)
	for answer := range int64(12) {
		n, c := through(t, unmigrated)
		store := postgrestest.Open(t, c)
		n.lose.Store(answer + 1)
		if err := store.Migrate(t.Context()); err != nil && identity.KindOf(err) != identity.Unavailable {
			t.Errorf("after losing answer %d: %v", answer+1, err)
		}
	}
	if err := postgrestest.Open(t, unmigrated).Migrate(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMaxConnectionsIsWhatOrdinaryUsersShare(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c)
	settings := store.Settings(t.Context(), "max_connections", "superuser_reserved_connections")
	all, err := strconv.Atoi(settings[0])
	reserved, err2 := strconv.Atoi(settings[1])
	if err := errors.Join(err, err2); err != nil || reserved == 0 {
		t.Fatalf("the settings are %v, %v", settings, err)
	}
	if got, err := store.MaxConnections(t.Context()); err != nil || got != all-reserved {
		t.Errorf("%d, %v; want %d - %d", got, err, all, reserved)
	}
	ordinary := postgrestest.Open(t, role(t, c, "ordinary"))
	if got, err := ordinary.MaxConnections(t.Context()); err != nil || got != all-reserved {
		t.Errorf("as an ordinary user: %d, %v", got, err)
	}
}
