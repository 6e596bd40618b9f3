package identity

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/auth-gateway/auth-gateway/internal/hashes"
	"github.com/auth-gateway/auth-gateway/internal/span"
	"github.com/auth-gateway/auth-gateway/internal/span/spantest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// lab is a Hasher in a synctest bubble, where time passes only while all goroutines wait.
type lab struct {
	*testing.T
	*Hasher
	callers sync.WaitGroup
}

const maxWait = time.Second

func inLab(t *testing.T, threads, queue int, do func(l *lab)) {
	synctest.Test(t, func(t *testing.T) {
		l := &lab{T: t, Hasher: NewHasher(HasherOptions{Cost: bcrypt.MinCost, Threads: threads, MaxWait: maxWait, MaxQueue: queue})}
		do(l)
		l.callers.Wait()
		l.Close()
		if s := l.Stats(); s.Waiting != 0 || s.Running != 0 {
			t.Errorf("at the end the stats are %+v", s)
		}
	})
}

// task is a job that runs until the test finishes it.
type task struct {
	begun, finish, end chan struct{}
	err                error // the result for the caller; valid once end is closed
	after              time.Duration
}

func (t *task) started() bool  { return isClosed(t.begun) }
func (t *task) answered() bool { return isClosed(t.end) }

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// send puts a task in a queue, and returns once the task runs, waits or is rejected.
func (l *lab) send(ctx context.Context, queue *jobQueue) *task {
	t := &task{begun: make(chan struct{}), finish: make(chan struct{}), end: make(chan struct{})}
	sent := time.Now()
	l.callers.Go(func() {
		t.err = l.run(ctx, queue, func() error {
			close(t.begun)
			<-t.finish
			return nil
		})
		t.after = time.Since(sent)
		close(t.end)
	})
	synctest.Wait()
	return t
}

func (l *lab) finish(t *task) {
	close(t.finish)
	synctest.Wait()
}

func (l *lab) pass(d time.Duration) {
	time.Sleep(d) // simulated time
	synctest.Wait()
}

func (l *lab) check(what string, ok bool) {
	l.Helper()
	if !ok {
		l.Errorf("not true: %s (stats %+v)", what, l.Stats())
	}
}

// overloaded reports whether a task was rejected before it began.
func overloaded(t *task) bool {
	return t.answered() && !t.started() && KindOf(t.err) == Overloaded
}

// A rejected job has waited, but it is in neither sum: the average is of those that were hashed.
func TestHasherMeasuresWaitAndWork(t *testing.T) {
	inLab(t, 1, 0, func(l *lab) {
		ctx := l.Context()
		first := l.send(ctx, &l.verifyQueue)
		second, third := l.send(ctx, &l.verifyQueue), l.send(ctx, &l.verifyQueue)
		l.pass(300 * time.Millisecond)
		l.finish(first)
		l.pass(maxWait)
		l.check("one of the others is rejected", overloaded(third) != overloaded(second))
		next := second
		if third.started() {
			next = third
		}
		l.finish(next)
		waited, worked := l.Times()
		l.check("the sums are those of two jobs", l.Stats() == HasherStats{Done: 2, Rejected: 1} &&
			waited == 300*time.Millisecond && worked == 300*time.Millisecond+maxWait)
	})
}

func TestHasherRunsAFixedNumberAtOnce(t *testing.T) {
	inLab(t, 2, 0, func(l *lab) {
		ctx := l.Context()
		first, second, third := l.send(ctx, &l.verifyQueue), l.send(ctx, &l.hashQueue), l.send(ctx, &l.verifyQueue)
		l.check("two run", first.started() && second.started() && l.Stats().Running == 2)
		l.check("the third waits", !third.started() && l.Stats().Waiting == 1)
		l.finish(first)
		l.check("the third runs next", third.started() && first.answered() && first.err == nil)
		l.finish(second)
		l.finish(third)
		l.check("three are done", l.Stats() == HasherStats{Done: 3})
	})
}

func TestHasherHasAtLeastOneThread(t *testing.T) {
	inLab(t, 0, 0, func(l *lab) {
		only := l.send(l.Context(), &l.verifyQueue)
		l.check("it runs", only.started())
		l.finish(only)
	})
}

