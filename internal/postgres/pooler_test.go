package postgres_test

import (
	"context"
	"database/sql"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/identity/identitytest"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

var poolModes = []string{"session", "transaction"}

func TestStoreKeepsTheContractBehindAPooler(t *testing.T) {
	if testing.Short() {
		t.Skip("repeats the contract in each pool mode")
	}
	t.Parallel()
	for _, mode := range poolModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			// All subtests share one pooler, which has a pool for each database.
			shared := &databases{parent: t}
			behind := postgrestest.Behind(t, postgrestest.Config(t), mode)
			identitytest.TestStore(t, func(t *testing.T) (identity.Store, func(time.Duration)) {
				c := shared.lend(t)
				pooled := c
				pooled.Port = behind.Port
				// Concurrent calls wait longer: each keeps its connection for three round trips.
				pooled.AcquireTimeout, pooled.StatementTimeout = 30*time.Second, 30*time.Second
				return hooked{postgrestest.Open(t, pooled), c, t}, func(d time.Duration) { ago(t, c, d) }
			})
		})
	}
}

// A server process behind a pooler does not start with the Store's settings. The Store sets
// them for one transaction at a time, so that they do not affect other clients.
func TestPoolerKeepsTheLimitsOfATransaction(t *testing.T) {
	t.Parallel()
	for _, mode := range poolModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			c := postgrestest.Config(t)
			pooled := postgrestest.Behind(t, c, mode, "default_pool_size = 2")
			pooled.MaxConns, pooled.StatementTimeout = 1, 4*time.Second // half of it is how long the lock is seen to be waited for
			pooled.AcquireTimeout = 5 * time.Second
			store := postgrestest.Open(t, pooled)
			settings := store.Settings(t.Context(), "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout",
				"transaction_isolation")
			if want := "4s 2s 9s read committed"; strings.Join(settings, " ") != want {
				t.Errorf("the settings are %q; want %q", settings, want)
			}
			ref := open(t, store, signUp(t, store, "ada"), time.Now())
			err := meet(t, c,
				func() error {
					_, err := store.UpdateUser(t.Context(), ref, identity.ProfileChange{}, noEvent)
					if identity.KindOf(err) != identity.Unavailable || !strings.HasSuffix(err.Error(),
						"canceling statement due to lock timeout (SQLSTATE 55P03)") {
						t.Errorf("waiting for a lock that is not released: %v", err)
					}
					return nil
				},
				func(tx *sql.Tx) error { time.Sleep(2500 * time.Millisecond); return tx.Rollback() },
				`SELECT FROM users FOR UPDATE`)
			if err != nil {
				t.Error(err)
			}
			store.Close()
			// Another client uses the same pooler, and the same server processes.
			other := connect(t, pooled)
			for range 4 {
				var timeout string
				if err := other.QueryRow(`SHOW statement_timeout`).Scan(&timeout); err != nil || timeout != "0" {
					t.Errorf("another client has a statement_timeout of %s, %v", timeout, err)
				}
			}
		})
	}
}

