package endings

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

const (
	interval    = time.Second     // between two looks at the database
	maxInterval = 5 * time.Second // while the database is unreachable

	// idleAfter is how long after the last request a feed sleeps. It then sends no
	// statements and holds no endings.
	idleAfter = 10 * time.Minute

	// staleAfter is how old the last look may be. A consumer that learns that nothing has
	// ended relies on it.
	staleAfter = 10 * time.Second

	// loadWait is how long a request waits for a feed that was asleep.
	loadWait = 5 * time.Second

	// sweeps is how many looks pass until expired endings have been removed everywhere.
	sweeps = 64
)

// sizes are numbers that tests reduce.
type sizes struct {
	page   int // endings in one answer
	batch  int // endings in one statement
	recent int // the latest endings, which are kept apart: consumers that follow need no search
}

var usualSizes = sizes{page: 2000, batch: 10_000, recent: 20_000}

// Config is what a Feed needs.
type Config struct {
	Store Store

	// Lifetime returns the longest lifetime of an access token that is still alive.
	Lifetime func() time.Duration

	// Always keeps the feed awake. Otherwise it sleeps until the first request.
	Always bool

	Log *slog.Logger
}

// Feed follows the table of endings. Its methods are safe for concurrent use.
type Feed struct {
	Config

	sessions set
	needed   atomic.Int64 // Unix nanoseconds of the last request
	asleep   atomic.Bool
	wake     chan struct{}
	sizes    sizes
	turn     int // of forget

	mu sync.Mutex // guards what follows
	view
	changed chan struct{} // closed at the next change of the view
}

// view is what the feed knows about the database.
type view struct {
	ready       bool      // everything was loaded, and the numbers below can be compared
	filled      bool      // everything was loaded at least once since the feed awoke
	incarnation [8]byte   // of the database
	snapshot    Snapshot  // of the last look
	looked      time.Time // when the last look began, or the feed awoke; zero while it sleeps
	horizon     Snapshot  // recent has all that it does not see
	recent      []batch
	kept        int              // endings in recent
	keys        map[string]entry // never changed, only replaced
}

// batch is what one look found.
type batch struct {
	upTo    Snapshot
	entries []entry
	keys    int
}

// New returns a Feed, which holds nothing before Run.
func New(c Config) *Feed {
	f := &Feed{Config: c, sizes: usualSizes, wake: make(chan struct{}, 1), changed: make(chan struct{})}
	f.keys = map[string]entry{}
	f.asleep.Store(!c.Always)
	return f
}

// Run follows the database until ctx ends.
func (f *Feed) Run(ctx context.Context) {
	wait, failing := time.Duration(0), false
	for {
		select {
		case <-time.After(jitter(wait)):
		case <-f.wake:
		case <-ctx.Done():
			return
		}
		if f.sleeps() {
			wait = time.Hour // until it is awoken
			continue
		}
		f.awake()
		err := f.look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !failing { // logged once; the metric shows how long it lasts
				f.Log.Error("the endings of sessions cannot be read", "error", err)
			}
			wait = min(max(2*wait, interval), maxInterval)
		default:
			if failing {
				f.Log.Info("the endings of sessions are read again")
			}
			wait = interval
		}
		failing = err != nil
	}
}

// jitter keeps replicas that started together from looking together.
func jitter(d time.Duration) time.Duration {
	if d == 0 {
		return 0
	}
	return d - d/10 + rand.N(d/5) //nolint:gosec // not a secret
}

// need keeps the feed awake, or wakes it.
func (f *Feed) need() {
	f.needed.Store(time.Now().UnixNano())
	if f.asleep.CompareAndSwap(true, false) {
		f.wake <- struct{}{}
	}
}

// awake lets the age count from now on if nothing was read yet.
func (f *Feed) awake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.looked.IsZero() {
		f.looked = time.Now()
	}
}

// sleeps puts the feed to sleep if there was no request for long.
func (f *Feed) sleeps() bool {
	if f.Always {
		return false
	}
	if f.asleep.Load() {
		return true
	}
	if time.Since(time.Unix(0, f.needed.Load())) < idleAfter {
		return false
	}
	f.mu.Lock()
	f.view = view{keys: map[string]entry{}}
	f.mu.Unlock()
	for number := range shardCount {
		f.sessions.replace(number, nil)
	}
	f.asleep.Store(true)
	// A request may have come after the first look at needed.
	return time.Since(time.Unix(0, f.needed.Load())) >= idleAfter || !f.asleep.CompareAndSwap(true, false)
}

