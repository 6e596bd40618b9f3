package failover

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/failovertest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/patroni"
)

// A primary with asynchronous standbys takes its last commits along when it dies, although clients have seen them
// succeed. Then no party may be worse off than having to sign in again, or to repeat a request.
//
// In a "lag", the standbys do not receive what is written before the primary is killed. In a "kill" and a "crash" they
// follow as usual, and the log says what was lost.
func TestFailoverWithAsynchronousReplication(t *testing.T) {
	order := failovertest.Order(t, []string{"lag"}, []string{"kill", "crash"}, "lag")
	events := receive(t)
	rights := []string{"users:list", "events:list", "keys:list", "keys:update"}
	key, entry, err := admin.NewKey("ada", rights, time.Now().Add(time.Hour))
	testenv.NoError(t, err)
	administrators := filepath.Join(t.TempDir(), "administrators.json")
	testenv.NoError(t, os.WriteFile(administrators, fmt.Appendf(nil, "[%s]", entry), 0o600))
	w := start(t, patroni.Options{Synchronous: patroni.Asynchronous, TTL: 10 * time.Second},
		failovertest.Options{Pulse: 20 * time.Millisecond},
		gatewaytest.Settings{
			"REFRESH_TOKEN_ROTATION": "always", "REFRESH_REUSE_GRACE": "1s", "ADMIN_PORT": "3", "ADMIN_KEYS": administrators,
			"EVENT_WEBHOOK_URL": events.URL, "EVENT_WEBHOOK_SECRET": "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
		})
	a := &asynchronous{world: w, events: events, admin: testenv.Bearer(key)}
	stop := w.Watch()
	renewing := a.renewAlways()
	for round, fault := range order {
		since := time.Now()
		time.Sleep(time.Second)
		a.lose(round, fault, since)
		w.cluster.Whole(t)
	}
	renewing()
	stop()
	if w.log.Contains("refresh token reused") || events.has("user.refresh_token_reused") {
		t.Error("a renewal that the database has lost is reported as a theft")
	}
}

// asynchronous is a world with other parties than its clients.
type asynchronous struct {
	*world

	events *receiver
	admin  http.Header
}

