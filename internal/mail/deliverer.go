package mail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

const (
	sendTimeout   = 2 * time.Minute  // for one mail, connecting included
	lease         = 30 * time.Second // how long a mail waits whose sender has died
	holdInterval  = lease / 3        // a sender that lives renews its lease
	holdUntil     = lease * 2 / 3    // and one that cannot stops sending, some time before the lease ends
	recordTimeout = 5 * time.Second  // to write down what became of a mail
	takeTimeout   = time.Minute      // a take may pass over many mails that tell nobody anything
	stopGrace     = 5 * time.Second  // for mails in flight when the server stops

	pollInterval  = time.Second
	watchInterval = 10 * time.Second

	firstPause, longestPause       = time.Second, 30 * time.Second
	firstPostpone, longestPostpone = 30 * time.Second, 30 * time.Minute
)

// Outbox is where the mails wait, for all replicas.
type Outbox interface {
	// TakeMail gives the mail that has been due the longest, with a code made for
	// it now, and makes it due again after lease, unless something is said of it
	// until then. Mails that there is nobody to send to are removed on the way.
	// False: none is due.
	TakeMail(ctx context.Context, lease time.Duration) (identity.Message, bool, error)
	// SentMail removes a mail that was handed over.
	SentMail(ctx context.Context, ref identity.MailRef) error
	// PostponeMail makes a mail due again when after has passed.
	PostponeMail(ctx context.Context, ref identity.MailRef, after time.Duration) error
	// ReturnMail makes a mail due at once, as if it had never been taken.
	ReturnMail(ctx context.Context, ref identity.MailRef) error
	// GiveUpMail removes a mail that will never be handed over.
	GiveUpMail(ctx context.Context, ref identity.MailRef) error
	// CountMails tells how many mails wait, and how old the oldest is.
	CountMails(ctx context.Context) (queued int, oldest time.Duration, err error)
}

// A Carrier brings mails to those who deliver them.
type Carrier interface {
	// Open gives a way of one worker to the carrier. It reaches for nothing yet.
	Open() Line
}

// A Line is one worker's way to a carrier. Only Close may be called beside another
// call.
type Line interface {
	// Ready tells whether a mail could be handed over now, as far as can be seen
	// without one, and whether that is certain. *CarrierError.
	Ready(ctx context.Context) (certain bool, err error)
	// Send hands a mail over: nil says that the carrier has it. *CarrierError,
	// *MailError.
	Send(ctx context.Context, m identity.Message, l Letter) error
	// Close ends what the line holds; it may be used again.
	Close()
}

// Options are what a Deliverer is made of.
type Options struct {
	Outbox      Outbox
	Carrier     Carrier
	Templates   *Templates
	Workers     int // mails sent at the same time
	GiveUpAfter time.Duration
	Log         *slog.Logger
}

// A Deliverer sends what is in the outbox.
type Deliverer struct {
	outbox      Outbox
	carrier     Carrier
	render      func(identity.Message) (Letter, error)
	workers     int
	giveUpAfter time.Duration
	log         *slog.Logger

	turn     chan struct{} // full while a worker has the turn
	lines    trouble       // with the carrier
	database trouble

	mu    sync.Mutex
	stats Stats
}

// New makes a Deliverer; Run sets it going.
func New(o Options) *Deliverer {
	return &Deliverer{
		outbox: o.Outbox, carrier: o.Carrier, render: o.Templates.Render,
		workers: o.Workers, giveUpAfter: o.GiveUpAfter, log: o.Log,
		turn:  make(chan struct{}, 1),
		lines: trouble{unproven: true},
		stats: newStats(),
	}
}

// Run sends mails until ctx ends. Mails in flight then have a few seconds; what became
// of them is written down.
func (d *Deliverer) Run(ctx context.Context) {
	flight, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() {
		if sleep(flight, stopGrace) {
			cancel()
		}
	})
	var running sync.WaitGroup
	for range d.workers {
		running.Go(func() { d.work(ctx, flight) })
	}
	running.Go(func() { d.watch(ctx) })
	running.Wait()
}

func (d *Deliverer) work(ctx, flight context.Context) {
	line := d.carrier.Open()
	defer line.Close()
	for d.step(ctx, flight, line) {
	}
}

