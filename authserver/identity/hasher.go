package identity

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Hasher is the lane in which passwords are hashed. It has a fixed number of
// threads of the lowest priority, so that whatever else the server does goes
// first, and two bounded queues, one for those who sign in and one for those who
// set a password, which the threads serve in turn, each first come first served.
//
// What cannot be served in time leaves its queue before it is hashed, and so
// does what nobody waits for any more: a hash is never computed for nothing.
//
//	callers ──▶ checks  (wait ≤ MaxWait)      ──┐  in turn   ┌── thread, nice 19
//	        ──▶ settings (wait ≤ settingsWait) ──┴───────────▶└── thread, nice 19
//
// A caller that is turned away waited for its whole time first. That is on
// purpose: a refusal at once would have a flood come back at once.
type Hasher struct {
	o        HasherOptions
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
	work func()
	done chan struct{}
	dead bool // nobody waits for it any more: it was not done
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
		o: o, stop: make(chan struct{}),
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

// Hash hashes a password that is to be set. Errors: Overloaded; the context's.
func (h *Hasher) Hash(ctx context.Context, password string) (hash string, err error) {
	laneErr := h.run(ctx, &h.settings, func() { hash, err = hashPassword(password, h.o.Cost) })
	return hash, errors.Join(laneErr, err)
}

// Replace hashes a password that is to follow another, and tells whether it is
// still the same one.
func (h *Hasher) Replace(ctx context.Context, oldHash, password string) (same bool, hash string, err error) {
	laneErr := h.run(ctx, &h.settings, func() {
		if same, _, err = comparePassword(oldHash, password, h.o.Cost); !same && err == nil {
			hash, err = hashPassword(password, h.o.Cost)
		}
	})
	return same, hash, errors.Join(laneErr, err)
}

// Check compares a password with a hash; an empty hash is that of nobody, and
// takes as long. rehash is not empty where the password is right but the hash
// was made at another cost. Errors: Overloaded; the context's.
func (h *Hasher) Check(ctx context.Context, hash, password string) (right bool, rehash string, err error) {
	laneErr := h.run(ctx, &h.checks, func() {
		var outdated bool
		if right, outdated, err = comparePassword(hash, password, h.o.Cost); right && outdated && err == nil {
			rehash, err = hashPassword(password, h.o.Cost)
		}
	})
	return right, rehash, errors.Join(laneErr, err)
}

// run has work done by one of the threads, and returns when it is done. Where it
// returns an error, work was not done.
func (h *Hasher) run(ctx context.Context, l *lane, work func()) error {
	if l.waiting.Add(1) > int64(h.o.MaxQueue) {
		l.waiting.Add(-1)
		return h.overloaded(l)
	}
	j := &job{ctx: ctx, work: work, done: make(chan struct{})}
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
		err = h.abandoned(ctx.Err())
	}
	l.waiting.Add(-1)
	if err != nil {
		return err
	}
	<-j.done
	if j.dead {
		return h.abandoned(context.Cause(ctx))
	}
	return nil
}

// abandoned is what nobody will read: whoever asked has gone, or has run out of
// time.
func (h *Hasher) abandoned(cause error) error {
	h.gone.Add(1)
	return &Error{Kind: Overloaded, Message: "nobody waits for the answer any more", Cause: cause}
}

func (h *Hasher) overloaded(l *lane) error {
	h.shed.Add(1)
	return &Error{
		Kind: Overloaded, Message: "too many passwords are being checked; try again later",
		RetryAfter: max(l.wait, time.Second),
	}
}

// serve is one thread of the lane. Its goroutine keeps an OS thread of its own,
// since priority is the thread's.
func (h *Hasher) serve() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	yieldToOthers()
	for {
		// Where both queues have someone, select takes either as often.
		select {
		case j := <-h.checks.jobs:
			h.do(j)
		case j := <-h.settings.jobs:
			h.do(j)
		case <-h.stop:
			return
		}
	}
}

func (h *Hasher) do(j *job) {
	defer close(j.done)
	if j.ctx.Err() != nil || !isAlive(j.ctx) {
		j.dead = true
		return
	}
	h.running.Add(1)
	j.work()
	h.running.Add(-1)
	h.done.Add(1)
}

type livenessKey struct{}

// WithLiveness tells how to find out whether anyone still waits for what is
// done in ctx: alive is asked just before costly work, for servers that do not
// notice by themselves that a client has gone.
func WithLiveness(ctx context.Context, alive func() bool) context.Context {
	return context.WithValue(ctx, livenessKey{}, alive)
}

func isAlive(ctx context.Context) bool {
	alive, ok := ctx.Value(livenessKey{}).(func() bool)
	return !ok || alive()
}
