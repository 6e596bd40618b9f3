package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/valyala/fasthttp"

	"github.com/auth-gateway/auth-gateway/internal/config"
)

const (
	// replicaCPU is what each replica may use: a fraction of a processor, so that a small machine has enough left for
	// PostgreSQL and the clients of all of them.
	replicaCPU = 0.2
	// leastScale is the throughput of several replicas, of as many times that of one, in percent.
	leastScale         = 85
	replicaConnections = 8
)

// replicas measures the throughput of several gateways on one database, each under the same CPU limit.
func (b *bench) replicas(ctx context.Context, r *env) error {
	var groups []*cgroup
	var servers []*process
	defer func() {
		for _, p := range servers {
			p.stop()
		}
		for _, g := range groups {
			_ = g.remove()
		}
	}()
	const most = 4
	for range most {
		group, err := newCgroup(replicaCPU)
		if err != nil {
			b.printf("\nReplicas under a CPU limit are not possible on this machine: %v.\n", err)
			return nil
		}
		groups = append(groups, group)
		p, err := r.startServer(ctx, group, config.EnvRefreshTokenRotation+"="+string(config.RotateAlways))
		if err != nil {
			return err
		}
		servers = append(servers, p)
	}
	conn, err := pgx.Connect(ctx, r.db.DSN(r.name))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	// Each replica has its own users, as a client reaches one of them by chance.
	share := active / most
	access, err := r.freshAccess(active)
	if err != nil {
		return err
	}
	refresh, err := r.freshRefresh(3*active, 0)
	if err != nil {
		return err
	}
	refresh = refresh[2*active:] // those of no other part are not rotated yet
	kinds := []struct {
		what string
		of   func(i int) job
	}{
		{"GET /tokens/keys", func(int) job {
			return job{prepare: func(_ int, request *fasthttp.Request) {
				request.SetRequestURI("http://gateway/tokens/keys")
			}, slots: 1 << 20}
		}},
		{"GET /users", func(i int) job { return r.read(access[i*share : (i+1)*share]) }},
		{"POST /tokens, rotating", func(i int) job {
			mine := refresh[i*share : (i+1)*share]
			j := r.renew(mine)
			j.accept = func(n int, response *fasthttp.Response) { mine[n] = member(response.Body(), "refresh_token") }
			return j
		}},
	}
	b.table(fmt.Sprintf("Replicas of %g processors each on one PostgreSQL, %d connections each",
		replicaCPU, replicaConnections), "request", "replicas", "requests/s",
		"of as many times one (range)", "target", "", "p50, p99 ms", "CPU µs per request: gateway, PostgreSQL",
		"PostgreSQL used of a processor")
	rounds := max(b.rounds/3, 1)
	for _, kind := range kinds {
		results := map[int]*replicaResult{1: {}, 2: {}, most: {}}
		for round := range rounds + 1 { // the first one warms up
			for _, n := range []int{1, 2, most} {
				if err := driveReplicas(ctx, conn, servers[:n], 4*b.slice, kind.of, results[n], round > 0); err != nil {
					return fmt.Errorf("%s with %d replicas: %w", kind.what, n, err)
				}
			}
		}
		for _, n := range []int{1, 2, most} {
			b.replicaRow(kind.what, n, results[n], results[1])
		}
	}
	return nil
}

type replicaResult struct {
	rates            []float64
	latencies        []time.Duration
	good             int
	gateway, backend time.Duration
	took             time.Duration
}

func driveReplicas(ctx context.Context, conn *pgx.Conn, servers []*process, d time.Duration, of func(int) job,
	into *replicaResult, counts bool,
) error {
	used := func() (gateways, backends time.Duration, err error) {
		for _, p := range servers {
			one, failure := p.cpuTime()
			gateways, err = gateways+one, errors.Join(err, failure)
		}
		backends, failure := postgresTime(ctx, conn)
		return gateways, backends, errors.Join(err, failure)
	}
	g1, p1, err1 := used()
	began := time.Now()
	tallies := make([]tally, len(servers))
	var all sync.WaitGroup
	for i, p := range servers {
		j := of(i)
		j.timed = true
		all.Go(func() { tallies[i] = drive(p.address, replicaConnections, d, j) })
	}
	all.Wait()
	took := time.Since(began)
	g2, p2, err2 := used()
	if err := errors.Join(err1, err2); err != nil || !counts {
		return err
	}
	rate := 0.0
	for _, t := range tallies {
		if err := t.problem(); err != nil {
			return err
		}
		rate += t.rate()
		into.good += t.good
		into.latencies = append(into.latencies, t.latencies...)
	}
	into.rates = append(into.rates, rate)
	into.gateway += g2 - g1
	into.backend += p2 - p1
	into.took += took
	return nil
}

func (b *bench) replicaRow(what string, n int, r, one *replicaResult) {
	var of []float64
	for i := range r.rates {
		of = append(of, 100*r.rates[i]/float64(n)/one.rates[i])
	}
	goal, mark := "", ""
	if n > 1 {
		pass := median(of) >= leastScale
		b.note(fmt.Sprintf("%s, %d replicas", what, n), pass)
		goal, mark = fmt.Sprintf("≥ %d %%", leastScale), verdict(pass)
	}
	slices.Sort(r.latencies)
	per := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(max(r.good, 1)) }
	b.printf("| %s | %d | %.0f | %.0f %% (%.0f to %.0f) | %s | %s | %.1f, %.1f | %.0f, %.0f | %.2f |\n",
		what, n, median(r.rates), median(of), slices.Min(of), slices.Max(of), goal, mark,
		milliseconds(percentile(r.latencies, 0.5)), milliseconds(percentile(r.latencies, 0.99)),
		per(r.gateway), per(r.backend), r.backend.Seconds()/r.took.Seconds())
}
