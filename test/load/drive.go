package main

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/crypto/bcrypt"
)

// patience is how long a client waits for a reply. Nothing answers later than
// the server's own bounds allow, but the floor has none.
const patience = 30 * time.Second

// A job makes the requests of a load. n counts the requests of all workers, and
// each n is asked for once; accept, where there is one, sees each good reply.
// What belongs to an n is used by no two workers at once.
type job struct {
	prepare func(n int, request *fasthttp.Request)
	accept  func(n int, response *fasthttp.Response)
	// lanes is the number of different n; n is taken modulo it. 0: each n is
	// new, and the load ends after limit requests.
	lanes, limit int
}

// tally is what became of a load.
type tally struct {
	good, shed, failed int
	took               time.Duration
	reason             string // of one that failed
}

func (t tally) rate() float64 { return float64(t.good) / t.took.Seconds() }

// problem is an error where a load that should have gone well did not.
func (t tally) problem() error {
	if t.failed > 0 || t.good == 0 {
		return fmt.Errorf("%d requests failed, %d were good: %s", t.failed, t.good, t.reason)
	}
	return nil
}

func newClient(address string, connections int) *fasthttp.HostClient {
	return &fasthttp.HostClient{
		Addr: address, MaxConns: connections, NoDefaultUserAgentHeader: true, DisablePathNormalizing: true,
		ReadTimeout: patience, WriteTimeout: patience,
		MaxIdemponentCallAttempts: 1, // a failure is counted, not hidden
	}
}

// drive has each connection send one request after another for d. Requests that
// are under way at the end are waited for and counted, and so is their time:
// with some thirty sign-ins a second what is cut off would matter.
func drive(address string, connections int, d time.Duration, j job) tally {
	client := newClient(address, connections)
	defer client.CloseIdleConnections()
	results := make([]tally, connections)
	begin := time.Now()
	deadline := begin.Add(d)
	var workers sync.WaitGroup
	for worker := range connections {
		workers.Go(func() {
			t := &results[worker]
			request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			// Each worker has lanes of its own, so that of two replies to one
			// lane the later one always is the later one.
			for turn := 0; time.Now().Before(deadline); turn++ {
				n := worker + turn*connections
				if j.lanes > 0 {
					n %= j.lanes - j.lanes%connections
				} else if n >= j.limit {
					break
				}
				t.count(send(client, request, response, j, n))
			}
			t.took = time.Since(begin)
		})
	}
	workers.Wait()
	var all tally
	for _, t := range results {
		all.good += t.good
		all.shed += t.shed
		all.failed += t.failed
		all.took = max(all.took, t.took)
		if t.reason != "" {
			all.reason = t.reason
		}
	}
	return all
}

func (t *tally) count(status int, reason string) {
	switch status {
	case fasthttp.StatusOK:
		t.good++
	case fasthttp.StatusServiceUnavailable:
		t.shed++
		t.reason = reason
	default:
		t.failed++
		t.reason = reason
	}
}

func send(client *fasthttp.HostClient, request *fasthttp.Request, response *fasthttp.Response, j job, n int) (status int, reason string) {
	request.Reset()
	response.Reset()
	j.prepare(n, request)
	if err := client.Do(request, response); err != nil {
		return 0, err.Error()
	}
	status = response.StatusCode()
	if status != fasthttp.StatusOK {
		return status, fmt.Sprintf("%d %s", status, response.Body())
	}
	if j.accept != nil {
		j.accept(n, response)
	}
	return status, ""
}

// paced is what an open loop saw of one kind of request.
type paced struct {
	latencies []time.Duration // sorted, of all requests, failed ones too
	failed    int
	reason    string
}

// pace sends at fixed times, however long replies take, as clients that know
// nothing of each other do. Latency counts from the time at which a request was
// due, so that one slow reply cannot hide those that would have waited after it.
func pace(address string, perSecond int, d time.Duration, j job) paced {
	client := newClient(address, 1024)
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var result paced
	var underWay sync.WaitGroup
	begin := time.Now()
	for n := range int(d.Seconds() * float64(perSecond)) {
		due := begin.Add(time.Duration(n) * time.Second / time.Duration(perSecond))
		time.Sleep(time.Until(due))
		underWay.Go(func() {
			request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			status, reason := send(client, request, response, j, n%max(j.lanes, 1))
			took := time.Since(due)
			fasthttp.ReleaseRequest(request)
			fasthttp.ReleaseResponse(response)
			mu.Lock()
			defer mu.Unlock()
			result.latencies = append(result.latencies, took)
			if status != fasthttp.StatusOK {
				result.failed++
				result.reason = reason
			}
		})
	}
	underWay.Wait()
	slices.Sort(result.latencies)
	return result
}

// hashRate is bcrypt alone, on so many threads: what no sign-in can exceed.
func hashRate(hash string, threads int, d time.Duration) (float64, error) {
	var done atomic.Int64
	var failure error
	var once sync.Once
	var workers sync.WaitGroup
	begin := time.Now()
	for range threads {
		workers.Go(func() {
			runtime.LockOSThread()
			for time.Since(begin) < d {
				if err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)); err != nil {
					once.Do(func() { failure = err })
					return
				}
				done.Add(1)
			}
		})
	}
	workers.Wait()
	return float64(done.Load()) / time.Since(begin).Seconds(), failure
}
