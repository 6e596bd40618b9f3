package events

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// payload is the data of the events of these tests: the n-th event of a user.
type payload struct{ User, N int }

// queue is a Queue in memory.
type queue struct {
	mu   sync.Mutex
	rows []*row // in the order of their numbers
}

type row struct {
	Event
	payload
	due time.Time
}

// fill queues events of users in turn.
func (q *queue) fill(users, each int) {
	for n := range each {
		for user := range users {
			q.put(payload{user, n})
		}
	}
}

func (q *queue) put(p payload) {
	q.mu.Lock()
	defer q.mu.Unlock()
	number := int64(1)
	if len(q.rows) > 0 {
		number = q.rows[len(q.rows)-1].Ref.Number + 1
	}
	data, _ := json.Marshal(p)
	q.rows = append(q.rows, &row{
		Event:   Event{Ref: Ref{Number: number, ID: fmt.Sprint(p)}, Type: "user.updated", At: time.Now(), Data: data},
		payload: p, due: time.Now(),
	})
}

func (q *queue) left() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.rows)
}

func (q *queue) QueueEvents(context.Context, map[identity.EventName]string, time.Duration) error {
	return nil
}

func (q *queue) ClaimEvent(ctx context.Context, lease time.Duration) (Event, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now, seen := time.Now(), map[int]bool{}
	var first *row
	for _, r := range q.rows {
		if !seen[r.User] && !r.due.After(now) && (first == nil || r.due.Before(first.due)) {
			first = r
		}
		seen[r.User] = true
	}
	if first == nil {
		return Event{}, false, ctx.Err()
	}
	first.due = now.Add(lease)
	first.Ref.Attempt++
	e := first.Event
	e.Age = now.Sub(e.At)
	return e, true, nil
}

func (q *queue) RemoveEvent(_ context.Context, ref Ref) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rows = slices.DeleteFunc(q.rows, func(r *row) bool { return r.Ref == ref })
	return nil
}

func (q *queue) PostponeEvent(_ context.Context, ref Ref, after time.Duration) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range q.rows {
		if r.Ref == ref {
			r.due = time.Now().Add(after)
		}
	}
	return nil
}

func (q *queue) GiveUpEvents(_ context.Context, age time.Duration, limit int) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rows = slices.DeleteFunc(q.rows, func(r *row) bool {
		old := time.Since(r.At) > age && !r.due.After(time.Now()) && n < limit
		if old {
			n++
		}
		return old
	})
	return n, nil
}

func (q *queue) OldestEvent(context.Context) (time.Duration, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.rows) == 0 {
		return 0, nil
	}
	return time.Since(q.rows[0].At), nil
}

// receiver is a Receiver that answers as a test says, and checks the order.
type receiver struct {
	t      testing.TB
	answer func(p payload) error
	pace   time.Duration // of an answer
	closed time.Time     // when a test has asked for a pause of four minutes
	skip   *payload      // may be followed by the next event without being accepted

	mu       sync.Mutex
	attempts int
	accepted []payload
	next     map[int]int // by user: the number that is expected
	inFlight int
	most     int
}

func (r *receiver) Close() {}

func (r *receiver) Post(ctx context.Context, m webhook.Message) error {
	var p payload
	_ = json.Unmarshal(m.Data.(json.RawMessage), &p)
	r.mu.Lock()
	r.attempts++
	if past := time.Since(r.closed); !r.closed.IsZero() && past > 0 && past < 4*time.Minute {
		r.t.Errorf("a request comes %v after the receiver has asked for a pause", past)
	}
	r.inFlight++
	r.most = max(r.most, r.inFlight)
	if r.next == nil {
		r.next = map[int]int{}
	}
	if next := r.next[p.User]; p.N != next && (r.skip == nil || p.N != next+1 || *r.skip != (payload{p.User, next})) {
		r.t.Errorf("user %d: event %d is sent while %d was not accepted", p.User, p.N, next)
	}
	r.mu.Unlock()
	stopped := !webhook.Sleep(ctx, r.pace)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inFlight--
	if stopped {
		return &webhook.Error{Err: webhook.ErrStopped}
	}
	err := r.answer(p)
	if err == nil {
		r.accepted = append(r.accepted, p)
		r.next[p.User] = p.N + 1
	}
	return err
}

