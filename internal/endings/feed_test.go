package endings

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const lifetime = 15 * time.Minute

func newFeed(d *database, always bool) *Feed {
	return New(Config{Store: d, Lifetime: func() time.Duration { return lifetime }, Always: always, Log: slog.New(slog.DiscardHandler)})
}

func connected() bool { return true }

func TestNextWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		d := newDatabase()
		f := newFeed(d, false)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go f.Run(ctx)
		took := func(call func() (Answer, error)) (Answer, time.Duration) {
			t.Helper()
			began := time.Now()
			a := testenv.Must(call())(t)
			return a, time.Since(began)
		}
		next := func(after string, wait time.Duration) func() (Answer, error) {
			return func() (Answer, error) { return f.Next(ctx, after, wait, connected) }
		}

		first, time1 := took(next("", 25*time.Second))
		if len(first.Endings) > 0 || first.Next == "" || time1 > time.Second {
			t.Errorf("the first answer, after %v: %+v", time1, first)
		}
		second, time2 := took(next(first.Next, 25*time.Second))
		if len(second.Endings) > 0 || time2 != 25*time.Second {
			t.Errorf("without an ending: %+v after %v", second, time2)
		}
		id := newUUID(r)
		go func() {
			time.Sleep(10 * time.Second)
			d.commit(d.begin(id))
		}()
		third, time3 := took(next(second.Next, 25*time.Second))
		if len(third.Endings) != 1 || third.Endings[0].ID != id || time3 > 12*time.Second {
			t.Errorf("with one: %+v after %v", third, time3)
		}
		if want := d.clock.Add(lifetime + Grace).Unix(); third.Endings[0].Until != want {
			t.Errorf("it matters until %d; want %d", third.Endings[0].Until, want)
		}

		// A consumer that has gone, and a server that shuts down.
		if _, err := f.Next(ctx, third.Next, time.Minute, func() bool { return false }); !errors.Is(err, context.Canceled) {
			t.Errorf("after the consumer has gone: %v", err)
		}
		ending, end := context.WithCancel(ctx)
		time.AfterFunc(3*time.Second, end)
		began := time.Now()
		if a, err := f.Next(ending, third.Next, 25*time.Second, connected); err != nil || a.Next == "" || time.Since(began) != 3*time.Second {
			t.Errorf("at a shutdown: %+v, %v after %v", a, err, time.Since(began))
		}

		// While the database is down, nothing is said about what has not ended.
		d.broken = true
		time.Sleep(staleAfter + time.Second)
		if _, err := f.Next(ctx, third.Next, 25*time.Second, connected); identity.KindOf(err) != identity.Unavailable {
			t.Errorf("while the database is down: %v", err)
		}
		if a, err := f.Next(ctx, first.Next, 0, connected); err != nil || len(a.Endings) != 1 {
			t.Errorf("what is known is said: %+v, %v", a, err)
		}
		d.broken = false
		time.Sleep(maxInterval + time.Second)
		took(next(third.Next, 0))

		// Without consumers it sleeps.
		time.Sleep(idleAfter + time.Minute)
		if s := f.Stats(); s.Awake || s.Held != 0 {
			t.Errorf("without consumers: %+v", s)
		}
		if a, time4 := took(next(third.Next, 0)); len(a.Endings) != 0 || time4 > time.Second {
			t.Errorf("after it slept: %+v after %v", a, time4)
		}
		time.Sleep(idleAfter + time.Minute)
		d.broken = true
		if _, err := f.Next(ctx, "", 0, connected); identity.KindOf(err) != identity.Unavailable {
			t.Errorf("a feed that cannot be loaded: %v", err)
		}
		if s := f.Stats(); !s.Awake || s.Age < loadWait {
			t.Errorf("a feed that cannot be loaded: %+v", s)
		}
		cancel()
		synctest.Wait()
	})
}

func TestEndingsAreForgottenWhenTheLastTokenHasExpired(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	d := newDatabase()
	f := newFeed(d, true)
	old, young := newUUID(r), newUUID(r)
	d.commit(d.begin(old, "an old key"))
	testenv.NoError(t, f.look(t.Context()))
	d.clock = d.clock.Add(lifetime)
	d.commit(d.begin(young))
	look := func() {
		for range sweeps {
			testenv.NoError(t, f.look(t.Context()))
		}
	}
	look()
	if !f.Ended(old) || !f.Ended(young) || f.Stats().Held != 3 {
		t.Errorf("within the lifetime: %+v", f.Stats())
	}
	d.clock = d.clock.Add(Grace + 2*time.Second)
	look()
	if f.Ended(old) || !f.Ended(young) || f.Stats().Held != 1 {
		t.Errorf("after it: %+v", f.Stats())
	}
	d.clean(lifetime + Grace)
	again := newFeed(d, true)
	testenv.NoError(t, again.look(t.Context()))
	if again.Ended(old) || !again.Ended(young) {
		t.Error("another replica knows others")
	}
}