func TestHasherRejectsAJobAfterItsFullWait(t *testing.T) {
	inLab(t, 1, 0, func(l *lab) {
		ctx := l.Context()
		running := l.send(ctx, &l.verifyQueue)
		check, setting := l.send(ctx, &l.verifyQueue), l.send(ctx, &l.hashQueue)
		l.pass(maxWait - 1)
		l.check("both wait for their full time", !check.answered() && !setting.answered())
		l.pass(1)
		l.check("the sign-in is rejected", overloaded(check) && check.after == maxWait)
		l.check("the job that sets a password waits longer", !setting.answered())
		l.pass(hashQueueWait - maxWait)
		l.check("and is then rejected", overloaded(setting) && setting.after == hashQueueWait)
		l.check("two are counted as rejected", l.Stats() == HasherStats{Running: 1, Rejected: 2})
		for waited, rejected := range map[time.Duration]*task{maxWait: check, hashQueueWait: setting} {
			e, _ := errors.AsType[*Error](rejected.err)
			l.check("Retry-After is the wait", e != nil && e.RetryAfter == waited)
		}
		l.finish(running)
	})
}

func TestHasherRejectsAtOnceWhenOneQueueIsFull(t *testing.T) {
	inLab(t, 1, 2, func(l *lab) {
		ctx := l.Context()
		running := l.send(ctx, &l.verifyQueue)
		waiting := []*task{l.send(ctx, &l.verifyQueue), l.send(ctx, &l.verifyQueue)}
		surplus, setting := l.send(ctx, &l.verifyQueue), l.send(ctx, &l.hashQueue)
		l.check("the surplus is rejected at once", overloaded(surplus) && surplus.after == 0)
		l.check("the other queue has room", !setting.answered() && l.Stats().Waiting == 3)
		for _, next := range append([]*task{running}, append(waiting, setting)...) {
			close(next.finish)
		}
		synctest.Wait()
		again := l.send(ctx, &l.verifyQueue)
		l.check("there is room again", again.started())
		l.finish(again)
	})
}

