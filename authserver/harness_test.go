package authserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

const (
	issuer            = "http://auth.test"
	accessPassphrase  = "the passphrase of access tokens"
	refreshPassphrase = "the passphrase of refresh tokens"
)

// env is an environment; later ones win.
type env map[string]string

// environment is what a test's replica is started with: the twelve variables,
// cheap hashes, and what the test wants.
func environment(db postgres.Config, changes ...env) env {
	e := env{
		"HOST": "127.0.0.1", "PORT": "1", "METRICS_PORT": "2", "ISSUER": issuer,
		"ACCESS_PASSPHRASE": accessPassphrase, "REFRESH_PASSPHRASE": refreshPassphrase,
		"SALT_ROUNDS": "4", "LOG_LEVEL": "debug",
		"DB_HOST": db.Host, "DB_PORT": strconv.Itoa(db.Port), "DB_NAME": db.Database,
		"DB_USER": db.User, "DB_PASSWORD": db.Password, "DB_SSLMODE": "disable",
	}
	for _, change := range changes {
		maps.Copy(e, change)
	}
	return e
}

// unset is the value of a variable that is not there.
const unset = "\x00unset"

func (e env) lookup(name string) (string, bool) {
	value, ok := e[name]
	return value, ok && value != unset
}

func (e env) with(changes env) env {
	copied := maps.Clone(e)
	maps.Copy(copied, changes)
	return copied
}

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
	ops        string
	done       <-chan struct{} // closed when Run has returned
	result     func() error    // of Run, once done
	cancel     context.CancelFunc
	server     *authserver.Server
	statements *statements
}

// start starts replicas over a fresh, migrated database that has keys already,
// and waits until they are ready.
func start(t testing.TB, replicas int, changes ...env) *cluster {
	t.Helper()
	c := newCluster(t, postgrestest.Config(t))
	seed(t, c.db)
	for range replicas {
		c.add(changes...)
	}
	for _, n := range c.nodes {
		n.waitReady()
	}
	return c
}

func newCluster(t testing.TB, db postgres.Config) *cluster {
	c := &cluster{t: t, db: db, clock: new(testenv.Clock), logs: new(logs)}
	t.Cleanup(func() {
		c.stop()
		c.logs.check(t, db)
	})
	return c
}

// stop ends every replica and expects that each ends well.
func (c *cluster) stop() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.cancel()
	}
	for _, n := range c.nodes {
		if err := n.end(); err != nil {
			c.t.Errorf("Run: %v", err)
		}
	}
	c.nodes = nil
}

// add starts one more replica, which may not be ready when add returns.
func (c *cluster) add(changes ...env) *node {
	c.t.Helper()
	n, err := c.tryAdd(changes...)
	testenv.NoError(c.t, err)
	c.nodes = append(c.nodes, n)
	return n
}

// tryAdd is add for those who expect that Run may end at once.
func (c *cluster) tryAdd(changes ...env) (*node, error) {
	c.t.Helper()
	settings, err := config.Load(environment(c.db, changes...).lookup, os.ReadFile)
	testenv.NoError(c.t, err)
	settings.Port = 0
	for try := 1; ; try++ {
		// Port 0 would mean that there are no metrics; between asking for a
		// free one and taking it, another process may.
		settings.MetricsPort = testenv.FreePort(c.t)
		n, err := c.run(settings)
		if err == nil || try == 5 || !strings.Contains(err.Error(), "cannot listen") {
			return n, err
		}
	}
}

func (c *cluster) run(settings config.Config) (*node, error) {
	c.t.Helper()
	sent := new(statements)
	server, err := authserver.New(settings, authserver.Options{
		Log: c.logs.logger(), Version: "test", Now: c.clock.Now,
		Statement: sent.add,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var result error
	go func() {
		defer close(done)
		result = server.Run(ctx)
	}()
	select {
	case at := <-server.Listening():
		return &node{
			client: newClient(c.t, "http://"+at.API, c.logs), ops: "http://" + at.Ops,
			done: done, result: func() error { return result }, cancel: cancel, server: server, statements: sent,
		}, nil
	case <-done:
		cancel()
		return nil, result
	}
}

// end asks the replica to end, and gives what Run returned.
func (n *node) end() error {
	n.cancel()
	select {
	case <-n.done:
		return n.result()
	case <-time.After(20 * time.Second):
		return errors.New("a replica did not end within 20 s")
	}
}

// probe asks the port for operators, and gives the status and the body; 0 where
// there is no answer.
func (n *node) probe(path string) (status int, body string) {
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get(n.ops + path)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(text)
}

func (n *node) ready() bool {
	status, _ := n.probe("/readyz")
	return status == http.StatusOK
}

func (n *node) waitReady() {
	n.t.Helper()
	testenv.Until(n.t, time.Minute, "a replica is ready", func() bool {
		select {
		case <-n.done:
			n.t.Fatalf("a replica ended before it was ready: %v", n.result())
		default:
		}
		return n.ready()
	})
}

// atOnce runs f for 0 to n-1, all starting together, and gives what they
// returned.
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

// statuses counts replies by their status, as "200×1 409×19".
func statuses(replies []*apitest.Reply) map[int]int {
	count := map[int]int{}
	for _, r := range replies {
		count[r.Status]++
	}
	return count
}

// want fails unless the reply has the status.
func want(t testing.TB, status int, reply *apitest.Reply, about ...any) *apitest.Reply {
	t.Helper()
	if reply.Status != status {
		t.Errorf("%sgot %v, want %d", fmt.Sprintln(about...), reply, status)
	}
	return reply
}
