package identity

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Refusal says why an attempt was refused without any change to the Store.
type Refusal string

// The refusals. Those of a limit are counted by class; see Limited.
const (
	RefusedThrottled  Refusal = "throttled"    // a password came too early and was not checked
	RefusedStale      Refusal = "stale"        // the password was right, but the account has changed meanwhile
	RefusedUnverified Refusal = "not_verified" // the password was that of a sign-up whose address is not proved
	RefusedCode       Refusal = "code"         // a one-time code was invalid
	refusedLimit      Refusal = "limit"
)

// Refusals returns those that Refused counts.
func Refusals() []Refusal {
	return []Refusal{RefusedThrottled, RefusedStale, RefusedUnverified, RefusedCode}
}

// event returns the name of a refusal in the audit trail.
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

// sampleWindow is how long one entry of the audit trail stands for all refusals of the same kind and key. A flood of
// refused attempts therefore costs one statement a minute instead of one an attempt. The metrics count all attempts.
const sampleWindow = time.Minute

// maxSamples bounds how many keys a process remembers. maxEntries bounds how many entries
// of one kind it writes in a sampleWindow, whatever the keys, so that a flood from very
// many networks, or for very many names, does not fill the table either.
const (
	maxSamples = 10_000
	maxEntries = 100
)

// sampler decides which of many similar refusals the audit trail records.
type sampler struct {
	mu      sync.Mutex
	samples *lru.Cache[sampleKey, sample]
	entries map[Refusal]entries
}

// entries counts the entries of the window that started at since.
type entries struct {
	since time.Time
	count int
}

type sampleKey struct {
	refusal Refusal
	key     string
}

type sample struct {
	at   time.Time // of the last recorded refusal
	more int       // how many followed it
}

func newSampler() *sampler {
	samples, err := lru.New[sampleKey, sample](maxSamples)
	if err != nil {
		panic("identity: " + err.Error()) // only for a size below one
	}
	return &sampler{samples: samples, entries: map[Refusal]entries{}}
}

// take returns how many refusals an entry written now stands for, including this one. 0 means that no entry is written.
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

// within reports whether now is in the window that started at since. If the clock was set back, a new window starts.
func within(now, since time.Time) bool {
	passed := now.Sub(since)
	return passed >= 0 && passed < sampleWindow
}

// refused counts a refusal, and records it in the audit trail unless an entry for the same key is younger than
// sampleWindow. The key must not depend on whether an account exists, because the number of statements would then show
// it. If the trail cannot be written, the answer to the refused call stays the same, and the log has the event.
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

// throttled calls refused for a password that came too early.
func (s *Service) throttled(ctx context.Context, c Credentials) {
	s.refused(ctx, RefusedThrottled, string(c.ThrottleKey[:]), c.User.ID, "", slog.Int("failures", c.Failures))
}

// signInRefused calls refused for a right password that opened no session.
func (s *Service) signInRefused(ctx context.Context, r Refusal, userID string) {
	s.refused(ctx, r, userID, userID, "", slog.String("reason", string(r)))
}

// codeFailure is storeFailure for a one-time code. It records an invalid code in the trail, keyed by the signed-in user
// that presented it, or else by the network. A text that cannot be a code is never looked up and not recorded.
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

// Refused returns how many attempts were refused for a reason since the start of the process.
func (s *Service) Refused(r Refusal) uint64 { return s.counts.refused[r].Load() }
