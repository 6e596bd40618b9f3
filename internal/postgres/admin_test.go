package postgres_test

import (
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// populate creates accounts: a thousand to the second, one in fifty suspended, one in ten without a username.
func populate(t *testing.T, c postgres.Config, n int) {
	t.Helper()
	postgrestest.Exec(t, c, `
		INSERT INTO users (id, username, canonical_username, email, canonical_email, first_name, last_name, scope,
			password_hash, email_verified_at, activated_at, suspended_at, created_at)
		SELECT id, coalesce(name, id::text), coalesce(name, id::text), mail, mail, 'A', 'B', 'profile', 'x', now(), now(),
			CASE WHEN i % 50 = 0 THEN now() END, now() - (i / 1000) * interval '1 second'
		FROM (SELECT i, gen_random_uuid() AS id, CASE WHEN i % 10 > 0 THEN 'user' || i END AS name, 'u' || i || '@example.com' AS mail
			FROM generate_series(1, $1) i) accounts`, n)
	postgrestest.Exec(t, c, `VACUUM ANALYZE users`)
}

// administrate calls every method of admin.Store.
func administrate(t *testing.T, store admin.Store, id string, now time.Time) {
	t.Helper()
	ctx := t.Context()
	u := testenv.Must(store.FindUserByID(ctx, id))(t)
	for about, err := range map[string]error{
		"by email":       testenv.Err(store.FindUserByEmail(ctx, u.Email)),
		"by username":    testenv.Err(store.FindUserByUsername(ctx, u.Username)),
		"list by email":  testenv.Err(store.ListUsersByEmail(ctx, admin.Range{Prefix: "a"}, 1)),
		"list by name":   testenv.Err(store.ListUsersByUsername(ctx, admin.Range{Prefix: "a"}, 1)),
		"list":           testenv.Err(store.ListUsersByCreation(ctx, admin.Before{At: now, ID: id}, false, 1)),
		"list suspended": testenv.Err(store.ListUsersByCreation(ctx, admin.Before{At: now, ID: id}, true, 1)),
		"sessions":       testenv.Err(store.ListSessions(ctx, id, now)),
		"end":            testenv.Err(store.EndSessions(ctx, id, "", now, noEvent)),
		"events":         testenv.Err(store.ListEvents(ctx, admin.EventFilter{}, 1, 1)),
		"events of one":  testenv.Err(store.ListEvents(ctx, admin.EventFilter{UserID: id, Event: "x", Actor: "x"}, 1, 1)),
		"events by one":  testenv.Err(store.ListEvents(ctx, admin.EventFilter{Event: "x", Actor: "x"}, 1, 1)),
		"events named":   testenv.Err(store.ListEvents(ctx, admin.EventFilter{Event: "x"}, 1, 1)),
		"export":         testenv.Err(store.Export(ctx, id, 1)),
	} {
		if err != nil {
			t.Errorf("%s: %v", about, err)
		}
	}
	n := newSignUp("hopper")
	creation := admin.Creation{Verified: true, Roles: "a", Metadata: "{}", Key: make([]byte, 32), Request: make([]byte, 32)}
	for again := range 2 {
		created, err := store.CreateUser(ctx, n, creation, noEvent)
		if err != nil || created != (admin.Created{ID: n.ID, Again: again == 1}) {
			t.Errorf("create: %+v, %v", created, err)
		}
	}
	creation.Key = nil
	if _, err := store.CreateUser(ctx, n, creation, noEvent); !reflect.DeepEqual(err, &identity.TakenError{Username: true, Email: true}) {
		t.Errorf("create again: %v", err)
	}
	if email, err := store.VoidPassword(ctx, admin.Ref{ID: n.ID}, "x", noEvent); email != n.Email || err != nil {
		t.Errorf("void the password: %s, %v", email, err)
	}
	if _, err := store.VoidPassword(ctx, admin.Ref{ID: n.ID, Version: "1"}, "x", noEvent); !errors.Is(err, identity.ErrStale) {
		t.Errorf("void the password of another version: %v", err)
	}
	edited := admin.Editable{FirstName: "Grace", LastName: "Hopper", Scope: "profile", Roles: "a b", Metadata: `{"a":"\u0000","b":1e400}`}
	testenv.NoError(t, store.EditUser(ctx, admin.Ref{ID: id, Version: u.Version}, edited, noEvent))
	if err := store.EditUser(ctx, admin.Ref{ID: id, Version: u.Version}, edited, noEvent); !errors.Is(err, identity.ErrStale) {
		t.Errorf("update another version: %v", err)
	}
	u = testenv.Must(store.FindUserByID(ctx, id))(t)
	got := admin.Editable{FirstName: u.FirstName, LastName: u.LastName, Scope: u.Scope, Roles: u.Roles, Metadata: u.Metadata}
	if got != edited {
		t.Errorf("updated: %+v", got)
	}
	ref := admin.Ref{ID: id, Version: u.Version}
	if changed, err := store.SuspendUser(ctx, ref, noEvent); !changed || err != nil {
		t.Errorf("suspend: %v, %v", changed, err)
	}
	if changed, err := store.UnsuspendUser(ctx, ref, noEvent); changed || !errors.Is(err, identity.ErrStale) {
		t.Errorf("unsuspend another version: %v, %v", changed, err)
	}
	testenv.NoError(t, store.RemoveUser(ctx, admin.Ref{ID: id}, noEvent))
	if err := store.RemoveUser(ctx, admin.Ref{ID: id}, noEvent); !errors.Is(err, identity.ErrNoUser) {
		t.Errorf("remove again: %v", err)
	}
}

func TestAdminStoreWorksBehindAPooler(t *testing.T) {
	t.Parallel()
	for _, mode := range poolModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			store := postgrestest.Open(t, postgrestest.Behind(t, postgrestest.Config(t), mode))
			administrate(t, store, signUp(t, store, "grace").ID, time.Now())
		})
	}
}