func (r *receiver) tried() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.attempts
}

func (r *receiver) taken() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.accepted)
}

// start runs senders until stop is called. log has their lines from level info on.
func start(q Queue, r Receiver, senders int) (all []*Sender, log *bytes.Buffer, stop func()) {
	log = new(bytes.Buffer)
	logger := slog.New(slog.NewTextHandler(log, nil)) // it serializes the lines
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for range senders {
		s := New(Options{Queue: q, Receiver: r, Log: logger})
		all = append(all, s)
		running.Go(func() { s.Run(ctx) })
	}
	return all, log, func() { cancel(); running.Wait() }
}

func status(code int) error { return &webhook.Error{Status: code} }

// all reports an error unless each event was accepted once.
func all(t *testing.T, q *queue, r *receiver, events int) {
	t.Helper()
	if len(r.accepted) != events || q.left() != 0 {
		t.Errorf("%d of %d events were accepted, and %d are left", len(r.accepted), events, q.left())
	}
}

func TestEventsReachAReceiverThatWasDownForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, down := new(queue), time.Now().Add(time.Hour)
		r := &receiver{t: t, pace: 10 * time.Millisecond, answer: func(payload) error {
			if time.Now().Before(down) {
				return status(500)
			}
			return nil
		}}
		q.fill(300, 3)
		senders, log, stop := start(q, r, 2)
		time.Sleep(50 * time.Minute)
		if s := senders[0].Stats(); !s.Paused || s.Oldest < 49*time.Minute || s.Failed == 0 || s.Delivered != 0 {
			t.Errorf("while it is down, the numbers are %+v", s)
		}
		// Ten attempts until the pause of each replica, and then one each half a minute.
		if n := r.tried(); n > 2*(downAfter+workers)+2*130 {
			t.Errorf("a receiver that is down gets %d requests in 50 minutes", n)
		}
		time.Sleep(10*time.Minute + longestPostpone*3/2)
		if s := senders[0].Stats(); s.Paused || s.GivenUp != 0 || s.Oldest != 0 {
			t.Errorf("when it is up, the numbers are %+v", s)
		}
		stop()
		all(t, q, r, 900)
		if n := strings.Count(log.String(), "the receiver accepts no events"); n != 2 {
			t.Errorf("two replicas say %d times that it is down:\n%s", n, log)
		}
		if n := strings.Count(log.String(), "the receiver accepts events again"); n != 2 {
			t.Errorf("two replicas say %d times that it is up:\n%s", n, log)
		}
	})
}

func TestEventsReachAReceiverThatFailsAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		r := &receiver{t: t, pace: 10 * time.Millisecond, answer: func(payload) error {
			return []error{nil, nil, nil, status(500), status(400), &webhook.Error{Err: webhook.ErrTooSlow}}[rand.IntN(6)]
		}}
		q.fill(200, 4)
		begin := time.Now()
		senders, _, stop := start(q, r, 2)
		for q.left() > 0 && time.Since(begin) < 3*time.Hour { // an unlucky user waits for pauses of five minutes
			time.Sleep(time.Second)
		}
		stop()
		all(t, q, r, 800)
		if got := senders[0].Stats().Delivered + senders[1].Stats().Delivered; got != 800 {
			t.Errorf("%d are counted", got)
		}
	})
}

func TestAnEventThatIsNeverAcceptedDelaysOnlyItsUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, begin := new(queue), time.Now()
		r := &receiver{t: t, skip: &payload{7, 0}, answer: func(p payload) error {
			if p == (payload{7, 0}) {
				return status(500)
			}
			return nil
		}}
		q.fill(100, 2)
		senders, log, stop := start(q, r, 1)
		time.Sleep(10 * time.Second)
		if q.left() != 2 {
			t.Errorf("after 10 s %d are left; want the two of one user", q.left())
		}
		time.Sleep(giveUpAfter - time.Minute - time.Since(begin))
		if q.left() != 2 {
			t.Errorf("before the time is over %d are left", q.left())
		}
		q.mu.Lock()
		q.rows[1].At = time.Now() // the first will be too old, the second is not
		q.mu.Unlock()
		time.Sleep(time.Minute + longestPostpone*3/2 + 2*watchInterval)
		s := senders[0].Stats()
		if s.GivenUp != 1 || s.Paused || q.left() != 0 {
			t.Errorf("the numbers are %+v, and %d are left", s, q.left())
		}
		if most := uint64(giveUpAfter / (longestPostpone * 4 / 5)); s.Failed > most+20 || s.Failed < most/2 {
			t.Errorf("the event was tried %d times in %v", s.Failed, giveUpAfter)
		}
		stop()
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), "given up") {
			t.Errorf("%d errors are logged:\n%s", n, log)
		}
	})
}

