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

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// It is not parallel: it looks at every goroutine of the process.
func TestNothingRunsOnAfterRunHasReturned(t *testing.T) {
	db := postgrestest.Config(t)
	before := goleak.IgnoreCurrent()
	t.Run("a life", func(t *testing.T) {
		c := newCluster(t, db)
		seed(t, db)
		for range 2 {
			c.add()
		}
		for _, n := range c.nodes {
			n.waitReady()
		}
		u := c.nodes[0].newUser()
		for _, r := range atOnce(8, func(i int) *apitest.Reply { return c.any(i).trySignIn(u.username, u.password) }) {
			want(t, http.StatusOK, r)
		}
		c.call([]string{"keys", "rotate"})
	})
	t.Run("a start that fails", func(t *testing.T) {
		c := newCluster(t, db)
		c.call([]string{"serve"}, env{"PORT": "1", "HOST": "127.0.0.1", "ACCESS_PASSPHRASE": "another passphrase than that"})
	})
	http.DefaultClient.CloseIdleConnections()
	// fasthttp looks every few seconds whether its pool of workers was stopped;
	// and the process has one clock for its field Date.
	goleak.VerifyNone(t, before,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

// A load balancer asks whether the server is ready, and sends no more requests
// once it is not. No client behind it notices the stop.
func TestAStopUnderLoadFailsNoRequest(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"DRAIN_DELAY": "3s", "HASHING_MAX_WAIT": "5s", "SESSIONS_PER_USER": "10000"})
	n := c.nodes[0]
	u := n.newUser()
	var taken atomic.Int64
	var unready atomic.Bool
	var clients sync.WaitGroup
	for i := range 16 {
		clients.Go(func() {
			for !unready.Load() {
				var r *apitest.Reply
				switch i % 3 {
				case 0:
					r = n.trySignIn(u.username, u.password)
				case 1:
					r = n.renew(u.refresh)
				default:
					r = n.profile(u.access)
				}
				if !isShed(r) {
					want(t, http.StatusOK, r)
				}
				taken.Add(1)
			}
		})
	}
	testenv.Until(t, time.Minute, "the load is taken", func() bool { return taken.Load() > 100 })
	begun := time.Now()
	n.cancel()
	testenv.Until(t, 10*time.Second, "the server says that it is not ready", func() bool { return !n.ready() })
	unready.Store(true)
	clients.Wait()
	if err := n.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	if r := n.profile(u.access); !isRefused(r) {
		t.Errorf("after the end: %v", r)
	}
}

var severalWait = regexp.MustCompile(`authgateway_hashing_jobs{state="waiting"} [2-9]`)

func TestWhatWasTakenIsFinishedAlsoWithoutADrain(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"SALT_ROUNDS": "11", "HASHING_THREADS": "1", "HASHING_MAX_WAIT": "5s"})
	n := c.nodes[0]
	u := n.newUser()
	replies := make(chan *apitest.Reply, 5)
	for range cap(replies) {
		go func() { replies <- n.trySignIn(u.username, u.password) }()
	}
	// Some may be through before the last has come: the machine may be busy.
	testenv.Until(t, time.Minute, "some passwords wait to be hashed", func() bool {
		_, metrics := n.probe("/metrics")
		return severalWait.MatchString(metrics)
	})
	if err := n.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
	for range cap(replies) {
		if r := <-replies; !isShed(r) {
			want(t, http.StatusOK, r)
		}
	}
}

// isShed reports whether a sign-in was refused because the machine has no time for
// hashing. That happens, stop or no stop: it is an answer, and no loss.
func isShed(r *apitest.Reply) bool {
	return r.Status == http.StatusServiceUnavailable && r.Text("reason") == "overloaded"
}

func TestADrainingServerStillServesAndAsksToComeBackOnAnotherConnection(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"DRAIN_DELAY": "2s"})
	n := c.nodes[0]
	u := n.newUser()
	n.cancel()
	testenv.Until(t, 10*time.Second, "the server says that it is not ready", func() bool { return !n.ready() })
	reply, err := http.DefaultTransport.RoundTrip(httptest.NewRequest(http.MethodGet, n.base+"/tokens/keys", nil))
	testenv.NoError(t, err)
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK || !reply.Close {
		t.Errorf("status %d, close %v", reply.StatusCode, reply.Close)
	}
	if status, _ := n.probe("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz is %d", status)
	}
	want(t, http.StatusOK, n.profile(u.access), "while it drains")
	if err := n.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
}
