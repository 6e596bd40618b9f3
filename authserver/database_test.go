package authserver_test

import (
	"context"
	"database/sql"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// ownDatabase starts a PostgreSQL that a test may stop.
func ownDatabase(t testing.TB) (*localpostgres.Server, postgres.Config) {
	t.Helper()
	s, err := localpostgres.Start(t.Context(), localpostgres.Options{})
	testenv.NoError(t, err)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	testenv.NoError(t, s.CreateDatabase(t.Context(), "gateway"))
	return s, postgres.Config{Host: s.Host(), Port: s.Port(), User: s.User(), Password: s.Password(), Database: "gateway", SSLMode: "disable"}
}

// lockTable keeps everybody away from a table until it is called again.
func lockTable(t testing.TB, c postgres.Config, table string) (release func()) {
	t.Helper()
	db, err := sql.Open("pgx", postgrestest.DSN(c))
	testenv.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	tx, err := db.BeginTx(t.Context(), nil)
	if err == nil {
		_, err = tx.Exec("LOCK TABLE " + table + " IN ACCESS EXCLUSIVE MODE")
	}
	testenv.NoError(t, err)
	return func() {
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
	}
}

// bounded is how long a reply may take while the database is down: as long as
// a request waits for a connection, and time for a busy machine.
const bounded = 2*time.Second + 6*time.Second

// load sends requests of every kind until stop is called, and counts what came
// back. Every reply is held against the contract.
type load struct {
	stop    func()
	oks     atomic.Int64
	aways   atomic.Int64 // 503
	slowest atomic.Int64
}

func startLoad(t testing.TB, n *node, u user) *load {
	l := new(load)
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	l.stop = func() { cancel(); done.Wait() }
	t.Cleanup(l.stop)
	requests := []func() *apitest.Reply{
		func() *apitest.Reply { return n.profile(u.access) },
		func() *apitest.Reply { return n.renew(u.refresh) },
		func() *apitest.Reply { return n.trySignIn(u.username, u.password) },
		func() *apitest.Reply { return n.post("/users", newPerson().signUpBody()) },
		func() *apitest.Reply { return n.post("/users/forgot-password", body{"email": u.email}) },
		func() *apitest.Reply { return n.signOut(u.refresh + "x") }, // forged: needs no database
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

func TestAServerOutlivesItsDatabaseUnderLoad(t *testing.T) {
	t.Parallel()
	database, db := ownDatabase(t)
	c := newCluster(t, db)
	n := c.add(env{"SESSIONS_PER_USER": "10000", "HASHING_MAX_WAIT": "5s"})
	n.waitReady()
	u := n.newUser()
	l := startLoad(t, n, u)
	testenv.Until(t, time.Minute, "the load succeeds", func() bool { return l.oks.Load() > 50 })

	for _, again := range []bool{false, true} {
		testenv.NoError(t, database.StopNow())
		away := l.aways.Load()
		testenv.Until(t, time.Minute, "requests get Retry-After", func() bool { return l.aways.Load() > away+10 })
		if status, _ := n.probe("/readyz/database"); status != http.StatusServiceUnavailable {
			t.Errorf("/readyz/database is %d without a database", status)
		}
		if !n.ready() {
			t.Error("not ready without a database: the keys are gone")
		}
		if status, _ := n.probe("/healthz"); status != http.StatusOK {
			t.Errorf("/healthz is %d without a database", status)
		}
		begun := time.Now()
		want(t, http.StatusOK, n.try(http.MethodGet, "/tokens/keys", nil, nil), "without a database")
		want(t, http.StatusOK, n.try(http.MethodGet, "/.well-known/jwks.json", nil, nil), "without a database")
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("the keys took %v without a database", took)
		}
		for about, r := range map[string]*apitest.Reply{
			"an access token": n.profile(u.access),
			"a sign-out":      n.signOut(u.refresh), // never a false success
			"a sign-in":       n.trySignIn(u.username, u.password),
		} {
			want(t, http.StatusServiceUnavailable, r, about)
		}
		testenv.NoError(t, database.StartAgain(t.Context()))
		n.waitForDatabase()
		ok := l.oks.Load()
		testenv.Until(t, time.Minute, "requests succeed again", func() bool { return l.oks.Load() > ok+20 })
		if again {
			break
		}
	}
	l.stop()
	if took := time.Duration(l.slowest.Load()); took > bounded {
		t.Errorf("a reply took %v", took)
	}
	want(t, http.StatusOK, n.profile(u.access), "the session is as it was")
	want(t, http.StatusOK, n.renew(u.refresh), "the session is as it was")
	select {
	case <-n.done:
		t.Errorf("the server ended: %v", n.result())
	default:
	}
	testenv.Until(t, time.Minute, "nothing waits for a connection", func() bool {
		_, metrics := n.probe("/metrics")
		return strings.Contains(metrics, `authgateway_database_connections{state="acquired"} 0`)
	})
}

func TestAServerThatStartsBeforeItsDatabaseWaitsForIt(t *testing.T) {
	t.Parallel()
	database, db := ownDatabase(t)
	testenv.NoError(t, database.StopNow())
	c := newCluster(t, db)
	for range 2 {
		c.add()
	}
	for _, n := range c.nodes {
		if status, _ := n.probe("/healthz"); status != http.StatusOK {
			t.Errorf("/healthz is %d", status)
		}
		n.unready("before its database", "waiting for the database: cannot reach ", db.Password)
		for about, r := range map[string]*apitest.Reply{
			"keys":           n.try(http.MethodGet, "/tokens/keys", nil, nil),
			"a sign-in":      n.trySignIn("somebody.unknown", "some password"),
			"a sign-up":      n.post("/users", newPerson().signUpBody()),
			"a renewal":      n.renew("some.refresh.token"),
			"a profile":      n.profile("some.access.token"),
			"a verification": n.post("/users/verify-user", body{"code": strings.Repeat("A", 43)}),
		} {
			// A malformed code is refused without the database.
			if r.Status != http.StatusServiceUnavailable && about != "a verification" {
				t.Errorf("%s gets %v, not 503", about, r)
			}
		}
	}
	testenv.NoError(t, database.StartAgain(t.Context()))
	for _, n := range c.nodes {
		n.waitReady()
	}
	c.alive("once the database is there", c.nodes[0].newUser().access)
}

func TestAServerWithoutADatabaseCanBeStopped(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgres.Config{Host: "127.0.0.1", Port: testenv.FreePort(t), User: "u",
		Password: "some database password", Database: "d"})
	n := c.add()
	begun := time.Now()
	if err := n.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if got := c.call([]string{"migrate"}); got.code != 1 || strings.Contains(got.err, "some database password") {
		t.Errorf("got %+v", got)
	}
}