// Without other events, those that are never accepted look like a receiver that is down. The next one is sent nevertheless.
func TestEventsThatAreNeverAcceptedDoNotStopOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		r := &receiver{t: t, answer: func(p payload) error {
			if p.User < 20 {
				return status(500)
			}
			return nil
		}}
		q.fill(20, 2)
		_, _, stop := start(q, r, 1)
		for user := range 10 {
			time.Sleep(time.Hour)
			q.put(payload{100 + user, 0})
			time.Sleep(3 * time.Second)
			if got := r.taken(); got != user+1 {
				t.Fatalf("3 s after another event, %d were accepted; want %d", got, user+1)
			}
		}
		stop()
	})
}

func TestRetryAfterPausesAllEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		r := &receiver{t: t, pace: 10 * time.Millisecond}
		r.answer = func(payload) error {
			if len(r.accepted) == 20 && r.closed.IsZero() { // those in flight are accepted
				r.closed = time.Now()
				return &webhook.Error{Status: 429, RetryAfter: 4 * time.Minute}
			}
			return nil
		}
		q.fill(50, 1)
		senders, log, stop := start(q, r, 1)
		time.Sleep(time.Minute)
		if n := r.taken(); n >= 20+workers || !senders[0].Stats().Paused {
			t.Errorf("after a minute %d were accepted, and the numbers are %+v", n, senders[0].Stats())
		}
		time.Sleep(4 * time.Minute)
		stop()
		all(t, q, r, 50)
		if r.attempts != 51 || log.Len() != 0 {
			t.Errorf("there were %d requests; want one more than events. The log is\n%s", r.attempts, log)
		}
	})
}

func TestASlowReceiverGetsABoundedNumberAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		r := &receiver{t: t, pace: 2 * time.Second, answer: func(payload) error { return nil }}
		q.fill(80, 1)
		_, _, stop := start(q, r, 1)
		time.Sleep(30 * time.Second)
		stop()
		all(t, q, r, 80)
		if r.most != workers {
			t.Errorf("%d requests were in flight at the same time; want %d", r.most, workers)
		}
	})
}

func TestASenderThatStopsLeavesTheEventInFlightToAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		r := &receiver{t: t, pace: 14 * time.Second, answer: func(payload) error { return nil }}
		q.fill(1, 2)
		_, _, stop := start(q, r, 1)
		time.Sleep(time.Second)
		begin := time.Now()
		stop()
		if took := time.Since(begin); took != stopGrace {
			t.Errorf("it stops after %v", took)
		}
		if len(r.accepted) != 0 || q.left() != 2 {
			t.Fatalf("accepted %v, left %d", r.accepted, q.left())
		}
		r.pace = 0
		_, _, stop = start(q, r, 1)
		time.Sleep(2 * pollInterval)
		stop()
		all(t, q, r, 2)
	})
}

// Each event of the audit trail is announced, or is known not to be.
func TestEachEventIsAnnouncedOrNot(t *testing.T) {
	unannounced := []identity.EventName{
		identity.EventSignedIn, identity.EventSignedOut, identity.EventSessionEnded, identity.EventCodeIssued,
		identity.EventMailWithheld, identity.EventPasswordRefused, identity.EventPasswordThrottled, identity.EventSignInRefused,
		identity.EventCodeRefused, identity.EventLimitExceeded, // see Types
		identity.EventKeysChanged, admin.EventRotationStarted, admin.EventKeyRevoked, // of no account
		admin.EventCodeSent,
	}
	names := regexp.MustCompile(`(?m)^\t(Event[A-Z]\w*) +(?:identity\.)?EventName = "([^"]+)"`)
	found := 0
	for _, file := range []string{"../identity/audit.go", "../admin/admin.go"} {
		text := testenv.Must(os.ReadFile(file))(t)
		for _, constant := range names.FindAllStringSubmatch(string(text), -1) {
			found++
			name := identity.EventName(constant[2])
			if _, announced := Types()[name]; announced == slices.Contains(unannounced, name) {
				t.Errorf("%s: announced is %v; add it to Types, or to the list of this test", constant[1], announced)
			}
		}
	}
	if found != len(Types())+len(unannounced) {
		t.Errorf("%d events are found, and %d are known", found, len(Types())+len(unannounced))
	}
}

