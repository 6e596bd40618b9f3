package verify

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	loadTimeout = 30 * time.Second

	// patience is how long a verification waits for the keys that its token needs.
	patience = 3 * time.Second

	shortestBackoff = time.Second
	longestBackoff  = time.Minute
)

// keeper holds the keys of a source and keeps them current. Readers load one pointer and never wait for each other.
type keeper struct {
	name      string
	issuer    string // of the option Issuer; empty without it
	load      loader
	pause     time.Duration
	cacheSize int
	now       func() time.Time
	log       *slog.Logger

	set       atomic.Pointer[keySet]
	confirmed atomic.Int64 // when the source last confirmed the set, in Unix nanoseconds
	skew      atomic.Pointer[time.Duration]
	failure   atomic.Pointer[Error] // of the last read; nil if it succeeded
	reads     atomic.Uint64
	failures  atomic.Uint64
	changes   atomic.Int64

	mu          sync.Mutex
	flight      *flight
	unknownRead time.Time     // when a token with an unknown key last caused a read
	wait        time.Duration // until the next read
	inRow       int           // failures in a row

	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	workers sync.WaitGroup
}

func newKeeper(source Source, c *config) *keeper {
	k := &keeper{
		name: source.name, issuer: c.issuer, pause: source.pause, cacheSize: c.cacheSize, now: c.now, log: c.log,
		load: source.open(environment{issuer: c.issuer, client: c.client, now: c.now}),
	}
	k.ctx, k.stop = context.WithCancel(context.Background())
	return k
}

// flight is a read that several callers wait for.
type flight struct {
	done chan struct{}
	err  *Error // after done
}

// refresh reads the source, or waits for a read that has begun.
func (k *keeper) refresh(ctx context.Context) error {
	k.mu.Lock()
	f := k.begin() //nolint:contextcheck // the read is for all callers, so the context of one must not end it
	k.mu.Unlock()
	return f.await(ctx)
}

// await returns an error of the read, or that of the context.
func (f *flight) await(ctx context.Context) error {
	select {
	case <-f.done:
		if f.err != nil {
			return f.err
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin returns the read in progress, or starts one. The caller has locked mu.
func (k *keeper) begin() *flight {
	if k.flight != nil {
		return k.flight
	}
	f := &flight{done: make(chan struct{})}
	if k.ctx.Err() != nil {
		f.err = refuse(ErrUnavailable, ReasonClosed, "the Verifier is closed")
		close(f.done)
		return f
	}
	k.flight = f
	k.workers.Add(1)
	go func() {
		defer k.workers.Done()
		f.err = k.read()
		k.mu.Lock()
		k.flight = nil
		k.mu.Unlock()
		close(f.done)
	}()
	return f
}

// read reads the source once and replaces the keys if they differ. After an error the last good keys stay.
func (k *keeper) read() *Error {
	ctx, cancel := context.WithTimeout(k.ctx, loadTimeout)
	defer cancel()
	k.reads.Add(1)
	at := k.now()
	d, err := k.load(ctx)
	if err == nil {
		err = k.use(d)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	before := k.failure.Swap(err)
	if err != nil {
		k.failures.Add(1)
		k.inRow++
		backoff := min(shortestBackoff<<min(k.inRow-1, 10), longestBackoff)
		k.wait = max(backoff/2+rand.N(backoff/2), err.retryAfter) //nolint:gosec // jitter is no secret
		if before == nil || before.Message != err.Message {
			k.log.Error("auth gateway: the keys cannot be read; the last good ones stay in use", "source", k.name, "error", err)
		}
		return err
	}
	if before != nil {
		k.log.Info("auth gateway: the keys can be read again", "source", k.name)
	}
	k.inRow = 0
	k.confirmed.Store(at.UnixNano())
	age := d.MaxAge
	if age <= 0 {
		age = defaultMaxAge
	}
	k.wait = age - rand.N(age/10+1) //nolint:gosec // thousands of consumers must not ask at the same moment
	if d.clockSkewKnown {
		k.skew.Store(&d.clockSkew)
	}
	return nil
}

// use replaces the keys if the document differs. The cache of checked tokens goes with the former keys.
func (k *keeper) use(d Document) *Error {
	switch {
	case d.Issuer == "":
		d.Issuer = k.issuer
	case k.issuer != "" && d.Issuer != k.issuer:
		reason, hint := compareIssuers(d.Issuer, k.issuer)
		return mistake(reason, "the source names the issuer %s, and the option Issuer %s%s", quote(d.Issuer), quote(k.issuer), hint)
	}
	if d.Issuer == "" {
		return mistake(ReasonNoIssuer, "the source does not name the issuer; mount keys.json too, or use the option Issuer")
	}
	old := k.set.Load()
	if old != nil && old.issuer == d.Issuer && old.generation == d.Generation && bytes.Equal(old.document.JWKS, d.JWKS) &&
		slices.Equal(old.document.Revoked, d.Revoked) {
		return nil
	}
	set, err := parseKeySet(d)
	if err != nil {
		return err
	}
	if k.cacheSize > 0 {
		set.checked = newTokenCache(k.cacheSize)
	}
	k.set.Store(set)
	k.changes.Add(1)
	k.log.Info("auth gateway: the keys changed", "source", k.name, "generation", set.generation, "keys", set.ids())
	return nil
}

// refreshForUnknown reads the source for a token with an unknown key, at most once in a pause, and reports whether the
// keys may have changed. Tokens with known keys never wait for it.
func (k *keeper) refreshForUnknown(ctx context.Context, seen *keySet) bool {
	k.mu.Lock()
	if k.set.Load() != seen {
		k.mu.Unlock()
		return true
	}
	f, now := k.flight, k.now()
	if f == nil {
		if since := now.Sub(k.unknownRead); !k.unknownRead.IsZero() && since >= 0 && since < k.pause {
			k.mu.Unlock()
			return false
		}
		k.unknownRead = now
		f = k.begin() //nolint:contextcheck // as in refresh
	}
	k.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_ = f.await(ctx) // the keys decide
	return k.set.Load() != seen
}

// run reads the source whenever the keys are due, until Close.
func (k *keeper) run() {
	defer k.workers.Done()
	for {
		k.mu.Lock()
		wait := k.wait
		k.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-k.ctx.Done():
			timer.Stop()
			return
		}
		_ = k.refresh(k.ctx) // Ready and Stats report it
	}
}

// close ends the background work.
func (k *keeper) close() {
	k.mu.Lock() // no read begins after this
	k.stop()
	k.mu.Unlock()
	k.workers.Wait()
}

// age returns the time since the source last confirmed the keys.
func (k *keeper) age(now time.Time) time.Duration { return now.Sub(time.Unix(0, k.confirmed.Load())) }
