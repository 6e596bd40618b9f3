package consumers

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
	"github.com/auth-gateway/auth-gateway/verify"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var feedSeed = flag.Uint64("feed.seed", 1, "the seed of TestFeedSurvivesFailures")

const (
	feedReplicas = 3
	feedWorkers  = 4
	feedActions  = 12 // of each worker in a round

	// patience is for a busy machine. A consumer that was cut off may pause for half a minute.
	patience = time.Minute
)

// failures is what fails during a round.
type failures struct {
	kill     bool // a replica is killed and started again
	postgres bool // PostgreSQL crashes and is started again
	promote  bool // PostgreSQL crashes for good, and its synchronous standby takes over
	freeze   bool // a replica stands still
	cut      bool // a consumer cannot connect
}

// TestFeedSurvivesFailures judges the feed of ended sessions and its client together: three replicas on one PostgreSQL
// behind a proxy that sends each request to another replica. While users sign in and sessions end in every way,
// replicas, PostgreSQL and connections fail, and a standby takes over. After each round, every consumer must refuse
// exactly the tokens of ended sessions and of revoked keys.
func TestFeedSurvivesFailures(t *testing.T) {
	if testing.Short() {
		t.Skip("this test builds and starts the server")
	}
	t.Logf("-feed.seed=%d", *feedSeed)
	random := rand.New(rand.NewPCG(*feedSeed, 0))
	f := startFeed(t)
	// Two consumers wait 25 seconds, the others less.
	lags := []time.Duration{30 * time.Second, 2 * time.Minute, 5 * time.Second, 10 * time.Second}
	for i, lag := range lags {
		f.follow(lag, []verify.FailMode{verify.FailClosed, verify.FailOpen}[i%2])
	}
	workers := make([]*worker, feedWorkers)
	for i := range workers {
		workers[i] = &worker{
			feed: f, name: "worker" + strconv.Itoa(i), random: rand.New(rand.NewPCG(*feedSeed, uint64(i)+1)),
			client: testenv.NewClient(t, f.url),
		}
	}
	rounds := []failures{
		{}, {kill: true}, {postgres: true}, {cut: true}, {freeze: true, cut: true}, {postgres: true, kill: true, cut: true},
	}
	if f.standby != nil {
		rounds = append(rounds, failures{promote: true, cut: true})
	}
	random.Shuffle(len(rounds), func(i, j int) { rounds[i], rounds[j] = rounds[j], rounds[i] })
	for i, fails := range rounds {
		replica := f.replicas[random.IntN(len(f.replicas))]
		consumer := f.consumers[random.IntN(len(f.consumers))]
		pause := time.Duration(500+random.IntN(1500)) * time.Millisecond
		if fails.cut {
			consumer.cut()
		}
		var acting sync.WaitGroup
		for _, w := range workers {
			acting.Go(w.act)
		}
		f.fail(fails, replica, pause)
		acting.Wait()
		if fails.cut {
			consumer.severed.Store(false)
		}
		if i == len(rounds)/2 {
			f.dropped(f.revokeKey(workers[0]))
		}
		var sessions []*session
		for _, w := range workers {
			testenv.NoError(t, w.err)
			sessions = append(sessions, w.sessions...)
		}
		f.compare(sessions)
		took := testenv.Eventually(t, patience, fmt.Sprintf("round %d: consumers know what has ended", i), func() error {
			return f.judge(sessions)
		})
		t.Logf("round %d: %+v: %d sessions; the consumers agree after %v", i, fails, len(sessions), took)
	}
}

// feed is the gateway and its consumers.
type feed struct {
	t         *testing.T
	url       string // of the proxy
	program   string
	database  atomic.Pointer[localpostgres.Server]
	standby   *localpostgres.Server // nil if the machine has no pg_basebackup, and after its promotion
	sql       *sql.DB
	replicas  []*replica
	consumers []*follower
	revoked   map[string]bool // ids of keys

	mu   sync.Mutex
	keys map[string]json.RawMessage // all that were published, by id
}

type replica struct {
	port    int
	env     []string
	log     testenv.Output
	process *exec.Cmd
}

// Connect connects to the database that is in use.
func (f *feed) Connect(ctx context.Context) (driver.Conn, error) {
	connector, err := pq.NewConnector(f.database.Load().DSN("auth"))
	if err != nil {
		return nil, err
	}
	return connector.Connect(ctx)
}

// Driver implements driver.Connector.
func (f *feed) Driver() driver.Driver { return &pq.Driver{} }

