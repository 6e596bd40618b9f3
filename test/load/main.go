// Command load implements `make bench`. It compares the server with a floor that does only the unavoidable work, in one
// run on one database, and prints the results as Markdown. A figure that misses its target is marked. The exit code
// reports only whether everything ran.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/crypto/bcrypt"

	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
	"github.com/auth-gateway/auth-gateway/keys"
)

func main() {
	b := bench{report: report{to: os.Stdout}}
	if role := os.Getenv(roleVariable); role != "" {
		exit(play(role))
	}
	// With many short rounds, other load on the machine affects both halves of a round equally.
	flag.DurationVar(&b.slice, "duration", 500*time.Millisecond,
		"duration of each half of a round; sign-ins take six times, a storm twenty times as long")
	flag.IntVar(&b.rounds, "rounds", 15, "number of rounds, of which the median counts; sign-ins have a third of them")
	only := flag.String("only", "", "run only these parts, separated by commas: "+strings.Join(parts, ", "))
	quick := flag.Bool("quick", false, "check in seconds that everything runs; the figures mean little")
	flag.IntVar(&b.large, "large", 100_000,
		"number of users of the large database of the parts growth and cleanup, which has over ten times as many sessions and events")
	flag.StringVar(&b.dir, "dir", "", "directory that keeps the databases of the parts growth and cleanup; by default they are removed")
	flag.BoolVar(&b.seedOnly, "seed", false, "only create the databases of -dir, to be measured by another run")
	flag.StringVar(&b.program, "server", "", "path of the server binary; by default make build builds it")
	flag.StringVar(&b.before, "before", "", "path of an earlier server binary, with which the part traces compares")
	flag.Parse()
	if *quick {
		b.beQuick()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(b.run(ctx, *only))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// parts lists the parts of a run in order.
var parts = []string{"size", "start", "memory", "throughput", "authz", "signin", "algorithms", "storm", "limited",
	"endings", "accounts", "bulk", "traces", "replicas", "growth", "cleanup"}

type bench struct {
	report
	slice    time.Duration
	rounds   int
	users    int
	starts   int
	large    int
	dir      string
	seedOnly bool
	program  string
	before   string // an earlier version of the program, or ""
	only     []string
	db       *localpostgres.Server
	hash     string
}

func (b *bench) beQuick() {
	b.slice, b.rounds, b.users, b.starts, b.large = 50*time.Millisecond, 1, 3*active, 2, 3000
}

func (b *bench) wants(part string) bool { return len(b.only) == 0 || slices.Contains(b.only, part) }

func (b *bench) run(ctx context.Context, only string) (err error) {
	if only != "" {
		b.only = strings.Split(only, ",")
	}
	for _, part := range b.only {
		if !slices.Contains(parts, part) {
			return fmt.Errorf("unknown part %q; the parts are %s", part, strings.Join(parts, ", "))
		}
	}
	if b.users == 0 {
		b.users, b.starts = 10000, 10
	}
	if b.program == "" {
		// The measured binary is built like a release.
		if output, err := exec.CommandContext(ctx, "make", "-s", "build").CombinedOutput(); err != nil {
			return fmt.Errorf("make build: %w\n%s", err, output)
		}
		b.program = filepath.Join("bin", "authserver")
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		return err
	}
	b.hash = string(hash)
	if b.db, err = localpostgres.Start(ctx, localpostgres.Options{}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.db.Stop()) }()

	b.printf("## Load: the server against the floor\n\n"+
		"%d processors, shared with PostgreSQL (fsync off) and the clients; %s; load average %s.\n",
		runtime.NumCPU(), runtime.Version(), loadAverage())
	r, err := newEnv(ctx, b.db, b.program, b.hash, keys.ES256, b.users)
	if err != nil {
		return err
	}
	if err := b.figures(ctx, r); err != nil {
		return err
	}
	if err := b.ratios(ctx, r); err != nil {
		return err
	}
	if b.wants("algorithms") {
		if err := b.algorithms(ctx); err != nil {
			return err
		}
	}
	if b.wants("authz") {
		if err := b.authz(ctx, r); err != nil {
			return err
		}
	}
	if err := b.storms(ctx, r); err != nil {
		return err
	}
	if b.wants("endings") {
		if err := b.endings(ctx, r); err != nil {
			return err
		}
	}
	if b.wants("accounts") {
		if err := b.accounts(ctx, r); err != nil {
			return err
		}
	}
	if b.wants("bulk") {
		if err := b.bulk(ctx, r); err != nil {
			return err
		}
	}
	if b.wants("traces") {
		if err := b.traces(ctx, r); err != nil {
			return err
		}
	}
	if b.wants("replicas") {
		if err := b.replicas(ctx, r); err != nil {
			return err
		}
	}
	if err := b.growth(ctx); err != nil {
		return err
	}
	b.printf("\nLoad average at the end: %s. ", loadAverage())
	if len(b.missed) == 0 {
		b.printf("Every target is met.\n")
	} else {
		b.printf("Missed: %s.\n", strings.Join(b.missed, "; "))
	}
	return ctx.Err()
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 3 {
		return "unknown"
	}
	return strings.Join(fields[:3], " ")
}

// figures measures one server while nothing else runs.
func (b *bench) figures(ctx context.Context, r *env) error {
	if !b.wants("size") && !b.wants("start") && !b.wants("memory") {
		return nil
	}
	b.table("Size, start and memory", "figure", "measured", "target", "", "remarks")
	if b.wants("size") {
		info, err := os.Stat(b.program)
		if err != nil {
			return err
		}
		b.atMost("binary", float64(info.Size())/(1<<20), "MiB", 25, "")
	}
	if b.wants("start") {
		server, err := b.startToReady(func() (*process, error) { return r.startServer(ctx, nil) })
		if err != nil {
			return err
		}
		floor, err := b.startToReady(func() (*process, error) { return r.startFloor(ctx, false) })
		if err != nil {
			return err
		}
		b.atMost("start to ready, migrated database", server, "ms", 300, fmt.Sprintf("median of %d; floor: %.0f ms", b.starts, floor))
	}
	if b.wants("memory") {
		return b.memory(ctx, r)
	}
	return nil
}

func (b *bench) startToReady(start func() (*process, error)) (float64, error) {
	var took []float64
	for range b.starts {
		p, err := start()
		if err != nil {
			return 0, err
		}
		took = append(took, milliseconds(p.ready))
		p.stop()
	}
	return median(took), nil
}

func (b *bench) memory(ctx context.Context, r *env) error {
	server, err := r.startServer(ctx, nil)
	if err != nil {
		return err
	}
	defer server.stop()
	floor, err := r.startFloor(ctx, false)
	if err != nil {
		return err
	}
	defer floor.stop()
	time.Sleep(10 * b.slice)
	idle, err1 := server.memory("VmRSS")
	idleFloor, err2 := floor.memory("VmRSS")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	b.atMost("memory, idle", idle, "MiB", 20, fmt.Sprintf("resident a few seconds after the start; floor: %.1f MiB", idleFloor))

	// Each user gets an access token of this server and uses it, so the server has checked all of them.
	access := make([]string, len(r.refresh))
	renew := r.renew(r.refresh)
	renew.slots, renew.limit = 0, len(access)
	renew.accept = func(n int, response *fasthttp.Response) { access[n] = member(response.Body(), "access_token") }
	if err := drive(server.address, 8, time.Minute, renew).problem(); err != nil {
		return fmt.Errorf("renew for every user: %w", err)
	}
	read := r.read(access)
	read.slots, read.limit = 0, len(access)
	if err := drive(server.address, 8, time.Minute, read).problem(); err != nil {
		return fmt.Errorf("read for every user: %w", err)
	}
	var mixed sync.WaitGroup
	results := make([]tally, 3)
	for i, j := range []job{r.read(access), r.renew(r.refresh), r.signIn()} {
		mixed.Go(func() { results[i] = drive(server.address, 32, 10*b.slice, j) })
	}
	mixed.Wait()
	for _, t := range results {
		if err := t.problem(); err != nil {
			return fmt.Errorf("memory under load: %w", err)
		}
	}
	loaded, err := server.memory("VmHWM")
	if err != nil {
		return err
	}
	b.atMost("memory under load", loaded, "MiB", 60,
		fmt.Sprintf("maximum resident; %d users signed in, then reads, renewals and sign-ins on 32 connections each", len(access)))
	return nil
}

var ratioColumns = []string{"request", "connections", "server/s", "floor/s", "ratio (range)", "target", "",
	"CPU µs per request: server, floor", "remarks"}

// ratios compares the throughput of the server with that of the floor.
func (b *bench) ratios(ctx context.Context, r *env) error {
	if !b.wants("throughput") && !b.wants("signin") {
		return nil
	}
	defer r.stopAll()
	if err := r.startAll(ctx); err != nil {
		return err
	}
	if b.wants("throughput") {
		b.table("Throughput, ES256, "+fmt.Sprint(active)+" users in turn", ratioColumns...)
		for _, connections := range []int{1, 8, 32} {
			if err := b.throughput(r, connections); err != nil {
				return err
			}
		}
		if err := b.unseen(r); err != nil {
			return err
		}
	}
	if b.wants("signin") {
		b.table("Signing in, ES256, bcrypt cost "+fmt.Sprint(cost), ratioColumns...)
		for _, connections := range []int{1, 8, 32} {
			if err := b.compare("POST /tokens/signin", connections, 0.95, 6*b.slice, r.server, r.floor, r.signIn); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) throughput(r *env, connections int) error {
	return errors.Join(
		b.compare("GET /tokens/keys", connections, 0.8, b.slice, r.server, r.floor, r.keys),
		b.compare("GET /users", connections, 0.85, b.slice, r.server, r.floor, func() job { return r.read(r.access) }),
		b.compare("POST /tokens", connections, 0.85, b.slice, r.server, r.floor, func() job { return r.renew(r.refresh[:active]) }),
		b.compare("POST /tokens, rotating", connections, 0.85, b.slice, r.rotating, r.rotFloor, r.rotate),
	)
}

// unseen is the worst case for the server's cache of checked tokens: no token is sent twice.
func (b *bench) unseen(r *env) error {
	const most = 10000
	count := min(most, b.users)
	var err error
	read := func() job {
		access, failure := r.freshAccess(count)
		err = errors.Join(err, failure)
		j := r.read(access)
		j.slots, j.limit = 0, count
		return j
	}
	age := time.Minute
	renew := func() job {
		// The refresh tokens of these users have been rotated.
		age += time.Second
		list, failure := r.freshRefresh(count, age)
		err = errors.Join(err, failure)
		list = slices.Delete(list, active, 2*active)
		j := r.renew(list)
		j.slots, j.limit = 0, len(list)
		return j
	}
	return errors.Join(
		b.compare("GET /users, each token for the first time", 8, 0.85, b.slice, r.server, r.floor, read),
		b.compare("POST /tokens, each token for the first time", 8, 0.85, b.slice, r.server, r.floor, renew), err)
}

// authz compares decisions for proxies.
func (b *bench) authz(ctx context.Context, r *env) error {
	server, err := r.startDeciding(ctx, nil)
	if err != nil {
		return err
	}
	defer server.stop()
	floor, err := r.startFloor(ctx, false)
	if err != nil {
		return err
	}
	defer floor.stop()
	b.table("Decisions for proxies, ES256", ratioColumns...)
	for _, connections := range []int{1, 8, 32} {
		if err := b.compare("GET /authz", connections, 0.8, b.slice, server, floor, func() job { return r.decide(r.access) }); err != nil {
			return err
		}
	}
	count := min(10000, b.users)
	var failed error
	return errors.Join(b.compare("GET /authz, each token for the first time", 8, 0.8, b.slice, server, floor, func() job {
		access, err := r.freshAccess(count)
		failed = errors.Join(failed, err)
		j := r.decide(access)
		j.slots, j.limit = 0, count
		return j
	}), failed)
}

// compare runs the server and the floor in turn, in alternating order, and prints a row. makeJob is called for each
// half of a round.
func (b *bench) compare(what string, connections int, target float64, d time.Duration, server, floor *process, makeJob func() job) error {
	var c compared
	rejected := 0
	rounds := b.rounds
	if d > b.slice {
		rounds = max(rounds/3, 1)
	}
	for round := range rounds + 1 {
		halves := [2]struct {
			p *process
			c *candidate
		}{{server, &c.server}, {floor, &c.floor}}
		if round%2 == 1 {
			halves[0], halves[1] = halves[1], halves[0]
		}
		for _, half := range halves {
			j := makeJob()
			if round == 0 { // warms up connections, plans and caches
				j.limit = min(j.limit, 100)
				if t := drive(half.p.address, connections, d/2, j); t.failed > 0 {
					return fmt.Errorf("%s: %w", what, t.problem())
				}
				continue
			}
			before, err1 := half.p.cpuTime()
			t := drive(half.p.address, connections, d, j)
			after, err2 := half.p.cpuTime()
			if err := errors.Join(t.problem(), err1, err2); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			rejected += t.rejected
			half.c.rates = append(half.c.rates, t.rate())
			half.c.requests += t.good
			half.c.cpu += after - before
		}
	}
	remarks := ""
	if rejected > 0 {
		remarks = fmt.Sprintf("%d got 503", rejected)
	}
	b.ratio(what, connections, c, target, remarks)
	return nil
}

// algorithms repeats the table for the other two algorithms, at 8 connections.
func (b *bench) algorithms(ctx context.Context) error {
	for _, a := range []keys.Algorithm{keys.RS256, keys.EdDSA} {
		if err := b.algorithm(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) algorithm(ctx context.Context, a keys.Algorithm) error {
	r, err := newEnv(ctx, b.db, b.program, b.hash, a, 3*active)
	if err != nil {
		return err
	}
	defer r.stopAll()
	if err := r.startAll(ctx); err != nil {
		return err
	}
	b.table(string(a), ratioColumns...)
	if err := b.throughput(r, 8); err != nil {
		return err
	}
	return b.compare("POST /tokens/signin", 8, 0.95, 6*b.slice, r.server, r.floor, r.signIn)
}

func (b *bench) storms(ctx context.Context, r *env) error {
	if b.wants("storm") {
		if err := b.storm(ctx, r, "Sign-in storm", nil, runtime.NumCPU()); err != nil {
			return err
		}
	}
	if !b.wants("limited") {
		return nil
	}
	group, err := newCgroup(1)
	if err != nil {
		b.printf("\nThe storm under a CPU limit of one core is not possible on this machine: %v.\n", err)
		return nil
	}
	return errors.Join(b.storm(ctx, r, "Sign-in storm under a CPU limit of one core", group, 1), group.remove())
}

const (
	stormClients = 200
	readPace     = 100 // a second, and the same of renewals
	healthPace   = 50
)

// storm has 200 clients sign in as fast as they can while others send reads and renewals. A CPU limit does not apply to
// the clients.
func (b *bench) storm(ctx context.Context, r *env, title string, group *cgroup, threads int) error {
	d := 20 * b.slice
	hashing := hashOptions{Hash: b.hash, Threads: threads, For: 6 * b.slice}
	before, err := hashAlone(ctx, group, hashing)
	if err != nil {
		return err
	}
	server, err := r.startDeciding(ctx, group)
	if err != nil {
		return err
	}
	defer server.stop()
	// A run without the storm shows the latency of the machine. The first requests of all, which open connections, are
	// not counted.
	b.paceAll(r, server, d/20)
	quiet := b.paceAll(r, server, d/4)
	var signIns tally
	var flood sync.WaitGroup
	flood.Go(func() { signIns = drive(server.address, stormClients, d, r.signIn()) })
	time.Sleep(d / 20) // until the queue is full
	paces := b.paceAll(r, server, d-d/10)
	flood.Wait()
	peak, err := server.memory("VmHWM")
	if err != nil {
		return err
	}
	server.stop()
	after, err := hashAlone(ctx, group, hashing)
	if err != nil {
		return err
	}

	b.table(title, "figure", "measured", "target", "", "remarks")
	for i, what := range []string{"GET /users", "POST /tokens", "GET /healthz", "GET /authz"} {
		p, target := paces[i], 15.0
		if i >= 2 {
			target = 10
		}
		b.atMost(what+", p99", milliseconds(percentile(p.latencies, 0.99)), "ms", target,
			fmt.Sprintf("p50 %.1f ms, max %.1f ms of %d; without the storm p99 %.1f ms", milliseconds(percentile(p.latencies, 0.5)),
				milliseconds(percentile(p.latencies, 1)), len(p.latencies), milliseconds(percentile(quiet[i].latencies, 0.99))))
		b.atMost(what+", failed", float64(p.failed), "", 1, p.reason)
	}
	alone := (before + after) / 2
	b.atLeast("sign-ins, of the hashing rate", 100*signIns.rate()/alone, "%", 90,
		fmt.Sprintf("%.1f/s; only bcrypt on %d threads: %.1f/s (%.1f before, %.1f after)", signIns.rate(), threads, alone, before, after))
	b.atMost("sign-ins failed", float64(signIns.failed), "", 1,
		fmt.Sprintf("%d clients: %d signed in, %d got 503; load average %s", stormClients, signIns.good, signIns.rejected, loadAverage()))
	b.atMost("memory", peak, "MiB", 60, "the most ever resident")
	return nil
}

// paceAll sends the reads, renewals and decisions beside the storm.
func (b *bench) paceAll(r *env, server *process, d time.Duration) [4]paced {
	var seen [4]paced
	var all sync.WaitGroup
	all.Go(func() { seen[0] = pace(server.address, readPace, d, r.read(r.access)) })
	all.Go(func() { seen[1] = pace(server.address, readPace, d, r.renew(r.refresh[:active])) })
	all.Go(func() { seen[2] = pace(server.metrics, healthPace, d, health()) })
	all.Go(func() { seen[3] = pace(server.address, readPace, d, r.decide(r.access)) })
	all.Wait()
	return seen
}
