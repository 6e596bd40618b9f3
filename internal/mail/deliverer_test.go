package mail

import (
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// box is an in-memory Outbox that follows the contract and can simulate failures.
type box struct {
	mu     sync.Mutex
	rows   map[int64]*row
	order  queue
	seq    int64
	away   error
	taken  int
	asked  int
	givens []int64
	onTake func() // called once, by the next ClaimMail
}

type row struct {
	message identity.Message
	due     time.Time
	queued  time.Time
	seq     int64
}

// queue orders rows by due time. When a row changes, it is pushed again, and the old entry is skipped later.
type queue []entry

type entry struct {
	due time.Time
	seq int64
	row *row
}

func (q queue) Len() int      { return len(q) }
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q queue) Less(i, j int) bool {
	return q[i].due.Before(q[j].due) || q[i].due.Equal(q[j].due) && q[i].seq < q[j].seq
}
func (q *queue) Push(x any) { *q = append(*q, x.(entry)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

func (b *box) setDue(r *row, due time.Time) {
	b.seq++
	r.due, r.seq = due, b.seq
	heap.Push(&b.order, entry{due, b.seq, r})
}

func newBox() *box { return &box{rows: map[int64]*row{}} }

func (b *box) put(m identity.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m.Ref.Attempt = 0
	r := &row{message: m, queued: time.Now()}
	b.rows[m.Ref.ID] = r
	b.setDue(r, time.Now())
}

func (b *box) fill(n int) {
	for i := range n {
		b.put(aMessage(int64(i + 1)))
	}
}

func (b *box) setAway(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = err
}

func (b *box) left() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.rows)
}

func (b *box) dueIn(id int64) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Until(b.rows[id].due)
}

func (b *box) attempts(id int64) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rows[id].message.Ref.Attempt
}

func (b *box) ClaimMail(ctx context.Context, lease time.Duration) (identity.Message, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.onTake; f != nil {
		b.onTake = nil
		f()
	}
	b.asked++
	if b.away != nil {
		return identity.Message{}, false, b.away
	}
	if ctx.Err() != nil {
		return identity.Message{}, false, ctx.Err()
	}
	now := time.Now()
	for len(b.order) > 0 && (b.order[0].row.seq != b.order[0].seq || b.rows[b.order[0].row.message.Ref.ID] != b.order[0].row) {
		heap.Pop(&b.order)
	}
	if len(b.order) == 0 || b.order[0].due.After(now) {
		return identity.Message{}, false, nil
	}
	first := b.order[0].row
	first.message.Ref.Attempt++
	b.setDue(first, now.Add(lease))
	b.taken++
	m := first.message
	m.Age = now.Sub(first.queued)
	return m, true, nil
}