func startFeed(t *testing.T, settings ...string) *feed {
	t.Helper()
	f := &feed{
		t: t, program: testenv.Program(t, "./cmd/authserver"), revoked: map[string]bool{}, keys: map[string]json.RawMessage{},
	}
	database := testenv.Must(localpostgres.Start(t.Context(), localpostgres.Options{
		Settings: map[string]string{"wal_retrieve_retry_interval": "200ms"},
	}))(t)
	stop := func(s *localpostgres.Server) {
		t.Cleanup(func() {
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	stop(database)
	f.database.Store(database)
	testenv.NoError(t, database.CreateDatabase(t.Context(), "auth"))
	f.sql = sql.OpenDB(f)
	t.Cleanup(func() { _ = f.sql.Close() })
	hosts, ports := database.Host(), strconv.Itoa(database.Port())
	standby, err := database.Standby(t.Context())
	switch {
	case errors.Is(err, localpostgres.ErrNoBaseBackup):
	case err != nil:
		t.Fatal(err)
	default:
		stop(standby)
		f.standby = standby
		hosts, ports = hosts+",localhost", ports+","+strconv.Itoa(standby.Port()) // no host may be listed twice
		for _, statement := range []string{`ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`} {
			_, err := f.sql.ExecContext(t.Context(), statement)
			testenv.NoError(t, err)
		}
	}

	f.startProxy()
	for range feedReplicas {
		r := &replica{port: testenv.FreePort(t)}
		r.env = append(os.Environ(),
			"HOST=127.0.0.1", "PORT="+strconv.Itoa(r.port), "METRICS_PORT="+strconv.Itoa(testenv.FreePort(t)),
			"ISSUER="+f.url, "SALT_ROUNDS=4", "KEY_PUBLISH_LEAD=1s", "LOG_LEVEL=warn", "LIMIT_WRITES=off",
			"REFRESH_TOKEN_ROTATION=always", "REFRESH_REUSE_GRACE=0s", "HASHING_MAX_WAIT=5s",
			"ACCESS_PASSPHRASE=a passphrase for access keys", "REFRESH_PASSPHRASE=a passphrase for refresh keys",
			"DB_HOST="+hosts, "DB_PORT="+ports, "DB_USER="+database.User(), "DB_PASSWORD="+database.Password(),
			"DB_NAME=auth", "DB_SSLMODE=disable")
		r.env = append(r.env, settings...)
		f.replicas = append(f.replicas, r)
		t.Cleanup(func() {
			if r.process != nil {
				_ = r.process.Process.Kill()
				_ = r.process.Wait()
			}
			if t.Failed() {
				t.Logf("the log of the replica at port %d:\n%s", r.port, &r.log)
			}
		})
		f.start(r)
	}
	return f
}

// startProxy starts a proxy that sends each request to the next replica.
func (f *feed) startProxy() {
	var turn atomic.Uint64
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 16
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			next := f.replicas[turn.Add(1)%uint64(len(f.replicas))]
			r.SetURL(&url.URL{Scheme: "http", Host: "127.0.0.1:" + strconv.Itoa(next.port)})
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		ErrorLog:     log.New(io.Discard, "", 0),
	})
	f.t.Cleanup(func() {
		proxy.CloseClientConnections()
		proxy.Close()
		transport.CloseIdleConnections()
	})
	f.url = proxy.URL
}

// start starts a replica and waits until it publishes keys.
func (f *feed) start(r *replica) {
	f.t.Helper()
	r.process = exec.Command(f.program)
	r.process.Env, r.process.Stdout, r.process.Stderr = r.env, &r.log, &r.log
	testenv.NoError(f.t, r.process.Start())
	testenv.Eventually(f.t, patience, "a replica has keys", func() error {
		_, err := r.keys(f.t.Context())
		return err
	})
}

// keys returns the keys that a replica publishes, by id.
func (r *replica) keys(ctx context.Context) (map[string]json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	address := fmt.Sprintf("http://127.0.0.1:%d/.well-known/jwks.json", r.port)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = reply.Body.Close() }()
	var set struct{ Keys []json.RawMessage }
	if err := json.NewDecoder(reply.Body).Decode(&set); err != nil {
		return nil, err
	}
	keys := map[string]json.RawMessage{}
	for _, raw := range set.Keys {
		var key struct{ Kid string }
		if err := json.Unmarshal(raw, &key); err != nil {
			return nil, err
		}
		keys[key.Kid] = raw
	}
	if len(keys) == 0 {
		return nil, errors.New("no keys are published")
	}
	return keys, nil
}

