package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/events"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
	"github.com/auth-gateway/auth-gateway/internal/webhook"
)

// restored moves a dump of a database to another server, with the password of the first.
func restored(t *testing.T, from, to postgres.Config) postgres.Config {
	t.Helper()
	dump(t, from, to)
	postgrestest.Exec(t, to, `ALTER ROLE `+from.User+` PASSWORD '`+from.Password+`'`)
	to.Password = from.Password
	return to
}

// A restored database gives numbers again that events after the backup had. A sender that still runs with an event of
// then removes none of the new ones, and no event is announced twice under different IDs.
func TestEventsOfARestoredDatabaseAreSentOnceMore(t *testing.T) {
	t.Parallel()
	_, c := ownServer(t)
	_, other := ownServer(t)
	store := postgrestest.Open(t, c)
	testenv.NoError(t, store.Migrate(t.Context()))
	testenv.NoError(t, store.QueueEvents(t.Context(), events.Types(), time.Hour))
	ada, grace := newID(), newID()
	happen(t, store, admin.EventSuspended, ada) // is accepted before the backup
	testenv.NoError(t, store.RemoveEvent(t.Context(), claimEvent(t, store, true).Ref))
	happen(t, store, admin.EventUnsuspended, ada)
	happen(t, store, admin.EventSessionsEnded, ada)
	flying, found, err := store.ClaimEvent(t.Context(), 3*time.Second) // is in flight during the backup
	if err != nil || !found {
		t.Fatal(found, err)
	}
	second := restored(t, c, other)
	sent := map[string]bool{flying.Ref.ID: true}
	testenv.NoError(t, store.RemoveEvent(t.Context(), flying.Ref))
	happen(t, store, admin.EventDeleted, ada) // the backup has neither this nor what follows
	happen(t, store, admin.EventDeleted, grace)
	var last []events.Event
	for range 2 {
		last = append(last, claimEvent(t, store, true))
	}

	store = postgrestest.Open(t, second)
	happen(t, store, admin.EventSuspended, grace)
	happen(t, store, admin.EventPasswordVoided, newID())
	testenv.Until(t, patience, "the lease of what was in flight ends", func() bool {
		return count(t, connect(t, second), `SELECT count(*) FROM queued_events WHERE due_at <= now()`) == 4
	})
	claims := map[int64]events.Event{} // by number
	for range 3 {                      // the first of each user
		e := claimEvent(t, store, true)
		claims[e.Ref.Number] = e
	}
	reused := 0
	for _, old := range append(last, flying) {
		if e, is := claims[old.Ref.Number]; is && e.Ref.ID != old.Ref.ID {
			reused++
			old.Ref.Attempt = e.Ref.Attempt
			testenv.NoError(t, store.RemoveEvent(t.Context(), old.Ref))
			testenv.NoError(t, store.PostponeEvent(t.Context(), old.Ref, 0))
		}
	}
	if reused == 0 {
		t.Errorf("no number is given again, so this proves nothing: %+v, %+v", claims, last)
	}
	claimEvent(t, store, false)
	if n := count(t, connect(t, second), `SELECT count(*) FROM queued_events`); n != 4 {
		t.Errorf("%d events are left; want the two from the backup and the two from afterwards", n)
	}
	var types []string
	for _, number := range []int64{flying.Ref.Number, flying.Ref.Number + 1} { // ada's
		e, is := claims[number]
		if !is {
			e = claimEvent(t, store, true)
		}
		types = append(types, e.Type)
		if sent[e.Ref.ID] != (e.Type == flying.Type) {
			t.Errorf("%s has the ID %s; before the backup it was sent as %s", e.Type, e.Ref.ID, flying.Ref.ID)
		}
		testenv.NoError(t, store.RemoveEvent(t.Context(), e.Ref))
	}
	if want := []string{"user.unsuspended", "user.sessions_ended"}; !slices.Equal(types, want) {
		t.Errorf("ada's events come as %q; want %q", types, want)
	}
}

// delivery is a message that a receiver got: the n-th change of a user.
type delivery struct {
	id, user string
	n        int
}