// look reads what is new.
func (f *Feed) look(ctx context.Context) error {
	f.mu.Lock()
	last := f.view
	f.mu.Unlock()
	if !last.ready {
		return f.load(ctx)
	}
	began := time.Now()
	seen, err := f.Store.TailEndings(ctx, last.snapshot, f.sizes.batch)
	if err != nil {
		return err
	}
	if incarnationOf(seen.Incarnation) != last.incarnation || len(seen.Endings) >= f.sizes.batch {
		return f.load(ctx)
	}
	found, keys := batch{upTo: seen.Snapshot}, maps.Clone(last.keys)
	for _, ending := range seen.Endings {
		e, ok := entryOf(ending, seen.Snapshot)
		switch {
		case !ok:
		case ending.Kind == Key:
			found.keys++
			keys[ending.ID] = e
		case e.transaction != 0 || !f.sessions.has(e.id):
			f.sessions.add(e)
			found.entries = append(found.entries, e)
		}
	}
	f.forget(seen.At, keys)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.snapshot, f.looked, f.keys = seen.Snapshot, began, keys
	if n := len(found.entries) + found.keys; n > 0 {
		f.recent, f.kept = append(f.recent, found), f.kept+n
		for f.kept > f.sizes.recent && len(f.recent) > 1 {
			oldest := f.recent[0]
			f.horizon, f.recent = oldest.upTo, f.recent[1:]
			f.kept -= len(oldest.entries) + oldest.keys
		}
	}
	f.announce()
	return nil
}

// announce wakes the requests that wait. The caller holds the lock.
func (f *Feed) announce() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// entryOf converts an ending that a snapshot saw. If the snapshot does not see its
// transaction, the row was restored from another server, long before.
func entryOf(ending Ending, saw Snapshot) (e entry, ok bool) {
	e = entry{transaction: ending.Transaction, ended: unixUp(ending.At)}
	if !saw.Sees(e.transaction) {
		e.transaction = 0
	}
	if ending.Kind == Session {
		var err error
		if e.id, err = uuid.Parse(ending.ID); err != nil {
			return entry{}, false
		}
	}
	return e, true
}

var errRestarted = errors.New("the database was restarted while the endings were read")

// load reads all endings that matter, in the order of their ids, and replaces one shard
// after the other, so that it takes no memory for a second set.
func (f *Feed) load(ctx context.Context) error {
	f.mu.Lock()
	f.ready = false
	f.mu.Unlock()
	began := time.Now()
	first := View{}
	keys := map[string]entry{}
	number, entries := 0, []entry(nil)
	for after := (Ending{}); ; {
		page, err := f.Store.LoadEndings(ctx, after, f.Lifetime()+Grace, f.sizes.batch)
		if err != nil {
			return err
		}
		switch first.Incarnation {
		case "":
			first = page
		case page.Incarnation:
		default:
			return errRestarted
		}
		for _, ending := range page.Endings {
			e, ok := entryOf(ending, page.Snapshot)
			switch {
			case !ok:
				continue
			case ending.Kind == Key:
				keys[ending.ID] = e
				continue
			}
			for ; number < shardOf(e.id); number++ {
				f.sessions.replace(number, entries)
				entries = entries[:0]
			}
			entries = append(entries, e)
		}
		if len(page.Endings) < f.sizes.batch {
			break
		}
		after = page.Endings[len(page.Endings)-1]
	}
	for ; number < shardCount; number++ {
		f.sessions.replace(number, entries)
		entries = entries[:0]
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.view = view{
		ready: true, filled: true, incarnation: incarnationOf(first.Incarnation),
		snapshot: first.Snapshot, horizon: first.Snapshot, looked: began, keys: keys,
	}
	f.announce()
	return nil
}

// forget removes endings that no longer matter: keys, and the sessions of the shards whose
// turn it is.
func (f *Feed) forget(now time.Time, keys map[string]entry) {
	before := unixUp(now.Add(-f.Lifetime() - Grace))
	maps.DeleteFunc(keys, func(_ string, e entry) bool { return e.ended < before })
	for number := f.turn; number < shardCount; number += sweeps {
		f.sessions.sweep(number, before)
	}
	f.turn = (f.turn + 1) % sweeps
}

// Announced is an ending as consumers see it.
type Announced struct {
	Kind  Kind
	ID    string
	Until int64 // Unix seconds; after it, the ending does not matter
}

// Answer is what a consumer gets.
type Answer struct {
	Endings []Announced
	Next    string // the cursor to ask with
	More    bool   // the next answer follows at once
}

// Next returns the endings that follow a cursor, or all that matter if the cursor is empty
// or unknown here. If there are none, it waits for some, as long as it may, as connected
// reports true, and as ctx lives, and then returns an empty answer.
//
// The error is ErrCursor, or an *identity.Error of kind Unavailable if the endings are not
// known, or not known well enough to say that there are none.
func (f *Feed) Next(ctx context.Context, after string, wait time.Duration, connected func() bool) (Answer, error) {
	c, err := parseCursor(after)
	if err != nil {
		return Answer{}, err
	}
	f.need()
	began := time.Now()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		f.mu.Lock()
		now, changed := f.view, f.changed
		f.mu.Unlock()
		answer, found := f.answer(now, c)
		foreign := now.ready && after != "" && c.incarnation != now.incarnation
		fresh := now.looked.After(began)
		if found && (!foreign || fresh) {
			return answer, nil
		}
		waited := time.Since(began)
		over := ctx.Err() != nil
		switch {
		case !now.ready || foreign: // the next look decides
			if over || waited >= max(wait, loadWait) {
				return Answer{}, errNotLoaded()
			}
		case time.Since(now.looked) > staleAfter:
			return Answer{}, errStale()
		case over || waited >= wait:
			return Answer{Next: nothing(now, c)}, nil
		}
		rest := max(wait, loadWait) - waited
		if now.ready && !foreign {
			rest = wait - waited
		}
		select {
		case <-changed:
		case <-time.After(rest):
		case <-look.C:
			if !connected() {
				return Answer{}, context.Canceled
			}
		case <-ctx.Done():
		}
	}
}