// fail makes things fail and repairs them.
func (f *feed) fail(what failures, r *replica, pause time.Duration) {
	f.t.Helper()
	if what.freeze {
		testenv.NoError(f.t, r.process.Process.Signal(syscall.SIGSTOP))
		time.Sleep(pause) // the length of the failure
		testenv.NoError(f.t, r.process.Process.Signal(syscall.SIGCONT))
	}
	if what.kill {
		testenv.NoError(f.t, r.process.Process.Kill())
		_ = r.process.Wait() // it reports the kill
	}
	if what.postgres {
		testenv.NoError(f.t, f.database.Load().StopNow())
		testenv.NoError(f.t, f.database.Load().StartAgain(f.t.Context()))
	}
	if what.promote {
		testenv.NoError(f.t, f.database.Load().StopNow())
		testenv.NoError(f.t, f.standby.Promote(f.t.Context()))
		f.database.Store(f.standby)
	}
	if what.kill {
		f.start(r)
	}
}

// revokeKey revokes the key that signs.
func (f *feed) revokeKey(w *worker) (id string) {
	f.t.Helper()
	last := w.sessions[len(w.sessions)-1]
	id = last.tokens[len(last.tokens)-1].key
	f.revoked[id] = true
	command := exec.Command(f.program, "keys", "revoke", id)
	command.Env = f.replicas[0].env
	if out, err := command.CombinedOutput(); err != nil {
		f.t.Fatalf("keys revoke: %v\n%s", err, out)
	}
	return id
}

// dropped waits until no replica uses a key.
func (f *feed) dropped(id string) {
	f.t.Helper()
	for _, r := range f.replicas {
		testenv.Eventually(f.t, patience, "a replica stops using a revoked key", func() error {
			switch keys, err := r.keys(f.t.Context()); {
			case err != nil:
				return err
			case keys[id] != nil:
				return errors.New("it publishes the key")
			}
			return nil
		})
	}
}

// allKeys returns every key that was ever published, so consumers learn only from the feed that one was revoked.
func (f *feed) allKeys(ctx context.Context) (verify.Document, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	keys, err := f.replicas[0].keys(ctx)
	if err != nil {
		return verify.Document{}, err
	}
	maps.Copy(f.keys, keys)
	set, err := json.Marshal(map[string]any{"keys": slices.Collect(maps.Values(f.keys))})
	return verify.Document{Issuer: f.url, JWKS: set}, err
}

// follower is a consumer whose connections a test can sever.
type follower struct {
	name     string
	verifier *verify.Verifier
	severed  atomic.Bool

	mu    sync.Mutex
	conns []net.Conn
}

func (f *feed) follow(lag time.Duration, mode verify.FailMode) {
	f.t.Helper()
	c := &follower{name: fmt.Sprintf("the consumer with MaxLag %v", lag)}
	transport := &http.Transport{DialContext: c.dial}
	v, err := verify.New(f.t.Context(), verify.FromFunc(f.allKeys), verify.Audience(f.url), verify.Cache(10_000),
		verify.HTTPClient(&http.Client{Transport: transport}),
		verify.WithRevocations(verify.Feed{URL: f.url}, verify.MaxLag(lag), mode))
	testenv.NoError(f.t, err)
	f.t.Cleanup(v.Close)
	c.verifier = v
	f.consumers = append(f.consumers, c)
}

func (c *follower) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if c.severed.Load() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
	}
	return conn, err
}

// cut closes the connections of the consumer and refuses new ones.
func (c *follower) cut() {
	c.severed.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}

// compare requires that the database agrees with the workers about which sessions have ended.
func (f *feed) compare(sessions []*session) {
	f.t.Helper()
	rows, err := f.sql.QueryContext(f.t.Context(), "SELECT id FROM sessions")
	testenv.NoError(f.t, err)
	defer func() { _ = rows.Close() }()
	live := map[string]bool{}
	for rows.Next() {
		var id string
		testenv.NoError(f.t, rows.Scan(&id))
		live[id] = true
	}
	testenv.NoError(f.t, rows.Err())
	for _, s := range sessions {
		if live[s.id] == s.ended {
			f.t.Errorf("session %s: ended = %v (%s), but in the database it is %v", s.id, s.ended, s.how, !live[s.id])
		}
	}
}

// judge returns an error unless every consumer refuses exactly the tokens of ended sessions and revoked keys.
func (f *feed) judge(sessions []*session) error {
	for _, c := range f.consumers {
		unknown := false
		for _, s := range sessions {
			for _, token := range s.tokens {
				_, err := c.verifier.Verify(f.t.Context(), token.text)
				ends := s.ended || f.revoked[token.key]
				unknown = unknown || errors.Is(err, verify.ErrKey)
				switch {
				case errors.Is(err, verify.ErrKey): // judged below
				case ends && !errors.Is(err, verify.ErrEnded):
					return fmt.Errorf("%s accepts session %s, which has ended (%s): %v; %+v", c.name, s.id, s.how, err, c.verifier.Stats())
				case !ends && err != nil:
					return fmt.Errorf("%s refuses session %s, which has not ended: %w", c.name, s.id, err)
				}
			}
		}
		if unknown {
			return errors.Join(errors.New("a key is unknown"), c.verifier.Refresh(f.t.Context()))
		}
	}
	return nil
}