// Every list uses an index, and reads no more than a page, wherever the page is.
func TestAdminListsReadOnlyTheirPage(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	populate(t, c, 50_000)
	postgrestest.Exec(t, c, `INSERT INTO audit_events (event, user_id)
		SELECT 'signed in', (SELECT id FROM users WHERE canonical_username = 'user' || (1 + i % 5)) FROM generate_series(1, 20000) i`)
	postgrestest.Exec(t, c, `INSERT INTO audit_events (event, details)
		SELECT 'account suspended', '{"actor": "key:ada"}' FROM generate_series(1, 100)`)
	postgrestest.Exec(t, c, `VACUUM ANALYZE audit_events`)
	db := testenv.Must(sql.Open("pgx", postgrestest.DSN(c)))(t)
	t.Cleanup(func() { _ = db.Close() })
	const id, future = "80000000-0000-4000-8000-000000000000", "9999-12-31"
	for _, tc := range []struct {
		name string
		args []any
	}{
		{"AdminUserByID", []any{id}},
		{"AdminUserByEmail", []any{"u1@example.com"}},
		{"AdminUserByUsername", []any{"user1"}},
		{"AdminUsersByEmail", []any{"u", "u\x7f", "u3", 51}},
		{"AdminUsersByUsername", []any{"user", "user\x7f", "user3", 51}},
		{"AdminUsersByCreation", []any{future, id, "0001-01-01", 51}},
		{"AdminUsersByCreation", []any{"2000-01-01", id, "0001-01-01", 51}},
		{"AdminSuspendedUsers", []any{future, id, "0001-01-01", 51}},
		{"AdminEvents", []any{10_000, 51}},
		{"AdminEventsOfUser", []any{id, 10_000, "", "", 51}},
		{"AdminEventsOfUser", []any{id, 10_000, "signed in", "key:ada", 51}},
		{"AdminEventsOfActor", []any{"key:ada", 10_000, "", 51}},
		{"AdminEventsOfActor", []any{"key:other", 10_000, "x", 51}},
		{"AdminEventsOfName", []any{"signed in", 10_000, 51}},
		{"AdminEventsOfName", []any{"nothing", 10_000, 51}},
	} {
		text, params := postgres.Statement(tc.name)
		if len(params) != len(tc.args) {
			t.Fatalf("%s has the parameters %q", tc.name, params)
		}
		var plan string
		for _, line := range texts(t, db, "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) "+text, tc.args...) {
			plan += line + "\n"
		}
		if !strings.Contains(plan, "Index") || strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "Sort") {
			t.Errorf("%s %v:\n%s", tc.name, tc.args, plan)
		}
	}
}

