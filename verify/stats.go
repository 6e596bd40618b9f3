package verify

import (
	"context"
	"time"
)

// Stats is the state of a Verifier, for metrics and diagnosis.
type Stats struct {
	Source     string        // the directory or the URL
	Issuer     string        // empty before the first keys
	Generation int64         // of the keys; without one in the source, the number of changes since New
	KeyIDs     []string      // of the keys in use, in order
	Age        time.Duration // since the source last confirmed the keys
	Reads      uint64        // of the source
	Failures   uint64        // reads that failed
	Err        error         // of the last read; nil if it succeeded
	ClockSkew  time.Duration // how far this clock is ahead of the gateway's; 0 if unknown
	Cached     int           // checked tokens in the cache

	Ended int           // ended sessions and revoked keys that are known; see WithRevocations
	Lag   time.Duration // since the last complete answer about ended sessions; -1 before the first
	LagOK bool          // whether Lag is within MaxLag
}

// Stats returns the state.
func (v *Verifier) Stats() Stats {
	k, now := v.keeper, v.now()
	s := Stats{Source: k.name, Reads: k.reads.Load(), Failures: k.failures.Load(), LagOK: true}
	if err := k.failure.Load(); err != nil {
		s.Err = err
	}
	if skew := k.skew.Load(); skew != nil {
		s.ClockSkew = *skew
	}
	if set := k.set.Load(); set != nil {
		s.Issuer, s.Generation, s.KeyIDs, s.Age = set.issuer, set.generation, set.ids(), k.age(now)
		if s.Generation == 0 {
			s.Generation = k.changes.Load()
		}
		if set.checked != nil {
			s.Cached = set.checked.len()
		}
	}
	if v.watcher != nil {
		s.Ended = v.watcher.ended.len()
		s.Lag, s.LagOK = v.watcher.lag(now)
	}
	return s
}

// Ready returns nil if tokens can be verified now. It is for a readiness probe.
func (v *Verifier) Ready() error {
	now := v.now()
	if _, err := v.current(now); err != nil {
		return err
	}
	if v.watcher != nil && !v.failOpen {
		if err := v.watcher.stale(now); err != nil {
			return err
		}
	}
	return nil
}

// Wait waits until Ready returns nil, for programs that must not start without keys. After ctx ends it returns the
// error of Ready.
func (v *Verifier) Wait(ctx context.Context) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := v.Ready()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return err
		}
	}
}