// renewAlways has clients that renew their tokens again and again, each time at the other gateway, until the returned
// function is called. Their sessions are older than the faults, so none of them may have to sign in again.
func (a *asynchronous) renewAlways() (stop func()) {
	ctx, cancel := context.WithCancel(a.t.Context())
	var group sync.WaitGroup
	for i := range 4 {
		c := a.client(fmt.Sprintf("always-%d", i))
		group.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				if r := c.try(n%2, http.MethodPost, "/tokens", "", body{"refresh_token": c.refresh}); r.Status == http.StatusOK {
					c.keep(r)
				} else if r.Status != http.StatusServiceUnavailable {
					a.t.Errorf("a renewal: %v", r)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	return func() { cancel(); group.Wait() }
}

// lose kills the primary, and judges what the parties see afterwards. Nothing that was written since then is lost yet.
func (a *asynchronous) lose(round int, fault string, since time.Time) {
	t, former := a.t, a.cluster.Primary(a.t)
	old := testenv.Must(sql.Open("pgx", a.server(former).URL))(t)
	defer old.Close()
	var judge func(db *sql.DB)
	thaw := func() {}
	begun := time.Now()
	if fault == "lag" {
		prepared := a.prepare(round)
		a.follow(old)
		thaw = a.holdBack(former, old)
		begun = time.Now()
		judge = prepared()
	}
	killed := time.Now()
	mend := func() {}
	if fault == "crash" {
		former.Crash()
		mend = func() { testenv.NoError(t, former.StartPatroni()) }
	} else {
		former.Kill()
	}
	thaw()
	changed := a.promoted(former)
	a.AwaitWrites(fault, changed.Promoted)
	db := testenv.Must(sql.Open("pgx", a.server(a.cluster.Primary(t, former)).URL))(t)
	defer db.Close()
	a.report(db, fault, since, killed)
	if judge != nil {
		judge(db)
		t.Logf("lag: the writes of %.2f s were lost, and all parties went on %.2f s after the kill",
			killed.Sub(begun).Seconds(), time.Since(killed).Seconds())
	}
	mend()
}

// follow waits until the standbys have what was written so far.
func (a *asynchronous) follow(primary *sql.DB) {
	a.t.Helper()
	var now string
	testenv.NoError(a.t, primary.QueryRow(`SELECT pg_current_wal_lsn()`).Scan(&now))
	testenv.Until(a.t, 30*time.Second, "the standbys follow", func() bool {
		var n int
		err := primary.QueryRow(`SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= $1::pg_lsn`, now).Scan(&n)
		return err == nil && n == 2
	})
}

// holdBack stops what receives the replication, and waits until the primary has given the standbys up. No write
// reaches them from then on.
func (a *asynchronous) holdBack(primary *patroni.Node, db *sql.DB) (thaw func()) {
	a.t.Helper()
	var cut []*patroni.Node
	for _, n := range a.cluster.Nodes {
		if n != primary {
			testenv.Until(a.t, 10*time.Second, "a standby receives", n.Cut)
			cut = append(cut, n)
		}
	}
	testenv.Until(a.t, 30*time.Second, "the standbys are cut off", func() bool {
		var n int
		err := db.QueryRow(`SELECT count(*) FROM pg_stat_replication`).Scan(&n)
		return err == nil && n == 0
	})
	return func() {
		for _, n := range cut {
			n.Thaw()
		}
	}
}

// report logs which of the sign-ins that were acknowledged last the new primary does not have.
func (a *asynchronous) report(db *sql.DB, fault string, since, killed time.Time) {
	acknowledged := a.Writes(since, killed.Add(time.Second))
	lost := slices.DeleteFunc(slices.Clone(acknowledged), func(w failovertest.Write) bool {
		return a.count(db, `SELECT count(*) FROM sessions WHERE id = $1`, claim(a.t, w.Access, "sid")) == 1
	})
	var over time.Duration
	for _, w := range lost {
		over = max(over, killed.Sub(w.Ended))
	}
	a.t.Logf("%-5s lost %d of %d acknowledged sign-ins, of the last %.0f ms; no write for %.2f and %.2f s", fault,
		len(lost), len(acknowledged), over.Seconds()*1000,
		a.Interruption(0, killed).Seconds(), a.Interruption(1, killed).Seconds())
	if fault == "lag" && len(lost) == 0 {
		a.t.Error("no acknowledged write was lost, so nothing was tested")
	}
}

func (a *asynchronous) count(db *sql.DB, query string, args ...any) (n int) {
	a.t.Helper()
	testenv.NoError(a.t, db.QueryRow(query, args...).Scan(&n))
	return n
}

// prepare creates what will change. The first function changes it, and the second one judges what is left of that.
func (a *asynchronous) prepare(round int) func() (judge func(db *sql.DB)) {
	t := a.t
	name := func(what string) string { return fmt.Sprintf("%s-%d", what, round) }
	renewing, leaving := a.client(name("renewing")), a.client(name("leaving"))
	changing, coded := a.client(name("changing")), a.client(name("coded"))
	other := changing.signIn("password")
	code := coded.post(0, "/users/forgot-password", "", body{"email": coded.email()}).Text("code")
	follower := &consumer{asynchronous: a, knows: map[string]bool{}}
	follower.ask()

	return func() func(*sql.DB) {
		// A renewal, twice: the client has the successor of a token that the database does not know.
		for range 2 {
			renewing.keep(renewing.post(0, "/tokens", "", body{"refresh_token": renewing.refresh}))
		}
		// A sign-out, which a service has learned of.
		leaving.must(1, http.MethodDelete, "/tokens", "", body{"refresh_token": leaving.refresh})
		ended := claim(t, leaving.access, "sid")
		follower.learns("the sign-out", ended)
		// A change of the password, which ends the other session.
		changing.post(0, "/users/change-password", changing.access, body{
			"old_password": changing.text("password"), "password": changing.text("new"),
		})
		// A code is redeemed.
		coded.post(1, "/users/change-password", "", body{"code": code, "password": coded.text("new")})
		// A person signs up, and another one signs in.
		newcomer := a.client(name("newcomer"))
		opened := changing.signIn("new")
		// An administrator reads the first page of each list, the newest first, and revokes a key.
		users, trail := a.page(0, "/admin/users?limit=1", ""), a.page(0, "/admin/events?limit=1", "")
		if users.Items[0]["id"] != newcomer.id {
			t.Errorf("the newest account is %v, want that of %s", users.Items[0], newcomer.name)
		}
		stolen := a.signing()
		a.administer(0, http.MethodPost, "/admin/keys/"+stolen+"/revoke", body{})
		testenv.Until(t, 10*time.Second, "both gateways have revoked the key", func() bool {
			return !a.trusts(0, stolen) && !a.trusts(1, stolen)
		})
		follower.learns("the key", stolen)
		testenv.Until(t, 10*time.Second, "the receiver has the events", func() bool {
			return a.events.count(newcomer.id) == 2 && a.events.count(changing.id) == 3 && a.events.count(coded.id) == 3
		})

		return func(db *sql.DB) {
			if a.count(db, `SELECT count(*) FROM users WHERE id = $1`, newcomer.id) != 0 ||
				a.count(db, `SELECT generation FROM sessions WHERE id = $1`, claim(t, renewing.access, "sid")) != 0 ||
				a.count(db, `SELECT count(*) FROM sessions WHERE id = $1`, ended) != 1 {
				t.Fatal("the new primary has what was to be lost, so nothing is tested")
			}
			// The revocation of a key that any replica has seen holds. No gateway ever trusts the key again.
			testenv.Until(t, 10*time.Second, "the key is revoked again", func() bool {
				if a.trusts(0, stolen) || a.trusts(1, stolen) {
					t.Fatal("a gateway trusts a revoked key again")
				}
				return a.count(db, `SELECT count(*) FROM audit_events
					WHERE event = 'keys changed' AND details->>'kid' = $1 AND details->>'reason' = 'KeyRevoked'`, stolen) == 1
			})
			testenv.Until(t, 20*time.Second, "the key is recorded again for services", func() bool {
				return a.count(db, `SELECT count(*) FROM endings WHERE id = $1`, stolen) == 1
			})
			// The successor of a revoked key signs at once, before the other gateway has read it.
			testenv.Until(t, 20*time.Second, "both gateways have the same keys", func() bool {
				one, other := a.Send(0, http.MethodGet, "/tokens/keys", ""), a.Send(1, http.MethodGet, "/tokens/keys", "")
				return one.Status == http.StatusOK && bytes.Equal(one.Body, other.Body)
			})
			// Renewals go on.
			renewing.keep(renewing.post(1, "/tokens", "", body{"refresh_token": renewing.refresh}))
			renewing.must(0, http.MethodGet, "/users", renewing.access, nil)
			// A lost session is gone: its holder signs in again.
			opened.refused(http.StatusUnauthorized, 0, "/tokens", body{"refresh_token": opened.refresh})
			// The sign-out is lost, and can be repeated. The service has not forgotten it, and learns of what ends now,
			// although its cursor is ahead of the new primary.
			leaving.keep(leaving.post(0, "/tokens", "", body{"refresh_token": leaving.refresh}))
			leaving.must(1, http.MethodDelete, "/tokens", "", body{"refresh_token": leaving.refresh})
			another := a.person(leaving.name).signIn("password")
			another.must(0, http.MethodDelete, "/tokens", "", body{"refresh_token": another.refresh})
			fresh := &consumer{asynchronous: a, knows: map[string]bool{}}
			for _, c := range []*consumer{follower, fresh} {
				c.learns("the endings after the failover", claim(t, another.access, "sid"), ended, stolen)
			}
			// The old password works, the new one does not, and the session that the change had ended is alive.
			changing.signIn("password")
			changing.refused(http.StatusUnauthorized, 0, "/tokens/signin", body{
				"username": changing.name, "password": changing.text("new"),
			})
			other.post(1, "/tokens", "", body{"refresh_token": other.refresh})
			// The code works once more, and then no more.
			coded.post(0, "/users/change-password", "", body{"code": code, "password": coded.text("again")})
			coded.refused(http.StatusBadRequest, 1, "/users/change-password", body{
				"code": code, "password": coded.text("third"),
			})
			coded.signIn("again")
			// The person who signed up does so again, as another account.
			newcomer.refused(http.StatusUnauthorized, 1, "/tokens", body{"refresh_token": newcomer.refresh})
			if again := a.client(newcomer.name); again.id == newcomer.id {
				t.Error("a lost account and a new one have the same ID")
			} else {
				testenv.Until(t, 10*time.Second, "the receiver has the events of the new account", func() bool {
					return a.events.count(again.id) == 2
				})
			}
			// The lists of administrators go on where they were.
			if next := a.page(1, "/admin/users?limit=1", users.Next); next.Items[0]["id"] == newcomer.id {
				t.Errorf("the list of accounts goes on with %v, which was on the last page", next.Items)
			}
			a.page(1, "/admin/events?limit=1", trail.Next)
			// The log has what the table of the audit trail has lost.
			for event, text := range map[string]string{
				"signed out": ended, "password changed": changing.id, "email verified": newcomer.id,
			} {
				if !slices.ContainsFunc(a.log.Lines(), func(line string) bool {
					return strings.Contains(line, `"log":"audit"`) && strings.Contains(line, event) && strings.Contains(line, text)
				}) {
					t.Errorf("the log has no event %q with %s", event, text)
				}
			}
			if n := a.count(db, `SELECT count(*) FROM audit_events WHERE user_id = $1`, newcomer.id); n != 0 {
				t.Errorf("the table has %d events of the lost account", n)
			}
		}
	}
}

type body map[string]string

// client is a person with a session.
type client struct {
	*asynchronous

	name, id, access, refresh string
}

func (a *asynchronous) person(name string) *client { return &client{asynchronous: a, name: name} }

// client signs up.
func (a *asynchronous) client(name string) *client {
	a.t.Helper()
	c := a.person(name)
	code := c.post(0, "/users", "", body{
		"username": name, "email": c.email(), "password": c.text("password"),
		"first_name": "Ada", "last_name": "Lovelace", "scope": "profile email",
	}).Text("code")
	c.keep(c.post(1, "/users/verify-user", "", body{"code": code, "password": c.text("password")}))
	c.id = claim(a.t, c.access, "sub")
	return c
}

func (c *client) email() string { return c.name + "@example.com" }

func (c *client) text(password string) string { return password + " of " + c.name + ", and no other" }

func (c *client) keep(r *testenv.Reply) {
	c.access, c.refresh = r.Text("access_token"), r.Text("refresh_token")
}

// signIn opens another session of the person.
func (c *client) signIn(password string) *client {
	c.t.Helper()
	other := &client{asynchronous: c.asynchronous, name: c.name, id: c.id}
	other.keep(c.post(1, "/tokens/signin", "", body{"username": c.name, "password": c.text(password)}))
	return other
}

// must sends a request until the reply is not 503. It has to succeed.
func (c *client) must(gateway int, method, path, token string, b body) *testenv.Reply {
	c.t.Helper()
	r := c.send(gateway, method, path, token, b)
	if r.Status < 200 || r.Status > 299 {
		c.t.Fatalf("%s: %s %s: %v", c.name, method, path, r)
	}
	return r
}

func (c *client) post(gateway int, path, token string, b body) *testenv.Reply {
	c.t.Helper()
	return c.must(gateway, http.MethodPost, path, token, b)
}

func (c *client) refused(status, gateway int, path string, b body) {
	c.t.Helper()
	if r := c.send(gateway, http.MethodPost, path, "", b); r.Status != status {
		c.t.Errorf("%s: %s: %v; want %d", c.name, path, r, status)
	}
}

func (c *client) send(gateway int, method, path, token string, b body) (r *testenv.Reply) {
	c.t.Helper()
	testenv.Until(c.t, 30*time.Second, path+" is answered", func() bool {
		r = c.try(gateway, method, path, token, b)
		return r.Status != http.StatusServiceUnavailable
	})
	return r
}

func (c *client) try(gateway int, method, path, token string, b body) *testenv.Reply {
	return c.SendBody(gateway, method, path, token, b)
}

// claim returns a claim of a token, which is not verified.
func claim(t *testing.T, token, name string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	var claims map[string]any
	testenv.NoError(t, json.Unmarshal(testenv.Must(base64.RawURLEncoding.DecodeString(parts[1]))(t), &claims))
	text, _ := claims[name].(string)
	return text
}

// consumer is a service that follows the sessions that have ended, at one gateway after the other.
type consumer struct {
	*asynchronous

	turn  int
	after string
	knows map[string]bool
}

// ask asks once. A gateway may not know yet.
func (c *consumer) ask() {
	c.t.Helper()
	c.turn++
	r := c.Send(c.turn%2, http.MethodGet, "/sessions/ended?after="+c.after, "")
	if r.Status != http.StatusOK {
		return
	}
	var reply struct {
		Ended []struct{ ID string }
		Next  string
	}
	r.JSON(c.t, &reply)
	c.after = reply.Next
	for _, e := range reply.Ended {
		c.knows[e.ID] = true
	}
}

// learns asks until the service knows of all of these.
func (c *consumer) learns(what string, ids ...string) {
	c.t.Helper()
	testenv.Until(c.t, 20*time.Second, "the service learns of "+what, func() bool {
		c.ask()
		return !slices.ContainsFunc(ids, func(id string) bool { return !c.knows[id] })
	})
}

// page is a page of a list for administrators.
type page struct {
	Items []map[string]any
	Next  string
}

func (a *asynchronous) administer(gateway int, method, path string, b body) *testenv.Reply {
	a.t.Helper()
	r := testenv.NewClient(a.t, a.servers[gateway].Admin).Do(method, path, a.admin, b)
	if r.Status != http.StatusOK {
		a.t.Fatalf("%s %s: %v", method, path, r)
	}
	return r
}

func (a *asynchronous) page(gateway int, path, cursor string) (p page) {
	a.t.Helper()
	if cursor != "" {
		path += "&cursor=" + cursor
	}
	a.administer(gateway, http.MethodGet, path, nil).JSON(a.t, &p)
	if len(p.Items) != 1 || p.Next == "" {
		a.t.Fatalf("%s: %+v", path, p)
	}
	return p
}

// signing returns the ID of the key that signs access tokens.
func (a *asynchronous) signing() string {
	a.t.Helper()
	var p page
	a.administer(0, http.MethodGet, "/admin/keys", nil).JSON(a.t, &p)
	for _, k := range p.Items {
		if k["use"] == "access" && k["phase"] == "Signing" {
			return k["kid"].(string)
		}
	}
	a.t.Fatalf("no key signs: %+v", p)
	return ""
}

// trusts reports whether a gateway publishes a key.
func (a *asynchronous) trusts(gateway int, kid string) bool {
	return strings.Contains(string(a.Send(gateway, http.MethodGet, "/tokens/keys", "").Body), kid)
}

// receiver is a service that events are sent to.
type receiver struct {
	*httptest.Server

	t      *testing.T
	mu     sync.Mutex
	bodies map[string]string // by webhook-id
}

func receive(t *testing.T) *receiver {
	r := &receiver{t: t, bodies: map[string]string{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(_ http.ResponseWriter, request *http.Request) {
	text, _ := io.ReadAll(request.Body)
	id := request.Header.Get("Webhook-Id")
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, ok := r.bodies[id]; ok && before != string(text) {
		r.t.Errorf("two events have the ID %s: %s and %s", id, before, text)
	}
	r.bodies[id] = string(text)
}

// count returns the number of events with a text, such as the ID of a user.
func (r *receiver) count(text string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, body := range r.bodies {
		if strings.Contains(body, text) {
			n++
		}
	}
	return n
}

func (r *receiver) has(text string) bool { return r.count(text) > 0 }
