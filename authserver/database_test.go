package authserver_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// ownDatabase starts a PostgreSQL that a test can stop.
func ownDatabase(t testing.TB) (*localpostgres.Server, postgres.Config) {
	t.Helper()
	s, err := localpostgres.Start(t.Context(), localpostgres.Options{})
	testenv.NoError(t, err)
	t.Cleanup(func() { testenv.NoError(t, s.Stop()) })
	testenv.NoError(t, s.CreateDatabase(t.Context(), "gateway"))
	return s, postgres.Config{Host: s.Host(), Port: s.Port(), User: s.User(), Password: s.Password(), Database: "gateway", SSLMode: "disable"}
}

// lockTable locks a table until release is called.
func lockTable(t testing.TB, c postgres.Config, table string) (release func()) {
	t.Helper()
	db := testenv.Must(sql.Open("pgx", postgrestest.DSN(c)))(t)
	t.Cleanup(func() { _ = db.Close() })
	tx, err := db.BeginTx(t.Context(), nil)
	if err == nil {
		_, err = tx.Exec("LOCK TABLE " + table + " IN ACCESS EXCLUSIVE MODE")
	}
	testenv.NoError(t, err)
	return func() { testenv.NoError(t, tx.Rollback()) }
}

// bounded is the longest time for a reply without a database: the wait for a connection, and time for a busy machine.
const bounded = 2*time.Second + 6*time.Second

// load sends requests of every kind until stop is called, and counts the replies.
type load struct {
	stop    func()
	oks     atomic.Int64
	aways   atomic.Int64 // status 503
	slowest atomic.Int64
}

func startLoad(t testing.TB, n *node, u user) *load {
	l := new(load)
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	l.stop = func() { cancel(); done.Wait() }
	t.Cleanup(l.stop)
	requests := []func() *testenv.Reply{
		func() *testenv.Reply { return n.profile(u.access) },
		func() *testenv.Reply { return n.renew(u.refresh) },
		func() *testenv.Reply { return n.trySignIn(u.username, u.password) },
		func() *testenv.Reply { return n.post("/users", newPerson().signUpBody()) },
		func() *testenv.Reply { return n.post("/users/forgot-password", body{"email": u.email}) },
		func() *testenv.Reply { return n.signOut(u.refresh + "x") }, // forged: needs no database
	}
	for _, request := range requests {
		done.Go(func() {
			for ctx.Err() == nil {
				begun := time.Now()
				r := request()
				if took := int64(time.Since(begun)); took > l.slowest.Load() {
					l.slowest.Store(took)
				}
				switch {
				case r.Status == http.StatusOK || r.Status == http.StatusCreated:
					l.oks.Add(1)
				case r.Status == http.StatusServiceUnavailable:
					l.aways.Add(1)
				case r.Status == http.StatusUnauthorized && strings.Contains(string(r.Body), "the token is invalid"):
				default:
					t.Errorf("got %v", r)
				}
			}
		})
	}
	return l
}

func TestDatabaseOutageUnderLoadIsSurvived(t *testing.T) {
	t.Parallel()
	database, db := ownDatabase(t)
	c := newCluster(t, db)
	n := c.addReady(1, env{"SESSIONS_PER_USER": "10000", "HASHING_MAX_WAIT": "5s"})
	u := n.newUser()
	l := startLoad(t, n, u)
	testenv.Until(t, time.Minute, "the load succeeds", func() bool { return l.oks.Load() > 50 })

	for range 2 {
		testenv.NoError(t, database.StopNow())
		away := l.aways.Load()
		testenv.Until(t, time.Minute, "requests get Retry-After", func() bool { return l.aways.Load() > away+10 })
		n.wantProbe("/readyz/database", http.StatusServiceUnavailable, "without a database")
		n.wantProbe("/readyz", http.StatusOK, "without a database")
		n.wantProbe("/healthz", http.StatusOK, "without a database")
		begun := time.Now()
		want(t, http.StatusOK, n.get("/tokens/keys"), "without a database")
		want(t, http.StatusOK, n.get("/.well-known/jwks.json"), "without a database")
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("the keys took %v without a database", took)
		}
		for about, r := range map[string]*testenv.Reply{
			"an access token": n.profile(u.access),
			"a sign-out":      n.signOut(u.refresh), // it must not claim success
			"a sign-in":       n.trySignIn(u.username, u.password),
		} {
			want(t, http.StatusServiceUnavailable, r, about)
		}
		testenv.NoError(t, database.StartAgain(t.Context()))
		n.waitForDatabase()
		ok := l.oks.Load()
		testenv.Until(t, time.Minute, "requests succeed again", func() bool { return l.oks.Load() > ok+20 })
	}
	l.stop()
	if took := time.Duration(l.slowest.Load()); took > bounded {
		t.Errorf("a reply took %v", took)
	}
	want(t, http.StatusOK, n.profile(u.access), "the session is still valid")
	want(t, http.StatusOK, n.renew(u.refresh), "the session is still valid")
	select {
	case <-n.Done:
		t.Errorf("the server ended: %v", n.Result())
	default:
	}
	testenv.Until(t, time.Minute, "nothing waits for a connection", func() bool {
		return strings.Contains(n.metrics(), `authgateway_database_connections{state="acquired"} 0`)
	})
}

