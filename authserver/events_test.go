package authserver_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/auth-gateway/auth-gateway/internal/events"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

const eventSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// eventReceiver is a service that other systems run: it drops doubles, and checks signatures. A quarter of its answers
// are 500.
type eventReceiver struct {
	*httptest.Server

	t       *testing.T
	hooked  chan struct{} // is closed when a request to /hook has come, which is accepted and never answered
	release chan struct{}

	mu     sync.Mutex
	bodies bytes.Buffer
	seen   map[string]int      // requests that were accepted, by webhook-id
	types  map[string][]string // by user, without doubles, in the order in which they came
}

func receiveEvents(t *testing.T) *eventReceiver {
	r := &eventReceiver{
		t: t, hooked: make(chan struct{}), release: make(chan struct{}), seen: map[string]int{}, types: map[string][]string{},
	}
	r.Server = httptest.NewServer(r)
	t.Cleanup(func() {
		close(r.release)
		r.CloseClientConnections()
		r.Close()
	})
	return r
}

func (r *eventReceiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	judge, _ := standardwebhooks.NewWebhook(eventSecret)
	if err == nil {
		err = judge.Verify(body, request.Header)
	}
	var e struct {
		Type      string
		Timestamp time.Time
		Data      map[string]any
	}
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	user, _ := e.Data["user_id"].(string)
	for member := range e.Data {
		if member != "user_id" && member != "changed" {
			r.t.Errorf("the data of %s have %s, which is not documented", e.Type, member)
		}
	}
	if err != nil || e.Type == "" || user == "" || time.Since(e.Timestamp).Abs() > time.Hour {
		r.t.Errorf("a request is not as documented: %v, %s", err, body)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	hangs := false
	if request.URL.Path == "/hook" {
		r.mu.Lock()
		select {
		case <-r.hooked:
		default:
			close(r.hooked)
			hangs = true
		}
		r.mu.Unlock()
	}
	if !hangs && rand.IntN(4) == 0 {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	r.mu.Lock()
	r.bodies.Write(body)
	id := request.Header.Get("webhook-id")
	if r.seen[id]++; r.seen[id] == 1 {
		r.types[user] = append(r.types[user], e.Type)
	}
	r.mu.Unlock()
	if hangs {
		<-r.release
	}
}

// received returns the types of the events by user.
func (r *eventReceiver) received() map[string][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.types)
}

// recorded returns the same, as the audit trail has it.
func (c *cluster) recorded() map[string][]string {
	types, all := events.Types(), map[string][]string{}
	for _, line := range column(c.t, c.db, `SELECT user_id || ' ' || event FROM audit_events WHERE user_id IS NOT NULL ORDER BY id`) {
		user, event, _ := strings.Cut(line, " ")
		if name, announced := types[identity.EventName(event)]; announced {
			all[user] = append(all[user], name)
		}
	}
	return all
}

// live does what a user does in the course of years.
func live(n *node, leaves bool) {
	u := n.newUser()
	for i := range 3 {
		want(n.t, http.StatusOK, n.changeProfile(u.access, body{"first_name": fmt.Sprint("Name ", i)}), "change a name")
	}
	want(n.t, http.StatusNoContent, n.changePassword(u.access, u.password, u.password+", changed"), "change the password")
	if leaves {
		want(n.t, http.StatusNoContent, n.deleteUser(u.access), "delete the account")
	}
}

// Each event reaches a receiver that fails at random, in the order of its user, although one of two replicas is killed
// after the receiver has accepted an event and before it knows.
func TestEventsReachTheReceiverAlthoughASenderIsKilled(t *testing.T) {
	t.Parallel()
	r := receiveEvents(t)
	hook := env{"EVENT_WEBHOOK_URL": r.URL + "/events?key=sesame", "EVENT_WEBHOOK_SECRET": eventSecret}
	c, n := single(t, hook)

	killed := exec.Command(testenv.Program(t, "./cmd/authserver"))
	metrics := strconv.Itoa(testenv.FreePort(t))
	for name, value := range gatewaytest.Environ(c.db, hook, env{
		"EVENT_WEBHOOK_URL": r.URL + "/hook", "PORT": strconv.Itoa(testenv.FreePort(t)), "METRICS_PORT": metrics,
	}) {
		killed.Env = append(killed.Env, name+"="+value)
	}
	testenv.NoError(t, killed.Start())
	kill := sync.OnceFunc(func() {
		_ = killed.Process.Kill()
		_ = killed.Wait() // it reports the kill
	})
	t.Cleanup(kill)
	ops := testenv.NewClient(t, "http://127.0.0.1:"+metrics)
	testenv.Until(t, time.Minute, "the other replica is ready", func() bool {
		reply, err := ops.Try(http.MethodGet, "/readyz", nil, nil)
		return err == nil && reply.Status == http.StatusOK
	})

	for trapped := false; !trapped && !t.Failed(); {
		together(4, func(i int) { live(n, i%2 == 0) })
		select {
		case <-r.hooked:
			trapped = true
		case <-time.After(time.Second):
		}
	}
	kill()
	c.addReady(1, hook)
	together(4, func(i int) { live(c.any(i), i%2 == 0) })

	expected := c.recorded()
	testenv.Eventually(t, 3*time.Minute, "all events have come", func() error {
		left := column(t, c.db, `SELECT count(*)::text FROM queued_events`)
		if len(left) != 1 || left[0] != "0" {
			return fmt.Errorf("%q events wait", left)
		}
		return nil
	})
	got := r.received()
	for user, types := range expected {
		if !slices.Equal(got[user], types) {
			t.Errorf("user %s: the receiver got\n%q\nand there was\n%q", user, got[user], types)
		}
	}
	if len(got) != len(expected) || len(expected) < 8 {
		t.Errorf("the receiver has events of %d users, of %d", len(got), len(expected))
	}
	doubles := 0
	for _, n := range r.seen {
		doubles += n - 1
	}
	if doubles == 0 {
		t.Error("the event that the killed replica had sent was not sent again")
	}
	t.Logf("%d events, %d doubles", len(r.seen), doubles)
	c.logs.hasNone(t, "a request to the receiver", r.bodies.String())
	if strings.Contains(c.logs.String(), "sesame") {
		t.Error("the log has the query of the URL")
	}
	if text := c.nodes[0].metrics(); !strings.Contains(text, "authgateway_events_given_up_total 0\n") ||
		!strings.Contains(text, "authgateway_events_paused 0\n") || strings.Contains(text, "authgateway_events_delivered_total 0\n") {
		t.Errorf("the metrics are %.3000s", text)
	}
}

// A receiver that does not answer delays no request, no mail and no clean-up. The log says it once. Without a retention
// of the audit trail, the events wait although their rows there are gone.
func TestAReceiverThatIsDownHoldsUpNothing(t *testing.T) {
	t.Parallel()
	c, n := single(t, env{
		"EVENT_WEBHOOK_URL": "http://" + testenv.FreeAddress(t), "EVENT_WEBHOOK_SECRET": eventSecret, "AUDIT_RETENTION": "0",
	})
	const line = "the receiver accepts no events"
	for range 3 {
		live(n, false)
	}
	testenv.Until(t, time.Minute, "the sender pauses", func() bool { return strings.Contains(n.metrics(), "authgateway_events_paused 1\n") })
	for range 3 {
		live(n, true)
	}
	// As after a restore of an old backup. The clean-up of a server that has a receiver removes nothing that waits for it.
	postgrestest.Exec(t, c.db, `UPDATE event_webhook SET until = now() - interval '1 day'`)
	n.CleanUp(t.Context())
	for query, want := range map[string]string{
		`SELECT count(*)::text FROM audit_events`: "0", `SELECT count(*)::text FROM queued_events`: "39",
	} {
		if got := column(t, c.db, query); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
	if !n.ready() {
		t.Error("the replica is not ready")
	}
	testenv.Until(t, time.Minute, "the age of the oldest event is known", func() bool {
		text := n.metrics()
		return strings.Contains(text, "authgateway_events_oldest_seconds ") && !strings.Contains(text, "authgateway_events_oldest_seconds 0\n")
	})
	if got := strings.Count(c.logs.String(), line); got != 1 {
		t.Errorf("the log says %d times that %s", got, line)
	}
}
