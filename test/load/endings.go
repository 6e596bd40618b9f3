package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/endings"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
)

// pollers is how many consumers wait for endings.
const pollers = 100

// endings measures what consumers of ended sessions cost, while a million endings matter. How long an ending takes to
// reach them is measured in test/consumers.
func (b *bench) endings(ctx context.Context, r *env) error {
	million, idle := 1_000_000, 60*b.slice
	if b.users < 10_000 {
		million = 10_000
	}
	server, err := r.startServer(ctx, nil, "GOGC=100")
	if err != nil {
		return err
	}
	defer server.stop()
	cpu := func() (float64, error) { // in percent of one processor
		before, err1 := server.cpuTime()
		time.Sleep(idle)
		after, err2 := server.cpuTime()
		return 100 * (after - before).Seconds() / idle.Seconds(), errors.Join(err1, err2)
	}
	asleep, err := cpu()
	if err != nil {
		return err
	}
	heap, err := server.heap(ctx)
	if err != nil {
		return err
	}
	if err := r.endSessions(ctx, million); err != nil {
		return err
	}
	b.table(fmt.Sprintf("Ended sessions, %d of them", million), "figure", "measured", "target", "", "remarks")
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: pollers, MaxIdleConnsPerHost: pollers}}
	defer client.CloseIdleConnections()
	began := time.Now()
	first, err := nextEndings(ctx, client, server.address, "", 25)
	if err != nil {
		return err
	}
	loaded := time.Since(began)
	b.atMost("first answer of a server that slept", loaded.Seconds(), "s", 25, "it reads all of them first")
	cursor, count := first.Next, len(first.Ended)
	for more := first.More; more; {
		page, err := nextEndings(ctx, client, server.address, cursor, 0)
		if err != nil {
			return err
		}
		cursor, more = page.Next, page.More
		count += len(page.Ended)
	}
	if count < million {
		return fmt.Errorf("a consumer got %d of %d endings", count, million)
	}
	b.atMost("a new consumer reads all of them", time.Since(began).Seconds(), "s", 60, "")
	held, err1 := server.heap(ctx)
	resident, err2 := server.memory("VmHWM")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	b.atMost("heap of the server for them", held-heap, "MiB", 32, fmt.Sprintf("the server had at most %.0f MiB resident", resident))
	tail, err := r.tail(ctx)
	if err != nil {
		return err
	}
	b.atMost("statement of each second, p50", milliseconds(percentile(tail, 0.5)), "ms", 5,
		fmt.Sprintf("with the way to PostgreSQL; p99 %.1f ms of %d", milliseconds(percentile(tail, 0.99)), len(tail)))

	awake, err := cpu()
	if err != nil {
		return err
	}
	polling, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	var failed atomic.Pointer[error]
	for range pollers {
		group.Go(func() {
			for after := cursor; polling.Err() == nil; {
				page, err := nextEndings(polling, client, server.address, after, 25)
				if err != nil {
					if polling.Err() == nil {
						failed.Store(&err)
					}
					return
				}
				after = page.Next
			}
		})
	}
	time.Sleep(2 * b.slice) // until all have connected
	waiting, err := cpu()
	stop()
	group.Wait()
	if problem := failed.Load(); problem != nil {
		err = errors.Join(err, *problem)
	}
	if err != nil {
		return err
	}
	b.atMost(fmt.Sprintf("CPU of the server, %d consumers wait", pollers), waiting, "% of one", 5,
		fmt.Sprintf("over %v; without a request for ten minutes %.1f %%, with one consumer that does not wait %.1f %%", idle, asleep, awake))
	return nil
}

// endSessions fills the table of endings.
func (r *env) endSessions(ctx context.Context, count int) (err error) {
	conn, err := pgx.Connect(ctx, r.db.DSN(r.name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, `INSERT INTO endings (kind, id) SELECT 'sid', gen_random_uuid() FROM generate_series(1, $1::int)`, count)
	return err
}

// tail runs the statement that each replica sends once a second, and returns its durations in ascending order.
func (r *env) tail(ctx context.Context) (took []time.Duration, err error) {
	store, err := postgres.Open(postgres.Config{
		Host: r.db.Host(), Port: r.db.Port(), User: r.db.User(), Password: r.db.Password(), Database: r.name,
	})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	view, err := store.LoadEndings(ctx, endings.Ending{}, time.Hour, 1)
	for range 500 {
		if err != nil {
			return nil, err
		}
		began := time.Now()
		view, err = store.TailEndings(ctx, view.Snapshot, 10_000)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took, err
}

type endingsPage struct {
	Ended []json.RawMessage
	Next  string
	More  bool
}

func nextEndings(ctx context.Context, client *http.Client, address, after string, wait int) (page endingsPage, err error) {
	query := url.Values{"after": {after}, "wait": {strconv.Itoa(wait)}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/sessions/ended?"+query.Encode(), http.NoBody)
	if err != nil {
		return page, err
	}
	response, err := client.Do(request)
	if err != nil {
		return page, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return page, fmt.Errorf("GET /sessions/ended: %s", response.Status)
	}
	return page, json.NewDecoder(response.Body).Decode(&page)
}

// heap returns, in MiB, what was alive in the heap of the server at its last collection. With GOGC=100, the next one is
// due at twice that.
func (p *process) heap(ctx context.Context) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.metrics+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if value, found := strings.CutPrefix(lines.Text(), "go_memstats_next_gc_bytes "); found {
			bytes, err := strconv.ParseFloat(value, 64)
			return bytes / 2 / (1 << 20), err
		}
	}
	return 0, errors.New("the server does not report its heap")
}