// worker has users of its own, so it knows which of their sessions have ended.
type worker struct {
	feed     *feed
	name     string
	random   *rand.Rand
	client   *testenv.Client
	users    []*user
	created  int
	sessions []*session // of all users, ever
	retried  bool       // the last call was sent more than once
	replied  time.Time  // when it was answered
	err      error
}

type user struct {
	name, password string
	sessions       []*session // that have not ended
}

type session struct {
	id      string
	refresh string
	tokens  []issuedToken
	ended   bool
	how     string // it ended
}

type issuedToken struct{ text, key string }

// call sends a request until it is answered with certainty, and reports whether it succeeded. If the first attempt got
// no such answer, it may have succeeded nevertheless.
func (w *worker) call(method, path, bearer string, body map[string]string) (reply *testenv.Reply, ok bool) {
	var header http.Header
	if bearer != "" {
		header = testenv.Bearer(bearer)
	}
	var content any // nil for no body
	if body != nil {
		content = body
	}
	var err error
	w.retried = false
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(50 * time.Millisecond) {
		reply, err = w.client.Try(method, path, header, content)
		if err == nil && reply.Status < http.StatusInternalServerError && reply.Status != http.StatusTooManyRequests {
			w.replied = time.Now()
			return reply, reply.Status < http.StatusMultipleChoices
		}
		w.retried = true
	}
	w.fail("%s %s: no answer: %v %v", method, path, reply, err)
	return &testenv.Reply{}, false
}

// end sends a request that ends sessions. If a second attempt is refused, the first one succeeded.
func (w *worker) end(method, path, bearer string, body map[string]string) {
	if reply, ok := w.call(method, path, bearer, body); !ok && !w.retried {
		w.fail("%s %s: %v", method, path, reply)
	}
}

func (w *worker) fail(format string, args ...any) {
	w.err = errors.Join(w.err, fmt.Errorf(w.name+": "+format, args...))
}

// act performs the actions of a round.
func (w *worker) act() {
	for range feedActions {
		for len(w.users) < 2 && w.err == nil {
			w.signUp()
		}
		if w.err != nil {
			return
		}
		u := w.users[w.random.IntN(len(w.users))]
		if len(u.sessions) < 2 || w.random.IntN(3) == 0 {
			w.signIn(u)
			continue
		}
		s := u.sessions[w.random.IntN(len(u.sessions))]
		actions := []func(*user, *session){
			w.renew, w.signOut, w.revokeAccess, w.revokeRefresh, w.endSession, w.changePassword, w.resetPassword, w.deleteUser,
			w.deleteRow, w.steal,
		}
		actions[w.random.IntN(len(actions))](u, s)
	}
}

func (w *worker) signUp() {
	w.created++
	u := &user{name: fmt.Sprintf("%s.user%d", w.name, w.created), password: "the first password of a user"}
	reply, ok := w.call("POST", "/users", "", map[string]string{
		"username": u.name, "email": u.name + "@example.com", "first_name": "Ada", "last_name": "Lovelace", "password": u.password,
	})
	switch {
	case reply.Status == http.StatusConflict || w.err != nil:
		return // an attempt without an answer succeeded; the next user has another name
	case !ok:
		w.fail("sign-up: %v", reply)
		return
	}
	if reply, ok = w.call("POST", "/users/verify-user", "", map[string]string{"code": reply.Text("code")}); ok {
		w.users = append(w.users, u)
		w.opened(u, reply)
	}
}

func (w *worker) signIn(u *user) {
	reply, ok := w.call("POST", "/tokens/signin", "", map[string]string{"username": u.name, "password": u.password})
	if !ok {
		w.fail("sign-in: %v", reply)
		return
	}
	w.opened(u, reply)
}

func (w *worker) opened(u *user, reply *testenv.Reply) {
	s := &session{}
	w.hold(s, reply)
	u.sessions = append(u.sessions, s)
	w.sessions = append(w.sessions, s)
}

