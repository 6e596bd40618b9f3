package authserver_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/kubernetestest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestMain(m *testing.M) { kubernetestest.Main(m) }

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

// body has the parameters of a request.
type body map[string]string

// client sends requests to one replica and records every secret in requests and replies, for the check of the logs.
type client struct {
	*testenv.Client

	t    testing.TB
	logs *logs
}

// try is for goroutines too. The status of a request without a reply is 0.
func (c *client) try(method, path string, header http.Header, b any) *testenv.Reply {
	if b, ok := b.(body); ok {
		c.logs.secrets(b)
	}
	reply, err := c.Try(method, path, header, b)
	if err != nil {
		return &testenv.Reply{Body: []byte(err.Error())}
	}
	var members map[string]any
	if json.Unmarshal(reply.Body, &members) == nil {
		texts := body{}
		for name, value := range members {
			if text, ok := value.(string); ok {
				texts[name] = text
			}
		}
		c.logs.secrets(texts)
	}
	return reply
}

func (c *client) get(path string) *testenv.Reply { return c.try(http.MethodGet, path, nil, nil) }

func (c *client) post(path string, b body) *testenv.Reply {
	return c.try(http.MethodPost, path, nil, b)
}

// as sends a request with an access token.
func (c *client) as(token, method, path string, b body) *testenv.Reply {
	if b == nil {
		return c.try(method, path, testenv.Bearer(token), nil)
	}
	return c.try(method, path, testenv.Bearer(token), b)
}

// user is a person with an account, and the tokens of the latest session.
type user struct {
	id, username, email, password string
	tokens
}

type tokens struct{ access, refresh string }

func tokensOf(r *testenv.Reply) tokens {
	return tokens{r.Text("access_token"), r.Text("refresh_token")}
}

var people atomic.Int64

// newPerson invents a user that no other test uses.
func newPerson() user {
	n := people.Add(1)
	return user{
		username: fmt.Sprintf("person.number-%d", n),
		email:    fmt.Sprintf("Person.%d@mailbox.example.org", n),
		password: fmt.Sprintf("the first password of number %d", n),
	}
}

// signUpBody returns the parameters of the user's sign-up, with changes.
func (u user) signUpBody(changes ...body) body {
	b := body{
		"username": u.username, "email": u.email, "password": u.password,
		"first_name": "Firstname " + u.username, "last_name": "Lastname " + u.username,
		"scope": "profile email",
	}
	for _, change := range changes {
		maps.Copy(b, change)
	}
	return b
}

// signUp creates an account that is not verified.
func (c *client) signUp() (u user, code string) {
	c.t.Helper()
	u = newPerson()
	reply := want(c.t, http.StatusCreated, c.post("/users", u.signUpBody()), "sign up")
	u.id = reply.Text("id")
	return u, reply.Text("code")
}

// newUser creates an account and verifies it, which opens a session.
func (c *client) newUser() user {
	c.t.Helper()
	u, code := c.signUp()
	u.tokens = c.mustVerify(code)
	return u
}

func (c *client) verify(code string) *testenv.Reply {
	return c.post("/users/verify-user", body{"code": code})
}

// mustVerify verifies an address and returns the tokens of the session that this opens.
func (c *client) mustVerify(code string) tokens {
	c.t.Helper()
	return tokensOf(want(c.t, http.StatusOK, c.verify(code), "verify"))
}

// signIn opens one more session.
func (c *client) signIn(u user) tokens {
	c.t.Helper()
	return tokensOf(want(c.t, http.StatusOK, c.trySignIn(u.username, u.password), "sign in"))
}

func (c *client) trySignIn(username, password string) *testenv.Reply {
	return c.post("/tokens/signin", body{"username": username, "password": password})
}

func (c *client) renew(refresh string) *testenv.Reply {
	return c.post("/tokens", body{"refresh_token": refresh})
}

func (c *client) signOut(refresh string) *testenv.Reply {
	return c.try(http.MethodDelete, "/tokens", nil, body{"refresh_token": refresh})
}

func (c *client) profile(access string) *testenv.Reply {
	return c.as(access, http.MethodGet, "/users", nil)
}

func (c *client) changeProfile(access string, b body) *testenv.Reply {
	return c.as(access, http.MethodPut, "/users", b)
}

func (c *client) deleteUser(access string) *testenv.Reply {
	return c.as(access, http.MethodDelete, "/users", nil)
}

func (c *client) changePassword(access, old, password string) *testenv.Reply {
	return c.as(access, http.MethodPost, "/users/change-password", body{"old_password": old, "password": password})
}

// resetPassword sets a password by a recovery code.
func (c *client) resetPassword(code, password string) *testenv.Reply {
	return c.post("/users/change-password", body{"code": code, "password": password})
}

func (c *client) changeEmail(access, code, email string) *testenv.Reply {
	return c.as(access, http.MethodPost, "/users/change-email", body{"code": code, "email": email})
}

func (c *client) introspect(token string) *testenv.Reply {
	return c.post("/tokens/introspect", body{"token": token})
}

// sessionID returns the session of tokens.
func (c *client) sessionID(tk tokens) string {
	c.t.Helper()
	return want(c.t, http.StatusOK, c.introspect(tk.access), "introspect").Text("sid")
}

func (c *client) endSession(access, id string) *testenv.Reply {
	return c.as(access, http.MethodDelete, "/users/sessions/"+id, nil)
}

// recoveryCode requests a code that sets a new password.
func (c *client) recoveryCode(u user) string {
	c.t.Helper()
	return want(c.t, http.StatusOK, c.post("/users/forgot-password", body{"email": u.email}), "forgot").Text("code")
}

// emailCode requests a code that changes the address to email, or to any address if email is "".
func (c *client) emailCode(access, email string) string {
	c.t.Helper()
	b := body{}
	if email != "" {
		b["email"] = email
	}
	return want(c.t, http.StatusOK, c.as(access, http.MethodPost, "/users/change-email-request", b), "request").Text("code")
}

// dead reports an error unless every replica refuses both tokens.
func (c *cluster) dead(why string, list ...tokens) {
	c.t.Helper()
	for i, n := range c.nodes {
		for _, tk := range list {
			want(c.t, http.StatusUnauthorized, n.profile(tk.access), "the access token at replica", i, why)
			want(c.t, http.StatusUnauthorized, n.renew(tk.refresh), "the refresh token at replica", i, why)
		}
	}
}

// alive reports an error unless every replica accepts the access token.
func (c *cluster) alive(why string, access string) {
	c.t.Helper()
	for i, n := range c.nodes {
		want(c.t, http.StatusOK, n.profile(access), "the access token at replica", i, why)
	}
}

// any returns one of the replicas.
func (c *cluster) any(i int) *node { return c.nodes[i%len(c.nodes)] }
