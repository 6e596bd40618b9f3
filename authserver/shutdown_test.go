package authserver_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// This test is not parallel, because it checks all goroutines of the process.
func TestShutdownLeavesNoGoroutine(t *testing.T) {
	db := postgrestest.Config(t)
	before := goleak.IgnoreCurrent()
	t.Run("a life", func(t *testing.T) {
		c := newCluster(t, db)
		seed(t, db)
		c.addReady(2)
		u := c.nodes[0].newUser()
		for _, r := range atOnce(8, func(i int) *testenv.Reply { return c.any(i).trySignIn(u.username, u.password) }) {
			want(t, http.StatusOK, r)
		}
		c.call([]string{"keys", "rotate"})
	})
	t.Run("a start that fails", func(t *testing.T) {
		c := newCluster(t, db)
		c.call([]string{"serve"}, env{"PORT": "1", "HOST": "127.0.0.1", "ACCESS_PASSPHRASE": "another passphrase than that"})
	})
	http.DefaultClient.CloseIdleConnections()
	// fasthttp checks every few seconds whether its worker pool was stopped, and has one clock for the field Date.
	goleak.VerifyNone(t, before,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

// A load balancer sends no more requests when the server is not ready, so no client notices the stop.
func TestShutdownUnderLoadFailsNoRequest(t *testing.T) {
	t.Parallel()
	_, n := single(t, env{"DRAIN_DELAY": "3s", "HASHING_MAX_WAIT": "5s", "SESSIONS_PER_USER": "10000"})
	u := n.newUser()
	var taken atomic.Int64
	var unready atomic.Bool
	var clients sync.WaitGroup
	for i := range 16 {
		clients.Go(func() {
			for !unready.Load() {
				var r *testenv.Reply
				switch i % 3 {
				case 0:
					r = n.trySignIn(u.username, u.password)
				case 1:
					r = n.renew(u.refresh)
				default:
					r = n.profile(u.access)
				}
				if !isRejected(r) {
					want(t, http.StatusOK, r)
				}
				taken.Add(1)
			}
		})
	}
	testenv.Until(t, time.Minute, "requests are served", func() bool { return taken.Load() > 100 })
	begun := time.Now()
	n.Cancel()
	testenv.Until(t, 10*time.Second, "the server is not ready", func() bool { return !n.ready() })
	unready.Store(true)
	clients.Wait()
	n.end()
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	if r := n.profile(u.access); !isRefused(r) {
		t.Errorf("after the end: %v", r)
	}
}

var severalWait = regexp.MustCompile(`authgateway_hashing_jobs{state="waiting"} [2-9]`)

func TestShutdownWithoutADrainFinishesAcceptedRequests(t *testing.T) {
	t.Parallel()
	_, n := single(t, env{"SALT_ROUNDS": "11", "HASHING_THREADS": "1", "HASHING_MAX_WAIT": "5s"})
	u := n.newUser()
	replies := make(chan *testenv.Reply, 5)
	for range cap(replies) {
		go func() { replies <- n.trySignIn(u.username, u.password) }()
	}
	testenv.Until(t, time.Minute, "some passwords wait to be hashed", func() bool { return severalWait.MatchString(n.metrics()) })
	n.end()
	for range cap(replies) {
		if r := <-replies; !isRejected(r) {
			want(t, http.StatusOK, r)
		}
	}
}

// isRejected reports whether a sign-in was rejected because the hashing queue is full. On a busy machine this can also
// happen without a stop.
func isRejected(r *testenv.Reply) bool {
	return r.Status == http.StatusServiceUnavailable && r.Text("reason") == "overloaded"
}

func TestShutdownDrainServesAndClosesConnections(t *testing.T) {
	t.Parallel()
	_, n := single(t, env{"DRAIN_DELAY": "2s"})
	u := n.newUser()
	n.Cancel()
	testenv.Until(t, 10*time.Second, "the server is not ready", func() bool { return !n.ready() })
	reply := testenv.Must(http.DefaultTransport.RoundTrip(httptest.NewRequest(http.MethodGet, n.Base+"/tokens/keys", nil)))(t)
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK || !reply.Close {
		t.Errorf("status %d, close %v", reply.StatusCode, reply.Close)
	}
	n.wantProbe("/healthz", http.StatusOK, "while it drains")
	want(t, http.StatusOK, n.profile(u.access), "while it drains")
	n.end()
}
