package mail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/span"
	"github.com/auth-gateway/auth-gateway/internal/webhook"
)

const (
	sendTimeout   = 2 * time.Minute  // for one mail, connecting included
	lease         = 30 * time.Second // a mail is due again that long after its worker has died
	renewInterval = lease / 3        // between renewals of the lease, while a mail is sent
	renewUntil    = lease * 2 / 3    // without a renewal for that long, the worker stops sending, before the lease ends
	finishTimeout = 5 * time.Second  // to record the outcome of a mail
	claimTimeout  = time.Minute      // a claim may pass over many mails that have nothing to say
	stopGrace     = 5 * time.Second  // for mails in flight when the server stops

	pollInterval  = time.Second
	watchInterval = 10 * time.Second

	firstPostpone, longestPostpone = 30 * time.Second, 30 * time.Minute
)

// Outbox holds the mails of all replicas.
type Outbox interface {
	// ClaimMail returns the mail that has been due the longest, with a code made for it now, and makes it due again after
	// the lease, unless the claim is renewed or finished before. Mails that have no recipient are removed on the way. It
	// returns false if no mail is due.
	ClaimMail(ctx context.Context, lease time.Duration) (identity.Message, bool, error)
	// RenewMail extends the lease of a claim.
	RenewMail(ctx context.Context, ref identity.MailRef, lease time.Duration) error
	// FinishMail ends a claim.
	FinishMail(ctx context.Context, ref identity.MailRef, o identity.MailOutcome) error
	// CountMails returns how many mails wait, and the age of the oldest.
	CountMails(ctx context.Context) (queued int, oldest time.Duration, err error)
}

// A Transport passes mails on for delivery.
type Transport interface {
	// Open returns a Conn for one worker. It does not connect yet.
	Open() Conn
}

// A Conn is one worker's connection to a transport. Only Close may be called while another call is running.
type Conn interface {
	// Ready reports whether a mail could be sent now, as far as can be seen without
	// one, and whether that is certain. *TransportError.
	Ready(ctx context.Context) (certain bool, err error)
	// Send sends a mail; nil means that the transport has accepted it. *TransportError, *MailError.
	Send(ctx context.Context, m identity.Message, l Letter) error
	// Close releases what the Conn holds. It may be used again.
	Close()
}

// Options configure a Deliverer.
type Options struct {
	Outbox      Outbox
	Transport   Transport
	Templates   *Templates
	Workers     int // how many mails are sent at the same time
	GiveUpAfter time.Duration
	Log         *slog.Logger
	Tracer      span.Tracer // nil: record no traces
}

// A Deliverer sends what is in the outbox.
type Deliverer struct {
	outbox      Outbox
	transport   Transport
	render      func(identity.Message) (Letter, error)
	workers     int
	giveUpAfter time.Duration
	log         *slog.Logger
	tracer      span.Tracer

	turn     chan struct{}   // full while a worker has the turn
	sending  webhook.Breaker // of the transport
	claiming webhook.Breaker // of the outbox

	mu    sync.Mutex
	stats Stats
}

// New returns a Deliverer; Run starts it.
func New(o Options) *Deliverer {
	return &Deliverer{
		outbox: o.Outbox, transport: o.Transport, render: o.Templates.Render,
		workers: o.Workers, giveUpAfter: o.GiveUpAfter, log: o.Log, tracer: o.Tracer,
		turn:    make(chan struct{}, 1),
		sending: webhook.Breaker{Untested: true},
		stats:   newStats(),
	}
}