func TestHasherServesBothQueuesInOrder(t *testing.T) {
	inLab(t, 1, 0, func(l *lab) {
		ctx := l.Context()
		running := l.send(ctx, &l.verifyQueue)
		const each = 100
		var order []int // verify jobs are positive, hash jobs negative
		for i := 1; i <= each; i++ {
			for queue, number := range map[*jobQueue]int{&l.verifyQueue: i, &l.hashQueue: -i} {
				l.callers.Go(func() {
					if err := l.run(ctx, queue, func() error { order = append(order, number); return nil }); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		l.finish(running)
		last := map[bool]int{}
		early := 0
		for served, number := range order {
			if isVerify := number > 0; max(number, -number) != last[isVerify]+1 {
				t.Fatalf("out of order: %v", order)
			} else {
				last[isVerify]++
			}
			if served < each && number > 0 {
				early++
			}
		}
		// A correct Hasher fails this check once in 10^17 runs.
		l.check("both queues are served equally", len(order) == 2*each && early > each/10 && early < each*9/10)
	})
}

func TestHasherSkipsCanceledJobs(t *testing.T) {
	left := errors.New("left")
	t.Run("canceled while it waits", func(t *testing.T) {
		inLab(t, 1, 0, func(l *lab) {
			running := l.send(l.Context(), &l.verifyQueue)
			ctx, leave := context.WithCancelCause(l.Context())
			waiting := l.send(ctx, &l.verifyQueue)
			leave(left)
			synctest.Wait()
			l.check("it is answered at once", overloaded(waiting) && errors.Is(waiting.err, left))
			l.check("it is counted", l.Stats() == HasherStats{Running: 1, Canceled: 1})
			l.finish(running)
		})
	})
	t.Run("canceled before", func(t *testing.T) {
		inLab(t, 1, 0, func(l *lab) {
			ctx, leave := context.WithCancelCause(l.Context())
			leave(left)
			for range 100 { // the worker or the caller may notice first
				l.check("it is not done", overloaded(l.send(ctx, &l.hashQueue)))
			}
			l.check("all are counted", l.Stats() == HasherStats{Canceled: 100})
		})
	})
	t.Run("disconnected", func(t *testing.T) {
		inLab(t, 1, 0, func(l *lab) {
			running := l.send(l.Context(), &l.verifyQueue)
			left, asked := false, 0
			waiting := l.send(WithCaller(l.Context(), Caller{Connected: func() bool { asked++; return !left }}), &l.verifyQueue)
			l.check("the connection is not checked before its turn", asked == 0)
			left = true
			l.finish(running)
			l.check("it is not done", overloaded(waiting) && asked == 1)
			l.check("it is counted", l.Stats() == HasherStats{Done: 1, Canceled: 1})
		})
	})
	t.Run("still connected", func(t *testing.T) {
		inLab(t, 1, 0, func(l *lab) {
			there := l.send(WithCaller(l.Context(), Caller{Connected: func() bool { return true }}), &l.verifyQueue)
			l.check("it is done", there.started())
			l.finish(there)
		})
	})
}

func TestHasherCloseFinishesRunningJobsAndRejectsOthers(t *testing.T) {
	inLab(t, 2, 0, func(l *lab) {
		ctx := l.Context()
		running := []*task{l.send(ctx, &l.verifyQueue), l.send(ctx, &l.hashQueue)}
		var waiting []*task
		for range 20 {
			waiting = append(waiting, l.send(ctx, &l.verifyQueue), l.send(ctx, &l.hashQueue))
		}
		closed := make(chan struct{})
		l.callers.Go(func() { l.Close(); close(closed) })
		synctest.Wait()
		l.check("Close waits for running jobs", !isClosed(closed))
		for _, w := range waiting {
			l.check("a waiting job is rejected", overloaded(w) && w.after == 0)
		}
		l.finish(running[0])
		l.finish(running[1])
		l.check("the running jobs were finished", isClosed(closed) && running[0].err == nil && running[1].err == nil)
		l.check("a later job is rejected", overloaded(l.send(ctx, &l.verifyQueue)))
		l.Close() // a second call, for example by a defer, does nothing
	})
}

func TestHasherReturnsTheErrorOfTheWork(t *testing.T) {
	inLab(t, 1, 0, func(l *lab) {
		broken := errors.New("broken")
		if err := l.run(l.Context(), &l.verifyQueue, func() error { return broken }); !errors.Is(err, broken) {
			t.Errorf("the error is %v", err)
		}
		if _, _, err := l.CheckSignIn(l.Context(), "no hash", "x", true); err == nil || KindOf(err) != Internal {
			t.Errorf("the error for a malformed hash is %v", err)
		}
	})
}

func TestHasherHashesChecksAndReplacesPasswords(t *testing.T) {
	h := NewHasher(HasherOptions{Cost: bcrypt.MinCost, Threads: 1, MaxWait: time.Minute})
	defer h.Close()
	ctx := t.Context()
	hash := testenv.Must(h.Hash(ctx, "first password"))(t)
	for _, c := range []struct {
		hash, password string
		right          bool
	}{{hash, "first password", true}, {hash, "another", false}, {"", "first password", false}, {"", "", false}} {
		if right, rehash, err := h.CheckSignIn(ctx, c.hash, c.password, true); right != c.right || rehash != "" || err != nil {
			t.Errorf("%q with %q: %v, %q, %v", c.password, c.hash, right, rehash, err)
		}
	}
	if same, next, err := h.Replace(ctx, hash, "first password"); !same || next != "" || err != nil {
		t.Errorf("the same password: %v, %q, %v", same, next, err)
	}
	same, next, err := h.Replace(ctx, hash, "second password")
	if same || err != nil {
		t.Fatalf("another password: %v, %v", same, err)
	}
	if right, err := h.Check(ctx, next, "second password"); !right || err != nil {
		t.Errorf("the replacement: %v, %v", right, err)
	}
	if s := h.Stats(); s != (HasherStats{Done: 8}) {
		t.Errorf("the stats are %+v", s)
	}
}

func TestHasherRehashesOnlyARightPasswordOfAnotherKind(t *testing.T) {
	h := NewHasher(HasherOptions{Cost: bcrypt.MinCost + 1, Threads: 1, MaxWait: time.Minute})
	defer h.Close()
	for what, old := range map[string]string{
		"of another cost": testenv.Must(hashes.New("a password", bcrypt.MinCost))(t),
		"imported":        argon2Of("a password", 64),
		"of $2b$":         strings.Replace(testenv.Must(hashes.New("a password", bcrypt.MinCost+1))(t), "$2a", "$2b", 1),
	} {
		for _, c := range []struct {
			password string
			admitted bool
		}{{"a wrong one", true}, {"a password", false}} {
			if right, rehash, err := h.CheckSignIn(t.Context(), old, c.password, c.admitted); right || rehash != "" || err != nil {
				t.Errorf("%s, %+v: %v, %q, %v", what, c, right, rehash, err)
			}
		}
		right, rehash, err := h.CheckSignIn(t.Context(), old, "a password", true)
		if !right || err != nil {
			t.Fatal(what, right, err)
		}
		if hash := testenv.Must(hashes.Parse(rehash))(t); !hash.IsOwn(bcrypt.MinCost+1) || !hash.Matches("a password") {
			t.Errorf("%s: the new hash is %q", what, rehash)
		}
	}
}

// argon2Of returns an argon2id hash that takes this many KiB.
func argon2Of(password string, memory uint32) string {
	salt := []byte("a salt of 16 B..")
	return hashes.Argon2("argon2id", int(memory), 1, 1, salt, argon2.IDKey([]byte(password), salt, 1, memory, 1, 32))
}

func schemeOf(t *testing.T, stored string) hashes.Scheme {
	t.Helper()
	return testenv.Must(hashes.Parse(stored))(t).Scheme
}

func TestHasherIncludesASchemeThatItHasSeen(t *testing.T) {
	h := NewHasher(HasherOptions{Cost: bcrypt.MinCost, Threads: 1, MaxWait: time.Minute})
	defer h.Close()
	steps := func() int { return len(h.loadWith(hashes.Scheme{}).Rest(hashes.Scheme{})) }
	if n := steps(); n != 1 {
		t.Errorf("at first a sign-in without an account takes %d steps", n)
	}
	testenv.NoError(t, testenv.Err(h.Check(t.Context(), argon2Of("x", 64), "x")))
	_, _, err := h.CheckSignIn(t.Context(), argon2Of("x", 64), "a wrong one", true)
	testenv.NoError(t, err)
	if n := steps(); n != 2 {
		t.Errorf("after a sign-in with argon2id it takes %d steps", n)
	}
	h.SetSchemes([]hashes.Scheme{schemeOf(t, argon2Of("x", 64)), schemeOf(t, argon2Of("x", 128))})
	if n := steps(); n != 3 {
		t.Errorf("with two sets of parameters it takes %d steps", n)
	}
	h.SetSchemes(nil)
	if n := steps(); n != 1 {
		t.Errorf("after the last one was renewed it takes %d steps", n)
	}
}

func TestHasherKeepsToItsMemory(t *testing.T) {
	const mib = 1 << 20
	h := NewHasher(HasherOptions{Cost: bcrypt.MinCost, Threads: 4, MaxWait: time.Minute, Memory: 3 * mib})
	defer h.Close()
	if tooLarge := h.SetSchemes([]hashes.Scheme{schemeOf(t, argon2Of("x", 4<<10)), schemeOf(t, argon2Of("x", 2<<10))}); len(tooLarge) != 1 {
		t.Errorf("%v need too much memory", tooLarge)
	}
	// A hash that needs more than there is matches nothing.
	if right, _, err := h.CheckSignIn(t.Context(), argon2Of("x", 4<<10), "x", true); right || err != nil {
		t.Errorf("right %v, %v", right, err)
	}
	if n := len(h.loadWith(hashes.Scheme{}).Rest(hashes.Scheme{})); n != 2 {
		t.Errorf("a sign-in without an account takes %d steps", n)
	}
	if right, _, err := h.CheckSignIn(t.Context(), argon2Of("x", 2<<10), "x", true); !right || err != nil {
		t.Errorf("right %v, %v", right, err)
	}
	var using, most atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			h.memory.use(mib, func() {
				most.Store(max(most.Load(), using.Add(1)))
				time.Sleep(time.Millisecond)
				using.Add(-1)
			})
		})
	}
	all.Wait()
	if most.Load() > 3 || h.memory.free+h.memory.garbage != 3*mib {
		t.Errorf("%d of 1 MiB were in use at once; %d and %d bytes are free at the end", most.Load(), h.memory.free, h.memory.garbage)
	}
}

func TestHasherRecordsWaitAndWork(t *testing.T) {
	inLab(t, 1, 5, func(l *lab) {
		first := l.send(l.Context(), &l.verifyQueue)
		waited, rejected := &spantest.Recording{}, &spantest.Recording{}
		second := l.send(span.With(l.Context(), waited), &l.verifyQueue)
		time.Sleep(maxWait / 2)
		l.finish(first)
		time.Sleep(maxWait / 4)
		third := l.send(span.With(l.Context(), rejected), &l.verifyQueue)
		time.Sleep(2 * maxWait)
		synctest.Wait()
		l.finish(second)
		if !third.answered() || third.err == nil {
			l.Error("the third task was not rejected")
		}
		spans := waited.Spans()
		if names := waited.Names(); !slices.Equal(names, []string{"hashing wait", "hashing"}) ||
			spans[0].End.Sub(spans[0].Start) != maxWait/2 || spans[1].End.Sub(spans[1].Start) != maxWait/4+2*maxWait {
			l.Errorf("the spans of a task are %+v", spans)
		}
		if names := rejected.Names(); !slices.Equal(names, []string{"hashing wait overloaded"}) ||
			rejected.Spans()[0].End.Sub(rejected.Spans()[0].Start) != maxWait {
			l.Errorf("the spans of a rejected task are %+v", rejected.Spans())
		}
	})
}