func (b *box) change(ctx context.Context, ref identity.MailRef, f func(r *row)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away != nil {
		return b.away
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if r := b.rows[ref.ID]; r != nil && r.message.Ref == ref {
		f(r)
	}
	return nil
}

func (b *box) RenewMail(ctx context.Context, ref identity.MailRef, lease time.Duration) error {
	return b.change(ctx, ref, func(r *row) { b.setDue(r, time.Now().Add(lease)) })
}

func (b *box) FinishMail(ctx context.Context, ref identity.MailRef, o identity.MailOutcome) error {
	return b.change(ctx, ref, func(r *row) {
		switch o.Result {
		case identity.MailPostponed:
			b.setDue(r, time.Now().Add(o.After))
		case identity.MailReturned:
			b.setDue(r, time.Now())
			r.message.Ref.Attempt--
		case identity.MailGivenUp:
			b.givens = append(b.givens, ref.ID)
			delete(b.rows, ref.ID)
		default:
			delete(b.rows, ref.ID)
		}
	})
}

func (b *box) CountMails(context.Context) (queued int, oldest time.Duration, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.rows {
		oldest = max(oldest, time.Since(r.queued))
	}
	return len(b.rows), oldest, b.away
}

// fakeTransport is a Transport and its Conn, with results that a test sets.
type fakeTransport struct {
	mu     sync.Mutex
	ready  func() error
	send   func(ctx context.Context, m identity.Message) error
	sent   map[int64]int
	looked int
	tried  int
	busy   int
	most   int
}

func (b *fakeTransport) Open() Conn { return b }
func (b *fakeTransport) Close()     {}

func (b *fakeTransport) Ready(context.Context) (bool, error) {
	b.mu.Lock()
	b.looked++
	ready := b.ready
	b.mu.Unlock()
	if ready != nil {
		if err := ready(); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (b *fakeTransport) Send(ctx context.Context, m identity.Message, _ Letter) error {
	b.mu.Lock()
	b.tried++
	b.busy++
	b.most = max(b.most, b.busy)
	send := b.send
	b.mu.Unlock()
	defer func() { b.mu.Lock(); b.busy--; b.mu.Unlock() }()
	if send != nil {
		if err := send(ctx, m); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sent == nil {
		b.sent = map[int64]int{}
	}
	b.sent[m.Ref.ID]++
	return nil
}

func (b *fakeTransport) times(id int64) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent[id]
}

func (b *fakeTransport) tries() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tried
}

func (b *fakeTransport) looks() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.looked
}

func (b *fakeTransport) onSend(f func(context.Context, identity.Message) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.send = f
}

func (b *fakeTransport) onReady(f func() error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready = f
}

// lines collects the log.
type lines struct{ testenv.Output }

func (l *lines) all(t *testing.T) (entries []map[string]any) {
	t.Helper()
	for text := range strings.Lines(l.String()) {
		var entry map[string]any
		testenv.NoError(t, json.Unmarshal([]byte(text), &entry))
		entries = append(entries, entry)
	}
	return entries
}

func (l *lines) count(t *testing.T, message string) (n int) {
	t.Helper()
	for _, entry := range l.all(t) {
		if entry["msg"] == message {
			n++
		}
	}
	return n
}

// inBubble runs a Deliverer in simulated time and stops it.
func inBubble(t *testing.T, f func(t *testing.T, d *Deliverer, b *box, c *fakeTransport, l *lines)) {
	t.Helper()
	words := mustTemplates(t, TemplateOptions{})
	synctest.Test(t, func(t *testing.T) {
		b, c, l := newBox(), &fakeTransport{}, &lines{}
		d := New(Options{
			Outbox: b, Transport: c, Templates: words, Workers: 4, GiveUpAfter: 2 * time.Hour,
			Log: slog.New(slog.NewJSONHandler(l, nil)),
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { d.Run(ctx) })
		f(t, d, b, c, l)
		cancel()
		running.Wait()
		for _, secret := range []string{"ada@example.com", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"} {
			if strings.Contains(l.String(), secret) {
				t.Errorf("the log contains %s:\n%s", secret, l.String())
			}
		}
	})
}

func TestDelivererSendsAMailOnceAndLogsNoRecipient(t *testing.T) {
	inBubble(t, func(t *testing.T, d *Deliverer, b *box, c *fakeTransport, l *lines) {
		b.put(aMessage(1))
		time.Sleep(2 * time.Second)
		if c.times(1) != 1 || b.left() != 0 {
			t.Errorf("sent %d times, %d mails left", c.times(1), b.left())
		}
		if n := l.count(t, "mail sent"); n != 1 {
			t.Errorf("the mail is logged %d times: %v", n, l.all(t))
		}
		if s := d.Stats(); s.Sent[identity.MailVerification] != 1 || s.Paused {
			t.Errorf("the stats are %+v", s)
		}
	})
}

func TestDelivererPollsOnceASecondWithAnyNumberOfWorkers(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Deliverer, b *box, c *fakeTransport, _ *lines) {
		time.Sleep(100 * time.Second)
		b.mu.Lock()
		asked := b.asked
		b.mu.Unlock()
		if asked < 80 || asked > 130 {
			t.Errorf("the replica asked %d times in 100 s", asked)
		}
		if c.looks() != 1 {
			t.Errorf("the replica probed the transport %d times; want 1", c.looks())
		}
	})
}

func TestDelivererSendsWithAllWorkers(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Deliverer, b *box, c *fakeTransport, _ *lines) {
		c.onSend(func(context.Context, identity.Message) error { time.Sleep(time.Second); return nil })
		b.fill(40)
		time.Sleep(13 * time.Second)
		if b.left() != 0 || c.most != 4 {
			t.Errorf("%d mails left, %d sent at the same time", b.left(), c.most)
		}
	})
}

