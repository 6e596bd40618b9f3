package endings

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// database plays PostgreSQL: transactions that commit in any order, or not at all, and
// crashes, after which numbers of transactions without a trace are used again.
type database struct {
	incarnation int
	next        int64
	running     map[int64][]string // the ids that a transaction ends
	rows        map[string]Ending
	clock       time.Time
	broken      bool
	between     func() // called between two pages of a load; may be nil
}

func newDatabase() *database {
	return &database{next: 100, running: map[int64][]string{}, rows: map[string]Ending{}, clock: time.Unix(1_800_000_000, 0)}
}

func (d *database) begin(ids ...string) int64 {
	d.next++
	d.running[d.next-1] = ids
	return d.next - 1
}

func (d *database) commit(transaction int64) (ids []string) {
	ids = d.running[transaction]
	delete(d.running, transaction)
	for _, id := range ids {
		kind := Session
		if uuid.Validate(id) != nil {
			kind = Key
		}
		d.rows[id] = Ending{Kind: kind, ID: id, Transaction: transaction, At: d.clock}
	}
	return ids
}

func (d *database) crash(forgotten int64) {
	last := int64(0)
	for _, row := range d.rows {
		last = max(last, row.Transaction)
	}
	clear(d.running)
	d.next = max(last+1, d.next-forgotten)
	d.incarnation++
}

func (d *database) clean(age time.Duration) {
	maps.DeleteFunc(d.rows, func(_ string, row Ending) bool { return row.At.Before(d.clock.Add(-age)) })
}

func (d *database) snapshot() Snapshot {
	return Snapshot{Next: d.next, Running: slices.Sorted(maps.Keys(d.running))}
}

var errBroken = errors.New("the database is down")

func (d *database) view(limit int, wanted func(Ending) bool) (View, error) {
	if d.broken {
		return View{}, errBroken
	}
	v := View{Snapshot: d.snapshot(), Incarnation: fmt.Sprint("number ", d.incarnation), At: d.clock}
	for _, row := range d.rows {
		if wanted(row) {
			v.Endings = append(v.Endings, row)
		}
	}
	slices.SortFunc(v.Endings, order)
	v.Endings = v.Endings[:min(limit, len(v.Endings))]
	return v, nil
}

func order(a, b Ending) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID)) }

func (d *database) LoadEndings(_ context.Context, after Ending, age time.Duration, limit int) (View, error) {
	if after.ID != "" && d.between != nil {
		d.between()
	}
	return d.view(limit, func(e Ending) bool { return order(e, after) > 0 && e.At.After(d.clock.Add(-age)) })
}

func (d *database) TailEndings(_ context.Context, since Snapshot, limit int) (View, error) {
	return d.view(limit, func(e Ending) bool {
		return e.Transaction >= since.Next || slices.Contains(since.Running, e.Transaction)
	})
}

// modelConsumer keeps a cursor and what it has learned.
type modelConsumer struct {
	cursor   string
	seen     map[string]int // how often
	answered int            // answers with something, or because of a new cursor
}

// ask does what Next does, without waiting.
func (c *modelConsumer) ask(t *testing.T, f *Feed) (found, more bool) {
	t.Helper()
	parsed := testenv.Must(parseCursor(c.cursor))(t)
	if (!f.ready || parsed.incarnation != f.incarnation) && f.look(t.Context()) != nil {
		return false, false
	}
	if !f.ready {
		return false, false
	}
	answer, found := f.answer(f.view, parsed)
	if !found {
		c.cursor = nothing(f.view, parsed)
		return false, false
	}
	c.answered++
	c.cursor = answer.Next
	for _, e := range answer.Endings {
		c.seen[e.ID]++
	}
	return true, answer.More
}