// step waits for the turn, takes a mail and sends it. False: ctx has ended.
func (d *Deliverer) step(ctx, flight context.Context, line Line) bool {
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	pass := sync.OnceFunc(func() { <-d.turn })
	defer pass()
	if !sleep(ctx, max(d.lines.wait(), d.database.wait())) || ctx.Err() != nil {
		return false
	}
	failures := d.lines.failures()
	if d.lines.wait() > 0 {
		return true
	}
	// Before a mail is taken, and a code made that replaces the former one, it must
	// look as if the mail could be handed over.
	looking, certain := d.lines.bad(), false
	if looking {
		var err error
		if certain, err = d.ready(flight, line); err != nil {
			d.carrierFailed(err)
			return true
		}
	}
	m, found, err := d.take(flight)
	if err != nil {
		d.databaseFailed(err)
		return true
	}
	d.databaseWorks()
	if d.lines.failures() != failures {
		// Another worker has failed meanwhile. The mail may be the very one that it
		// has returned.
		if found {
			d.returnMail(flight, d.logOf(m), m)
		}
		return true
	}
	if !found {
		if certain {
			d.carrierWorks()
		}
		return d.idle(ctx)
	}
	if !looking {
		pass()
	}
	d.deliver(flight, line, m)
	return true
}

// idle waits for the next poll. Replicas that were started together do not stay in
// step. Nobody is told that a mail is there: a mail that is sent at once would keep
// the machine busy just after the request that asked for it, and so tell, by the
// time that the next one takes, that there was somebody to send it to.
func (d *Deliverer) idle(ctx context.Context) bool {
	timer := time.NewTimer(jitter(pollInterval))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	return true
}

func (d *Deliverer) ready(ctx context.Context, line Line) (certain bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	defer recovered(&err)
	return line.Ready(ctx)
}

func (d *Deliverer) take(ctx context.Context) (m identity.Message, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	defer recovered(&err)
	return d.outbox.TakeMail(ctx, lease)
}

// deliver sends a mail, and writes down what became of it.
func (d *Deliverer) deliver(ctx context.Context, line Line, m identity.Message) {
	log := d.logOf(m)
	if m.Age >= d.giveUpAfter {
		d.giveUp(ctx, log, m, "it is too old", Reply{})
		return
	}
	err := d.send(ctx, line, m)
	var (
		ofCarrier *CarrierError
		ofMail    *MailError
	)
	switch {
	case err == nil:
		d.count(func(s *Stats) { s.Sent[label(m.Purpose)]++ })
		d.carrierWorks()
		if d.record(ctx, log, "sent", func(ctx context.Context) error { return d.outbox.SentMail(ctx, m.Ref) }) {
			log.Info("mail sent")
		}
	case errors.As(err, &ofCarrier):
		d.failed(m, FailedCarrier)
		d.carrierFailed(err)
		d.returnMail(ctx, log, m)
	case errors.As(err, &ofMail) && ofMail.Permanent:
		d.failed(m, FailedRefused)
		d.carrierWorks()
		d.giveUp(ctx, log, m, err.Error(), ofMail.Reply)
	case ofMail != nil:
		d.failed(m, FailedPostponed)
		if ofMail.Reply.Code == 0 {
			d.carrierFailed(err)
		} else {
			d.carrierWorks()
		}
		d.postpone(ctx, log, m, err)
	default:
		// A template, or a fault of ours: the next version of the program may
		// know better, so the mail is kept.
		d.failed(m, FailedInternal)
		log.Error("a mail could not be written; it is tried again", "error", err)
		d.postpone(ctx, log, m, err)
	}
}

func (d *Deliverer) send(ctx context.Context, line Line, m identity.Message) (err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	defer func() {
		var p *panicError
		if errors.As(err, &p) {
			line.Close() // whatever state it is in
		}
	}()
	defer recovered(&err)
	letter, err := d.render(m)
	if err != nil {
		return fmt.Errorf("putting it into words: %w", err)
	}
	ctx, release := d.hold(ctx, m.Ref)
	defer release()
	return line.Send(ctx, m, letter)
}

// hold renews the lease of a mail while it is sent, for a slow server may take
// longer than a lease. Where that does not succeed, ctx ends before another sender
// may take the mail. After release nothing is renewed any more.
func (d *Deliverer) hold(ctx context.Context, ref identity.MailRef) (held context.Context, release func()) {
	held, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(holdInterval)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-tick.C:
			case <-held.Done():
				return
			}
			asked := time.Now()
			if err := d.renew(held, ref); err == nil {
				last = asked
			} else if time.Since(last) >= holdUntil {
				cancel()
				return
			}
		}
	}()
	return held, func() {
		cancel()
		<-ended
	}
}

func (d *Deliverer) renew(ctx context.Context, ref identity.MailRef) (err error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	defer recovered(&err)
	return d.outbox.PostponeMail(ctx, ref, lease)
}

// logOf returns the logger for what happens to a mail.
func (d *Deliverer) logOf(m identity.Message) *slog.Logger {
	return d.log.With("mail", m.Ref.ID, "purpose", string(m.Purpose), "attempt", m.Ref.Attempt, "age", m.Age.Round(time.Second).String())
}