func TestDelivererClaimsNoMailWhileTheTransportFails(t *testing.T) {
	inBubble(t, func(t *testing.T, d *Deliverer, b *box, c *fakeTransport, l *lines) {
		away := &TransportError{Transport: "mail.example.com:587", Step: "connecting", Err: errors.New("connection refused")}
		synctest.Wait()
		c.onReady(func() error { return away })
		c.onSend(func(context.Context, identity.Message) error { return away })
		b.fill(10)
		time.Sleep(time.Hour)
		// Each worker may have claimed a mail before the first failure was known.
		if c.tries() > 4 || b.taken > 4 {
			t.Errorf("%d mails were claimed, and %d tried", b.taken, c.tries())
		}
		if n := c.looks(); n < 100 || n > 170 {
			t.Errorf("the transport was probed %d times in an hour", n)
		}
		for id := range int64(10) {
			if n := b.attempts(id + 1); n != 0 {
				t.Errorf("mail %d has %d counted attempts; want 0", id+1, n)
			}
		}
		if s := d.Stats(); !s.Paused || s.Queued != 10 || s.Oldest < 59*time.Minute || s.LastError != away.Error() ||
			time.Since(s.FailedAt) > time.Minute {
			t.Errorf("the stats are %+v", s)
		}
		if n := l.count(t, "cannot send mail; all mails wait"); n != 1 {
			t.Errorf("it was logged %d times", n)
		}
		c.onReady(nil)
		c.onSend(nil)
		time.Sleep(40 * time.Second)
		if b.left() != 0 || d.Stats().Paused {
			t.Errorf("%d mails are left after the transport recovered", b.left())
		}
		if n := l.count(t, "mail can be sent again"); n != 1 {
			t.Errorf("the recovery was logged %d times", n)
		}
	})
}

func TestDelivererLogsAFailureOfAnotherKind(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Deliverer, b *box, c *fakeTransport, l *lines) {
		c.onReady(func() error { return &TransportError{Transport: "m", Step: "connecting"} })
		c.onSend(func(context.Context, identity.Message) error {
			return &TransportError{Transport: "m", Step: "connecting"}
		})
		b.fill(1)
		time.Sleep(5 * time.Minute)
		c.onReady(func() error { return &TransportError{Transport: "m", Step: "authenticating", Reply: Reply{Code: 535}} })
		time.Sleep(5 * time.Minute)
		if n := l.count(t, "cannot send mail; all mails wait"); n != 2 {
			t.Errorf("it was logged %d times", n)
		}
	})
}

func TestDelivererWaitsForRetryAfter(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Deliverer, b *box, c *fakeTransport, _ *lines) {
		synctest.Wait()
		c.onSend(func(context.Context, identity.Message) error {
			return &TransportError{Transport: "hook", Step: "posting the mail", Reply: Reply{Code: 429}, RetryAfter: 5 * time.Minute}
		})
		b.fill(1)
		time.Sleep(4 * time.Minute)
		if c.tries() != 1 {
			t.Errorf("the transport was tried %d times", c.tries())
		}
		c.onSend(nil)
		time.Sleep(2 * time.Minute)
		if b.left() != 0 {
			t.Error("the transport was not tried again")
		}
	})
}

func TestDelivererReturnsAMailThatWasClaimedDuringAFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, d *Deliverer, b *box, c *fakeTransport, _ *lines) {
		synctest.Wait()
		b.mu.Lock()
		b.onTake = func() {
			d.transportFailed(&TransportError{Transport: "hook", Step: "posting the mail", Reply: Reply{Code: 429}, RetryAfter: 5 * time.Minute})
		}
		b.mu.Unlock()
		b.fill(1)
		time.Sleep(4 * time.Minute)
		if n := c.tries(); n != 0 {
			t.Errorf("the transport was tried %d times", n)
		} else if n := b.attempts(1); n != 0 {
			t.Errorf("the mail has %d counted attempts; want 0", n)
		}
		time.Sleep(2 * time.Minute)
		if b.left() != 0 {
			t.Error("the transport was not tried again")
		}
	})
}

