package failover

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver of the probes

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/patroni"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// goesOn is how long a gateway may take to write after a new primary has.
const goesOn = 5 * time.Second

// world is the cluster, the gateways, and the clients that use them.
type world struct {
	t        *testing.T
	cluster  *patroni.Cluster
	gateways []*gateway
	begun    time.Time
	people   []*person

	answers, unavailable atomic.Int64
}

type body map[string]string

// gateway is a server and a client of it.
type gateway struct {
	*gatewaytest.Server

	world  *world
	client *testenv.Client

	mu     sync.Mutex
	writes []write // of the pulse
}

// write is a write that succeeded.
type write struct{ begun, ended time.Time }

func start(t *testing.T, o patroni.Options) *world {
	t.Helper()
	w := &world{t: t, cluster: patroni.Start(t, o), begun: time.Now()}
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
		}).Load(t)
		server := testenv.Must(gatewaytest.Start(t, settings, authserver.Options{}))(t)
		t.Cleanup(func() { testenv.NoError(t, server.End()) })
		g := &gateway{Server: server, world: w, client: testenv.NewClient(t, server.API)}
		w.gateways = append(w.gateways, g)
		testenv.Until(t, time.Minute, "the gateway is ready", func() bool { status, _ := g.Probe("/readyz"); return status == http.StatusOK })
	}
	return w
}

// send sends a request, and reports an error unless the reply is one that a client may get in a failover.
func (g *gateway) send(method, path, token string, b body) *testenv.Reply {
	var header http.Header
	if token != "" {
		header = testenv.Bearer(token)
	}
	var content any
	if b != nil {
		content = b
	}
	begun := time.Now()
	r, err := g.client.Try(method, path, header, content)
	if err != nil {
		g.world.t.Errorf("%s %s after %v: %v", method, path, time.Since(begun), err)
		return &testenv.Reply{}
	}
	g.world.answers.Add(1)
	switch {
	case r.Status >= 200 && r.Status < 300, slices.Contains([]int{400, 401, 403}, r.Status):
	case r.Status == http.StatusServiceUnavailable && r.Header.Get("Retry-After") != "":
		g.world.unavailable.Add(1)
	default:
		g.world.t.Errorf("%s %s after %v: %v", method, path, time.Since(begun), r)
	}
	if took := time.Since(begun); took > 11*time.Second {
		g.world.t.Errorf("%s %s took %v: %v", method, path, took, r)
	}
	return r
}