// Run sends mails until ctx ends. Mails in flight then have a few seconds, and their outcome is recorded.
func (d *Deliverer) Run(ctx context.Context) {
	flight, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() {
		if webhook.Sleep(flight, stopGrace) {
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
	conn := d.transport.Open()
	defer conn.Close()
	for d.step(ctx, flight, conn) {
	}
}

// step waits for the turn, claims a mail and sends it. It returns false when ctx has ended.
func (d *Deliverer) step(ctx, flight context.Context, conn Conn) bool {
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	pass := sync.OnceFunc(func() { <-d.turn })
	defer pass()
	if !webhook.Sleep(ctx, max(d.sending.Wait(), d.claiming.Wait())) || ctx.Err() != nil {
		return false
	}
	failures := d.sending.Failures()
	if d.sending.Wait() > 0 {
		return true
	}
	// A claim makes a code that replaces the former one. So before it, the transport must look able to send.
	probing, certain := d.sending.Open(), false
	if probing {
		err := bounded(flight, sendTimeout, func(ctx context.Context) (err error) {
			certain, err = conn.Ready(ctx)
			return err
		})
		if err != nil {
			d.note(err)
			d.transportFailed(err)
			return true
		}
	}
	var m identity.Message
	var found bool
	err := bounded(flight, claimTimeout, func(ctx context.Context) (err error) {
		m, found, err = d.outbox.ClaimMail(ctx, lease)
		return err
	})
	if err != nil {
		d.outboxFailed(err)
		return true
	}
	d.outboxWorks()
	if d.sending.Failures() != failures {
		// Another worker has failed meanwhile. The mail may be the one that it has returned.
		if found {
			d.returnMail(flight, d.logOf(m), m)
		}
		return true
	}
	if !found {
		if certain {
			d.transportWorks()
		}
		// The jitter keeps replicas that started together from polling together. A request does not wake the workers: a
		// mail sent right after it would keep the processor busy, and the time that the next request takes would then show
		// that an account exists.
		return webhook.Sleep(ctx, webhook.Jitter(pollInterval))
	}
	if !probing {
		pass()
	}
	d.deliver(flight, conn, m)
	return true
}

// bounded makes a call with a time limit. If the call panics, that is its error.
func bounded(ctx context.Context, limit time.Duration, call func(context.Context) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer recovered(&err)
	return call(ctx)
}

// deliver sends a mail and records its outcome.
func (d *Deliverer) deliver(ctx context.Context, conn Conn, m identity.Message) {
	ctx, end := span.Begin(ctx, d.tracer, "mail "+string(label(m.Purpose)))
	failure := ""
	defer func() { end(failure) }()
	log := d.logOf(m)
	if m.Age >= d.giveUpAfter {
		failure = "too_old"
		d.giveUp(ctx, log, m, "it is too old", Reply{})
		return
	}
	err := d.send(ctx, conn, m)
	failure = errorType(err)
	if err != nil {
		d.note(err)
	}
	_, isTransport := errors.AsType[*TransportError](err)
	ofMail, isMail := errors.AsType[*MailError](err)
	switch {
	case err == nil:
		d.count(func(s *Stats) { s.Sent[label(m.Purpose)]++ })
		d.transportWorks()
		if d.finish(ctx, log, m, identity.MailOutcome{Result: identity.MailSent}) {
			log.InfoContext(ctx, "mail sent")
		}
	case isTransport:
		d.failed(m, FailedTransport)
		d.transportFailed(err)
		d.returnMail(ctx, log, m)
	case isMail && ofMail.Permanent:
		d.failed(m, FailedRefused)
		d.transportWorks()
		d.giveUp(ctx, log, m, err.Error(), ofMail.Reply)
	case isMail:
		d.failed(m, FailedPostponed)
		if ofMail.Reply.Code == 0 {
			d.transportFailed(err)
		} else {
			d.transportWorks()
		}
		d.postpone(ctx, log, m, err)
	default:
		// A template, or a bug here. The next version of the program may fix it, so the mail is kept.
		d.failed(m, FailedInternal)
		log.Error("failed to render or send a mail; it will be retried", "error", err)
		d.postpone(ctx, log, m, err)
	}
}

// errorType is the kind of an error in traces, which must not contain what a mail server says: that quotes addresses.
func errorType(err error) string {
	_, isTransport := errors.AsType[*TransportError](err)
	ofMail, isMail := errors.AsType[*MailError](err)
	switch {
	case err == nil:
		return ""
	case isTransport:
		return string(FailedTransport)
	case isMail && ofMail.Permanent:
		return string(FailedRefused)
	case isMail:
		return string(FailedPostponed)
	default:
		return string(FailedInternal)
	}
}

func (d *Deliverer) send(ctx context.Context, conn Conn, m identity.Message) error {
	err := bounded(ctx, sendTimeout, func(ctx context.Context) error {
		letter, err := d.render(m)
		if err != nil {
			return fmt.Errorf("rendering it: %w", err)
		}
		ctx, release := d.hold(ctx, m.Ref)
		defer release()
		start := time.Now()
		err = conn.Send(ctx, m, letter)
		if r := span.From(ctx); r != nil {
			r.Add(span.Span{Name: "send", Kind: span.Client, Start: start, End: time.Now(), Error: errorType(err)})
		}
		return err
	})
	if _, panicked := errors.AsType[*panicError](err); panicked {
		conn.Close() // its state is unknown
	}
	return err
}

// hold renews the lease of a mail while it is sent, because a slow server may take longer than a lease. If it cannot
// renew, held ends before another worker may claim the mail. After release nothing is renewed any more.
func (d *Deliverer) hold(ctx context.Context, ref identity.MailRef) (held context.Context, release func()) {
	held, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(renewInterval)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-tick.C:
			case <-held.Done():
				return
			}
			asked := time.Now()
			err := bounded(held, finishTimeout, func(ctx context.Context) error { return d.outbox.RenewMail(ctx, ref, lease) })
			if err == nil {
				last = asked
			} else if time.Since(last) >= renewUntil {
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

// logOf returns the logger for what happens to a mail.
func (d *Deliverer) logOf(m identity.Message) *slog.Logger {
	return d.log.With("mail", m.Ref.ID, "purpose", string(m.Purpose), "attempt", m.Ref.Attempt, "age", m.Age.Round(time.Second).String())
}

// returnMail makes a mail due at once that the transport could not send.
func (d *Deliverer) returnMail(ctx context.Context, log *slog.Logger, m identity.Message) {
	d.finish(ctx, log, m, identity.MailOutcome{Result: identity.MailReturned})
}

func (d *Deliverer) postpone(ctx context.Context, log *slog.Logger, m identity.Message, err error) {
	after := webhook.Jitter(webhook.Backoff(firstPostpone, longestPostpone, m.Ref.Attempt))
	log.Debug("mail postponed", "after", after.String(), "error", err)
	d.finish(ctx, log, m, identity.MailOutcome{Result: identity.MailPostponed, After: after})
}

func (d *Deliverer) giveUp(ctx context.Context, log *slog.Logger, m identity.Message, reason string, reply Reply) {
	d.count(func(s *Stats) { s.GivenUp[label(m.Purpose)]++ })
	log.Error("mail given up", "reason", reason, "reply", reply.String())
	d.finish(ctx, log, m, identity.MailOutcome{Result: identity.MailGivenUp})
}

// finish records the outcome of a mail, also while the server is stopping. If that
// fails, the lease runs out, and the mail is claimed again.
func (d *Deliverer) finish(ctx context.Context, log *slog.Logger, m identity.Message, o identity.MailOutcome) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	for n := 1; ; n++ {
		err := bounded(ctx, finishTimeout, func(ctx context.Context) error { return d.outbox.FinishMail(ctx, m.Ref, o) })
		if err == nil {
			return true
		}
		if !webhook.Sleep(ctx, webhook.Backoff(100*time.Millisecond, time.Second, n)) {
			log.Warn("failed to record the outcome of a mail; it will be sent again", "outcome", string(o.Result), "error", err)
			return false
		}
	}
}

// A panicError is a panic that was caught, so that one mail does not end the server and
// then is the first in the queue again.
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

func (d *Deliverer) transportFailed(err error) {
	var retryAfter time.Duration
	var kind string
	if e, ok := errors.AsType[*TransportError](err); ok {
		retryAfter, kind = e.RetryAfter, e.Step+e.Reply.String()
	}
	if d.sending.Fail(kind, retryAfter) {
		d.log.Warn("cannot send mail; all mails wait", "error", err)
	}
}

func (d *Deliverer) transportWorks() {
	if since, was := d.sending.Succeed(); was {
		d.log.Info("mail can be sent again", "after", since.Round(time.Second).String())
	}
}

func (d *Deliverer) outboxFailed(err error) {
	if d.claiming.Fail("", 0) {
		d.log.Warn("cannot read the outbox; all mails wait", "error", err)
	}
}

func (d *Deliverer) outboxWorks() {
	if since, was := d.claiming.Succeed(); was {
		d.log.Info("the outbox can be read again", "after", since.Round(time.Second).String())
	}
}