// Replicas look whenever they like, consumers ask any replica each time, transactions
// commit late or never, and PostgreSQL crashes. No consumer misses an ending, or learns of
// one that was undone, or, without a crash, learns of one twice.
func TestNoEndingIsLostOrInventedInAnyOrder(t *testing.T) {
	for seed := range uint64(200) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			d := newDatabase()
			crashes := seed%2 == 1
			small := sizes{page: 1 + r.IntN(4), batch: 2 + r.IntN(6), recent: 1 + r.IntN(8)}
			replica := func() *Feed {
				f := New(Config{Store: d, Lifetime: func() time.Duration { return time.Hour }, Always: true, Log: slog.New(slog.DiscardHandler)})
				f.sizes = small
				return f
			}
			replicas := []*Feed{replica(), replica(), replica()}
			consumers := []*modelConsumer{{seen: map[string]int{}}, {seen: map[string]int{}}}
			ended := map[string]bool{}
			commit := func(transaction int64) {
				for _, id := range d.commit(transaction) {
					ended[id] = true
				}
			}
			budget := 20
			d.between = func() {
				if budget--; budget < 0 {
					return
				}
				if open := slices.Sorted(maps.Keys(d.running)); len(open) > 0 && r.IntN(2) == 0 {
					commit(open[r.IntN(len(open))])
				}
				if r.IntN(4) == 0 {
					commit(d.begin(newUUID(r)))
				}
			}
			for range 300 {
				open := slices.Sorted(maps.Keys(d.running))
				switch n := r.IntN(100); {
				case n < 15:
					ids := make([]string, r.IntN(4))
					for i := range ids {
						ids[i] = newUUID(r)
						if r.IntN(10) == 0 {
							ids[i] = fmt.Sprint("key ", ids[i])
						}
					}
					d.begin(ids...)
				case n < 30 && len(open) > 0:
					commit(open[r.IntN(len(open))])
				case n < 33 && len(open) > 0:
					delete(d.running, open[r.IntN(len(open))])
				case n < 34 && crashes:
					d.crash(r.Int64N(4))
				case n < 36:
					replicas[r.IntN(3)] = replica()
				case n < 40:
					d.broken = !d.broken
				case n < 65:
					_ = replicas[r.IntN(3)].look(t.Context())
				default:
					consumers[r.IntN(2)].ask(t, replicas[r.IntN(3)])
				}
			}
			d.broken, d.between = false, nil
			for _, transaction := range slices.Collect(maps.Keys(d.running)) {
				commit(transaction)
			}
			for _, f := range replicas {
				testenv.NoError(t, f.look(t.Context()))
			}
			consumers = append(consumers, &modelConsumer{seen: map[string]int{}})
			for number, c := range consumers {
				before := c.answered
				for quiet := 0; quiet < 4; {
					if found, _ := c.ask(t, replicas[r.IntN(3)]); found {
						quiet = 0
					} else {
						quiet++
					}
					if c.answered-before > 2*len(ended)+10 {
						t.Fatalf("consumer %d gets answers without end", number)
					}
				}
				for id := range ended {
					if c.seen[id] == 0 {
						t.Errorf("consumer %d missed %s", number, id)
					}
				}
				for id, times := range c.seen {
					if !ended[id] {
						t.Errorf("consumer %d learned of %s, which was undone", number, id)
					}
					if times > 1 && !crashes {
						t.Errorf("consumer %d learned of %s %d times", number, id, times)
					}
				}
			}
			for id := range ended {
				for _, f := range replicas {
					if uuid.Validate(id) == nil && !f.Ended(id) {
						t.Errorf("a replica does not know that %s has ended", id)
					}
				}
			}
		})
	}
}

// A consumer is cut off for up to hours. Meanwhile sessions end, endings expire and are removed, replicas and PostgreSQL
// are restarted. When it is back, it learns of every ending that still matters.
func TestAConsumerThatWasCutOffLearnsAllThatMatters(t *testing.T) {
	returned := 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		d := newDatabase()
		small := sizes{page: 1 + r.IntN(4), batch: 2 + r.IntN(6), recent: 1 + r.IntN(8)}
		replica := func() *Feed {
			f := newFeed(d, true)
			f.sizes = small
			return f
		}
		replicas := []*Feed{replica(), replica()}
		c := &modelConsumer{seen: map[string]int{}}
		matters := map[string]time.Time{} // until a time
		for range 150 {
			switch n := r.IntN(100); {
			case n < 45:
				for _, id := range d.commit(d.begin(newUUID(r), fmt.Sprint("key ", newUUID(r)))) {
					matters[id] = d.clock.Add(lifetime + Grace)
				}
			case n < 60:
				d.clock = d.clock.Add(time.Duration(r.IntN(90)) * time.Minute)
			case n < 75:
				d.clock = d.clock.Add(time.Duration(r.IntN(60)) * time.Second)
			case n < 80:
				d.clean(lifetime + Grace)
			case n < 83:
				d.crash(r.Int64N(4))
			case n < 86:
				replicas[r.IntN(2)] = replica()
			case n < 93:
				testenv.NoError(t, replicas[r.IntN(2)].look(t.Context()))
			default:
				returned++
				f := replicas[r.IntN(2)]
				testenv.NoError(t, f.look(t.Context()))
				for found := true; found; {
					found, _ = c.ask(t, f)
				}
				for id, until := range matters {
					if until.After(d.clock) && c.seen[id] == 0 {
						t.Fatalf("seed %d: the consumer does not know %s, which matters for %v", seed, id, until.Sub(d.clock))
					}
				}
			}
		}
	}
	if returned < 1000 {
		t.Errorf("the consumer returned only %d times", returned)
	}
}

func newUUID(r *rand.Rand) string {
	var id uuid.UUID
	for i := range id {
		id[i] = byte(r.UintN(256))
	}
	return id.String()
}
