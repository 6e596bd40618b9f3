package postgres_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// pair starts a primary and a standby that follows it.
func pair(t *testing.T) (primary, standby *localpostgres.Server, c postgres.Config) {
	t.Helper()
	primary, c = ownServer(t)
	standby, err := primary.Standby(t.Context())
	if errors.Is(err, localpostgres.ErrNoBaseBackup) {
		t.Skip("there is no pg_basebackup on this machine; Debian has it in postgresql-client")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Stop(); err != nil {
			t.Error(err)
		}
	})
	return primary, standby, c
}

// follows waits until the standby has replayed everything that the primary has written.
func follows(t *testing.T, primary, standby postgres.Config) {
	t.Helper()
	var at string
	testenv.NoError(t, connect(t, primary).QueryRow(`SELECT pg_current_wal_lsn()`).Scan(&at))
	db := connect(t, standby)
	testenv.Until(t, patience, "the standby has caught up", func() bool {
		return count(t, db, `SELECT (pg_last_wal_replay_lsn() >= $1::pg_lsn)::int`, at) == 1
	})
}

func TestFailoverLetsWritesContinue(t *testing.T) {
	t.Parallel()
	for about, tc := range map[string]func(t *testing.T, primary, standby postgres.Config) (c postgres.Config, turn func()){
		"several hosts": func(_ *testing.T, primary, standby postgres.Config) (postgres.Config, func()) {
			c := primary
			c.Host, c.Ports = "127.0.0.1,127.0.0.1", []int{primary.Port, standby.Port}
			return c, func() {}
		},
		"several hosts, the standby first": func(_ *testing.T, primary, standby postgres.Config) (postgres.Config, func()) {
			c := primary
			c.Host, c.Ports = "127.0.0.1,127.0.0.1", []int{standby.Port, primary.Port}
			return c, func() {}
		},
		"a proxy that turns": func(t *testing.T, primary, standby postgres.Config) (postgres.Config, func()) {
			n, c := through(t, primary)
			return c, func() {
				n.turn(net.JoinHostPort(standby.Host, strconv.Itoa(standby.Port)))
			}
		},
		"a pooler, and a proxy that turns behind it": func(t *testing.T, primary, standby postgres.Config) (postgres.Config, func()) {
			n, c := through(t, primary)
			return postgrestest.Behind(t, c, "transaction", "server_login_retry = 1"), func() {
				n.turn(net.JoinHostPort(standby.Host, strconv.Itoa(standby.Port)))
			}
		},
	} {
		t.Run(about, func(t *testing.T) {
			t.Parallel()
			primary, standby, direct := pair(t)
			copied := direct
			copied.Port = standby.Port()
			c, turn := tc(t, direct, copied)
			c.AcquireTimeout = 2 * time.Second
			store := postgrestest.Open(t, c)
			testenv.NoError(t, store.Migrate(t.Context()))
			u := signUp(t, store, "ada")
			open(t, store, u, time.Now())
			occupy(t, store)
			follows(t, direct, copied)

			testenv.NoError(t, primary.StopNow())
			turn()
			testenv.Until(t, patience, "the store reports that the server is a standby", func() bool {
				err := store.Ready(t.Context())
				if err == nil {
					t.Fatal("ready on a standby")
				}
				return strings.Contains(err.Error(), "is a standby")
			})
			unavailable(t, 8*time.Second, "a standby", func() error { return store.OpenSession(t.Context(), newSession(u, time.Now()), noEvent) })
			testenv.NoError(t, standby.Promote(t.Context()))
			begun := time.Now()
			testenv.Until(t, patience, "writes succeed again", func() bool {
				return store.OpenSession(t.Context(), newSession(u, time.Now()), noEvent) == nil
			})
			t.Logf("writes succeeded %v after the promotion", time.Since(begun).Round(time.Millisecond))
			if err := store.Ready(t.Context()); err != nil {
				t.Error(err)
			}
			signUp(t, store, "grace")
		})
	}
}

// An administrator may make the database read-only for some time. Existing connections are affected too.
func TestFailoverFromAReadOnlyDatabaseLetsWritesContinue(t *testing.T) {
	t.Parallel()
	_, c := ownServer(t)
	store := postgrestest.Open(t, c)
	testenv.NoError(t, store.Migrate(t.Context()))
	u := signUp(t, store, "ada")
	occupy(t, store)
	turn := func(on string) {
		t.Helper()
		postgrestest.Exec(t, c, `ALTER SYSTEM SET default_transaction_read_only = `+on)
		postgrestest.Exec(t, c, `SELECT pg_reload_conf()`)
	}
	write := func() error { return store.OpenSession(t.Context(), newSession(u, time.Now()), noEvent) }
	turn("on")
	testenv.Until(t, patience, "writes are refused", func() bool { return write() != nil })
	unavailable(t, 3*time.Second, "read-only", write)
	if err := store.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "is read-only") {
		t.Errorf("ready: %v", err)
	}
	turn("off")
	testenv.Until(t, patience, "writes are accepted again", func() bool { return write() == nil })
	testenv.Until(t, patience, "the store is ready again", func() bool { return store.Ready(t.Context()) == nil })
}

// A connection to a server that became read-only is as useless as a closed one. The server
// executed nothing over it, so even a statement that must not run twice is sent again.
func TestFailoverCostsNoCallerAnError(t *testing.T) {
	t.Parallel()
	var demoted atomic.Bool
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c, postgres.WithPoolConfig(func(p *pgxpool.Config) {
		after := p.AfterConnect
		p.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			if demoted.Load() {
				if _, err := conn.Exec(ctx, `SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY`); err != nil {
					return err
				}
			}
			return after(ctx, conn)
		}
	}))
	u := signUp(t, store, "ada")
	ref := open(t, store, u, time.Now())
	for name, call := range map[string]func() error{
		"OpenSession":    func() error { return store.OpenSession(t.Context(), newSession(u, time.Now()), noEvent) },
		"ChangePassword": func() error { return store.ChangePassword(t.Context(), ref, passwordHash, passwordHash, noRecord) },
		"UpdateUser": func() error {
			return testenv.Err(store.UpdateUser(t.Context(), ref, identity.ProfileChange{}, noEvent))
		},
		"Ready": func() error { return store.Ready(t.Context()) },
	} {
		demoted.Store(true)
		store.Reset()
		testenv.Until(t, patience, "the pool is full", func() bool {
			var group sync.WaitGroup
			for range 50 {
				group.Go(func() { _, _ = store.Version(t.Context()) })
			}
			group.Wait()
			return store.Stats().Idle == store.Stats().Max
		})
		demoted.Store(false)
		for i := range 3 {
			if err := call(); err != nil {
				t.Errorf("%s, call %d: %v", name, i, err)
			}
		}
	}
}

// A host that does not answer must not use up the time that the next host needs.
func TestFailoverSkipsAHostThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	hangs := stranger(t, func(conn net.Conn) {
		buffer := make([]byte, 1)
		for {
			if _, err := conn.Read(buffer); err != nil {
				return
			}
		}
	})
	c.Host, c.Ports = "127.0.0.1,127.0.0.1", []int{hangs, c.Port}
	c.AcquireTimeout = 6 * time.Second
	if err := postgrestest.Open(t, c).Ready(t.Context()); err != nil {
		t.Error(err)
	}
	c.Ports = []int{1, 2}
	err := postgrestest.Open(t, c).Ready(t.Context())
	if want := "cannot reach 127.0.0.1:1: connection refused; 127.0.0.1:2: connection refused"; err == nil ||
		!strings.HasSuffix(err.Error(), want) {
		t.Errorf("no host is reachable: %v", err)
	}
}