// recorder is a receiver of others, which refuses at random.
type recorder struct {
	mu  sync.Mutex
	all []delivery // that it has accepted, with doubles
}

func (r *recorder) Close() {}

func (r *recorder) Post(_ context.Context, m webhook.Message) error {
	var data struct {
		User    string   `json:"user_id"`
		Changed []string `json:"changed"`
	}
	time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
	if err := json.Unmarshal(m.Data.(json.RawMessage), &data); err != nil || rand.IntN(20) == 0 {
		return &webhook.Error{Status: 500}
	}
	n, _ := strconv.Atoi(data.Changed[0])
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, delivery{m.ID, data.User, n})
	return nil
}

func (r *recorder) taken() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// Two senders run while their database is replaced by a copy of some moments ago, and accounts change before and after. A
// receiver that drops doubles by their ID has then got each event of either database, those of the copy in the order of
// each user.
func TestSendersGoOnWithARestoredDatabase(t *testing.T) {
	t.Parallel()
	const users, each = 8, 12
	_, from := ownServer(t)
	_, other := ownServer(t)
	n, c := through(t, from)
	store := postgrestest.Open(t, c)
	testenv.NoError(t, store.Migrate(t.Context()))
	r := new(recorder)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for range 2 {
		s := events.New(events.Options{Queue: store, Receiver: r, Log: slog.New(slog.DiscardHandler)})
		testenv.NoError(t, s.Begin(ctx))
		running.Go(func() { s.Run(ctx) })
	}
	ids, changes := make([]string, users), 0
	for i := range ids {
		ids[i] = newID()
	}
	change := func() { // each user once
		changes++
		for _, u := range ids {
			testenv.Eventually(t, patience, "an event is recorded", func() error {
				return store.RecordEvent(ctx, identity.Event{
					Name: identity.EventProfileChanged, UserID: u, Details: []slog.Attr{slog.String("changed", fmt.Sprint(changes))},
				})
			})
		}
	}
	for range each {
		change()
	}
	testenv.Until(t, patience, "some are sent", func() bool { return len(r.taken()) > users })
	to := restored(t, from, other)
	for range each {
		change() // are lost with the first database
	}
	lost := changes
	testenv.Until(t, patience, "some of those that will be lost are sent", func() bool {
		return slices.ContainsFunc(r.taken(), func(d delivery) bool { return d.n > each+1 })
	})
	before := len(r.taken())
	n.turn(net.JoinHostPort(to.Host, strconv.Itoa(to.Port)))
	for range each {
		change()
	}
	db := connect(t, to)
	testenv.Until(t, time.Minute, "the queue of the copy is empty", func() bool {
		return count(t, db, `SELECT count(*) FROM queued_events`) == 0
	})
	cancel()
	running.Wait()

	all := r.taken()
	seen, has, last := map[string]bool{}, map[string]bool{}, map[string]int{}
	doubles := 0
	for i, d := range all {
		if i >= before+2*8 && d.n > each && d.n <= lost { // 16 may have been in flight
			t.Errorf("change %d of the first database is sent after the restore", d.n)
		}
		if seen[d.id] {
			doubles++
			continue
		}
		seen[d.id] = true
		if has[fmt.Sprint(d.user, d.n)] {
			t.Errorf("change %d of %s has two IDs", d.n, d.user)
		}
		has[fmt.Sprint(d.user, d.n)] = true
		if d.n < last[d.user] && (last[d.user] <= each || last[d.user] > lost) {
			t.Errorf("change %d of %s comes after %d", d.n, d.user, last[d.user])
		}
		last[d.user] = d.n
	}
	for _, text := range texts(t, db, `SELECT user_id || ' ' || (details->>'changed') FROM audit_events
		WHERE user_id IS NOT NULL`) {
		var user string
		var n int
		testenv.Must(fmt.Sscan(text, &user, &n))(t)
		if !has[fmt.Sprint(user, n)] {
			t.Errorf("change %d of %s was never sent", n, user)
		}
	}
	t.Logf("%d messages, %d doubles", len(all), doubles)
}
