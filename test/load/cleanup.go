package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// The load beside the clean-up, in requests a second. It leaves the machine room, so that latencies are not those of a
// queue.
const (
	cleanUpReads   = 100
	cleanUpRenews  = 100
	cleanUpSignIns = 50
)

// reply is one request of an open loop.
type reply struct {
	due  time.Time
	took time.Duration
}

// keepPace sends at fixed times until stop is closed, as pace does.
func keepPace(stop <-chan struct{}, address string, perSecond int, j job) (replies []reply, failed int, reason string) {
	client := newClient(address, 1024)
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var underWay sync.WaitGroup
	begin := time.Now()
	for n := 0; ; n++ {
		due := begin.Add(time.Duration(n) * time.Second / time.Duration(perSecond))
		select {
		case <-stop:
			underWay.Wait()
			return replies, failed, reason
		case <-time.After(time.Until(due)):
		}
		underWay.Go(func() {
			request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			status, problem := send(client, request, response, j, n%j.slots)
			took := time.Since(due)
			fasthttp.ReleaseRequest(request)
			fasthttp.ReleaseResponse(response)
			mu.Lock()
			defer mu.Unlock()
			replies = append(replies, reply{due, took})
			if status != fasthttp.StatusOK {
				failed++
				reason = problem
			}
		})
	}
}

// span is a time in which the clean-up did or did not run.
type span struct{ from, to time.Time }

func within(spans []span, replies []reply) (latencies []time.Duration) {
	for _, r := range replies {
		if slices.ContainsFunc(spans, func(s span) bool { return r.due.After(s.from) && r.due.Before(s.to) }) {
			latencies = append(latencies, r.took)
		}
	}
	slices.Sort(latencies)
	return latencies
}

// cleanUp measures requests in turn while the gateway removes what has expired and while it does not. The gateway looks
// once a minute; before that, another holder of its lock stops it.
func (b *bench) cleanUp(ctx context.Context, g *grown) error {
	cycles, busyFor := max(b.rounds/5, 1), 80*b.slice
	if b.users < 10_000 {
		busyFor = 2 * time.Second
	}
	kinds := []struct {
		what    string
		pace    int
		job     job
		replies []reply
		failed  int
		reason  string
	}{
		{what: "GET /users", pace: cleanUpReads, job: g.read(g.access)},
		{what: "POST /tokens, rotating", pace: cleanUpRenews, job: g.renewal()},
		{what: "POST /tokens/signin", pace: cleanUpSignIns, job: g.signInJob()},
	}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i := range kinds {
		k := &kinds[i]
		load.Go(func() { k.replies, k.failed, k.reason = keepPace(stop, g.gate.address, k.pace, k.job.from(g.next)) })
	}
	var quiet, busy []span
	var sessions, events, wal float64
	err := func() error {
		defer load.Wait()
		defer close(stop)
		time.Sleep(2 * b.slice) // until connections are open
		for range cycles {
			s, removed, err := g.cleanUpOnce(ctx, busyFor)
			if err != nil {
				return err
			}
			quiet, busy = append(quiet, s[0]), append(busy, s[1])
			sessions, events, wal = sessions+removed.sessions, events+removed.events, wal+removed.wal
			if removed.done {
				break
			}
		}
		return nil
	}()
	if err != nil {
		return err
	}
	var took float64
	for _, s := range busy {
		took += s.to.Sub(s.from).Seconds()
	}
	b.table("Clean-up of the large database", "figure", "measured", "target", "", "remarks")
	for i := range kinds {
		k := &kinds[i]
		alone, beside := within(quiet, k.replies), within(busy, k.replies)
		p := func(l []time.Duration, at float64) float64 { return milliseconds(percentile(l, at)) }
		b.atMost(k.what+", p99 of that without", 100*p(beside, 0.99)/p(alone, 0.99), "%", 120,
			fmt.Sprintf("p50, p95, p99 %.2f, %.2f, %.2f ms of %d; without %.2f, %.2f, %.2f ms of %d",
				p(beside, 0.5), p(beside, 0.95), p(beside, 0.99), len(beside),
				p(alone, 0.5), p(alone, 0.95), p(alone, 0.99), len(alone)))
		b.atMost(k.what+", failed", float64(k.failed), "", 1, k.reason)
	}
	rows := sessions + events
	b.atLeast("removed sessions", sessions/took, "a second", leastRemoved,
		fmt.Sprintf("%.0f in %.0f s; a million take %.0f s", sessions, took, 1e6*took/max(sessions, 1)))
	b.atLeast("removed events", events/took, "a second", leastRemoved,
		fmt.Sprintf("%.0f; a million take %.0f s; WAL per removed row with the requests' %.0f bytes",
			events, 1e6*took/max(events, 1), wal/max(rows, 1)))
	return nil
}

// leastRemoved is how many rows of each kind a gateway must remove a second while it removes several kinds. A thousand
// renewals a second belong to 900,000 sessions in use, of which some ten are opened a second.
const leastRemoved = 500

type removal struct {
	sessions, events, wal float64
	done                  bool
}

// cleanUpOnce waits for a time, lets the gateway clean up, waits until it does, and stops it after the same time. It
// returns when it did not run, and when it did. The first span is not the shorter one, so its p99 is that of as many
// requests.
func (g *grown) cleanUpOnce(ctx context.Context, busyFor time.Duration) (s [2]span, r removal, err error) {
	count := func() (now removal, err error) {
		err = g.conn.QueryRow(ctx, `SELECT (pg_current_wal_insert_lsn() - '0/0')::float8,
				sum(n_tup_del) FILTER (WHERE relname = 'sessions')::float8,
				sum(n_tup_del) FILTER (WHERE relname = 'audit_events')::float8
			FROM pg_stat_user_tables`).Scan(&now.wal, &now.sessions, &now.events)
		return now, err
	}
	s[0].from = time.Now()
	first, err := count()
	if err != nil {
		return s, r, err
	}
	time.Sleep(busyFor)
	if err := g.allowCleanUp(ctx); err != nil {
		return s, r, err
	}
	now, allowed := first, time.Now()
	for now.events == first.events {
		if time.Since(allowed) > 3*time.Minute {
			return s, r, errors.New("the gateway has cleaned up nothing in three minutes")
		}
		s[0].to = time.Now().Add(-1500 * time.Millisecond) // the statistics are late by a second
		time.Sleep(100 * time.Millisecond)
		if now, err = count(); err != nil {
			return s, r, err
		}
	}
	first, s[1].from = now, time.Now()
	last := now
	for time.Since(s[1].from) < busyFor && !r.done {
		time.Sleep(min(4*time.Second, busyFor))
		if now, err = count(); err != nil {
			return s, r, err
		}
		// A query of the tables would have to pass all rows that were removed.
		r.done = now.sessions == last.sessions && now.events == last.events
		last = now
	}
	s[1].to = time.Now()
	if err := g.holdCleanUp(ctx); err != nil {
		return s, r, err
	}
	r.sessions, r.events, r.wal = last.sessions-first.sessions, last.events-first.events, last.wal-first.wal
	return s, r, nil
}
