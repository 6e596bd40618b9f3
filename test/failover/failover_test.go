package failover

import (
	"database/sql"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/failovertest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/patroni"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// world is the cluster, the gateways, and the clients that use them.
type world struct {
	*failovertest.World

	t       *testing.T
	cluster *patroni.Cluster
	servers []*gatewaytest.Server
	log     testenv.Output // of all gateways
}

func start(t *testing.T, o patroni.Options, options failovertest.Options, changes ...gatewaytest.Settings) *world {
	t.Helper()
	w := &world{t: t, cluster: patroni.Start(t, o)}
	for _, db := range []postgres.Config{w.cluster.Config(), w.cluster.ProxyConfig()} {
		hosts := strings.Split(db.Host, ",")
		for i := range hosts {
			port := db.Port
			if len(db.Ports) > 0 {
				port = db.Ports[i]
			}
			hosts[i] = net.JoinHostPort(hosts[i], strconv.Itoa(port))
		}
		settings := gatewaytest.Environ(db, gatewaytest.Settings{
			"DB_HOST": strings.Join(hosts, ","), "DB_PORT": "5432", "DB_MIN_IDLE_CONNS": "2", "LIMIT_WRITES": "off",
			"SESSIONS_PER_USER": "1000", "REFRESH_REUSE_GRACE": "10m", "ACCESS_TOKEN_EXPIRY": "2h", "HASHING_MAX_WAIT": "5s",
		})
		for _, change := range changes {
			settings = settings.With(change)
		}
		log := slog.New(slog.NewJSONHandler(&w.log, nil))
		server := testenv.Must(gatewaytest.Start(t, settings.Load(t), authserver.Options{Log: log}))(t)
		w.servers = append(w.servers, server)
		t.Cleanup(func() { testenv.NoError(t, server.End()) })
		options.Gateways = append(options.Gateways, failovertest.Gateway{URL: server.API, Database: func() string {
			_, problem := server.Probe("/readyz/database")
			return problem
		}})
		testenv.Until(t, time.Minute, "the gateway is ready", func() bool {
			status, _ := server.Probe("/readyz")
			return status == http.StatusOK
		})
	}
	w.World = failovertest.New(t, options)
	w.server(w.cluster.Primary(t)).Prepare(t)
	return w
}

// promoted waits for another primary than the former one.
func (w *world) promoted(former *patroni.Node) failovertest.Turn {
	var others []failovertest.Server
	for _, n := range w.cluster.Nodes {
		if n != former {
			others = append(others, w.server(n))
		}
	}
	return failovertest.Promoted(w.t, others...)
}

func (w *world) server(n *patroni.Node) failovertest.Server {
	c := w.cluster.Config()
	u := url.URL{Scheme: "postgres", User: url.UserPassword(c.User, c.Password), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(n.Port)),
		Path: c.Database, RawQuery: "sslmode=disable&connect_timeout=2"}
	return failovertest.Server{Name: u.Host, URL: u.String()}
}

// faults returns what happens to the cluster.
func (w *world) faults() map[string]failovertest.Fault {
	return map[string]failovertest.Fault{
		"kill": func() (failovertest.Turn, func()) {
			former := w.cluster.Primary(w.t)
			former.Kill()
			return w.promoted(former), func() {}
		},
		"crash": func() (failovertest.Turn, func()) {
			former := w.cluster.Primary(w.t)
			former.Crash()
			return w.promoted(former), func() { testenv.NoError(w.t, former.StartPatroni()) }
		},
		"switchover": func() (failovertest.Turn, func()) {
			former := w.cluster.Primary(w.t)
			go w.cluster.Switchover(w.t, former)
			return w.promoted(former), func() {}
		},
		"freeze": func() (failovertest.Turn, func()) {
			former := w.cluster.Primary(w.t)
			former.Freeze()
			return w.promoted(former), func() { former.Thaw() }
		},
		"cut": func() (failovertest.Turn, func()) {
			primary := w.cluster.Primary(w.t)
			for _, n := range w.cluster.Nodes {
				if n != primary && n.Synchronous() && n.Cut() {
					return failovertest.Turn{}, n.Thaw
				}
			}
			w.t.Error("no standby is synchronous")
			return failovertest.Turn{}, func() {}
		},
	}
}

func TestFailoverLosesNoAcknowledgedWrite(t *testing.T) {
	order := failovertest.Order(t, []string{"kill", "switchover", "freeze", "cut"}, []string{"kill", "crash", "switchover", "freeze"}, "cut")
	begun := time.Now()
	w := start(t, patroni.Options{Synchronous: patroni.SynchronousStrict, TTL: 10 * time.Second}, failovertest.Options{})
	t.Logf("the cluster and the gateways run after %v", time.Since(begun).Round(time.Second))
	w.Run(order, w.faults(), func() { w.cluster.Whole(t) })
}

// A primary whose Patroni hangs goes on while another one is promoted. It does not commit, because its standby has left.
// But it answers reads, until the gateways notice.
func TestFailoverFromAPrimaryThatGoesOn(t *testing.T) {
	w := start(t, patroni.Options{Synchronous: patroni.SynchronousStrict, TTL: 10 * time.Second}, failovertest.Options{})
	p := w.NewPerson("ada")
	former := w.cluster.Primary(t)
	former.FreezePatroni()
	changed := w.promoted(former)
	db := testenv.Must(sql.Open("pgx", w.server(former).URL))(t)
	defer db.Close()
	var standby bool
	if err := db.QueryRow(`SELECT pg_is_in_recovery()`).Scan(&standby); err != nil || standby {
		t.Fatalf("the former primary does not go on: standby is %v, %v", standby, err)
	}
	for i := range 2 {
		var in failovertest.Outcome
		testenv.Until(t, time.Minute, "a session opens at the new primary", func() bool {
			in = p.Do(0, i, failovertest.Call{What: "sign in"})
			return in.What == "done"
		})
		t.Logf("gateway %d wrote %.2f s after the promotion, %.2f s after the first commit", i,
			time.Since(changed.Promoted).Seconds(), time.Since(changed.Commits).Seconds())
		if took := time.Since(changed.Commits); took > 2*failovertest.GoesOn {
			t.Errorf("gateway %d took %v", i, took)
		}
		// Whichever connection it takes now, it sees what was written there.
		var group sync.WaitGroup
		for range 30 {
			group.Go(func() {
				if r := w.Send(i, http.MethodGet, "/users", p.Access(in.Session)); r.Status != http.StatusOK {
					t.Errorf("gateway %d reads: %v", i, r)
				}
			})
		}
		group.Wait()
	}
	former.Thaw()
	w.cluster.Whole(t)
	p.Check(t)
}