// returnMail makes a mail due at once that the transport did not take.
func (d *Deliverer) returnMail(ctx context.Context, log *slog.Logger, m identity.Message) {
	d.record(ctx, log, "not sent", func(ctx context.Context) error { return d.outbox.ReturnMail(ctx, m.Ref) })
}

func (d *Deliverer) postpone(ctx context.Context, log *slog.Logger, m identity.Message, err error) {
	after := jitter(backoff(firstPostpone, longestPostpone, m.Ref.Attempt))
	log.Debug("mail postponed", "after", after.String(), "error", err)
	d.record(ctx, log, "not sent", func(ctx context.Context) error { return d.outbox.PostponeMail(ctx, m.Ref, after) })
}

func (d *Deliverer) giveUp(ctx context.Context, log *slog.Logger, m identity.Message, reason string, reply Reply) {
	d.count(func(s *Stats) { s.GivenUp[label(m.Purpose)]++ })
	log.Error("mail given up", "reason", reason, "reply", reply.String())
	d.record(ctx, log, "given up", func(ctx context.Context) error { return d.outbox.GiveUpMail(ctx, m.Ref) })
}

// record writes down what became of a mail, also while the server is stopping. Where
// that fails, the lease runs out, and the mail is taken again.
func (d *Deliverer) record(ctx context.Context, log *slog.Logger, outcome string, write func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	for n := 1; ; n++ {
		err := func() (err error) {
			defer recovered(&err)
			return write(ctx)
		}()
		if err == nil {
			return true
		}
		if !sleep(ctx, backoff(100*time.Millisecond, time.Second, n)) {
			log.Warn("what became of a mail could not be written down, so it will be sent again", "outcome", outcome, "error", err)
			return false
		}
	}
}

// A panicError is a panic that was caught: one mail must not end the server, and be
// the first in the queue again when it is back.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %T at %s", e.value, e.stack) }

func recovered(err *error) {
	if v := recover(); v != nil {
		*err = &panicError{value: v, stack: debug.Stack()}
	}
}

func (d *Deliverer) carrierFailed(err error) {
	var e *CarrierError
	var retryAfter time.Duration
	var kind string
	if errors.As(err, &e) {
		retryAfter, kind = e.RetryAfter, e.Step+e.Reply.String()
	}
	if d.lines.fails(kind, retryAfter) {
		d.log.Warn("no mail can be sent; all of it waits until it can", "error", err)
	}
}

func (d *Deliverer) carrierWorks() {
	if since, was := d.lines.works(); was {
		d.log.Info("mail can be sent again", "after", since.Round(time.Second).String())
	}
}

func (d *Deliverer) databaseFailed(err error) {
	if d.database.fails("", 0) {
		d.log.Warn("the outbox cannot be read; mail waits until it can", "error", err)
	}
}

func (d *Deliverer) databaseWorks() {
	if since, was := d.database.works(); was {
		d.log.Info("the outbox can be read again", "after", since.Round(time.Second).String())
	}
}

// trouble is what all workers know of something that they all need.
type trouble struct {
	mu       sync.Mutex
	unproven bool   // nobody has looked yet
	fell     int    // how many times in a row
	failed   int    // how many times in all
	kind     string // of the last failure
	since    time.Time
	until    time.Time // of the pause
}

// bad tells that it has to be looked at before it is relied upon.
func (t *trouble) bad() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unproven || t.fell > 0
}

// failures returns how many times it has failed in all.
func (t *trouble) failures() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// wait is what is left of the pause.
func (t *trouble) wait() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(time.Until(t.until), 0)
}

// fails begins a pause, and tells whether that is news.
func (t *trouble) fails(kind string, atLeast time.Duration) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed++
	now := time.Now()
	news = t.fell == 0 || t.kind != kind
	if t.fell == 0 {
		t.since = now
	}
	// Workers that fail together have seen one failure.
	if t.fell == 0 || !now.Before(t.until) {
		t.fell++
		t.until = now.Add(jitter(backoff(firstPause, longestPause, t.fell)))
	}
	if asked := now.Add(atLeast); asked.After(t.until) {
		t.until = asked
	}
	t.kind, t.unproven = kind, false
	return news
}

// works ends a pause, and tells since when there was one.
func (t *trouble) works() (since time.Duration, was bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	since, was = time.Since(t.since), t.fell > 0
	t.unproven, t.fell, t.kind, t.until = false, 0, "", time.Time{}
	return since, was
}

// backoff doubles from first to longest; n is 1 the first time.
func backoff(first, longest time.Duration, n int) time.Duration {
	return min(first<<min(max(n-1, 0), 20), longest)
}

// jitter spreads a duration by a fifth to both sides.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()*0.4-0.2)*float64(d)) //nolint:gosec // nothing depends on that nobody can guess it
}

// sleep waits; false: ctx has ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