// The page for users has every type, and no other.
func TestTypesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	for event, name := range Types() {
		if !strings.Contains(string(page), "| `"+name+"` |") {
			t.Errorf("docs/events.md has no row for %s (%s)", name, event)
		}
	}
	names := map[string]bool{}
	for _, name := range Types() {
		names[name] = true
	}
	if rows := strings.Count(string(page), "\n| `user"); rows != len(names) {
		t.Errorf("docs/events.md has %d rows of types; want %d", rows, len(names))
	}
}

// An event that is older than three days is not sent, for example after a restore of an old backup: the receiver may have
// accepted it, and no longer know its ID.
func TestEventsThatAreTooOldAreNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		r := &receiver{t: t, answer: func(payload) error { return nil }}
		q.fill(20, 3)
		for _, row := range q.rows {
			row.At = row.At.Add(-giveUpAfter - time.Second)
		}
		q.fill(3, 1)
		r.next = map[int]int{}
		senders, _, stop := start(q, r, 2)
		time.Sleep(time.Minute)
		stop()
		if n := senders[0].Stats().GivenUp + senders[1].Stats().GivenUp; n != 60 || q.left() != 0 || r.attempts != 3 {
			t.Errorf("%d of 60 are given up, %d are left, and there were %d requests for 3 events", n, q.left(), r.attempts)
		}
	})
}

// slowQueue answers a claim late, as if the process had stood still meanwhile.
type slowQueue struct {
	*queue
	stands time.Duration
}

func (q *slowQueue) ClaimEvent(ctx context.Context, lease time.Duration) (Event, bool, error) {
	e, found, err := q.queue.ClaimEvent(ctx, lease)
	time.Sleep(q.stands)
	return e, found, err
}

// A process that stands still between a claim and the request has no time for the request: another one may have sent the
// event, and the next ones of its user, since.
func TestAProcessThatStoodStillSendsNothing(t *testing.T) {
	for _, stands := range []time.Duration{lease - callTimeout, lease, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			q := new(queue)
			r := &receiver{t: t, pace: time.Millisecond, answer: func(payload) error { return nil }}
			q.fill(1, 2)
			_, _, stop := start(&slowQueue{q, stands}, r, 1)
			time.Sleep(3 * time.Hour)
			if n := r.taken(); n != 0 || q.left() != 2 {
				t.Errorf("after %v, %d were sent", stands, n)
			}
			stop()
			r.accepted = nil
			_, _, stop = start(q, r, 1)
			time.Sleep(2 * lease)
			stop()
			all(t, q, r, 2)
		})
	}
}

// The time of the failures counts too: the few events of two users would not fail often enough.
func TestAReceiverThatIsDownPausesAShortQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		r := &receiver{t: t, answer: func(payload) error { return status(500) }}
		q.fill(2, 1)
		senders, _, stop := start(q, r, 1)
		time.Sleep(downFor - time.Second)
		if senders[0].Stats().Paused {
			t.Error("it has paused for single failures")
		}
		time.Sleep(10 * time.Second)
		if !senders[0].Stats().Paused {
			t.Error("it has not paused")
		}
		stop()
	})
}

// A replica that has paused goes on when another one has sent what it could not: nothing is left that it could try.
func TestAPauseEndsWhenAnotherReplicaHasSentAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		r := &receiver{t: t, answer: func(payload) error { return status(500) }}
		q.fill(20, 1)
		senders, log, stop := start(q, r, 1)
		time.Sleep(time.Minute)
		if !senders[0].Stats().Paused {
			t.Error("it has not paused")
		}
		q.mu.Lock()
		q.rows = nil
		q.mu.Unlock()
		time.Sleep(2 * watchInterval)
		if senders[0].Stats().Paused || !strings.Contains(log.String(), "the receiver accepts events again") {
			t.Errorf("it still pauses:\n%s", log)
		}
		stop()
	})
}
