package identity

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Hasher hashes passwords in a worker pool. The pool has a fixed number of threads of the lowest priority, so that all
// other work of the server goes first. It serves two bounded queues alike: one for sign-ins, which verify a password,
// and one for callers that set a password. Each queue is first in, first out.
//
//	callers ──▶ verify queue (wait ≤ MaxWait)      ──┐  in turn   ┌── thread, nice 19
//	        ──▶ hash queue   (wait ≤ hashQueueWait) ──┴───────────▶└── thread, nice 19
//
// A job that waits too long, or whose client has disconnected, leaves its queue before any
// work is done, so no hash is computed in vain.
//
// A job that is rejected for lack of time has waited its full time first. That is on purpose: after an immediate
// rejection a flood would come back at once. Only a full queue rejects immediately, to bound the cost of waiting.
type Hasher struct {
	cost        int
	maxQueue    int64
	verifyQueue jobQueue
	hashQueue   jobQueue
	stop        chan struct{}
	stopOnce    sync.Once
	threads     sync.WaitGroup

	running, done, rejected, canceled atomic.Int64
}

// hashQueueWait is how long a job that sets a password waits for a thread. It is longer
// than a sign-in waits, because such a job is rare and harder for the user to repeat.
const hashQueueWait = 8 * time.Second

// HasherOptions configure a Hasher.
type HasherOptions struct {
	Cost     int           // the bcrypt cost, from bcrypt.MinCost to bcrypt.MaxCost
	Threads  int           // how many passwords are hashed at once; at least 1
	MaxWait  time.Duration // how long a sign-in waits for a thread
	MaxQueue int           // how many jobs may wait in each queue; 0: 512
}

// jobQueue is one queue. Callers block on jobs, and leave the queue on their own.
type jobQueue struct {
	jobs    chan *job
	wait    time.Duration
	waiting atomic.Int64
}

type job struct {
	ctx  context.Context
	work func() error
	done chan error // has room for the outcome
}

// HasherStats counts the jobs of a Hasher.
type HasherStats struct {
	Waiting, Running int64
	Done             int64 // hashed
	Rejected         int64 // for lack of time or room
	Canceled         int64 // by the client, before any work was done
}

// NewHasher starts the threads. Close stops them.
func NewHasher(o HasherOptions) *Hasher {
	o.Threads = max(o.Threads, 1)
	if o.MaxQueue == 0 {
		o.MaxQueue = 512
	}
	h := &Hasher{
		cost: o.Cost, maxQueue: int64(o.MaxQueue), stop: make(chan struct{}),
		verifyQueue: jobQueue{jobs: make(chan *job), wait: o.MaxWait},
		hashQueue:   jobQueue{jobs: make(chan *job), wait: max(o.MaxWait, hashQueueWait)},
	}
	for range o.Threads {
		h.threads.Go(h.serve)
	}
	return h
}

// Close stops the threads after their current jobs. Waiting and later jobs are rejected.
func (h *Hasher) Close() {
	h.stopOnce.Do(func() { close(h.stop) })
	h.threads.Wait()
}

// Stats returns the current counts.
func (h *Hasher) Stats() HasherStats {
	return HasherStats{
		Waiting: h.verifyQueue.waiting.Load() + h.hashQueue.waiting.Load(), Running: h.running.Load(),
		Done: h.done.Load(), Rejected: h.rejected.Load(), Canceled: h.canceled.Load(),
	}
}

// Hash hashes a new password. Like the other methods, it returns an Overloaded error if the
// job is rejected or canceled.
func (h *Hasher) Hash(ctx context.Context, password string) (hash string, err error) {
	err = h.run(ctx, &h.hashQueue, func() (err error) {
		hash, err = hashPassword(password, h.cost)
		return err
	})
	return hash, err
}

// Replace hashes a password that is to replace another one. If both are the same, it reports that and returns no hash.
func (h *Hasher) Replace(ctx context.Context, oldHash, password string) (same bool, hash string, err error) {
	err = h.run(ctx, &h.hashQueue, func() (err error) {
		if same, _, err = comparePassword(oldHash, password, h.cost); !same && err == nil {
			hash, err = hashPassword(password, h.cost)
		}
		return err
	})
	return same, hash, err
}

// Check compares a password with a hash. An empty hash, for a login without an account, matches no password and takes
// as long. If the password is right but the hash has another cost, rehash is a new hash.
func (h *Hasher) Check(ctx context.Context, hash, password string) (right bool, rehash string, err error) {
	err = h.run(ctx, &h.verifyQueue, func() error {
		var outdated bool
		var err error
		if right, outdated, err = comparePassword(hash, password, h.cost); right && outdated && err == nil {
			rehash, err = hashPassword(password, h.cost)
		}
		return err
	})
	return right, rehash, err
}

// run has a thread do the work, and returns its error. If the work is not started, the error is Overloaded.
func (h *Hasher) run(ctx context.Context, q *jobQueue, work func() error) error {
	if q.waiting.Add(1) > h.maxQueue {
		q.waiting.Add(-1)
		return h.reject(q)
	}
	j := &job{ctx: ctx, work: work, done: make(chan error, 1)}
	timer := time.NewTimer(q.wait)
	defer timer.Stop()
	var err error
	select {
	case q.jobs <- j:
	case <-timer.C:
		err = h.reject(q)
	case <-h.stop:
		err = h.reject(q)
	case <-ctx.Done():
		err = h.cancel(ctx)
	}
	q.waiting.Add(-1)
	if err != nil {
		return err
	}
	return <-j.done
}

// cancel counts a job whose client has disconnected, or whose deadline has passed. No client reads its error.
func (h *Hasher) cancel(ctx context.Context) error {
	h.canceled.Add(1)
	return &Error{
		Kind: Overloaded, Reason: ReasonOverloaded, Message: "the request was canceled",
		Cause: context.Cause(ctx),
	}
}

func (h *Hasher) reject(q *jobQueue) error {
	h.rejected.Add(1)
	return &Error{
		Kind: Overloaded, Reason: ReasonOverloaded, Message: "too many passwords are being checked; try again later",
		RetryAfter: max(q.wait, time.Second),
	}
}

// serve is one worker. Its goroutine keeps its OS thread, because a priority belongs to a thread.
func (h *Hasher) serve() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	yieldToOthers()
	for !h.closed() {
		// If both queues have a job, select takes either with the same probability.
		select {
		case j := <-h.verifyQueue.jobs:
			j.done <- h.do(j)
		case j := <-h.hashQueue.jobs:
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
		return h.cancel(j.ctx)
	}
	h.running.Add(1)
	defer func() {
		h.running.Add(-1)
		h.done.Add(1)
	}()
	return j.work()
}