// keys requests what needs no database until ctx ends. It must always be answered.
func (g *gateway) keys(ctx context.Context) {
	for ctx.Err() == nil {
		for _, path := range []string{"/tokens/keys", "/.well-known/oauth-authorization-server"} {
			begun := time.Now()
			r, err := g.client.Try(http.MethodGet, path, nil, nil)
			if err != nil || r.Status != http.StatusOK || time.Since(begun) > 2*time.Second {
				g.world.t.Errorf("%s after %v: %v, %v", path, time.Since(begun), r, err)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// pulse signs in every 100 ms until ctx ends.
func (g *gateway) pulse(ctx context.Context, p *person) {
	var group sync.WaitGroup
	defer group.Wait()
	free := make(chan struct{}, 20)
	for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		select {
		case free <- struct{}{}:
		default:
			continue
		}
		group.Go(func() {
			defer func() { <-free }()
			begun := time.Now()
			r := g.send(http.MethodPost, "/tokens/signin", "", body{"username": p.name, "password": p.text(0)})
			if r.Status == http.StatusOK {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.writes = append(g.writes, write{begun, time.Now()})
			}
		})
	}
}

// interruption returns the longest time between two writes that succeeded since then, and when the second one did.
func (g *gateway) interruption(since time.Time) (longest time.Duration, until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := slices.Clone(g.writes)
	slices.SortFunc(list, func(a, b write) int { return a.ended.Compare(b.ended) })
	last := since
	for _, w := range list {
		if w.ended.Before(since) {
			continue
		}
		if gap := w.ended.Sub(last); gap > longest {
			longest, until = gap, w.ended
		}
		last = w.ended
	}
	return longest, until
}

// newPerson signs up, with retries.
func (w *world) newPerson(name string) *person {
	w.t.Helper()
	p := &person{world: w, name: name, tokens: map[int]tokens{}}
	g := w.gateways[len(w.people)%len(w.gateways)]
	var code string
	testenv.Eventually(w.t, time.Minute, "a sign-up succeeds", func() error {
		r := g.send(http.MethodPost, "/users", "", body{"username": name, "email": name + "@example.com", "password": p.text(0),
			"first_name": "Ada", "last_name": "Lovelace", "scope": "profile email"})
		code = r.Text("code")
		if r.Status == http.StatusCreated {
			return nil
		}
		_, problem := g.Probe("/readyz/database")
		return fmt.Errorf("%v; the database: %s", r, problem)
	})
	testenv.Until(w.t, time.Minute, "a sign-up is verified", func() bool {
		begun := time.Since(w.begun)
		// Sign-ups that were repeated wait for one address, and the password selects one.
		r := g.send(http.MethodPost, "/users/verify-user", "", body{"code": code, "password": p.text(0)})
		return p.record(0, call{what: "verify"}, begun, r).what != "unknown"
	})
	w.people = append(w.people, p)
	return p
}

// change signs in and changes the password, again and again.
func (p *person) change(ctx context.Context, gateway int) {
	for i := 0; ctx.Err() == nil; i++ {
		g := (gateway + i) % len(p.world.gateways)
		in := p.do(0, g, call{what: "sign in", password: p.password})
		if in.what != "done" {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		p.do(0, g, call{what: "renew", session: in.session})
		old := p.password
		p.latest++
		next := p.latest
		switch p.do(0, g, call{what: "change", session: in.session, password: old, new: next}).what {
		case "done":
			p.setPassword(next)
		case "unknown":
			p.resolve(ctx, 0, old, next)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// resolve finds out which of two passwords is right.
func (p *person) resolve(ctx context.Context, client, old, next int) {
	for i := 0; ctx.Err() == nil; i++ {
		for _, password := range []int{next, old} {
			if p.do(client, i%len(p.world.gateways), call{what: "sign in", password: password}).what == "done" {
				p.setPassword(password)
				return
			}
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func (p *person) setPassword(password int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.password = password
}

// use signs in, reads, renews and signs out, again and again.
func (p *person) use(ctx context.Context, gateway int) {
	for i := 0; ctx.Err() == nil; i++ {
		g := (gateway + i) % len(p.world.gateways)
		p.mu.Lock()
		password := p.password
		p.mu.Unlock()
		in := p.do(1, g, call{what: "sign in", password: password})
		if in.what != "done" {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		for range 3 {
			p.do(1, (g+1)%len(p.world.gateways), call{what: "read", session: in.session})
			time.Sleep(30 * time.Millisecond)
		}
		p.do(1, g, call{what: "renew", session: in.session})
		p.do(1, g, call{what: "sign out", session: in.session})
		p.do(1, (g+1)%len(p.world.gateways), call{what: "read", session: in.session})
		p.do(1, g, call{what: "renew", session: in.session})
	}
}

// load runs clients until the returned function is called.
func (w *world) load(round int) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var group sync.WaitGroup
	for i := range 4 {
		p := w.newPerson(fmt.Sprintf("person-%d-%d", round, i))
		group.Go(func() { p.change(ctx, i) })
		group.Go(func() { p.use(ctx, i+1) })
	}
	// Sign-ups go on while the primary fails.
	group.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			w.newPerson(fmt.Sprintf("late-%d-%d", round, i))
			time.Sleep(time.Second)
		}
	})
	return func() { cancel(); group.Wait() }
}

// turn is when another server became the primary, and when it first committed: with synchronous replication it waits
// until Patroni has given it a standby.
type turn struct{ promoted, commits time.Time }

// promoted waits for another primary than the former one.
func (w *world) promoted(former *patroni.Node) turn {
	found := make(chan turn, len(w.cluster.Nodes))
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	for _, n := range w.cluster.Nodes {
		if n == former {
			continue
		}
		go func() {
			db := w.connect(n)
			defer db.Close()
			for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
				var standby bool
				if err := db.QueryRowContext(ctx, `SELECT pg_is_in_recovery()`).Scan(&standby); err == nil && !standby {
					r := turn{promoted: time.Now()}
					for ; r.commits.IsZero() && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
						if _, err := db.ExecContext(ctx, `INSERT INTO probe VALUES (now())`); err == nil {
							r.commits = time.Now()
						}
					}
					found <- r
					return
				}
			}
		}()
	}
	select {
	case r := <-found:
		return r
	case <-ctx.Done():
		w.t.Fatal("no server was promoted")
		return turn{}
	}
}

func (w *world) connect(n *patroni.Node) *sql.DB {
	c := w.cluster.Config()
	u := url.URL{Scheme: "postgres", User: url.UserPassword(c.User, c.Password), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(n.Port)),
		Path: c.Database, RawQuery: "sslmode=disable&connect_timeout=2"}
	db, err := sql.Open("pgx", u.String())
	if err != nil {
		panic(err) // the URL is valid
	}
	return db
}

// faults are what happens to the cluster. Each returns when another server became the primary, if one did, and what ends
// the fault.
var faults = map[string]func(w *world) (turn, func()){
	"kill": func(w *world) (turn, func()) {
		former := w.cluster.Primary(w.t)
		former.Kill()
		return w.promoted(former), func() {}
	},
	"crash": func(w *world) (turn, func()) {
		former := w.cluster.Primary(w.t)
		former.Crash()
		return w.promoted(former), func() { testenv.NoError(w.t, former.StartPatroni()) }
	},
	"switchover": func(w *world) (turn, func()) {
		former := w.cluster.Primary(w.t)
		go w.cluster.Switchover(w.t, former)
		return w.promoted(former), func() {}
	},
	"freeze": func(w *world) (turn, func()) {
		former := w.cluster.Primary(w.t)
		former.Freeze()
		return w.promoted(former), func() { former.Thaw() }
	},
	"cut": func(w *world) (turn, func()) {
		primary := w.cluster.Primary(w.t)
		for _, n := range w.cluster.Nodes {
			if n != primary && n.Synchronous() && n.Cut() {
				return turn{}, n.Thaw
			}
		}
		w.t.Error("no standby is synchronous")
		return turn{}, func() {}
	},
}

func TestFailoverLosesNoAcknowledgedWrite(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("FAILOVER_SEED"); text != "" {
		seed = testenv.Must(strconv.ParseUint(text, 10, 64))(t)
	}
	order := []string{"kill", "switchover", "freeze", "cut"}
	if text := os.Getenv("FAILOVER_FAULTS"); text != "" {
		number := testenv.Must(strconv.Atoi(text))(t)
		for _, name := range []string{"kill", "crash", "switchover", "freeze"} {
			order = append(order, slices.Repeat([]string{name}, number/4)...)
		}
		order = order[4:]
		order = append(order, slices.Repeat([]string{"cut"}, max(1, number/10))...)
	}
	random := rand.New(rand.NewPCG(seed, 0))
	random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	t.Logf("FAILOVER_SEED=%d: %v", seed, order)

	w := start(t, patroni.Options{Synchronous: patroni.SynchronousStrict, TTL: 10 * time.Second})
	t.Logf("the cluster and the gateways run after %v", time.Since(w.begun).Round(time.Second))
	probe := w.connect(w.cluster.Primary(t))
	testenv.Must(probe.Exec(`CREATE TABLE probe (at timestamptz)`))(t)
	testenv.NoError(t, probe.Close())
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for i, g := range w.gateways {
		p := w.newPerson(fmt.Sprintf("pulse-%d", i))
		group.Go(func() { g.keys(ctx) })
		group.Go(func() { g.pulse(ctx, p) })
	}
	var promotions, commits, outages []time.Duration
	for round, name := range order {
		stop := w.load(round)
		time.Sleep(time.Second)
		begun := time.Now()
		changed, mend := faults[name](w)
		if changed.commits.IsZero() {
			changed = turn{begun, begun}
		}
		// The fault lasts until both gateways have written again, and the clients have seen it.
		for _, g := range w.gateways {
			testenv.Until(t, 2*time.Minute, name+": writes go on", func() bool {
				g.mu.Lock()
				defer g.mu.Unlock()
				return slices.ContainsFunc(g.writes, func(w write) bool { return w.begun.After(changed.commits) })
			})
		}
		time.Sleep(3 * time.Second)
		mend()
		time.Sleep(time.Second)
		stop()
		for i, g := range w.gateways {
			outage, until := g.interruption(begun)
			t.Logf("%-10s gateway %d: promoted after %5.2f s, commits after %5.2f s, writes after %5.2f s; no write for %5.2f s", name, i,
				changed.promoted.Sub(begun).Seconds(), changed.commits.Sub(begun).Seconds(), until.Sub(begun).Seconds(), outage.Seconds())
			outages = append(outages, outage)
			if name != "cut" {
				promotions = append(promotions, max(0, until.Sub(changed.promoted)))
				commits = append(commits, max(0, until.Sub(changed.commits)))
			}
		}
		w.cluster.Whole(t)
	}
	// Everything that was acknowledged is still there after all faults.
	for _, p := range w.people {
		p.do(2, 0, call{what: "sign in", password: p.password})
		for session := range p.tokens {
			p.do(2, 1, call{what: "read", session: session})
		}
	}
	cancel()
	group.Wait()
	requests := 0
	for _, p := range w.people {
		requests += p.check(t)
	}
	t.Logf("%d replies, of which %d were 503; %d recorded requests about %d accounts",
		w.answers.Load(), w.unavailable.Load(), requests, len(w.people))
	t.Logf("writes go on after the promotion: %s", summary(promotions))
	t.Logf("writes go on after the first commit of the new primary: %s", summary(commits))
	t.Logf("no write: %s", summary(outages))
	if late := percentile(commits, 95); late > goesOn {
		t.Errorf("95%% of the writes go on within %v of the first commit of a new primary; want %v", late, goesOn)
	}
}

func percentile(list []time.Duration, percent int) time.Duration {
	slices.Sort(list)
	return list[(len(list)*percent+99)/100-1]
}

func summary(list []time.Duration) string {
	return fmt.Sprintf("median %.2f s, 95%% within %.2f s, longest %.2f s", percentile(list, 50).Seconds(),
		percentile(list, 95).Seconds(), percentile(list, 100).Seconds())
}

// A primary whose Patroni hangs goes on while another one is promoted. It does not commit, because its standby has left.
// But it answers reads, until the gateways notice.
func TestFailoverFromAPrimaryThatGoesOn(t *testing.T) {
	w := start(t, patroni.Options{Synchronous: patroni.SynchronousStrict, TTL: 10 * time.Second})
	probe := w.connect(w.cluster.Primary(t))
	testenv.Must(probe.Exec(`CREATE TABLE probe (at timestamptz)`))(t)
	testenv.NoError(t, probe.Close())
	p := w.newPerson("ada")
	former := w.cluster.Primary(t)
	former.FreezePatroni()
	changed := w.promoted(former)
	db := w.connect(former)
	defer db.Close()
	var standby bool
	if err := db.QueryRow(`SELECT pg_is_in_recovery()`).Scan(&standby); err != nil || standby {
		t.Fatalf("the former primary does not go on: standby is %v, %v", standby, err)
	}
	for i, g := range w.gateways {
		var in outcome
		testenv.Until(t, time.Minute, "a session opens at the new primary", func() bool {
			in = p.do(0, i, call{what: "sign in"})
			return in.what == "done"
		})
		t.Logf("gateway %d wrote %.2f s after the promotion, %.2f s after the first commit", i,
			time.Since(changed.promoted).Seconds(), time.Since(changed.commits).Seconds())
		if took := time.Since(changed.commits); took > 2*goesOn {
			t.Errorf("gateway %d took %v", i, took)
		}
		// Whichever connection it takes now, it sees what was written there.
		var group sync.WaitGroup
		for range 30 {
			group.Go(func() {
				if r := g.send(http.MethodGet, "/users", p.access(in.session), nil); r.Status != http.StatusOK {
					t.Errorf("gateway %d reads: %v", i, r)
				}
			})
		}
		group.Wait()
	}
	former.Thaw()
	w.cluster.Whole(t)
	p.check(t)
}