func TestPoolerLetsReplicasMigrateInTurn(t *testing.T) {
	t.Parallel()
	for _, mode := range poolModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			c := postgrestest.Unmigrated(t)
			pooled := postgrestest.Behind(t, c, mode, "default_pool_size = 30")
			pooled.MaxConns = 1
			var group sync.WaitGroup
			for range 4 {
				store := postgrestest.Open(t, pooled)
				group.Go(func() {
					if err := store.Migrate(t.Context()); err != nil {
						t.Error(err)
					}
					if err := store.Ready(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			if n := count(t, connect(t, c), `SELECT count(*) FROM schema_version WHERE version_id > 0`); n != postgres.MigrationCount() {
				t.Errorf("%d migrations are recorded; want each once", n)
			}
			one, other := postgrestest.Open(t, pooled), postgrestest.Open(t, pooled)
			held, err := one.TryRotationLock(t.Context(), func(ctx context.Context) error {
				if held, err := other.TryRotationLock(ctx, func(context.Context) error { return nil }); held || err != nil {
					t.Errorf("while another client holds the lock: held is %v, error %v", held, err)
				}
				_, err := one.SwapRing(ctx, 0, 1, map[string][]byte{"x": {1}}, noEvent)
				return err
			})
			if !held || err != nil {
				t.Errorf("held is %v, error %v", held, err)
			}
			testenv.Until(t, patience, "the lock is free again", func() bool {
				held, err := other.TryRotationLock(t.Context(), func(context.Context) error { return nil })
				return held && err == nil
			})
			// The pooler notices a moment later that the last connection was closed.
			db := connect(t, c)
			testenv.Until(t, patience, "no server process of the pooler holds an advisory lock", func() bool {
				return count(t, db, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
					AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`) == 0
			})
		})
	}
}

// The Store recognizes this error by PgBouncer's text, because the SQLSTATE is not specific enough.
func TestPoolerErrorsSayWhatToSet(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	full := postgrestest.Behind(t, c, "session", "default_pool_size = 1", "query_wait_timeout = 1")
	full.MaxConns, full.AcquireTimeout = 2, 10*time.Second
	store := postgrestest.Open(t, full)
	var err error
	_ = store.InTx(t.Context(), func(ctx context.Context) error { err = store.Ready(ctx); return nil })
	if err == nil || !strings.Contains(err.Error(), "raise its pool size, or lower DB_MAX_CONNS") {
		t.Errorf("no server connection is free: %v", err)
	}
}

// A pooler that passes on the process ids of its server processes is detected by its
// behaviour: a prepared statement is missing.
func TestPoolerThatHidesIsDetected(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	c.MaxConns = 1
	store := postgrestest.Open(t, c)
	u := signUp(t, store, "ada")
	ref := open(t, store, u, time.Now())
	for i := range 3 {
		if _, err := store.FindUser(t.Context(), ref); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
		// This simulates another server process, on which nothing is prepared.
		if err := store.Raw(t.Context(), `DEALLOCATE ALL`); err != nil {
			t.Error(err)
		}
	}
}

func TestTransactionIsReadCommittedDespiteTheDatabasesDefault(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	postgrestest.Exec(t, c, `ALTER DATABASE `+c.Database+` SET default_transaction_isolation = 'serializable'`)
	for about, at := range map[string]postgres.Config{"directly": c, "behind a pooler": postgrestest.Behind(t, c, "transaction")} {
		store := postgrestest.Open(t, at)
		if got := store.Settings(t.Context(), "transaction_isolation")[0]; got != "read committed" {
			t.Errorf("%s: %s", about, got)
		}
		_ = store.InTx(t.Context(), func(ctx context.Context) error { return nil })
	}
	if got := connect(t, c); count(t, got, `SELECT (current_setting('transaction_isolation') = 'serializable')::int`) != 1 {
		t.Error("the database's default is not serializable, so this test proves nothing")
	}
}

func TestEncodingOtherThanUTF8IsRefused(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	for _, encoding := range []string{"LATIN1", "SQL_ASCII"} {
		name := "odd_" + strings.ToLower(encoding)
		postgrestest.Exec(t, c, `CREATE DATABASE `+name+` ENCODING '`+encoding+`' LOCALE 'C' TEMPLATE template0`)
		t.Cleanup(func() { postgrestest.Exec(t, c, `DROP DATABASE `+name+` WITH (FORCE)`) })
		odd := c
		odd.Database = name
		for about, at := range map[string]postgres.Config{"directly": odd, "behind a pooler": postgrestest.Behind(t, odd, "transaction")} {
			err := postgrestest.Open(t, at).Migrate(t.Context())
			if identity.KindOf(err) != identity.Internal || !strings.Contains(err.Error(), encoding) ||
				!strings.Contains(err.Error(), "ENCODING 'UTF8'") {
				t.Errorf("%s, %s: %v", encoding, about, err)
			}
		}
	}
}
