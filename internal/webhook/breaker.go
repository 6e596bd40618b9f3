package webhook

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const firstPause, longestPause = time.Second, 30 * time.Second

// A Breaker is a circuit breaker that all workers of a sender share: after a failure they pause, and then one of them
// tries again.
type Breaker struct {
	Untested bool // nothing was tried yet; set before the first use

	mu     sync.Mutex
	streak int    // failures in a row
	total  int    // failures in all
	kind   string // of the last failure
	since  time.Time
	until  time.Time // of the pause
}

// Open reports whether one worker has to try before all of them go on.
func (b *Breaker) Open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Untested || b.streak > 0
}

// Tripped reports whether the last attempt failed.
func (b *Breaker) Tripped() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.streak > 0
}

// Failures returns the number of failures in all.
func (b *Breaker) Failures() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total
}

// Wait returns how long the pause still lasts.
func (b *Breaker) Wait() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(time.Until(b.until), 0)
}

// Fail starts a pause, and reports whether the failure is new or of another kind than the last one.
func (b *Breaker) Fail(kind string, atLeast time.Duration) (isNew bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total++
	now := time.Now()
	isNew = b.streak == 0 || b.kind != kind
	if b.streak == 0 {
		b.since = now
	}
	// Workers that fail at the same time have seen one failure.
	if b.streak == 0 || !now.Before(b.until) {
		b.streak++
		b.until = now.Add(Jitter(Backoff(firstPause, longestPause, b.streak)))
	}
	if asked := now.Add(atLeast); asked.After(b.until) {
		b.until = asked
	}
	b.kind, b.Untested = kind, false
	return isNew
}

// Succeed ends a pause. It reports whether there was one, and how long ago it started.
func (b *Breaker) Succeed() (since time.Duration, was bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	since, was = time.Since(b.since), b.streak > 0
	b.Untested, b.streak, b.kind, b.until = false, 0, "", time.Time{}
	return since, was
}

// Backoff doubles from first to longest; n is 1 the first time.
func Backoff(first, longest time.Duration, n int) time.Duration {
	return min(first<<min(max(n-1, 0), 20), longest)
}

// Jitter changes a duration by up to a fifth in either direction.
func Jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()*0.4-0.2)*float64(d)) //nolint:gosec // it need not be unpredictable
}

// Sleep waits, and returns false if ctx ended before.
func Sleep(ctx context.Context, d time.Duration) bool {
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