func TestDatabaseThatStartsLateIsAwaited(t *testing.T) {
	t.Parallel()
	database, db := ownDatabase(t)
	testenv.NoError(t, database.StopNow())
	c := newCluster(t, db)
	for range 2 {
		n := c.add()
		n.wantProbe("/healthz", http.StatusOK, "before its database")
		n.unready("before its database", "waiting for the database: cannot reach ", db.Password)
		for about, r := range map[string]*testenv.Reply{
			"keys":           n.get("/tokens/keys"),
			"a sign-in":      n.trySignIn("unknown.user", "some password"),
			"a sign-up":      n.post("/users", newPerson().signUpBody()),
			"a renewal":      n.renew("some.refresh.token"),
			"a profile":      n.profile("some.access.token"),
			"a verification": n.verify(strings.Repeat("A", 43)),
		} {
			// A malformed code is refused without a query.
			if r.Status != http.StatusServiceUnavailable && about != "a verification" {
				t.Errorf("%s gets %v, not 503", about, r)
			}
		}
	}
	testenv.NoError(t, database.StartAgain(t.Context()))
	c.addReady(0)
	c.alive("after the database has started", c.nodes[0].newUser().access)
}

func TestShutdownWithoutADatabase(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgres.Config{Host: "127.0.0.1", Port: testenv.FreePort(t), User: "u",
		Password: "some database password", Database: "d"})
	n := c.add()
	begun := time.Now()
	n.end()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if got := c.call([]string{"migrate"}); got.code != 1 || strings.Contains(got.err, "some database password") {
		t.Errorf("got %+v", got)
	}
}

func TestFailoverIsSurvived(t *testing.T) {
	t.Parallel()
	primary, db := ownDatabase(t)
	standby, err := primary.Standby(t.Context())
	if errors.Is(err, localpostgres.ErrNoBaseBackup) {
		t.Skip("there is no pg_basebackup on this machine; Debian has it in postgresql-client")
	}
	testenv.NoError(t, err)
	t.Cleanup(func() { testenv.NoError(t, standby.Stop()) })
	c := newCluster(t, db)
	hosts := env{"DB_HOST": "127.0.0.1,localhost", "DB_PORT": fmt.Sprintf("%d,%d", primary.Port(), standby.Port())}
	n := c.addReady(1, hosts)
	u := n.newUser()
	copied := db
	copied.Port = standby.Port()
	testenv.Until(t, time.Minute, "the standby has followed", func() bool {
		return len(column(t, copied, `SELECT id::text FROM sessions`)) == len(column(t, db, `SELECT id::text FROM sessions`))
	})
	testenv.NoError(t, primary.StopNow())
	n.problem("on a standby", "is a standby, which takes no writes", db.Password)
	want(t, http.StatusOK, n.get("/tokens/keys"), "during a failover")
	want(t, http.StatusServiceUnavailable, n.trySignIn(u.username, u.password), "on a standby")
	late := c.add(hosts)
	late.unready("a server that starts with only a standby", "is a standby, which takes no writes", db.Password)

	testenv.NoError(t, standby.Promote(t.Context()))
	begun := time.Now()
	testenv.Until(t, 10*time.Second, "users can sign in again", func() bool {
		return n.trySignIn(u.username, u.password).Status == http.StatusOK
	})
	t.Logf("sign-ins succeed %v after the promotion", time.Since(begun).Round(time.Millisecond))
	n.newUser()
	want(t, http.StatusOK, n.profile(u.access), "a session from before")
	n.waitForDatabase()
	late.waitReady()
}

func TestPoolerInFrontOfTheDatabase(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			db := postgrestest.Unmigrated(t)
			c := newCluster(t, postgrestest.Behind(t, db, mode, "default_pool_size = 30"))
			c.addReady(2, env{"DB_MAX_CONNS": "5"})
			c.alive("behind a pooler", c.nodes[0].newUser().access)
		})
	}
}
