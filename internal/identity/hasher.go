package identity

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Hasher is the lane in which passwords are hashed. It has a fixed number of
// threads of the lowest priority, so that whatever else the server does goes
// first, and two bounded queues, one for those who sign in and one for those who
// set a password, which the threads serve alike, each first come first served.
//
// What cannot be served in time leaves its queue before it is hashed, and so
// does what nobody waits for any more: a hash is never computed for nothing.
//
//	callers ──▶ checks   (wait ≤ MaxWait)      ──┐  in turn   ┌── thread, nice 19
//	        ──▶ settings (wait ≤ settingsWait) ──┴───────────▶└── thread, nice 19
//
// Who is turned away for want of time has waited for all of it. That is on
// purpose: a refusal at once would have a flood come back at once. Only where
// the queue is full is it at once, to bound what waiting costs.
type Hasher struct {
	cost     int
	maxQueue int64
	checks   lane
	settings lane
	stop     chan struct{}
	stopOnce sync.Once
	threads  sync.WaitGroup

	running, done, shed, gone atomic.Int64
}

// settingsWait is how long someone who sets a password waits for a thread. It is
// longer than for a sign-in, because what they do is rare, and harder to do
// again.
const settingsWait = 8 * time.Second

// HasherOptions are how much a Hasher may do.
type HasherOptions struct {
	Cost     int           // bcrypt's; see bcrypt.MinCost and bcrypt.MaxCost
	Threads  int           // how many passwords are hashed at once; at least 1
	MaxWait  time.Duration // how long a sign-in waits for a thread
	MaxQueue int           // how many may wait in each queue; more are turned away at once. 0: 512
}

// lane is one queue: those who wait block on jobs, and leave by themselves.
type lane struct {
	jobs    chan *job
	wait    time.Duration
	waiting atomic.Int64
}

type job struct {
	ctx  context.Context
	work func() error
	done chan error // has room for the outcome
}

// HasherStats are what a Hasher does now and has done.
type HasherStats struct {
	Waiting, Running int64
	Done, Shed, Gone int64 // hashed; turned away for want of time or room; given up by the caller
}

// NewHasher starts the threads. Close ends them.
func NewHasher(o HasherOptions) *Hasher {
	o.Threads = max(o.Threads, 1)
	if o.MaxQueue == 0 {
		o.MaxQueue = 512
	}
	h := &Hasher{
		cost: o.Cost, maxQueue: int64(o.MaxQueue), stop: make(chan struct{}),
		checks:   lane{jobs: make(chan *job), wait: o.MaxWait},
		settings: lane{jobs: make(chan *job), wait: max(o.MaxWait, settingsWait)},
	}
	for range o.Threads {
		h.threads.Go(h.serve)
	}
	return h
}

// Close ends the threads when they have finished what they hash. Whoever waits,
// or comes later, is turned away.
func (h *Hasher) Close() {
	h.stopOnce.Do(func() { close(h.stop) })
	h.threads.Wait()
}

// Stats tells what the lane does now and has done.
func (h *Hasher) Stats() HasherStats {
	return HasherStats{
		Waiting: h.checks.waiting.Load() + h.settings.waiting.Load(), Running: h.running.Load(),
		Done: h.done.Load(), Shed: h.shed.Load(), Gone: h.gone.Load(),
	}
}

// Hash hashes a password that is to be set. Where the lane turns it away, or
// its caller has gone, the error is Overloaded; so it is with the others.
func (h *Hasher) Hash(ctx context.Context, password string) (hash string, err error) {
	err = h.run(ctx, &h.settings, func() (err error) {
		hash, err = hashPassword(password, h.cost)
		return err
	})
	return hash, err
}

// Replace hashes a password that is to follow another, and tells whether it is
// still the same one; then there is no hash.
func (h *Hasher) Replace(ctx context.Context, oldHash, password string) (same bool, hash string, err error) {
	err = h.run(ctx, &h.settings, func() (err error) {
		if same, _, err = comparePassword(oldHash, password, h.cost); !same && err == nil {
			hash, err = hashPassword(password, h.cost)
		}
		return err
	})
	return same, hash, err
}

// Check compares a password with a hash; an empty hash is that of nobody, and
// takes as long. rehash is not empty where the password is right but the hash
// was made at another cost.
func (h *Hasher) Check(ctx context.Context, hash, password string) (right bool, rehash string, err error) {
	err = h.run(ctx, &h.checks, func() error {
		var outdated bool
		var err error
		if right, outdated, err = comparePassword(hash, password, h.cost); right && outdated && err == nil {
			rehash, err = hashPassword(password, h.cost)
		}
		return err
	})
	return right, rehash, err
}

// run has work done by one of the threads, and returns when it is done, with its
// error. Where work is not done at all the error is Overloaded.
func (h *Hasher) run(ctx context.Context, l *lane, work func() error) error {
	if l.waiting.Add(1) > h.maxQueue {
		l.waiting.Add(-1)
		return h.overloaded(l)
	}
	j := &job{ctx: ctx, work: work, done: make(chan error, 1)}
	timer := time.NewTimer(l.wait)
	defer timer.Stop()
	var err error
	select {
	case l.jobs <- j:
	case <-timer.C:
		err = h.overloaded(l)
	case <-h.stop:
		err = h.overloaded(l)
	case <-ctx.Done():
		err = h.abandoned(ctx)
	}
	l.waiting.Add(-1)
	if err != nil {
		return err
	}
	return <-j.done
}

// abandoned is what nobody will read: whoever asked has gone, or has run out of
// time.
func (h *Hasher) abandoned(ctx context.Context) error {
	h.gone.Add(1)
	return &Error{Kind: Overloaded, Reason: ReasonOverloaded, Message: "nobody waits for the answer any more", Cause: context.Cause(ctx)}
}

func (h *Hasher) overloaded(l *lane) error {
	h.shed.Add(1)
	return &Error{
		Kind: Overloaded, Reason: ReasonOverloaded, Message: "too many passwords are being checked; try again later",
		RetryAfter: max(l.wait, time.Second),
	}
}

// serve is one thread of the lane. Its goroutine keeps an OS thread of its own,
// since priority is the thread's.
func (h *Hasher) serve() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	yieldToOthers()
	for !h.closed() {
		// Where both queues have someone, select takes either as often.
		select {
		case j := <-h.checks.jobs:
			j.done <- h.do(j)
		case j := <-h.settings.jobs:
			j.done <- h.do(j)
		case <-h.stop:
		}
	}
}

func (h *Hasher) closed() bool {
	select {
	case <-h.stop:
		return true
	default:
		return false
	}
}

func (h *Hasher) do(j *job) error {
	if j.ctx.Err() != nil || !isConnected(j.ctx) {
		return h.abandoned(j.ctx)
	}
	h.running.Add(1)
	defer func() {
		h.running.Add(-1)
		h.done.Add(1)
	}()
	return j.work()
}