// While accounts come and go, each account that is there all the time occurs exactly once in the pages, and none that was
// not asked for.
func TestAdminPagesNeitherRepeatNorSkip(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	populate(t, c, 600)
	service := admin.New(admin.Config{Store: postgrestest.Open(t, c), Now: time.Now})
	db := testenv.Must(sql.Open("pgx", postgrestest.DSN(c)))(t)
	t.Cleanup(func() { _ = db.Close() })
	var first time.Time
	testenv.NoError(t, db.QueryRow(`SELECT min(created_at) - interval '1 second' FROM users`).Scan(&first))
	postgrestest.Exec(t, c, `INSERT INTO users (id, username, canonical_username, email, canonical_email, first_name, last_name, scope,
		password_hash, created_at, suspended_at)
		VALUES (gen_random_uuid(), 'old', 'old', 'old@example.com', 'old@example.com', '', '', '', 'x', now() - interval '1 hour', now())`)
	suspended := func(u admin.User) bool { return !u.SuspendedAt.IsZero() }
	young := func(u admin.User) bool { return u.CreatedAt.After(first) }
	for _, tc := range []struct {
		f    admin.Filter
		want string // SQL
		fits func(admin.User) bool
	}{
		{admin.Filter{}, `true`, func(admin.User) bool { return true }},
		{admin.Filter{Suspended: true}, `suspended_at IS NOT NULL`, suspended},
		{admin.Filter{CreatedAfter: first}, `true`, young},
		{
			admin.Filter{Suspended: true, CreatedAfter: first}, `suspended_at IS NOT NULL`,
			func(u admin.User) bool { return suspended(u) && young(u) },
		},
		{
			admin.Filter{EmailPrefix: "U1"}, `canonical_email LIKE 'u1%'`,
			func(u admin.User) bool { return strings.HasPrefix(u.Email, "u1") },
		},
		{
			admin.Filter{UsernamePrefix: "user2"}, `canonical_username LIKE 'user2%'`,
			func(u admin.User) bool { return strings.HasPrefix(u.Username, "user2") },
		},
	} {
		t.Run(fmt.Sprintf("%+v", tc.f), func(t *testing.T) {
			stays := map[string]bool{}
			for _, id := range texts(t, db, `SELECT id::text FROM users WHERE email LIKE 'u%' AND `+tc.want) {
				stays[id] = true
			}
			seen := map[string]int{}
			for cursor, n := admin.Cursor(""), 0; ; n++ {
				page := testenv.Must(service.Users(t.Context(), tc.f, cursor, 1+rand.IntN(40)))(t)
				for _, u := range page.Items {
					if seen[u.ID]++; !tc.fits(u) {
						t.Errorf("an account is listed that was not asked for: %+v", u)
					}
				}
				if cursor = page.Next; cursor == "" {
					break
				}
				postgrestest.Exec(t, c, `INSERT INTO users (id, username, canonical_username, email, canonical_email, first_name, last_name,
					scope, password_hash, created_at, suspended_at)
					SELECT gen_random_uuid(), 'user' || n, 'user' || n, 'x' || n || '@example.com', 'x' || n || '@example.com', '', '', '', 'x',
						now() - random() * interval '3 seconds', now()
					FROM (SELECT (random() * 1e9)::bigint + 100000 AS n) x ON CONFLICT DO NOTHING`)
				if n%3 == 0 {
					postgrestest.Exec(t, c, `DELETE FROM users WHERE email LIKE 'x%' AND random() < 0.5`)
				}
			}
			for id := range stays {
				if seen[id] != 1 {
					t.Errorf("an account occurs %d times", seen[id])
				}
			}
			for id, n := range seen {
				if n != 1 {
					t.Errorf("account %s occurs %d times", id, n)
				}
			}
		})
	}
	if n := len(testenv.Must(service.Users(t.Context(), admin.Filter{UsernamePrefix: "a"}, "", 200))(t).Items); n != 0 {
		t.Errorf("%d accounts without a username are found by one", n)
	}
}
