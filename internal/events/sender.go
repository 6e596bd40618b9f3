package events

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/span"
	"github.com/auth-gateway/auth-gateway/internal/webhook"
)

const (
	// giveUpAfter is how long the receiver may take to accept an event.
	giveUpAfter = 72 * time.Hour
	// queueFor is how long events are queued after the last server with a receiver has ended.
	queueFor = 24 * time.Hour

	workers     = 8
	postTimeout = 15 * time.Second
	callTimeout = 5 * time.Second  // of a call of the queue
	lease       = 30 * time.Second // longer than a claim, a post and what follows take together
	stopGrace   = 5 * time.Second  // for posts in flight when the server stops

	pollInterval  = time.Second
	watchInterval = 10 * time.Second
	giveUpBatch   = 500

	// An event that is not accepted is sent again after these times.
	firstPostpone, longestPostpone = 2 * time.Second, 5 * time.Minute

	// Failures in a row, or the time since the first of them, that mean that the receiver accepts nothing. Single failures
	// do not pause the others. An event that was refused more often than a few times says nothing about the receiver.
	downAfter, downFor, fewTimes = 10, 4 * time.Second, 3
)

// Event is an event that is to be sent.
type Event struct {
	Ref  Ref
	Type string
	At   time.Time
	Data json.RawMessage
	Age  time.Duration // by the clock of the queue
}

// Ref names one claim of an event. A claim ends with its lease: a queue ignores the outcome of an earlier claim. It also
// ignores the outcome of a claim from before a restore, after which another event may have the number.
type Ref struct {
	Number  int64
	ID      string // of the message, the same for each attempt
	Attempt int    // 1 is the first
}

// Queue holds the events of all replicas.
type Queue interface {
	// QueueEvents has the database queue the events of these types, from now on, for a time.
	QueueEvents(ctx context.Context, types map[identity.EventName]string, duration time.Duration) error
	// ClaimEvent returns the event that has been due the longest, and makes it due again after the lease. It passes over
	// events of users who have an earlier one. It returns false if none is due.
	ClaimEvent(ctx context.Context, lease time.Duration) (Event, bool, error)
	// RemoveEvent removes an event that was accepted or is given up.
	RemoveEvent(ctx context.Context, ref Ref) error
	// PostponeEvent makes an event due after a time.
	PostponeEvent(ctx context.Context, ref Ref, after time.Duration) error
	// GiveUpEvents removes events that are older than age and are not claimed, at most limit of them, and returns their number.
	GiveUpEvents(ctx context.Context, age time.Duration, limit int) (int, error)
	// OldestEvent returns the age of the oldest event, or 0 for an empty queue.
	OldestEvent(ctx context.Context) (time.Duration, error)
}

// Receiver is where events are sent to; see NewReceiver.
type Receiver interface {
	// Post posts a message. It returns nil if the receiver has accepted it. *webhook.Error.
	Post(ctx context.Context, m webhook.Message) error
	// Close closes idle connections.
	Close()
}

// Options configure a Sender.
type Options struct {
	Queue    Queue
	Receiver Receiver
	Log      *slog.Logger
	Tracer   span.Tracer // nil: record no traces
}

// NewReceiver returns the receiver at a URL. It checks the options, but does not connect.
func NewReceiver(url string, secret func() string) (*webhook.Client, error) {
	return webhook.New(webhook.Options{URL: url, Secret: secret, Timeout: postTimeout})
}

// A Sender sends what is in the queue.
type Sender struct {
	queue    Queue
	receiver Receiver
	log      *slog.Logger
	tracer   span.Tracer

	turn     chan struct{}   // full while a worker has the turn
	sending  webhook.Breaker // of the receiver
	claiming webhook.Breaker // of the queue

	mu     sync.Mutex
	stats  Stats
	streak int // failures in a row
	since  time.Time
	closed time.Time // until then the receiver wants nothing; another worker's success does not change that
}

// Stats counts what a Sender has done since its start.
type Stats struct {
	Delivered, Failed, GivenUp uint64 // Failed counts attempts

	Paused bool          // the receiver accepts nothing
	Oldest time.Duration // age of the oldest event in the queue of all replicas, some seconds ago
}

