package postgres_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// patience is how long a test polls for a condition.
const patience = 10 * time.Second

func TestMigrateByTwelveReplicasAtOnce(t *testing.T) {
	t.Parallel()
	c := postgrestest.Unmigrated(t)
	c.MaxConns = 2
	var group sync.WaitGroup
	for range 12 {
		store := postgrestest.Open(t, c)
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
	db := connect(t, c)
	if n := count(t, db, `SELECT count(*) FROM schema_version WHERE version_id > 0`); n != postgres.MigrationCount() {
		t.Errorf("%d migrations are recorded; want each exactly once", n)
	}
}

func TestReadyRefusesAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	store := postgrestest.Open(t, postgrestest.Unmigrated(t))
	if err := store.Ready(t.Context()); identity.KindOf(err) != identity.Unavailable {
		t.Errorf("the error is %v; want unavailable", err)
	}
	version, err := store.Version(t.Context())
	if version != 0 || err != nil {
		t.Errorf("version is %d, error %v", version, err)
	}
}

func TestMigrateOfACurrentSchemaCostsOneQuery(t *testing.T) {
	t.Parallel()
	var sent statements
	store := postgrestest.New(t, postgres.WithStatementHook(sent.add))
	testenv.NoError(t, store.Migrate(t.Context()))
	if got := sent.take(); len(got) != 1 {
		t.Errorf("%d statements:\n%s", len(got), strings.Join(got, "\n"))
	}
}

// next returns the migrations of a later release: the embedded ones and one more.
func next(statements string) fs.FS {
	files := fstest.MapFS{}
	names, _ := fs.Glob(postgres.Migrations, "migrations/*.sql")
	for _, name := range names {
		content, _ := fs.ReadFile(postgres.Migrations, name)
		files[name] = &fstest.MapFile{Data: content}
	}
	name := fmt.Sprintf("migrations/%05d_next.sql", postgres.SchemaVersion+1)
	files[name] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + statements)}
	return files
}

func TestMigrateUpgradesAnOlderDatabaseWithItsData(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c)
	user := signUp(t, store, "ada")
	testenv.NoError(t, store.MigrateWith(t.Context(), next("ALTER TABLE users ADD COLUMN locale text;")))
	if version, err := store.Version(t.Context()); err != nil || version != postgres.SchemaVersion+1 {
		t.Errorf("version is %d, error %v", version, err)
	}
	credentials, err := store.FindCredentials(t.Context(), identity.Login{CanonicalUsername: "ada"})
	if err != nil || credentials.User != user {
		t.Errorf("found %+v, error %v", credentials.User, err)
	}
}

func TestMigrateOfANewerSchemaWarns(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	testenv.NoError(t, postgrestest.Open(t, c).MigrateWith(t.Context(), next("CREATE TABLE later (x int);")))
	var log bytes.Buffer
	store := postgrestest.Open(t, c, postgres.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	testenv.NoError(t, store.Migrate(t.Context()))
	if err := store.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "newer schema") {
		t.Errorf("the log is %q", log.String())
	}
	signUp(t, store, "ada")
}

func TestMigrateThatIsKilledLeavesNothing(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c)
	db := connect(t, c)
	failed := make(chan error, 1)
	go func() {
		failed <- store.MigrateWith(context.WithoutCancel(t.Context()), next("CREATE TABLE half (x int); SELECT pg_sleep(60);"))
	}()
	const sleeping = `FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()`
	testenv.Until(t, patience, "the migration runs", func() bool { return count(t, db, `SELECT count(*) `+sleeping) == 1 })
	testenv.Must(db.Exec(`SELECT pg_terminate_backend(pid) ` + sleeping))(t)
	if err := <-failed; err == nil {
		t.Fatal("the migration that was killed reports success")
	}
	if n := count(t, db, `SELECT count(*) FROM pg_tables WHERE tablename = 'half'`); n != 0 {
		t.Error("a table of the killed migration exists")
	}
	if err := store.MigrateWith(t.Context(), next("CREATE TABLE half (x int);")); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}

func count(t testing.TB, db *sql.DB, query string, args ...any) (n int) {
	t.Helper()
	if err := db.QueryRow(query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}
