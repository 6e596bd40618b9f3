// Package failovertest has clients that use gateways while the PostgreSQL of the gateways fails over, and judges the
// replies. A test provides the gateways and the faults; World.Run does the rest.
//
// Clients record each request about an account and its reply. With synchronous replication, every history must be
// possible if the requests had come one after the other (linearizable): no acknowledged sign-up or password change is
// lost, and a session that has ended stays ended. The outcome of a request that got 503 is unknown: it may have
// happened. No client gets an error except 503 with Retry-After, and the keys are served throughout.
//
// With asynchronous replication, acknowledged writes can be lost. A test of it uses World.Watch, and World.Writes, which
// says what was acknowledged and when.
//
// FAILOVER_FAULTS=20 runs more faults than a test does by default, and FAILOVER_SEED repeats an order.
package failovertest

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver of the probes

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// GoesOn is how long a gateway may take to write after a new primary has.
const GoesOn = 5 * time.Second

// Options are the gateways and the load. The gateways have one database.
type Options struct {
	Gateways []Gateway
	// People is how many accounts are used at the same time, by two clients each; by default 4.
	People int
	// Pace is how long a client waits between two requests; by default 30 ms.
	Pace time.Duration
	// Pulse is the time between two sign-ins that measure how long writes are interrupted; by default 100 ms.
	Pulse time.Duration
}

// Gateway is a gateway as its clients see it.
type Gateway struct {
	URL      string
	Header   http.Header   // of each request, such as the key of a trusted caller
	Database func() string // optional: says whether the gateway reaches its database
}

// World is the gateways and the clients that use them.
type World struct {
	t        *testing.T
	options  Options
	gateways []*gateway
	begun    time.Time
	people   []*Person

	answers, unavailable atomic.Int64
}

type body map[string]string

// gateway is a gateway and a client of it.
type gateway struct {
	Gateway

	world  *World
	client *testenv.Client

	mu     sync.Mutex
	writes []Write // of the pulse
}

// Write is a sign-in of the pulse that a gateway acknowledged.
type Write struct {
	Gateway      int
	Begun, Ended time.Time
	Access       string // the token
}

// New returns a world in which nothing has happened yet.
func New(t *testing.T, o Options) *World {
	o.People, o.Pace, o.Pulse = cmp.Or(o.People, 4), cmp.Or(o.Pace, 30*time.Millisecond), cmp.Or(o.Pulse, 100*time.Millisecond)
	w := &World{t: t, options: o, begun: time.Now()}
	for _, g := range o.Gateways {
		w.gateways = append(w.gateways, &gateway{Gateway: g, world: w, client: testenv.NewClient(t, g.URL)})
	}
	return w
}

// Send sends a request to a gateway, and reports an error unless the reply is one that a client may get in a failover.
func (w *World) Send(gateway int, method, path, token string) *testenv.Reply {
	return w.gateways[gateway].send(method, path, token, nil)
}

// SendBody is Send with members of a JSON object.
func (w *World) SendBody(gateway int, method, path, token string, members map[string]string) *testenv.Reply {
	return w.gateways[gateway].send(method, path, token, members)
}

// send sends a request, and reports an error unless the reply is one that a client may get in a failover.
func (g *gateway) send(method, path, token string, b body) *testenv.Reply {
	header := g.Header.Clone()
	if token != "" {
		header = testenv.Bearer(token)
		maps.Copy(header, g.Header)
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
			r, err := g.client.Try(http.MethodGet, path, g.Header, nil)
			if err != nil || r.Status != http.StatusOK || time.Since(begun) > 2*time.Second {
				g.world.t.Errorf("%s after %v: %v, %v", path, time.Since(begun), r, err)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// pulse signs in again and again until ctx ends.
func (g *gateway) pulse(ctx context.Context, p *Person) {
	var group sync.WaitGroup
	defer group.Wait()
	free := make(chan struct{}, 20)
	for ; ctx.Err() == nil; time.Sleep(g.world.options.Pulse) {
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
				g.writes = append(g.writes, Write{slices.Index(g.world.gateways, g), begun, time.Now(), r.Text("access_token")})
			}
		})
	}
}

// interruption returns the longest time between two writes that succeeded since then, and when the second one did.
func (g *gateway) interruption(since time.Time) (longest time.Duration, until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := slices.Clone(g.writes)
	slices.SortFunc(list, func(a, b Write) int { return a.Ended.Compare(b.Ended) })
	last := since
	for _, w := range list {
		if w.Ended.Before(since) {
			continue
		}
		if gap := w.Ended.Sub(last); gap > longest {
			longest, until = gap, w.Ended
		}
		last = w.Ended
	}
	return longest, until
}

// Writes returns the sign-ins of the pulse that were acknowledged between two times.
func (w *World) Writes(after, before time.Time) (list []Write) {
	for _, g := range w.gateways {
		g.mu.Lock()
		for _, w := range g.writes {
			if w.Ended.After(after) && w.Ended.Before(before) {
				list = append(list, w)
			}
		}
		g.mu.Unlock()
	}
	return list
}