// New returns a Sender; Begin and then Run start it.
func New(o Options) *Sender {
	return &Sender{
		queue: o.Queue, receiver: o.Receiver, log: o.Log, tracer: o.Tracer,
		turn: make(chan struct{}, 1), sending: webhook.Breaker{Untested: true},
	}
}

// Stats returns the current numbers.
func (s *Sender) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.Paused = s.sending.Tripped() || time.Now().Before(s.closed)
	return stats
}

// wait returns how long no event is to be claimed.
func (s *Sender) wait() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.sending.Wait(), s.claiming.Wait(), time.Until(s.closed))
}

func (s *Sender) count(change func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.stats)
}

// Begin has events queued from now on.
func (s *Sender) Begin(ctx context.Context) error {
	return bounded(ctx, func(ctx context.Context) error { return s.queue.QueueEvents(ctx, Types(), queueFor) })
}

// Run sends events until ctx ends. Events in flight then have a few seconds, and their outcome is recorded.
func (s *Sender) Run(ctx context.Context) {
	defer s.receiver.Close()
	flight, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() {
		if webhook.Sleep(flight, stopGrace) {
			cancel()
		}
	})
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for s.step(ctx, flight) {
			}
		})
	}
	running.Go(func() {
		for again := true; again; again = webhook.Sleep(ctx, webhook.Jitter(watchInterval)) {
			s.look(ctx)
		}
	})
	running.Wait()
}

// step waits for the turn, claims an event and sends it. It returns false when ctx has ended.
func (s *Sender) step(ctx, flight context.Context) bool {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	pass := sync.OnceFunc(func() { <-s.turn })
	defer pass()
	if !webhook.Sleep(ctx, s.wait()) || ctx.Err() != nil {
		return false
	}
	if s.wait() > 0 { // another worker has failed meanwhile
		return true
	}
	var e Event
	var found bool
	claimed := time.Now()
	err := bounded(flight, func(ctx context.Context) (err error) {
		e, found, err = s.queue.ClaimEvent(ctx, lease)
		return err
	})
	switch {
	case err != nil:
		if s.claiming.Fail("", 0) {
			s.log.Warn("cannot read the queue of events; all events wait", "error", err)
		}
		return true
	case !found:
		s.queueWorks()
		// The jitter keeps replicas that started together from polling together.
		return webhook.Sleep(ctx, webhook.Jitter(pollInterval))
	}
	s.queueWorks()
	if !s.sending.Open() {
		pass()
	}
	// A process that stood still must not send what another one may have claimed.
	flight, cancel := context.WithDeadline(flight, claimed.Add(lease-callTimeout))
	defer cancel()
	s.deliver(flight, e)
	return true
}

func (s *Sender) queueWorks() {
	if since, was := s.claiming.Succeed(); was {
		s.log.Info("the queue of events can be read again", "after", since.Round(time.Second).String())
	}
}

// deliver sends an event and records its outcome.
func (s *Sender) deliver(ctx context.Context, e Event) {
	ctx, end := span.Begin(ctx, s.tracer, "event "+e.Type)
	failure := ""
	defer func() { end(failure) }()
	log := s.log.With("event", e.Ref.ID, "type", e.Type, "attempt", e.Ref.Attempt, "age", e.Age.Round(time.Second).String())
	if e.Age >= giveUpAfter { // not even once more: the receiver may have forgotten its ID
		failure = "too_old"
		s.count(func(s *Stats) { s.GivenUp++ })
		log.Error("event given up: the receiver has not accepted it in time")
		s.record(ctx, log, func(ctx context.Context) error { return s.queue.RemoveEvent(ctx, e.Ref) })
		return
	}
	start := time.Now()
	err := s.receiver.Post(ctx, webhook.Message{ID: e.Ref.ID, Type: e.Type, Timestamp: e.At, Data: e.Data})
	failure = errorType(err)
	if r := span.From(ctx); r != nil {
		r.Add(span.Span{Name: "send", Kind: span.Client, Start: start, End: time.Now(), Error: failure})
	}
	switch {
	case err == nil:
		s.works()
		s.count(func(s *Stats) { s.Delivered++ })
		if s.record(ctx, log, func(ctx context.Context) error { return s.queue.RemoveEvent(ctx, e.Ref) }) {
			log.Debug("event delivered")
		}
	case errors.Is(err, webhook.ErrStopped): // for another replica
		s.record(ctx, log, func(ctx context.Context) error { return s.queue.PostponeEvent(ctx, e.Ref, 0) })
	default:
		s.failed(e, err)
		after := webhook.Jitter(webhook.Backoff(firstPostpone, longestPostpone, e.Ref.Attempt))
		log.Debug("event postponed", "after", after.String(), "error", err)
		s.record(ctx, log, func(ctx context.Context) error { return s.queue.PostponeEvent(ctx, e.Ref, after) })
	}
}

