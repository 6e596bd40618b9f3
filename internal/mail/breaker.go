package mail

import (
	"math/rand/v2"
	"sync"
	"time"
)

const firstPause, longestPause = time.Second, 30 * time.Second

// breaker is a circuit breaker that all workers share: after a failure they pause, and then one of them tries again.
type breaker struct {
	mu       sync.Mutex
	untested bool   // nothing was tried yet
	streak   int    // failures in a row
	total    int    // failures in all
	kind     string // of the last failure
	since    time.Time
	until    time.Time // of the pause
}

// open reports whether one worker has to try before all of them go on.
func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.untested || b.streak > 0
}

// tripped reports whether the last attempt failed.
func (b *breaker) tripped() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.streak > 0
}

// failures returns the number of failures in all.
func (b *breaker) failures() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total
}

// wait returns how long the pause still lasts.
func (b *breaker) wait() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(time.Until(b.until), 0)
}

// fail starts a pause, and reports whether the failure is new or of another kind than the last one.
func (b *breaker) fail(kind string, atLeast time.Duration) (isNew bool) {
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
		b.until = now.Add(jitter(backoff(firstPause, longestPause, b.streak)))
	}
	if asked := now.Add(atLeast); asked.After(b.until) {
		b.until = asked
	}
	b.kind, b.untested = kind, false
	return isNew
}

// succeed ends a pause. It reports whether there was one, and how long ago it started.
func (b *breaker) succeed() (since time.Duration, was bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	since, was = time.Since(b.since), b.streak > 0
	b.untested, b.streak, b.kind, b.until = false, 0, "", time.Time{}
	return since, was
}

// backoff doubles from first to longest; n is 1 the first time.
func backoff(first, longest time.Duration, n int) time.Duration {
	return min(first<<min(max(n-1, 0), 20), longest)
}

// jitter changes a duration by up to a fifth in either direction.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()*0.4-0.2)*float64(d)) //nolint:gosec // it need not be unpredictable
}
