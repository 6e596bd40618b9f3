package identity

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Refusal is why a try was refused that changed nothing and was counted nowhere.
type Refusal string

// The refusals. Those of a limit are counted by its class; see Limited.
const (
	RefusedThrottled  Refusal = "throttled"    // a password that came too early, and was not checked
	RefusedStale      Refusal = "stale"        // a right password of an account that changed meanwhile
	RefusedUnverified Refusal = "not_verified" // a right password of a sign-up that waits for its proof
	RefusedCode       Refusal = "code"         // a one-time code that does not hold
	refusedLimit      Refusal = "limit"
)

// Refusals are those that Refused counts.
func Refusals() []Refusal {
	return []Refusal{RefusedThrottled, RefusedStale, RefusedUnverified, RefusedCode}
}

// event is the name under which the audit trail has a refusal.
func (r Refusal) event() EventName {
	switch r {
	case RefusedThrottled:
		return EventPasswordThrottled
	case RefusedStale, RefusedUnverified:
		return EventSignInRefused
	case RefusedCode:
		return EventCodeRefused
	default:
		return EventLimitExceeded
	}
}

// sampleWindow is how long one entry of the audit trail stands for all refusals of the
// same kind and key. So a flood of refused tries costs a statement a minute, and not one
// a try; the metrics count all of them.
const sampleWindow = time.Minute

// maxSamples bounds how many keys a process remembers, and maxEntries how many entries of
// one kind it makes in a sampleWindow, whatever the keys: a flood from very many
// networks, or at very many names, fills no table either.
const (
	maxSamples = 10_000
	maxEntries = 100
)

// sampler decides which of many refusals alike the audit trail has.
type sampler struct {
	mu      sync.Mutex
	samples *lru.Cache[sampleKey, sample]
	entries map[Refusal]entries
}

// entries are how many a window has that began at a time.
type entries struct {
	since time.Time
	count int
}

type sampleKey struct {
	refusal Refusal
	key     string
}

type sample struct {
	at   time.Time // of the last one that the trail has
	more int       // after it
}

func newSampler() *sampler {
	samples, err := lru.New[sampleKey, sample](maxSamples)
	if err != nil {
		panic("identity: " + err.Error()) // only for a size below one
	}
	return &sampler{samples: samples, entries: map[Refusal]entries{}}
}

// take reports for how many refusals an entry of the trail has to stand now, itself
// included; 0 means that there is to be none.
func (s *sampler) take(k sampleKey, now time.Time) (tries int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, known := s.samples.Get(k)
	made := s.entries[k.refusal]
	if !within(now, made.since) {
		made = entries{since: now}
	}
	if known && within(now, last.at) || made.count == maxEntries {
		last.more++
		s.samples.Add(k, last)
		return 0
	}
	made.count++
	s.entries[k.refusal] = made
	s.samples.Add(k, sample{at: now})
	return last.more + 1
}

// within reports whether now is in the window that began at since. A clock that was put
// back begins another.
func within(now, since time.Time) bool {
	passed := now.Sub(since)
	return passed >= 0 && passed < sampleWindow
}

// refused counts a refusal, and enters it into the audit trail unless an entry for the
// same key is younger than sampleWindow. The key must not depend on whether an account
// exists: a caller without one must not cause more statements, or fewer, than others do.
// The answer of the refused call is known already, so a trail that cannot be written
// does not change it; the log has the event then.
func (s *Service) refused(ctx context.Context, r Refusal, key, userID, sessionID string, details ...slog.Attr) {
	if counter := s.counts.refused[r]; counter != nil {
		counter.Add(1)
	}
	tries := s.sampler.take(sampleKey{r, key}, s.now())
	if tries == 0 {
		return
	}
	e := s.event(ctx, r.event(), userID, sessionID, append(details, slog.Int("tries", tries))...)
	if s.policy.KeepAudit {
		_ = s.store.RecordEvent(ctx, e)
	}
	s.logEvent(ctx, e)
}

// throttled is refused for a password that came too early.
func (s *Service) throttled(ctx context.Context, c Credentials) {
	s.refused(ctx, RefusedThrottled, string(c.ThrottleKey[:]), c.User.ID, "", slog.Int("failures", c.Failures))
}

// signInRefused is refused for a right password that opened no session.
func (s *Service) signInRefused(ctx context.Context, r Refusal, userID string) {
	s.refused(ctx, r, userID, userID, "", slog.String("reason", string(r)))
}

// codeFailure is storeFailure for a one-time code. One that does not hold is entered
// into the trail, by the user who presented it, if they were signed in, else by the
// network. What cannot be a code is never looked up, and not entered.
func (s *Service) codeFailure(ctx context.Context, p Purpose, by SessionRef, err error) error {
	if errors.Is(err, ErrNoCode) {
		key := by.UserID
		if key == "" {
			key = string(callerNetwork(ctx))
		}
		s.refused(ctx, RefusedCode, string(p)+" "+key, by.UserID, by.ID, purposeAttr(p))
	}
	return storeFailure(err)
}

// Refused counts the tries that were refused for a reason, since the start of the
// process.
func (s *Service) Refused(r Refusal) uint64 { return s.counts.refused[r].Load() }