// errorType is the kind of an error in traces: the status of the receiver, or one of few words.
func errorType(err error) string {
	reply, ok := errors.AsType[*webhook.Error](err)
	switch {
	case err == nil:
		return ""
	case errors.Is(err, webhook.ErrStopped):
		return "stopped"
	case errors.Is(err, webhook.ErrTooSlow):
		return "timeout"
	case ok && reply.Status != 0:
		return strconv.Itoa(reply.Status)
	default:
		return "connection"
	}
}

// record records an outcome, also while the server is stopping. If that fails, the lease runs out, and the event is sent
// again.
func (s *Sender) record(ctx context.Context, log *slog.Logger, outcome func(context.Context) error) bool {
	err := bounded(context.WithoutCancel(ctx), outcome)
	if err != nil {
		log.Warn("failed to record the outcome of an event; it will be sent again", "error", err)
	}
	return err == nil
}

// failed counts a failure, and pauses all workers if the receiver accepts nothing or asked for a pause.
func (s *Sender) failed(e Event, err error) {
	var refused webhook.Error
	if reply, ok := errors.AsType[*webhook.Error](err); ok {
		refused = *reply
	}
	s.mu.Lock()
	s.stats.Failed++
	if until := time.Now().Add(refused.RetryAfter); refused.RetryAfter > 0 && until.After(s.closed) {
		s.closed = until
	}
	down := false
	if refused.Status == 0 || e.Ref.Attempt <= fewTimes {
		if s.streak == 0 {
			s.since = time.Now()
		}
		s.streak++
		down = s.streak >= downAfter || time.Since(s.since) >= downFor
	}
	s.mu.Unlock()
	if down && s.sending.Fail("", 0) {
		s.log.Warn("the receiver accepts no events; all events wait", "error", err)
	}
}

func (s *Sender) works() {
	s.mu.Lock()
	s.streak = 0
	s.mu.Unlock()
	if since, was := s.sending.Succeed(); was {
		s.log.Info("the receiver accepts events again", "after", since.Round(time.Second).String())
	}
}

// look does what is to be done from time to time. If it fails, the next look does it; other metrics show that the
// database is unavailable.
func (s *Sender) look(ctx context.Context) {
	err := s.Begin(ctx)
	if err == nil {
		err = bounded(ctx, s.giveUp)
	}
	if err == nil {
		err = bounded(ctx, func(ctx context.Context) error {
			oldest, err := s.queue.OldestEvent(ctx)
			if err == nil {
				s.count(func(s *Stats) { s.Oldest = oldest })
			}
			if err == nil && oldest == 0 {
				s.works() // another replica has sent what this one could not
			}
			return err
		})
	}
	if err != nil {
		s.log.Debug("failed to look at the queue of events", "error", err)
	}
}

// giveUp gives up what is too old. It does not need the receiver, so that the queue stays bounded while that is down.
func (s *Sender) giveUp(ctx context.Context) error {
	for {
		n, err := s.queue.GiveUpEvents(ctx, giveUpAfter, giveUpBatch)
		if n > 0 {
			s.count(func(s *Stats) { s.GivenUp += uint64(n) })
			s.log.Error("events given up: the receiver has not accepted them in time", "events", n)
		}
		if err != nil || n < giveUpBatch {
			return err
		}
	}
}

// bounded makes a call with a time limit.
func bounded(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return call(ctx)
}
