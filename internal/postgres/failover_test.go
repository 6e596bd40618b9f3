package postgres_test

import (
	"context"
	"errors"
	"io"
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

// Imports and exports use connections of their own.
func TestImportsAndExportsFindThePrimary(t *testing.T) {
	t.Parallel()
	_, standby, direct := pair(t)
	c, copied := direct, direct
	copied.Port = standby.Port()
	c.Host, c.Ports = "127.0.0.1,127.0.0.1", []int{copied.Port, direct.Port}
	store := postgrestest.Open(t, c)
	testenv.NoError(t, store.Migrate(t.Context()))
	follows(t, direct, copied)
	if p, err := importing(store).Run(t.Context(), "id", each(hashed(0, argon2(64)))); err != nil || p.Imported != 1 {
		t.Fatalf("imported %d, %v", p.Imported, err)
	}
	exported := 0
	err := store.ExportAccounts(t.Context(), false, func(*identity.MovedAccount) error { exported++; return nil })
	if err != nil || exported != 1 {
		t.Errorf("exported %d, %v", exported, err)
	}
	c.Host, c.Ports = "127.0.0.1", []int{copied.Port}
	err = postgrestest.Open(t, c).ExportAccounts(t.Context(), false, func(*identity.MovedAccount) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "is a standby") {
		t.Errorf("only a standby: %v", err)
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

// A primary that was cut off from the others does not know that one of them was promoted. A server that is connected to
// it reads sessions that have ended since, and what it writes is lost.
func TestFailoverLeavesAFormerPrimaryThatStillRuns(t *testing.T) {
	t.Parallel()
	for about, tc := range map[string]func(t *testing.T, primary, standby postgres.Config) (c postgres.Config, turn func(to postgres.Config)){
		"several hosts": func(_ *testing.T, primary, standby postgres.Config) (postgres.Config, func(postgres.Config)) {
			c := primary
			c.Host, c.Ports = "127.0.0.1,127.0.0.1", []int{primary.Port, standby.Port}
			return c, func(postgres.Config) {}
		},
		"a proxy that keeps its connections": func(t *testing.T, primary, _ postgres.Config) (postgres.Config, func(postgres.Config)) {
			n, c := through(t, primary)
			return c, func(to postgres.Config) { n.redirect(net.JoinHostPort(to.Host, strconv.Itoa(to.Port))) }
		},
	} {
		t.Run(about, func(t *testing.T) {
			t.Parallel()
			_, next, direct := pair(t)
			copied := direct
			copied.Port = next.Port()
			c, turn := tc(t, direct, copied)
			store := postgrestest.Open(t, c)
			testenv.NoError(t, store.Migrate(t.Context()))
			u := signUp(t, store, "ada")
			ref := open(t, store, u, time.Now())
			occupy(t, store)
			follows(t, direct, copied)

			testenv.NoError(t, next.Promote(t.Context()))
			turn(copied)
			// A call that waits at the former primary does not wait for long.
			waiting := testenv.Must(connect(t, direct).Begin())(t)
			testenv.Must(waiting.Exec(`SELECT FROM users FOR UPDATE`))(t)
			moved := make(chan error)
			go func() { moved <- testenv.Err(store.UpdateUser(t.Context(), ref, identity.ProfileChange{}, noEvent)) }()
			waits(t, connect(t, direct), 1)
			store.Look(t.Context())
			if err := <-moved; err != nil {
				t.Errorf("a call that may be repeated: %v", err)
			}
			testenv.NoError(t, waiting.Rollback())

			var group sync.WaitGroup
			for range 30 {
				group.Go(func() {
					if err := store.OpenSession(t.Context(), newSession(u, time.Now()), noEvent); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			here := count(t, connect(t, direct), `SELECT count(*) FROM sessions`)
			there := count(t, connect(t, copied), `SELECT count(*) FROM sessions`)
			// Older sessions make room for new ones.
			if keep := newSession(u, time.Now()).Keep; here != 1 || there < keep {
				t.Errorf("the former primary has %d sessions, and the new one %d; want 1 and at least %d", here, there, keep)
			}
			turn(direct)
			store.Reset()
			if about == "several hosts" {
				testenv.NoError(t, next.StopNow())
			}
			testenv.Until(t, patience, "the former primary is refused", func() bool {
				err := store.Ready(t.Context())
				if err == nil {
					t.Fatal("the store uses the former primary")
				}
				return strings.Contains(err.Error(), "is a former primary: it is on timeline 1, and another server was on timeline 2")
			})
			// If the newest one is lost for good, the former one is better than none.
			store.EndQuarantine()
			testenv.Until(t, patience, "the former primary is accepted", func() bool { return store.Ready(t.Context()) == nil })
		})
	}
}

// A server that hangs delays its clients once, and not each of their connections.
func TestFailoverFromAHostThatHangsIsFast(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	n, behind := through(t, c)
	hosts := c
	hosts.Host, hosts.Ports = "127.0.0.1,127.0.0.1,127.0.0.1", []int{behind.Port, c.Port, 1}
	hosts.AcquireTimeout = 6 * time.Second // each host has two seconds
	n.frozen.Store(true)
	store := postgrestest.Open(t, hosts)
	for i := range 2 {
		begun := time.Now()
		testenv.NoError(t, store.Ready(t.Context()))
		if took := time.Since(begun); took > time.Second {
			t.Errorf("connection %d took %v", i, took)
		}
		store.Reset()
	}
}

// The driver waits up to 15 seconds for a server to close a connection that was given up. Connections to one that hangs
// must not occupy the pool for so long.
func TestFailoverFromAHostThatHangsFreesThePool(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	old, first := through(t, c)
	next, second := through(t, c)
	next.redirect("127.0.0.1:1") // nothing listens there
	hosts := c
	hosts.Host, hosts.Ports, hosts.MaxConns = "127.0.0.1,127.0.0.1", []int{first.Port, second.Port}, 2
	hosts.AcquireTimeout, hosts.StatementTimeout = 600*time.Millisecond, 400*time.Millisecond
	store := postgrestest.Open(t, hosts)
	occupy(t, store)
	old.frozen.Store(true)
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() { unavailable(t, 3*time.Second, "frozen", func() error { return store.Ready(t.Context()) }) })
	}
	group.Wait()
	next.redirect(net.JoinHostPort(c.Host, strconv.Itoa(c.Port)))
	took := testenv.Eventually(t, patience, "the store uses the other host", func() error { return store.Ready(t.Context()) })
	if took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// PostgreSQL reports a commit as a success although its wait for a standby was canceled.
func TestCommitThatNoStandbyHasIsNoSuccess(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"", "transaction"} {
		_, c := ownServer(t)
		c.StatementTimeout = 20 * time.Second
		at := c
		if mode != "" {
			at = postgrestest.Behind(t, c, mode)
		}
		store := postgrestest.Open(t, at)
		testenv.NoError(t, store.Migrate(t.Context()))
		u := signUp(t, store, "ada")
		ref := open(t, store, u, time.Now())
		occupy(t, store)
		postgrestest.Exec(t, c, `ALTER SYSTEM SET synchronous_standby_names = 'none'`)
		postgrestest.Exec(t, c, `SELECT pg_reload_conf()`)
		db := connect(t, c)
		testenv.Until(t, patience, "commits wait for a standby", func() bool {
			return count(t, db, `SELECT (current_setting('synchronous_standby_names') = 'none')::int`) == 1
		})
		for what, call := range map[string]func() error{
			"a statement":   func() error { return store.OpenSession(t.Context(), newSession(u, time.Now()), noEvent) },
			"a transaction": func() error { return store.ChangePassword(t.Context(), ref, passwordHash, passwordHash, noRecord) },
		} {
			result := make(chan error)
			go func() { result <- call() }()
			var pid int
			testenv.Until(t, patience, "the commit waits", func() bool {
				return db.QueryRow(`SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'`).Scan(&pid) == nil
			})
			// No transaction, because its own commit would wait.
			testenv.Must(db.Exec(`SELECT pg_cancel_backend($1)`, pid))(t)
			err := <-result
			if identity.KindOf(err) != identity.Unavailable || !strings.Contains(err.Error(), "the change may not have been replicated") {
				t.Errorf("%s, %q: %v", what, mode, err)
			}
		}
	}
}

func TestMinIdleConnsAreKept(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	c.MaxConns, c.MinIdleConns = 6, 3
	store := postgrestest.Open(t, c)
	idle := func() bool { return store.Stats().Idle >= 3 }
	testenv.Until(t, patience, "connections are open before the first call", idle)
	err := store.InTx(t.Context(), func(ctx context.Context) error {
		return store.InTx(ctx, func(context.Context) error {
			testenv.Until(t, patience, "those that were taken are replaced", idle)
			return nil
		})
	})
	testenv.NoError(t, err)
	store.Reset()
	testenv.Until(t, patience, "those that were lost are replaced", idle)
}

func TestTargetSessionAttrsAcceptServersWithoutWrites(t *testing.T) {
	t.Parallel()
	_, standby, c := pair(t)
	testenv.NoError(t, postgrestest.Open(t, c).Migrate(t.Context()))
	copied := c
	copied.Port = standby.Port()
	follows(t, c, copied)
	readOnly := postgrestest.Config(t)
	postgrestest.Exec(t, readOnly, `ALTER DATABASE `+readOnly.Database+` SET default_transaction_read_only = on`)
	for _, tc := range []struct {
		attrs             string
		standby, readOnly bool
	}{{"", false, false}, {"read-write", false, false}, {"primary", false, true}, {"any", true, true}} {
		for at, accepted := range map[*postgres.Config]bool{&copied: tc.standby, &readOnly: tc.readOnly} {
			c := *at
			c.TargetSessionAttrs = tc.attrs
			store := postgrestest.Open(t, c)
			if _, err := store.Version(t.Context()); (err == nil) != accepted {
				t.Errorf("%q, port %d: %v; want accepted %v", tc.attrs, c.Port, err, accepted)
			}
			unavailable(t, 5*time.Second, "no writes", func() error { return store.Ready(t.Context()) })
		}
	}
}

// breaker is a way to a server. It refuses connections, or ends them at their first statement.
type breaker struct {
	net.Listener
	refuses, breaks atomic.Bool
}

func newBreaker(t *testing.T, server postgres.Config) *breaker {
	t.Helper()
	b := &breaker{Listener: testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)}
	t.Cleanup(func() { _ = b.Close() })
	go func() {
		for {
			in, err := b.Accept()
			if err != nil {
				return
			}
			go b.serve(in, net.JoinHostPort(server.Host, strconv.Itoa(server.Port)))
		}
	}()
	return b
}

func (b *breaker) serve(in net.Conn, server string) {
	defer in.Close()
	if b.refuses.Load() {
		return
	}
	out, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer out.Close()
	go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
	data := make([]byte, 4096)
	for {
		n, err := in.Read(data)
		if err != nil || b.breaks.Load() && data[0] == 'Q' {
			return
		}
		if _, err := out.Write(data[:n]); err != nil {
			return
		}
	}
}

// If a new connection breaks while it is checked, the driver cancels its statement and tries the next host, both at the
// same time. The race detector finds what they share.
func TestFailoverFromAHostThatBreaksNewConnections(t *testing.T) {
	t.Parallel()
	_, direct := ownServer(t)
	one, other := newBreaker(t, direct), newBreaker(t, direct)
	c := direct
	c.Host, c.Ports = "127.0.0.1,127.0.0.1", []int{one.Addr().(*net.TCPAddr).Port, other.Addr().(*net.TCPAddr).Port}
	other.refuses.Store(true)
	testenv.NoError(t, postgrestest.Open(t, direct).Migrate(t.Context()))
	store := postgrestest.Open(t, c)
	for range 10 {
		testenv.Until(t, patience, "the only host that works is used", func() bool { return store.Ready(t.Context()) == nil })
		other.refuses.Store(false)
		one.breaks.Store(true)
		store.Reset()
		testenv.Until(t, patience, "the next host is used", func() bool { return store.Ready(t.Context()) == nil })
		one.breaks.Store(false)
		one.refuses.Store(true)
		one, other = other, one
	}
}