func TestDelivererPostponesOnlyTheRefusedMail(t *testing.T) {
	inBubble(t, func(t *testing.T, d *Deliverer, b *box, c *fakeTransport, _ *lines) {
		c.onSend(func(_ context.Context, m identity.Message) error {
			if m.Ref.ID == 1 && m.Ref.Attempt < 4 {
				return &MailError{Transport: "m", Step: "naming the recipient", Reply: Reply{Code: 450}}
			}
			return nil
		})
		b.fill(20)
		time.Sleep(2 * time.Second)
		if b.left() != 1 || d.Stats().Paused {
			t.Errorf("%d mails are left", b.left())
		}
		if after := b.dueIn(1); after < 20*time.Second || after > 37*time.Second {
			t.Errorf("the mail is due again in %v", after)
		}
		time.Sleep(5 * time.Minute)
		if s := d.Stats(); b.left() != 0 || s.Failed[identity.MailVerification][FailedPostponed] != 3 ||
			s.LastError != "m: naming the recipient: it replied 450" {
			t.Errorf("%d mails left, stats %+v", b.left(), s)
		}
	})
}

func TestDelivererGivesUpAMailThatIsRefusedOrTooOld(t *testing.T) {
	inBubble(t, func(t *testing.T, d *Deliverer, b *box, c *fakeTransport, l *lines) {
		c.onSend(func(_ context.Context, m identity.Message) error {
			reply := Reply{Code: 550 - int(m.Ref.ID)%2*100, Enhanced: "5.1.1"}
			return &MailError{Transport: "m", Step: "naming the recipient", Reply: reply, Permanent: m.Ref.ID%2 == 0}
		})
		b.fill(2)
		time.Sleep(110 * time.Minute)
		if !slices.Equal(b.givens, []int64{2}) || c.tries() < 8 || c.tries() > 13 {
			t.Errorf("given up: %v, after %d tries", b.givens, c.tries())
		}
		time.Sleep(time.Hour)
		if !slices.Equal(b.givens, []int64{2, 1}) || d.Stats().GivenUp[identity.MailVerification] != 2 {
			t.Errorf("given up: %v", b.givens)
		}
		for _, entry := range l.all(t) {
			if entry["msg"] == "mail given up" && entry["mail"] == 2.0 &&
				(entry["level"] != "ERROR" || entry["reply"] != "550 5.1.1" || entry["purpose"] != "verification") {
				t.Errorf("the log entry is %v", entry)
			}
		}
		if n := l.count(t, "mail given up"); n != 2 {
			t.Errorf("it was logged %d times", n)
		}
	})
}

func TestDelivererIsDelayedBrieflyByAMailThatBreaksTheConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Deliverer, b *box, c *fakeTransport, _ *lines) {
		c.onSend(func(_ context.Context, m identity.Message) error {
			if m.Ref.ID == 1 {
				return &MailError{Transport: "m", Step: "sending the mail", Err: errors.New("it closed the connection")}
			}
			return nil
		})
		b.fill(100)
		time.Sleep(5 * time.Second)
		if b.left() != 1 {
			t.Errorf("%d mails are left", b.left())
		}
	})
}

