package postgres_test

import (
	"context"
	"database/sql"
	"net/netip"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver of the connections that tests open next to the Store

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/identity/identitytest"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

func TestStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	shared := &databases{parent: t}
	identitytest.TestStore(t, func(t *testing.T) (identity.Store, func(time.Duration)) {
		c := shared.lend(t)
		// A test cannot set the database's clock, but it can change the stored times.
		return hooked{postgrestest.Open(t, c), c, t}, func(d time.Duration) { ago(t, c, d) }
	})
}

// ago moves all stored times d into the past.
func ago(t testing.TB, c postgres.Config, d time.Duration) {
	t.Helper()
	postgrestest.Exec(t, c, `
		WITH signups AS (UPDATE signups SET created_at = created_at - $1::interval),
			codes AS (UPDATE codes SET expires_at = expires_at - $1::interval),
			throttles AS (UPDATE throttles SET last_failure_at = last_failure_at - $1::interval),
			networks AS (UPDATE familiar_places SET last_seen_at = last_seen_at - $1::interval),
			limits AS (UPDATE limits SET until = until - $1::interval)
		UPDATE mails SET due_at = due_at - $1::interval, created_at = created_at - $1::interval`, d.String())
}

// databases lends databases to the subtests of a test. Emptying a database is cheaper than
// creating and dropping one, which costs PostgreSQL a checkpoint.
type databases struct {
	parent *testing.T
	mu     sync.Mutex
	free   []postgres.Config
}

func (d *databases) lend(t *testing.T) postgres.Config {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var c postgres.Config
	if n := len(d.free); n > 0 {
		c, d.free = d.free[n-1], d.free[:n-1]
	} else {
		c = postgrestest.Config(d.parent)
	}
	t.Cleanup(func() {
		postgrestest.Exec(t, c, `
			WITH users AS (DELETE FROM users), signups AS (DELETE FROM signups), throttles AS (DELETE FROM throttles),
				mails AS (DELETE FROM mails), limits AS (DELETE FROM limits)
			DELETE FROM audit_events`)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.free = append(d.free, c)
	})
	return c
}

// hooked adds methods that tests need and the Store lacks; see identitytest.Suspender and identitytest.Auditor.
type hooked struct {
	*postgres.Store
	config postgres.Config
	t      testing.TB
}

func (s hooked) Suspend(_ context.Context, userID string, suspended bool) error {
	postgrestest.Exec(s.t, s.config,
		`UPDATE users SET suspended_at = CASE WHEN $2::boolean THEN now() END WHERE id = $1`, userID, suspended)
	return nil
}

// Events implements identitytest.Auditor.
func (s hooked) Events(ctx context.Context) (events []identity.Event, err error) {
	rows, err := connect(s.t, s.config).QueryContext(ctx, `SELECT event, coalesce(user_id::text, ''), coalesce(session_id::text, ''),
		coalesce(request_id, ''), coalesce(host(address), '') FROM audit_events ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e identity.Event
		var address string
		if err := rows.Scan(&e.Name, &e.UserID, &e.SessionID, &e.RequestID, &address); err != nil {
			return nil, err
		}
		if address != "" {
			e.Address = netip.MustParseAddr(address)
		}
		events = append(events, e)
	}
	return events, rows.Err()
}

// connect opens a plain connection to a test's database.
func connect(t testing.TB, c postgres.Config) *sql.DB {
	t.Helper()
	db := testenv.Must(sql.Open("pgx", postgrestest.DSN(c)))(t)
	t.Cleanup(func() { _ = db.Close() })
	return db
}
