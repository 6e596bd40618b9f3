package identity

import (
	"context"
	"maps"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/hashes"
	"github.com/auth-gateway/auth-gateway/internal/span"
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
//
// Imported hashes are compared with other algorithms, which take other times and some of which need much memory. A
// sign-in that fails therefore takes the work of every scheme in use (see SetSchemes), so that the time does not show
// whose hash it was. The memory of all threads together is bounded.
type Hasher struct {
	cost        int
	memory      *memoryBudget
	maxQueue    int64
	verifyQueue jobQueue
	hashQueue   jobQueue
	stop        chan struct{}
	stopOnce    sync.Once
	threads     sync.WaitGroup

	loadMu sync.Mutex
	load   hashes.Load // the work of a failed sign-in; replaced, never changed

	running, done, rejected, canceled atomic.Int64
	waited, worked                    atomic.Int64 // nanoseconds
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
	Memory   int64         // how many bytes the hashes of all threads may use together; 0: no limit
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

	recording          span.Recording // nil: the request is not recorded
	queued, began, end time.Time      // of the job and of its work
}

// record records how long the job waited, and how long the work took. failure is empty if the work was done.
func (j *job) record(failure string) {
	if j.recording == nil {
		return
	}
	if j.began.IsZero() {
		left := time.Now() //nolint:forbidigo // no decision depends on it
		j.recording.Add(span.Span{Name: spanWait, Start: j.queued, End: left, Error: failure})
		return
	}
	j.recording.Add(span.Span{Name: spanWait, Start: j.queued, End: j.began})
	j.recording.Add(span.Span{Name: spanWork, Start: j.began, End: j.end})
}

// The spans of a job.
const (
	spanWait     = "hashing wait"
	spanWork     = "hashing"
	spanCanceled = "canceled" // the error of a wait
)

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
		cost: o.Cost, maxQueue: int64(o.MaxQueue), stop: make(chan struct{}), memory: newMemoryBudget(o.Memory),
		verifyQueue: jobQueue{jobs: make(chan *job), wait: o.MaxWait},
		hashQueue:   jobQueue{jobs: make(chan *job), wait: max(o.MaxWait, hashQueueWait)},
	}
	h.SetSchemes(nil)
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

// Times returns how long the hashed passwords waited for a thread, and how long hashing took, in total.
func (h *Hasher) Times() (waited, worked time.Duration) {
	return time.Duration(h.waited.Load()), time.Duration(h.worked.Load())
}

// Hash hashes a new password. Like the other methods, it returns an Overloaded error if the
// job is rejected or canceled.
func (h *Hasher) Hash(ctx context.Context, password string) (hash string, err error) {
	err = h.run(ctx, &h.hashQueue, func() (err error) {
		hash, err = hashes.New(password, h.cost)
		return err
	})
	return hash, err
}

// Replace hashes a password that is to replace another one. If both are the same, it reports that and returns no hash.
func (h *Hasher) Replace(ctx context.Context, oldHash, password string) (same bool, hash string, err error) {
	err = h.run(ctx, &h.hashQueue, func() error {
		old, err := hashes.Parse(oldHash)
		if err != nil {
			return err
		}
		if same = h.matches(old, password); !same {
			hash, err = hashes.New(password, h.cost)
		}
		return err
	})
	return same, hash, err
}

// Check compares a password with a hash. An empty hash matches no password.
func (h *Hasher) Check(ctx context.Context, hash, password string) (right bool, err error) {
	err = h.run(ctx, &h.verifyQueue, func() error {
		stored, err := hashes.Parse(hash)
		right = err == nil && h.matches(stored, password)
		return err
	})
	return right, err
}

// CheckSignIn compares a password with the hash of an account, which is empty for a login without an account. admitted
// is whether the account may sign in; if it may not, no password is right. A wrong password takes the same work for
// every hash, and for none. If the password is right but the hash is not one that Hash makes, rehash is a new hash.
func (h *Hasher) CheckSignIn(ctx context.Context, hash, password string, admitted bool) (right bool, rehash string, err error) {
	err = h.run(ctx, &h.verifyQueue, func() error {
		compared, exists := hash, !hashes.IsNone(hash)
		if !exists {
			compared = hashes.Placeholder(h.cost) // so that both take the same way
		}
		stored, err := hashes.Parse(compared)
		if err != nil {
			return err
		}
		load := h.loadWith(stored.Scheme)
		right = h.matches(stored, password) && admitted && exists
		if !right {
			if !h.memory.allows(stored.Scheme.Memory()) {
				stored = hashes.Hash{} // it took no work
			}
			for _, step := range load.Rest(stored.Scheme) {
				h.memory.use(step.Memory, step.Run)
			}
			return nil
		}
		if !stored.IsOwn(h.cost) {
			rehash, err = hashes.New(password, h.cost)
		}
		return err
	})
	return right, rehash, err
}

// matches compares a password with a stored hash, in the caller's thread. If the hash needs more memory than there is,
// no password matches it: a replica that is too small must not be ended by a sign-in.
func (h *Hasher) matches(stored hashes.Hash, password string) (right bool) {
	if memory := stored.Scheme.Memory(); h.memory.allows(memory) {
		h.memory.use(memory, func() { right = stored.Matches(password) })
	}
	return right
}

// SetSchemes sets which schemes the stored hashes have. It returns those that need more memory than there is: accounts
// with such a hash cannot sign in.
func (h *Hasher) SetSchemes(schemes []hashes.Scheme) (tooLarge []hashes.Scheme) {
	load := hashes.Load{}
	load.Add(hashes.Own(h.cost))
	for _, s := range schemes {
		if h.memory.allows(s.Memory()) {
			load.Add(s)
		} else {
			tooLarge = append(tooLarge, s)
		}
	}
	h.loadMu.Lock()
	defer h.loadMu.Unlock()
	h.load = load
	return tooLarge
}

// loadWith returns the work of a failed sign-in. If a hash has a scheme that was not set, because it was imported a
// moment ago, all later sign-ins include it.
func (h *Hasher) loadWith(s hashes.Scheme) hashes.Load {
	h.loadMu.Lock()
	defer h.loadMu.Unlock()
	if !h.load.Has(s) && h.memory.allows(s.Memory()) {
		h.load = maps.Clone(h.load)
		h.load.Add(s)
	}
	return h.load
}

// run has a thread do the work, and returns its error. If the work is not started, the error is Overloaded.
func (h *Hasher) run(ctx context.Context, q *jobQueue, work func() error) error {
	if q.waiting.Add(1) > h.maxQueue {
		q.waiting.Add(-1)
		return h.reject(q)
	}
	j := &job{ctx: ctx, work: work, done: make(chan error, 1), recording: span.From(ctx)}
	j.queued = time.Now() //nolint:forbidigo // no decision depends on it
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
		failure := string(ReasonOverloaded)
		if ctx.Err() != nil {
			failure = spanCanceled
		}
		j.record(failure)
		return err
	}
	err = <-j.done
	j.record(spanCanceled)
	return err
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
	j.began = time.Now() //nolint:forbidigo // no decision depends on it
	defer func() {
		j.end = time.Now() //nolint:forbidigo // no decision depends on it
		h.waited.Add(int64(j.began.Sub(j.queued)))
		h.worked.Add(int64(j.end.Sub(j.began)))
		h.running.Add(-1)
		h.done.Add(1)
	}()
	return j.work()
}