// Interruption returns the longest time since a moment in which a gateway acknowledged no sign-in of the pulse.
func (w *World) Interruption(gateway int, since time.Time) time.Duration {
	longest, _ := w.gateways[gateway].interruption(since)
	return longest
}

// AwaitWrites waits until each gateway has acknowledged a sign-in that began after a time.
func (w *World) AwaitWrites(what string, after time.Time) {
	w.t.Helper()
	for _, g := range w.gateways {
		testenv.Until(w.t, 2*time.Minute, what+": writes go on", func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return slices.ContainsFunc(g.writes, func(w Write) bool { return w.Begun.After(after) })
		})
	}
}

// Watch requests the keys from each gateway and signs in there, again and again, until the returned function is called.
func (w *World) Watch() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var group sync.WaitGroup
	for i, g := range w.gateways {
		// The pulse opens more sessions than a user may have, so the oldest ones end: its account is not judged.
		p := w.signUp(fmt.Sprintf("pulse-%d", i))
		group.Go(func() { g.keys(ctx) })
		group.Go(func() { g.pulse(ctx, p) })
	}
	return func() { cancel(); group.Wait() }
}

// NewPerson signs up, with retries.
func (w *World) NewPerson(name string) *Person {
	w.t.Helper()
	p := w.signUp(name)
	w.people = append(w.people, p)
	return p
}

func (w *World) signUp(name string) *Person {
	w.t.Helper()
	p := &Person{world: w, name: name, tokens: map[int]tokens{}}
	g := w.gateways[len(w.people)%len(w.gateways)]
	var code string
	testenv.Eventually(w.t, time.Minute, "a sign-up succeeds", func() error {
		r := g.send(http.MethodPost, "/users", "", body{"username": name, "email": name + "@example.com", "password": p.text(0),
			"first_name": "Ada", "last_name": "Lovelace", "scope": "profile email"})
		code = r.Text("code")
		if r.Status == http.StatusCreated {
			return nil
		}
		if g.Database == nil {
			return fmt.Errorf("%v", r)
		}
		return fmt.Errorf("%v; the database: %s", r, g.Database())
	})
	testenv.Until(w.t, time.Minute, "a sign-up is verified", func() bool {
		begun := time.Since(w.begun)
		// Sign-ups that were repeated wait for one address, and the password selects one.
		r := g.send(http.MethodPost, "/users/verify-user", "", body{"code": code, "password": p.text(0)})
		return p.record(0, Call{What: "verify"}, begun, r).What != "unknown"
	})
	return p
}

