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

// patience is how long a client waits for a reply. The server always answers earlier, but the floor has no limits.
const patience = 30 * time.Second

// A job creates the requests of a load. n counts the requests of all workers, and each n is requested once. accept, if
// it is set, gets each good reply. No two workers use the same n at the same time.
type job struct {
	prepare func(n int, request *fasthttp.Request)
	accept  func(n int, response *fasthttp.Response)
	// slots is the number of different n, which is taken modulo it. If it is 0, each n is new, and the load ends after
	// limit requests.
	slots, limit int
	timed        bool // the tally has the latencies
}

// tally is the result of a load.
type tally struct {
	good, rejected, failed int
	took                   time.Duration
	reason                 string // the error of one failed request
	latencies              []time.Duration
}

func (t tally) rate() float64 { return float64(t.good) / t.took.Seconds() }

// problem returns an error if a request failed or none succeeded.
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
		MaxIdemponentCallAttempts: 1, // failures are counted, not retried
	}
}

// drive has each connection send one request after another for d. Requests in flight at the end are awaited and counted
// with their time: at some thirty sign-ins a second, cutting them off would matter.
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
			// Each worker has its own slots, so of two replies for a slot the second one is newer.
			for turn := 0; time.Now().Before(deadline); turn++ {
				n := worker + turn*connections
				if j.slots > 0 {
					n %= j.slots - j.slots%connections
				} else if n >= j.limit {
					break
				}
				sent := time.Now()
				t.count(send(client, request, response, j, n))
				if j.timed {
					t.latencies = append(t.latencies, time.Since(sent))
				}
			}
			t.took = time.Since(begin)
		})
	}
	workers.Wait()
	var all tally
	for _, t := range results {
		all.good += t.good
		all.rejected += t.rejected
		all.failed += t.failed
		all.took = max(all.took, t.took)
		all.latencies = append(all.latencies, t.latencies...)
		if t.reason != "" {
			all.reason = t.reason
		}
	}
	return all
}

func (t *tally) count(status int, reason string) {
	switch status {
	case fasthttp.StatusOK, fasthttp.StatusCreated:
		t.good++
	case fasthttp.StatusServiceUnavailable:
		t.rejected++
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
	if status != fasthttp.StatusOK && status != fasthttp.StatusCreated {
		return status, fmt.Sprintf("%d %s", status, response.Body())
	}
	if j.accept != nil {
		j.accept(n, response)
	}
	return status, ""
}

// paced is the result of an open loop for one kind of request.
type paced struct {
	latencies []time.Duration // of all requests, also failed ones, sorted
	failed    int
	reason    string
}

// pace sends at fixed times, independent of replies, like unrelated clients. Latency is measured from the time at which
// a request was due, so one slow reply cannot hide the delay of later requests.
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
			status, reason := send(client, request, response, j, n%max(j.slots, 1))
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

// hashRate measures only bcrypt, on a number of threads: the upper limit of sign-ins.
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