func TestDelivererSurvivesAPanic(t *testing.T) {
	inBubble(t, func(t *testing.T, d *Deliverer, b *box, c *fakeTransport, _ *lines) {
		c.onSend(func(_ context.Context, m identity.Message) error {
			if m.Ref.Attempt == 1 {
				panic("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
			}
			return nil
		})
		b.fill(12)
		time.Sleep(2 * time.Second)
		if b.left() != 12 {
			t.Errorf("%d mails are left", b.left())
		}
		c.onReady(func() error { panic("x") })
		time.Sleep(2 * time.Minute)
		if s := d.Stats(); b.left() != 0 || s.Failed[identity.MailVerification][FailedInternal] != 12 ||
			!strings.Contains(s.LastError, "the log of the server has the cause") {
			t.Errorf("%d mails are left, stats %+v", b.left(), s)
		}
	})
}

func TestDelivererLeavesAPurposeOfALaterVersion(t *testing.T) {
	inBubble(t, func(t *testing.T, d *Deliverer, b *box, c *fakeTransport, _ *lines) {
		m := aMessage(1)
		m.Purpose = "new_device"
		b.put(m)
		time.Sleep(5 * time.Second)
		if s := d.Stats(); b.left() != 1 || c.tries() != 0 || s.Failed[OtherPurpose][FailedInternal] != 1 {
			t.Errorf("%d mails left, %d tries, stats %+v", b.left(), c.tries(), s)
		}
	})
}

func TestDelivererPausesWhileTheOutboxIsUnreachable(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Deliverer, b *box, _ *fakeTransport, l *lines) {
		time.Sleep(10 * time.Second)
		b.setAway(errors.New("the database is down"))
		b.mu.Lock()
		before := b.asked
		b.mu.Unlock()
		time.Sleep(time.Hour)
		b.mu.Lock()
		asked := b.asked - before
		b.mu.Unlock()
		if asked < 100 || asked > 170 || l.count(t, "cannot read the outbox; all mails wait") != 1 {
			t.Errorf("asked %d times, logged %d times", asked, l.count(t, "cannot read the outbox; all mails wait"))
		}
		b.setAway(nil)
		b.fill(3)
		time.Sleep(40 * time.Second)
		if b.left() != 0 || l.count(t, "the outbox can be read again") != 1 {
			t.Errorf("%d mails are left", b.left())
		}
	})
}

func TestDelivererRecordsASentMailWhenTheOutboxIsBack(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Deliverer, b *box, c *fakeTransport, l *lines) {
		c.onSend(func(context.Context, identity.Message) error {
			b.setAway(errors.New("the database is down"))
			return nil
		})
		b.fill(1)
		time.Sleep(3 * time.Second)
		b.setAway(nil)
		time.Sleep(4 * time.Second)
		if b.left() != 0 || c.times(1) != 1 {
			t.Errorf("%d mails left, sent %d times", b.left(), c.times(1))
		}
		b.fill(1) // if the outbox does not recover in time, the mail is sent twice
		time.Sleep(20 * time.Second)
		b.setAway(nil)
		c.onSend(nil)
		time.Sleep(lease + time.Minute)
		if b.left() != 0 || c.times(1) != 3 || l.count(t, "failed to record the outcome of a mail; it will be sent again") != 1 {
			t.Errorf("%d mails left, sent %d times", b.left(), c.times(1))
		}
	})
}

func TestDelivererStopFinishesMailsInFlight(t *testing.T) {
	words := mustTemplates(t, TemplateOptions{})
	synctest.Test(t, func(t *testing.T) {
		b, c := newBox(), &fakeTransport{}
		d := New(Options{Outbox: b, Transport: c, Templates: words, Workers: 2, GiveUpAfter: time.Hour, Log: silent()})
		c.onSend(func(ctx context.Context, m identity.Message) error {
			if m.Ref.ID == 1 {
				time.Sleep(3500 * time.Millisecond) // not at the moment of the stop
				return nil
			}
			<-ctx.Done()
			return &MailError{Transport: "m", Step: "ending the mail", Err: errStopped}
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { d.Run(ctx) })
		b.fill(1)
		time.Sleep(1500 * time.Millisecond)
		b.put(aMessage(2))
		b.put(aMessage(3))
		time.Sleep(1500 * time.Millisecond)
		b.mu.Lock()
		b.taken = 0
		b.mu.Unlock()
		began := time.Now()
		cancel()
		running.Wait()
		if took := time.Since(began); took > stopGrace {
			t.Errorf("stopping took %v", took)
		}
		if c.times(1) != 1 || b.taken != 0 || b.left() != 2 {
			t.Errorf("sent %d, claimed %d, left %d", c.times(1), b.taken, b.left())
		}
		if b.dueIn(2) > time.Minute && b.dueIn(3) > time.Minute {
			t.Error("the interrupted mails wait until their leases end")
		}
	})
}

func TestDelivererRenewsTheLeaseForASlowTransport(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Deliverer, b *box, c *fakeTransport, _ *lines) {
		c.onSend(func(context.Context, identity.Message) error {
			time.Sleep(sendTimeout - time.Second)
			return nil
		})
		b.put(aMessage(1))
		time.Sleep(sendTimeout + 2*time.Second) // many leases, during which three workers are idle
		if c.tries() != 1 || c.times(1) != 1 || b.left() != 0 {
			t.Errorf("tried %d times, sent %d times, %d mails left", c.tries(), c.times(1), b.left())
		}
	})
}

