package authserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

const (
	issuer            = gatewaytest.Issuer
	accessPassphrase  = gatewaytest.AccessPassphrase
	refreshPassphrase = gatewaytest.RefreshPassphrase
	unset             = gatewaytest.Unset
)

type env = gatewaytest.Settings

// cluster is a number of replicas over one database, with one clock.
type cluster struct {
	t     testing.TB
	db    postgres.Config
	clock *testenv.Clock
	logs  *logs
	nodes []*node
}

// node is one replica and a client of it.
type node struct {
	*client
	*gatewaytest.Server

	statements *statements
}

// start starts replicas over a migrated database that contains keys, and waits until they are ready.
func start(t testing.TB, replicas int, changes ...env) *cluster {
	t.Helper()
	c := newCluster(t, postgrestest.Config(t))
	seed(t, c.db)
	c.addReady(replicas, changes...)
	return c
}

// single is start for one replica.
func single(t testing.TB, changes ...env) (*cluster, *node) {
	t.Helper()
	c := start(t, 1, changes...)
	return c, c.nodes[0]
}

func newCluster(t testing.TB, db postgres.Config) *cluster {
	c := &cluster{t: t, db: db, clock: new(testenv.Clock), logs: new(logs)}
	t.Cleanup(func() {
		c.stop()
		c.logs.check(t, db)
	})
	return c
}

// stop ends every replica. None may report an error.
func (c *cluster) stop() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.Cancel()
	}
	for _, n := range c.nodes {
		n.end()
	}
	c.nodes = nil
}

// end ends a replica, which must not report an error.
func (n *node) end() {
	n.t.Helper()
	if err := n.End(); err != nil {
		n.t.Errorf("Run: %v", err)
	}
}

// add starts one more replica, which may not be ready when add returns.
func (c *cluster) add(changes ...env) *node {
	c.t.Helper()
	n := testenv.Must(c.tryAdd(changes...))(c.t)
	c.nodes = append(c.nodes, n)
	return n
}

// addReady starts more replicas, waits until all of the cluster are ready, and returns the last one.
func (c *cluster) addReady(replicas int, changes ...env) (n *node) {
	c.t.Helper()
	for range replicas {
		n = c.add(changes...)
	}
	for _, n := range c.nodes {
		n.waitReady()
	}
	return n
}

// tryAdd is add for a replica that may end at once.
func (c *cluster) tryAdd(changes ...env) (*node, error) {
	c.t.Helper()
	sent := new(statements)
	server, err := gatewaytest.Start(c.t, gatewaytest.Environ(c.db, changes...).Load(c.t), authserver.Options{
		Log: c.logs.logger(), Version: "test", Now: c.clock.Now, Statement: sent.add,
	})
	if err != nil {
		return nil, err
	}
	return &node{client: &client{Client: apitest.New(c.t, server.API), t: c.t, logs: c.logs}, Server: server, statements: sent}, nil
}

func (n *node) ready() bool {
	status, _ := n.Probe("/readyz")
	return status == http.StatusOK
}

func (n *node) waitReady() {
	n.t.Helper()
	testenv.Until(n.t, time.Minute, "a replica is ready", func() bool {
		select {
		case <-n.Done:
			n.t.Fatalf("a replica ended before it was ready: %v", n.Result())
		default:
		}
		return n.ready()
	})
}

// wantProbe reports an error unless the operations port replies with a status.
func (n *node) wantProbe(path string, want int, about string) {
	n.t.Helper()
	if status, body := n.Probe(path); status != want {
		n.t.Errorf("%s: %s is %d %s, want %d", about, path, status, body, want)
	}
}

// metrics returns the text of /metrics.
func (n *node) metrics() string {
	_, text := n.Probe("/metrics")
	return text
}

// atOnce calls f for 0 to n-1, all at the same time, and returns the results.
func atOnce[T any](n int, f func(i int) T) []T {
	results := make([]T, n)
	var ready, done sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-begin
			results[i] = f(i)
		})
	}
	ready.Wait()
	close(begin)
	done.Wait()
	return results
}

// together is atOnce for a function without a result.
func together(n int, f func(i int)) {
	atOnce(n, func(i int) (none struct{}) { f(i); return })
}

// statuses counts replies by their status.
func statuses(replies []*testenv.Reply) map[int]int {
	count := map[int]int{}
	for _, r := range replies {
		count[r.Status]++
	}
	return count
}

// want reports an error, with what it is about, unless the reply has the status.
func want(t testing.TB, status int, reply *testenv.Reply, about ...any) *testenv.Reply {
	t.Helper()
	if reply.Status != status {
		t.Errorf("%sgot %v, want %d", fmt.Sprintln(about...), reply, status)
	}
	return reply
}

// isRefused reports whether no server accepted a request.
func isRefused(r *testenv.Reply) bool {
	return r.Status == 0 && strings.Contains(string(r.Body), "connection refused")
}