// hold adds the tokens of a reply to a session.
func (w *worker) hold(s *session, reply *testenv.Reply) {
	text := reply.Text("access_token")
	s.refresh = reply.Text("refresh_token")
	var header struct{ Kid string }
	var payload struct{ Sid string }
	parts := strings.Split(text, ".")
	for i, into := range []any{&header, &payload} {
		part, err := base64.RawURLEncoding.DecodeString(parts[min(i, len(parts)-1)])
		if err = errors.Join(err, json.Unmarshal(part, into)); err != nil {
			w.fail("an access token: %v", err)
			return
		}
	}
	s.id = payload.Sid
	s.tokens = append(s.tokens, issuedToken{text, header.Kid})
}

// ended notes the end of sessions of a user.
func (w *worker) ended(u *user, how string, sessions ...*session) {
	for _, s := range slices.Clone(sessions) {
		s.ended, s.how = true, how
		u.sessions = slices.DeleteFunc(u.sessions, func(other *session) bool { return other == s })
	}
}

// fresh renews a session and returns its new access token. If the reply to the first attempt was lost, the second one
// looks like theft and ends the session.
func (w *worker) fresh(u *user, s *session) (token string, ok bool) {
	reply, ok := w.call("POST", "/tokens", "", map[string]string{"refresh_token": s.refresh})
	if !ok {
		if !w.retried {
			w.fail("renewal: %v", reply)
		}
		w.ended(u, "renewal that was sent twice", s)
		return "", false
	}
	w.hold(s, reply)
	return s.tokens[len(s.tokens)-1].text, true
}

func (w *worker) renew(u *user, s *session) { w.fresh(u, s) }

func (w *worker) signOut(u *user, s *session) {
	w.end("DELETE", "/tokens", "", map[string]string{"refresh_token": s.refresh})
	w.ended(u, "sign-out", s)
}

func (w *worker) revokeRefresh(u *user, s *session) {
	w.end("POST", "/tokens/revoke", "", map[string]string{"token": s.refresh})
	w.ended(u, "revoked refresh token", s)
}

func (w *worker) revokeAccess(u *user, s *session) {
	if token, ok := w.fresh(u, s); ok {
		w.end("POST", "/tokens/revoke", "", map[string]string{"token": token})
		w.ended(u, "revoked access token", s)
	}
}

func (w *worker) endSession(u *user, s *session) {
	if token, ok := w.fresh(u, s); ok {
		other := u.sessions[w.random.IntN(len(u.sessions))]
		w.end("DELETE", "/users/sessions/"+other.id, token, nil)
		w.ended(u, "ended by its owner", other)
	}
}

func (w *worker) changePassword(u *user, s *session) {
	token, ok := w.fresh(u, s)
	if !ok {
		return
	}
	next := fmt.Sprintf("a later password %d", w.random.Uint64())
	w.end("POST", "/users/change-password", token, map[string]string{"old_password": u.password, "password": next})
	u.password = next
	w.ended(u, "change of the password", slices.DeleteFunc(slices.Clone(u.sessions), func(o *session) bool { return o == s })...)
}

func (w *worker) resetPassword(u *user, _ *session) {
	reply, ok := w.call("POST", "/users/forgot-password", "", map[string]string{"email": u.name + "@example.com"})
	if !ok {
		w.fail("forgot-password: %v", reply)
		return
	}
	next := fmt.Sprintf("a later password %d", w.random.Uint64())
	w.end("POST", "/users/change-password", "", map[string]string{"code": reply.Text("code"), "password": next})
	u.password = next
	w.ended(u, "reset of the password", u.sessions...)
}

func (w *worker) deleteUser(u *user, s *session) {
	if token, ok := w.fresh(u, s); ok {
		w.end("DELETE", "/users", token, nil)
		w.ended(u, "deletion of the user", u.sessions...)
		w.users = slices.DeleteFunc(w.users, func(other *user) bool { return other == u })
	}
}

// deleteRow is an administrator.
func (w *worker) deleteRow(u *user, s *session) {
	var err error
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(50 * time.Millisecond) {
		if _, err = w.feed.sql.ExecContext(w.feed.t.Context(), "DELETE FROM sessions WHERE id = $1", s.id); err == nil {
			w.replied = time.Now()
			w.ended(u, "DELETE", s)
			return
		}
	}
	w.fail("DELETE: %v", err)
}

// steal uses a refresh token that has been replaced.
func (w *worker) steal(u *user, s *session) {
	old := s.refresh
	if _, ok := w.fresh(u, s); !ok {
		return
	}
	if reply, ok := w.call("POST", "/tokens", "", map[string]string{"refresh_token": old}); ok {
		w.fail("a refresh token was accepted twice: %v", reply)
	}
	w.ended(u, "use of a stolen refresh token", s)
}