// change signs in and changes the password, again and again.
func (p *Person) change(ctx context.Context, gateway int) {
	for i := 0; ctx.Err() == nil; i++ {
		g := (gateway + i) % len(p.world.gateways)
		in := p.Do(0, g, Call{What: "sign in", Password: p.password})
		if in.What != "done" {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		p.world.pause()
		p.Do(0, g, Call{What: "renew", Session: in.Session})
		p.world.pause()
		old := p.password
		p.latest++
		next := p.latest
		switch p.Do(0, g, Call{What: "change", Session: in.Session, Password: old, New: next}).What {
		case "done":
			p.setPassword(next)
		case "unknown":
			p.resolve(ctx, 0, old, next)
		}
		p.world.pause()
	}
}

// resolve finds out which of two passwords is right.
func (p *Person) resolve(ctx context.Context, client, old, next int) {
	for i := 0; ctx.Err() == nil; i++ {
		for _, password := range []int{next, old} {
			if p.Do(client, i%len(p.world.gateways), Call{What: "sign in", Password: password}).What == "done" {
				p.setPassword(password)
				return
			}
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func (p *Person) setPassword(password int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.password = password
}

// use signs in, reads, renews and signs out, again and again.
func (p *Person) use(ctx context.Context, gateway int) {
	for i := 0; ctx.Err() == nil; i++ {
		g := (gateway + i) % len(p.world.gateways)
		p.mu.Lock()
		password := p.password
		p.mu.Unlock()
		in := p.Do(1, g, Call{What: "sign in", Password: password})
		if in.What != "done" {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		for range 3 {
			p.Do(1, (g+1)%len(p.world.gateways), Call{What: "read", Session: in.Session})
			p.world.pause()
		}
		p.Do(1, g, Call{What: "renew", Session: in.Session})
		p.Do(1, g, Call{What: "sign out", Session: in.Session})
		p.Do(1, (g+1)%len(p.world.gateways), Call{What: "read", Session: in.Session})
		p.Do(1, g, Call{What: "renew", Session: in.Session})
	}
}

// pause is between two requests of a client.
func (w *World) pause() { time.Sleep(w.options.Pace) }

// load runs clients until the returned function is called.
func (w *World) load(round int) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var group sync.WaitGroup
	for i := range w.options.People {
		p := w.NewPerson(fmt.Sprintf("person-%d-%d", round, i))
		group.Go(func() { p.change(ctx, i) })
		group.Go(func() { p.use(ctx, i+1) })
	}
	// Sign-ups go on while the primary fails.
	group.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			w.NewPerson(fmt.Sprintf("late-%d-%d", round, i))
			time.Sleep(time.Second)
		}
	})
	return func() { cancel(); group.Wait() }
}

// Server is a PostgreSQL that can become the primary.
type Server struct {
	Name string
	URL  string // a connection string of the gateway's user
}

// Turn is when another server became the primary, and when it first committed: with synchronous replication it waits
// for a standby.
type Turn struct{ Promoted, Commits time.Time }

// Prepare creates the table that Promoted writes to. The server is the primary.
func (s Server) Prepare(t *testing.T) {
	t.Helper()
	db := testenv.Must(sql.Open("pgx", s.URL))(t)
	defer db.Close()
	testenv.Must(db.ExecContext(t.Context(), `CREATE TABLE probe (at timestamptz)`))(t)
}

// Promoted waits until one of the servers has become the primary. They are standbys; a former primary is one of them if
// it does not answer before it was restarted.
func Promoted(t *testing.T, servers ...Server) Turn {
	t.Helper()
	found := make(chan Turn, len(servers))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, s := range servers {
		db := testenv.Must(sql.Open("pgx", s.URL))(t)
		go func() {
			defer db.Close()
			for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
				var standby bool
				if err := db.QueryRowContext(ctx, `SELECT pg_is_in_recovery()`).Scan(&standby); err == nil && !standby {
					r := Turn{Promoted: time.Now()}
					for ; r.Commits.IsZero() && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
						if _, err := db.ExecContext(ctx, `INSERT INTO probe VALUES (now())`); err == nil {
							r.Commits = time.Now()
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
		t.Fatal("no server was promoted")
		return Turn{}
	}
}

// Fault is what happens to the PostgreSQL. It returns when another server has become the primary; if none has to, the
// turn is zero. The function ends the fault.
type Fault func() (Turn, func())

// Order returns the names of the faults to run, in a random order that FAILOVER_SEED repeats. By default these are the
// names in once. With FAILOVER_FAULTS they are so many of those in often, and a tenth as many of the rare one, which
// promotes no server.
func Order(t *testing.T, once, often []string, rare string) []string {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("FAILOVER_SEED"); text != "" {
		seed = testenv.Must(strconv.ParseUint(text, 10, 64))(t)
	}
	order := slices.Clone(once)
	if text := os.Getenv("FAILOVER_FAULTS"); text != "" {
		number := testenv.Must(strconv.Atoi(text))(t)
		order = nil
		for _, name := range often {
			order = append(order, slices.Repeat([]string{name}, number/len(often))...)
		}
		order = append(order, slices.Repeat([]string{rare}, max(1, number/10))...)
	}
	random := rand.New(rand.NewPCG(seed, 0))
	random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	t.Logf("FAILOVER_SEED=%d: %v", seed, order)
	return order
}

// Run runs the faults in the order of their names, with load, and judges the replies. Between two faults it calls whole,
// which waits until all servers run and replicate.
func (w *World) Run(order []string, faults map[string]Fault, whole func()) {
	t := w.t
	end := w.Watch()
	var promotions, commits, outages []time.Duration
	for round, name := range order {
		stop := w.load(round)
		time.Sleep(time.Second)
		begun := time.Now()
		changed, mend := faults[name]()
		promoted := !changed.Commits.IsZero()
		if !promoted {
			changed = Turn{begun, begun}
		}
		// The fault lasts until all gateways have written again, and the clients have seen it.
		w.AwaitWrites(name, changed.Commits)
		time.Sleep(3 * time.Second)
		mend()
		time.Sleep(time.Second)
		stop()
		for i, g := range w.gateways {
			outage, until := g.interruption(begun)
			t.Logf("%-10s gateway %d: promoted after %5.2f s, commits after %5.2f s, writes after %5.2f s; no write for %5.2f s", name, i,
				changed.Promoted.Sub(begun).Seconds(), changed.Commits.Sub(begun).Seconds(), until.Sub(begun).Seconds(), outage.Seconds())
			outages = append(outages, outage)
			if promoted {
				promotions = append(promotions, max(0, until.Sub(changed.Promoted)))
				commits = append(commits, max(0, until.Sub(changed.Commits)))
			}
		}
		whole()
	}
	// Everything that was acknowledged is still there after all faults.
	for _, p := range w.people {
		p.Do(2, 0, Call{What: "sign in", Password: p.password})
		for session := range p.tokens {
			p.Do(2, len(w.gateways)-1, Call{What: "read", Session: session})
		}
	}
	end()
	requests := 0
	for _, p := range w.people {
		requests += p.Check(t)
	}
	t.Logf("%d replies, of which %d were 503; %d recorded requests about %d accounts",
		w.answers.Load(), w.unavailable.Load(), requests, len(w.people))
	t.Logf("writes go on after the promotion: %s", summary(promotions))
	t.Logf("writes go on after the first commit of the new primary: %s", summary(commits))
	t.Logf("no write: %s", summary(outages))
	if late := percentile(commits, 95); late > GoesOn {
		t.Errorf("95%% of the writes go on within %v of the first commit of a new primary; want %v", late, GoesOn)
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