// Rows of a restored database may have numbers of transactions that are in the future.
func TestRestoredEndingsAreKnownAndAnnounced(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	d := newDatabase()
	restored, later := newUUID(r), newUUID(r)
	d.rows[restored] = Ending{Kind: Session, ID: restored, Transaction: 1 << 40, At: d.clock}
	f := newFeed(d, true)
	c := &modelConsumer{seen: map[string]int{}}
	for range 3 {
		testenv.NoError(t, f.look(t.Context()))
		c.ask(t, f)
	}
	d.commit(d.begin(later))
	for range 3 {
		testenv.NoError(t, f.look(t.Context()))
		c.ask(t, f)
	}
	if !f.Ended(restored) || c.seen[restored] != 1 || c.seen[later] != 1 {
		t.Errorf("the consumer saw %v", c.seen)
	}
}

func TestAMillionEndingsTakeAtMost32MiB(t *testing.T) {
	if testing.Short() {
		t.Skip("fills a set with a million sessions")
	}
	const million, limit = 1_000_000, 32 << 20
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	f := newFeed(newDatabase(), true)
	r := rand.New(rand.NewPCG(7, 8))
	var last sessionID
	for i := range million {
		for j := range last {
			last[j] = byte(r.UintN(256))
		}
		f.sessions.add(entry{id: last, transaction: int64(i), ended: uint32(i)})
	}
	took := heap() - before
	t.Logf("a million endings take %.1f MiB", float64(took)/(1<<20))
	if took > limit || f.sessions.count() != million || !f.sessions.has(last) {
		t.Errorf("%d endings take %d bytes; the limit is %d", f.sessions.count(), took, limit)
	}
	runtime.KeepAlive(f)
}

func TestSetIsASet(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(9, 10))
	var s set
	model := map[sessionID]entry{}
	var known []sessionID
	for range 20_000 {
		id := uuid.MustParse(newUUID(r))
		id[0], id[1] = id[0]&1, id[1]&0x40 // few shards
		if len(known) > 0 && r.IntN(4) == 0 {
			id = known[r.IntN(len(known))]
		}
		switch n := r.IntN(1000); {
		case n < 990:
			e := entry{id: id, transaction: r.Int64N(1000), ended: r.Uint32N(1000)}
			s.add(e)
			model[id] = e
			known = append(known, id)
		case n < 995:
			before := r.Uint32N(1000)
			number := shardOf(id)
			s.sweep(number, before)
			for id, e := range model {
				if shardOf(id) == number && e.ended < before {
					delete(model, id)
				}
			}
		}
		if _, want := model[id]; s.has(id) != want {
			t.Fatalf("%v: has is %v", id, !want)
		}
	}
	var all []entry
	for after, first := (sessionID{}), true; ; first = false {
		page := s.after(nil, after, first, 7, func(int64) bool { return true })
		all = append(all, page...)
		if len(page) < 7 {
			break
		}
		after = page[6].id
	}
	if len(all) != len(model) || s.count() != len(model) || !slices.IsSortedFunc(all, func(a, b entry) int { return compare(a.id, b.id) }) {
		t.Errorf("%d entries, counted %d; want %d", len(all), s.count(), len(model))
	}
	for _, e := range all {
		if model[e.id] != e {
			t.Errorf("got %+v; want %+v", e, model[e.id])
		}
	}
}

func FuzzCursor(f *testing.F) {
	c := cursor{incarnation: incarnationOf("x"), has: Snapshot{Next: 1000, Running: []int64{7, 999}}}
	f.Add(c.String())
	c.upTo, c.after = Snapshot{Next: 2000}, sessionID{1}
	f.Add(c.String())
	f.Add("")
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseCursor(text)
		if err != nil {
			return
		}
		again, err := parseCursor(c.String())
		if err != nil || again.String() != c.String() {
			t.Errorf("%q becomes %+v, and that %+v, %v", text, c, again, err)
		}
		c.has.Sees(5)
	})
}

func TestCursorsOfManyTransactionsClaimLess(t *testing.T) {
	t.Parallel()
	s := Snapshot{Next: 100_000}
	for i := range int64(3000) {
		s.Running = append(s.Running, 1000+30*i)
	}
	text := cursor{has: s}.String()
	c := testenv.Must(parseCursor(text))(t)
	if len(text) > maxCursor || len(c.has.Running) != maxRunning {
		t.Errorf("%d bytes, %d transactions", len(text), len(c.has.Running))
	}
	for transaction := range s.Next {
		if c.has.Sees(transaction) && !s.Sees(transaction) {
			t.Fatalf("it claims to have seen %d", transaction)
		}
	}
}

func TestParseSnapshot(t *testing.T) {
	t.Parallel()
	s := testenv.Must(ParseSnapshot("10:20:10,14,15"))(t)
	for transaction, want := range map[int64]bool{9: true, 10: false, 11: true, 14: false, 15: false, 19: true, 20: false, 21: false} {
		if s.Sees(transaction) != want {
			t.Errorf("it sees %d: %v", transaction, !want)
		}
	}
	for _, text := range []string{"", "10", "10:20", "10:x:", "10:20:a"} {
		if _, err := ParseSnapshot(text); err == nil {
			t.Errorf("%q parses", text)
		}
	}
}