func TestDelivererStopsSendingIfItCannotRenewTheLease(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Deliverer, b *box, c *fakeTransport, _ *lines) {
		stopped := make(chan time.Duration, 1)
		c.onSend(func(ctx context.Context, _ identity.Message) error {
			began := time.Now()
			b.setAway(errDead)
			<-ctx.Done()
			stopped <- time.Since(began)
			return &MailError{Transport: "m", Step: "ending the mail", Err: ctx.Err()}
		})
		b.put(aMessage(1))
		if took := <-stopped; took >= lease {
			t.Errorf("sending went on for %v, but the lease is %v", took, lease)
		}
		c.onSend(nil)
		b.setAway(nil)
		time.Sleep(2 * time.Minute)
		if c.times(1) != 1 || b.left() != 0 {
			t.Errorf("sent %d times, %d mails left", c.times(1), b.left())
		}
	})
}

// hardStop is the outbox of a process that is killed: after that, every call fails.
type hardStop struct {
	*box
	dead atomic.Bool
}

var errDead = errors.New("this process is dead")

func (h *hardStop) ClaimMail(ctx context.Context, lease time.Duration) (identity.Message, bool, error) {
	if h.dead.Load() {
		return identity.Message{}, false, errDead
	}
	return h.box.ClaimMail(ctx, lease)
}

func (h *hardStop) RenewMail(ctx context.Context, ref identity.MailRef, lease time.Duration) error {
	if h.dead.Load() {
		return errDead
	}
	return h.box.RenewMail(ctx, ref, lease)
}

func (h *hardStop) FinishMail(ctx context.Context, ref identity.MailRef, o identity.MailOutcome) error {
	if h.dead.Load() {
		return errDead
	}
	return h.box.FinishMail(ctx, ref, o)
}

func TestDelivererLosesNoneOfTenThousandMails(t *testing.T) {
	const mails, replicas, workers = 10_000, 3, 4
	words := mustTemplates(t, TemplateOptions{})
	synctest.Test(t, func(t *testing.T) {
		b, c := newBox(), &fakeTransport{}
		var killed *hardStop
		var handed atomic.Int64
		// Sending takes 20 to 70 ms. Some mails are refused temporarily, and for some time the transport fails.
		c.onSend(func(_ context.Context, m identity.Message) error {
			time.Sleep(time.Duration(20+m.Ref.ID%50) * time.Millisecond)
			switch n := handed.Add(1); {
			case n == mails/2:
				killed.dead.Store(true)
			case n > mails*7/10 && n < mails*7/10+30:
				return &TransportError{Transport: "m", Step: "naming the sender", Reply: Reply{Code: 421}}
			case m.Ref.ID%97 == 0 && m.Ref.Attempt == 1:
				return &MailError{Transport: "m", Step: "naming the recipient", Reply: Reply{Code: 451}}
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		var deliverers []*Deliverer
		b.fill(mails)
		for n := range replicas {
			var outbox Outbox = b
			if n == 0 {
				killed = &hardStop{box: b}
				outbox = killed
			}
			d := New(Options{Outbox: outbox, Transport: c, Templates: words, Workers: workers, GiveUpAfter: 24 * time.Hour, Log: silent()})
			deliverers = append(deliverers, d)
		}
		for _, d := range deliverers {
			running.Go(func() { d.Run(ctx) })
		}
		for b.left() > 0 {
			time.Sleep(time.Second)
			if time.Since(b.began()) > time.Hour {
				t.Fatalf("%d mails are left after an hour", b.left())
			}
		}
		cancel()
		running.Wait()
		twice := 0
		for id := range int64(mails) {
			switch n := c.times(id + 1); {
			case n == 0:
				t.Errorf("mail %d is lost", id+1)
			case n > 1:
				twice += n - 1
			}
		}
		if twice > workers || len(b.givens) > 0 {
			t.Errorf("%d mails were sent twice, given up %v", twice, b.givens)
		}
		t.Logf("%d mails by %d replicas, one of which was killed: %d sent twice", mails, replicas, twice)
	})
}

// began returns the start time of every synctest bubble.
func (b *box) began() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }
