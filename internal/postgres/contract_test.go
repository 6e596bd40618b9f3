package postgres_test

import (
	"context"
	"database/sql"
	"net/netip"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver of what tests do behind the Store's back

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/identity/identitytest"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

func TestThePostgresStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	identitytest.TestStore(t, func(t *testing.T) (identity.Store, func(time.Duration)) {
		c := postgrestest.Config(t)
		// The database's clock cannot be moved; what it is compared with can.
		return hooked{postgrestest.Open(t, c), c, t}, func(d time.Duration) { ago(t, c, d) }
	})
}

// ago moves what is in the database into the past.
func ago(t testing.TB, c postgres.Config, d time.Duration) {
	t.Helper()
	postgrestest.Exec(t, c, `UPDATE signups SET created_at = created_at - $1::interval`, d.String())
	postgrestest.Exec(t, c, `UPDATE codes SET expires_at = expires_at - $1::interval`, d.String())
	postgrestest.Exec(t, c, `UPDATE throttles SET last_failure_at = last_failure_at - $1::interval`, d.String())
	postgrestest.Exec(t, c, `UPDATE familiar_places SET last_seen_at = last_seen_at - $1::interval`, d.String())
	postgrestest.Exec(t, c, `UPDATE limits SET until = until - $1::interval`, d.String())
	postgrestest.Exec(t, c, `UPDATE mails SET due_at = due_at - $1::interval, created_at = created_at - $1::interval`, d.String())
}

// hooked adds what no method of the Store does: see identitytest.Suspender and
// identitytest.Auditor.
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
	db, err := sql.Open("pgx", postgrestest.DSN(c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}
