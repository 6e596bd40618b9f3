package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/events"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// announced opens a store whose events are queued.
func announced(t *testing.T, c postgres.Config) *postgres.Store {
	t.Helper()
	store := postgrestest.Open(t, c)
	testenv.NoError(t, store.QueueEvents(t.Context(), events.Types(), time.Hour))
	return store
}

// happen records an event, as the statements of changes do.
func happen(t *testing.T, store *postgres.Store, name identity.EventName, userID string, details ...slog.Attr) {
	t.Helper()
	testenv.NoError(t, store.RecordEvent(t.Context(), identity.Event{Name: name, UserID: userID, Details: details}))
}

// claimEvent claims the next event, which must be there or not.
func claimEvent(t *testing.T, store *postgres.Store, want bool) events.Event {
	t.Helper()
	e, found, err := store.ClaimEvent(t.Context(), time.Minute)
	if err != nil || found != want {
		t.Fatalf("claimed %+v, %v, error %v; want %v", e, found, err, want)
	}
	return e
}

func TestEventsAreQueuedWithTheirChangeWhileThereIsAReceiver(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	u := newID()
	happen(t, store, admin.EventSuspended, u)
	claimEvent(t, store, false) // there is no receiver yet
	testenv.NoError(t, store.QueueEvents(t.Context(), events.Types(), time.Hour))
	claimEvent(t, store, false) // it begins with now

	happen(t, store, admin.EventUpdated, u,
		slog.String("actor", "key:ada"), slog.String("reason", "ticket 1"), slog.String("changed", "roles metadata"))
	for _, name := range []identity.EventName{
		identity.EventSignedIn, identity.EventSignedOut, identity.EventPasswordRefused, identity.EventCodeIssued,
		identity.EventSessionEnded, identity.EventKeysChanged, identity.EventLimitExceeded, "an event of a later release",
	} {
		happen(t, store, name, u)
	}
	happen(t, store, identity.EventImported, "", slog.Int64("imported", 7), slog.Int64("refused", 1))
	happen(t, store, identity.EventAccountDeleted, u)
	within(t, db, func(tx *sql.Tx) { // is rolled back
		testenv.Must(tx.Exec(`INSERT INTO audit_events (event, user_id) VALUES ('account deleted', $1)`, u))(t)
	})

	var got []string
	for range 3 {
		e := claimEvent(t, store, true)
		if !identity.IsUUID(e.Ref.ID) || time.Since(e.At).Abs() > time.Minute || e.Age.Abs() > time.Minute || e.Ref.Attempt != 1 {
			t.Errorf("claimed %+v", e)
		}
		got = append(got, e.Type+" "+string(e.Data))
		testenv.NoError(t, store.RemoveEvent(t.Context(), e.Ref))
	}
	claimEvent(t, store, false)
	slices.Sort(got) // the import is in no order
	want := []string{
		fmt.Sprintf(`user.deleted {"user_id": "%s"}`, u),
		fmt.Sprintf(`user.updated {"changed": ["roles", "metadata"], "user_id": "%s"}`, u),
		`users.imported {"imported": 7}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("the events are\n%q\nwant\n%q", got, want)
	}

	// After a while without a server that has a receiver, nothing is queued, and the clean-up removes what waits.
	happen(t, store, admin.EventSuspended, u)
	deleted := testenv.Must(store.DeleteExpired(t.Context(), time.Now(), retention, 10))(t)
	if deleted.Queued != 0 {
		t.Errorf("the clean-up removed %d events that wait", deleted.Queued)
	}
	postgrestest.Exec(t, c, `UPDATE event_webhook SET until = now() - interval '1 second'`)
	happen(t, store, admin.EventUnsuspended, u)
	if n := count(t, db, `SELECT count(*) FROM queued_events`); n != 1 {
		t.Errorf("%d events wait; want the one from before", n)
	}
	deleted = testenv.Must(store.DeleteExpired(t.Context(), time.Now(), retention, 10))(t)
	if deleted.Queued != 1 || count(t, db, `SELECT count(*) FROM queued_events`) != 0 {
		t.Errorf("the clean-up removed %d events", deleted.Queued)
	}
}

// The trigger announces each kind of event, about its own account, and of what the trail has about it only what is
// documented.
func TestEachKindOfEventIsAnnouncedWithoutPersonalData(t *testing.T) {
	t.Parallel()
	store := announced(t, postgrestest.Config(t))
	for _, name := range slices.Sorted(maps.Keys(events.Types())) {
		u := newID()
		testenv.NoError(t, store.RecordEvent(t.Context(), identity.Event{
			Name: name, UserID: u, SessionID: newID(), RequestID: "request-4711", Address: netip.MustParseAddr("192.0.2.7"),
			Details: []slog.Attr{
				slog.String("actor", "key:ada"), slog.String("reason", "ticket 4711"), slog.String("purpose", "verification"),
				slog.Int("sessions", 3), slog.String("changed", "scope"), slog.Int("imported", 4), slog.Int("refused", 5),
			},
		}))
		e := claimEvent(t, store, true)
		want := fmt.Sprintf(`{"changed": ["scope"], "user_id": "%s", "imported": 4}`, u)
		if e.Type != events.Types()[name] || string(e.Data) != want {
			t.Errorf("%s is announced as %s %s; want %s", name, e.Type, e.Data, want)
		}
		testenv.NoError(t, store.RemoveEvent(t.Context(), e.Ref))
	}
}

// A release that has fewer types neither removes those of a newer one nor shortens the time.
func TestTypesOfAnotherReleaseStay(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := announced(t, c)
	newer := map[identity.EventName]string{"new": "user.new", identity.EventAccountDeleted: "user.deleted"}
	testenv.NoError(t, store.QueueEvents(t.Context(), newer, time.Hour))
	older := map[identity.EventName]string{"old": "user.old"} // a type to add, so that the row is written
	testenv.NoError(t, store.QueueEvents(t.Context(), older, time.Minute))
	happen(t, store, "new", newID())
	if e := claimEvent(t, store, true); e.Type != "user.new" {
		t.Errorf("claimed %+v", e)
	}
	db := connect(t, c)
	if n := count(t, db, `SELECT count(*) FROM event_webhook WHERE until > now() + interval '50 minutes'`); n != 1 {
		t.Error("the time was shortened")
	}
}

func TestAUsersNextEventWaitsForTheEarlierOne(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := announced(t, c)
	ada, grace := newID(), newID()
	happen(t, store, admin.EventSuspended, ada)
	happen(t, store, admin.EventUnsuspended, ada)
	happen(t, store, admin.EventSuspended, grace)

	first := claimEvent(t, store, true)
	if e := claimEvent(t, store, true); e.Type != "user.suspended" || e.Ref.ID == first.Ref.ID {
		t.Errorf("beside ada's first event, %+v is claimed; want grace's", e)
	}
	claimEvent(t, store, false) // while the first is being sent
	testenv.NoError(t, store.PostponeEvent(t.Context(), first.Ref, time.Hour))
	claimEvent(t, store, false) // while it waits
	postgrestest.Exec(t, c, `UPDATE queued_events SET due_at = now() WHERE id = $1`, first.Ref.Number)
	again := claimEvent(t, store, true)
	if again.Ref.ID != first.Ref.ID || again.Ref.Attempt != 2 || !again.At.Equal(first.At) || string(again.Data) != string(first.Data) {
		t.Errorf("the second attempt is %+v, the first %+v", again, first)
	}
	// The lease of the first claim ended. Its outcome comes too late.
	testenv.NoError(t, store.RemoveEvent(t.Context(), first.Ref))
	testenv.NoError(t, store.PostponeEvent(t.Context(), first.Ref, 0))
	claimEvent(t, store, false)
	testenv.NoError(t, store.RemoveEvent(t.Context(), again.Ref))
	if e := claimEvent(t, store, true); e.Type != "user.unsuspended" {
		t.Errorf("then %+v is claimed", e)
	}
}

// The numbers of two changes of one account are in the order in which they held its lock, although the transaction of the
// later one began first, and has the earlier timestamp.
func TestEventsOfAnAccountAreInTheOrderOfItsLock(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := announced(t, c)
	u := signUp(t, store, "ada")
	err := meet(t, c,
		func() error {
			return testenv.Err(store.SuspendUser(t.Context(), admin.Ref{ID: u.ID}, identity.Event{Name: admin.EventSuspended, UserID: u.ID}))
		},
		func(tx *sql.Tx) error {
			// The waiting suspension has begun. This change gets its event now.
			if _, err := tx.Exec(`INSERT INTO audit_events (event, user_id) VALUES ('profile changed', $1)`, u.ID); err != nil {
				return err
			}
			claimEvent(t, store, false) // neither is committed
			return tx.Commit()
		},
		`UPDATE users SET first_name = 'Grace' WHERE id = $1`, u.ID)
	testenv.NoError(t, err)
	for _, want := range []string{"user.updated", "user.suspended"} {
		e := claimEvent(t, store, true)
		if e.Type != want {
			t.Errorf("claimed %s; want %s", e.Type, want)
		}
		testenv.NoError(t, store.RemoveEvent(t.Context(), e.Ref))
	}
}

// Sixteen senders claim the events of a few users at once, as replicas do, also behind a pooler. Some of them die with a
// claim. No event is lost, and none is claimed while an earlier one of its user is there.
func TestSendersAtOnceKeepTheOrderOfEachUser(t *testing.T) {
	t.Parallel()
	for _, pooled := range []bool{false, true} {
		t.Run(fmt.Sprintf("pooled %v", pooled), func(t *testing.T) {
			t.Parallel()
			const users, each, senders = 10, 20, 16
			c := postgrestest.Config(t)
			db := connect(t, c)
			if pooled {
				c = postgrestest.Behind(t, c, "transaction")
			}
			c.MaxConns, c.AcquireTimeout = senders, 30*time.Second
			store := announced(t, c)
			for range users {
				u := newID()
				for range each {
					happen(t, store, identity.EventProfileChanged, u)
				}
			}
			order := map[int64]string{} // the user of each event
			rows := testenv.Must(db.Query(`SELECT id, user_id::text FROM queued_events`))(t)
			defer rows.Close()
			for rows.Next() {
				var id int64
				var user string
				testenv.NoError(t, rows.Scan(&id, &user))
				order[id] = user
			}
			testenv.NoError(t, rows.Err())
			var mu sync.Mutex
			last, deaths := map[string]int64{}, 0
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var running sync.WaitGroup
			for sender := range senders {
				running.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						e, found, err := store.ClaimEvent(ctx, 2*time.Second)
						if err == nil && !found {
							var oldest time.Duration
							if oldest, err = store.OldestEvent(ctx); err == nil && oldest == 0 {
								return // all were sent
							}
							time.Sleep(10 * time.Millisecond)
						}
						if err != nil {
							t.Error(err)
							return
						}
						if !found {
							continue
						}
						mu.Lock()
						user := order[e.Ref.Number]
						if last[user] > e.Ref.Number {
							t.Errorf("event %d is claimed after %d of the same user", e.Ref.Number, last[user])
						}
						last[user] = e.Ref.Number
						dies := (n+sender)%29 == 0
						if dies {
							deaths++
						}
						mu.Unlock()
						if dies {
							continue // its lease ends
						}
						if err := store.RemoveEvent(ctx, e.Ref); err != nil {
							t.Error(err)
						}
					}
				})
			}
			running.Wait()
			if n := count(t, db, `SELECT count(*) FROM queued_events`); n != 0 || len(last) != users || deaths == 0 {
				t.Errorf("%d events are left, of %d users some were sent, %d senders died", n, len(last), deaths)
			}
		})
	}
}

func TestEventsThatAreTooOldAreGivenUp(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := announced(t, c)
	if age := testenv.Must(store.OldestEvent(t.Context()))(t); age != 0 {
		t.Errorf("of an empty queue the age is %v", age)
	}
	for _, name := range []identity.EventName{admin.EventSuspended, admin.EventUnsuspended, admin.EventDeleted} {
		happen(t, store, name, newID())
	}
	postgrestest.Exec(t, c, `UPDATE queued_events SET at = now() - interval '73 hours' WHERE type <> 'user.deleted'`)
	flying := claimEvent(t, store, true)
	if age := testenv.Must(store.OldestEvent(t.Context()))(t); age < 72*time.Hour || flying.Age < 72*time.Hour {
		t.Errorf("the oldest is %v old", age)
	}
	for _, want := range []int{1, 0} { // that which is being sent stays
		if n := testenv.Must(store.GiveUpEvents(t.Context(), 72*time.Hour, 100))(t); n != want {
			t.Errorf("%d are given up; want %d", n, want)
		}
	}
	testenv.NoError(t, store.PostponeEvent(t.Context(), flying.Ref, 0))
	if n := testenv.Must(store.GiveUpEvents(t.Context(), 72*time.Hour, 100))(t); n != 1 {
		t.Errorf("%d are given up afterwards; want 1", n)
	}
	if e := claimEvent(t, store, true); e.Type != "user.deleted" {
		t.Errorf("%+v is left", e)
	}
}

func TestTheCleanUpAnnouncesInvitationsThatItRemoves(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := announced(t, c)
	u := signUp(t, store, "ada")
	keep := retention
	keep.Invitation.Name = identity.EventInvitationExpired
	postgrestest.Exec(t, c, `UPDATE users SET created_at = now() - interval '8 days', email_verified_at = NULL, activated_at = NULL`)
	if deleted := testenv.Must(store.DeleteExpired(t.Context(), time.Now(), keep, 10))(t); deleted.Users != 1 {
		t.Fatalf("deleted %+v", deleted)
	}
	e := claimEvent(t, store, true)
	if want := fmt.Sprintf(`{"user_id": "%s"}`, u.ID); e.Type != "user.deleted" || string(e.Data) != want {
		t.Errorf("announced %s %s", e.Type, e.Data)
	}
}

// A long queue, in which the first events of a user wait, costs a claim no look at the whole table.
func TestClaimsOfALongQueueScanNoTable(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	db := connect(t, c)
	store := announced(t, c)
	postgrestest.Exec(t, c, `INSERT INTO queued_events (type, user_id, at, data)
		SELECT 'user.updated', md5((i % 5000)::text)::uuid, now(), '{}' FROM generate_series(1, 20000) i`)
	begin := time.Now()
	for range 12 { // PostgreSQL chooses between custom and generic plans after five executions
		e := claimEvent(t, store, true)
		testenv.NoError(t, store.PostponeEvent(t.Context(), e.Ref, time.Hour))
		testenv.Must(store.OldestEvent(t.Context()))(t)
		testenv.Must(store.GiveUpEvents(t.Context(), time.Hour, 100))(t)
	}
	t.Logf("12 claims, and what follows, take %v", time.Since(begin))
	store.Close()
	settle(t, db)
	if n := count(t, db, `SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'queued_events'`); n != 0 {
		t.Errorf("the table was read as a whole %d times", n)
	}
}