// nothing returns the cursor of a consumer for which there is nothing.
func nothing(now view, c cursor) string {
	if c.upTo.Next == 0 && now.snapshot.Covers(c.has) {
		c.has = now.snapshot
	}
	return c.String()
}

// answer returns the next page for a cursor, if there is something in it, or if it is the
// first one.
func (f *Feed) answer(now view, c cursor) (answer Answer, found bool) {
	if !now.ready {
		return Answer{}, false
	}
	fresh := c.incarnation != now.incarnation
	if fresh {
		c = cursor{incarnation: now.incarnation}
	}
	follows := c.upTo.Next != 0
	upTo := now.snapshot
	if follows {
		upTo = c.upTo
	}
	if !now.snapshot.Covers(upTo) || !fresh && !follows && c.has.Covers(upTo) {
		return Answer{}, false
	}
	wanted := func(transaction int64) bool { return upTo.Sees(transaction) && !c.has.Sees(transaction) }
	age := int64((f.Lifetime() + Grace) / time.Second)
	if !follows {
		for _, id := range slices.Sorted(maps.Keys(now.keys)) {
			if e := now.keys[id]; wanted(e.transaction) {
				answer.Endings = append(answer.Endings, Announced{Key, id, int64(e.ended) + age})
			}
		}
	}
	page := f.page(now, c, fresh, wanted)
	for _, e := range page {
		answer.Endings = append(answer.Endings, Announced{Session, e.id.String(), int64(e.ended) + age})
	}
	next := cursor{incarnation: now.incarnation, has: upTo}
	if answer.More = len(page) == f.sizes.page; answer.More {
		next.has, next.upTo, next.after = c.has, upTo, page[f.sizes.page-1].id
	}
	answer.Next = next.String()
	return answer, fresh || follows || len(answer.Endings) > 0
}

// page returns the sessions of one answer, in ascending order.
func (f *Feed) page(now view, c cursor, fresh bool, wanted func(int64) bool) []entry {
	follows := c.upTo.Next != 0
	if fresh || !c.has.Covers(now.horizon) {
		return f.sessions.after(nil, c.after, !follows, f.sizes.page, wanted)
	}
	var page []entry
	for _, b := range slices.Backward(now.recent) {
		if c.has.Covers(b.upTo) {
			break
		}
		for _, e := range b.entries {
			if wanted(e.transaction) && (!follows || compare(e.id, c.after) > 0) {
				page = append(page, e)
			}
		}
	}
	slices.SortFunc(page, func(a, b entry) int { return compare(a.id, b.id) })
	page = slices.CompactFunc(page, func(a, b entry) bool { return a.id == b.id })
	return page[:min(len(page), f.sizes.page)]
}

func errNotLoaded() error {
	return &identity.Error{
		Kind: identity.Unavailable, Reason: identity.ReasonEndingsNotLoaded,
		Message: "the endings of sessions are not loaded yet", RetryAfter: time.Second,
	}
}

func errStale() error {
	return &identity.Error{
		Kind: identity.Unavailable, Reason: identity.ReasonDatabaseUnavailable,
		Message: "the database cannot be reached, so it is not known whether sessions have ended", RetryAfter: 2 * time.Second,
	}
}

// Ended reports whether the session with this ID has ended, as far as the feed knows.
func (f *Feed) Ended(session string) bool {
	id, err := uuid.Parse(session)
	return err == nil && f.sessions.has(id)
}

// Age returns how long ago the last look began. It is false if nothing was ever loaded.
func (f *Feed) Age() (age time.Duration, loaded bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.looked), f.filled
}

// Stats are the numbers of a feed.
type Stats struct {
	Awake bool          // false without consumers
	Held  int           // endings in memory
	Age   time.Duration // since the last look, or since the feed awoke
}

// Stats reads the numbers of the feed.
func (f *Feed) Stats() Stats {
	f.mu.Lock()
	looked, keys := f.looked, len(f.keys)
	f.mu.Unlock()
	if looked.IsZero() {
		return Stats{}
	}
	return Stats{Awake: true, Held: f.sessions.count() + keys, Age: time.Since(looked)}
}
