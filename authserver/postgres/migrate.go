package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
)

//go:embed migrations/*.sql
var migrations embed.FS

// SchemaVersion is the schema that this binary needs: the number of its last
// migration.
var SchemaVersion = lastMigration(migrations)

// versionTable is where applied migrations are recorded. Its name is part of
// every database there is.
const versionTable = "schema_version"

// migrationLock is the advisory lock of whoever migrates: "authgate" in ASCII.
const migrationLock int64 = 0x6175746867617465

// Limits of a migration. A statement of one may take long; but it gives up soon
// when it has to wait for a lock on a table, since all traffic on that table
// queues behind it. The server tries again.
const (
	migrationStatementTimeout = 10 * time.Minute
	migrationLockTimeout      = 5 * time.Second
	migrationTurn             = 50 * time.Millisecond // between two looks at whether it is our turn
)

// Version reads the number of the last migration that the database has had; 0
// for an empty database.
func (s *Store) Version(ctx context.Context) (version int64, err error) {
	const sql = `SELECT coalesce(max(version_id), 0) FROM ` + versionTable + ` WHERE is_applied`
	const undefinedTable = "42P01"
	scan := func(row pgx.Row) error {
		err := row.Scan(&version)
		if sqlState(err) == undefinedTable {
			return nil
		}
		return err
	}
	err = s.query(ctx, repeatable, scan, sql)
	return version, err
}

// Ready tells whether the database answers, and has the schema that this
// binary needs, or a newer one.
func (s *Store) Ready(ctx context.Context) error {
	version, err := s.Version(ctx)
	if err != nil {
		return err
	}
	if version < SchemaVersion {
		return &identity.Error{
			Kind:       identity.Unavailable,
			Reason:     identity.ReasonDatabaseUnavailable,
			Message:    "the service is not ready yet",
			RetryAfter: retryAfter,
			Cause:      fmt.Errorf("the database has schema %d, and this version needs %d: it has to be migrated", version, SchemaVersion),
		}
	}
	return nil
}

// Migrate brings the schema up to SchemaVersion. Any number of processes may do
// so at once: one does, under an advisory lock, and the others wait. Each
// migration is a transaction, so that one that is killed leaves nothing. Where
// there is nothing to do, it costs one query. An error is Unavailable where trying
// again may help.
func (s *Store) Migrate(ctx context.Context) error {
	version, err := s.Version(ctx)
	if err != nil {
		return err
	}
	if version > SchemaVersion {
		s.log.WarnContext(ctx, "the database has a newer schema than this version knows; it works, but was a newer version rolled back?",
			slog.Int64("schema", version), slog.Int64("known", SchemaVersion))
	}
	if version >= SchemaVersion {
		return nil
	}
	return s.migrate(ctx, migrations)
}

// migrate applies what the database has not had of the folder migrations.
func (s *Store) migrate(ctx context.Context, files fs.FS) error {
	err := s.up(ctx, files)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return unmigrated(err)
}

// unmigrated turns an error of a migration into the domain's. A table that is in
// use, or a database that goes away meanwhile, passes: trying again is right,
// since each migration is a transaction.
func unmigrated(err error) error {
	pg, answered := errors.AsType[*pgconn.PgError](err)
	_, network := errors.AsType[net.Error](err)
	lost := network || isLost(err) || isTimeout(err) || errors.Is(err, driver.ErrBadConn)
	why := err
	switch {
	case isRefused(err):
		why, lost = cause(err), true
	case answered && (strings.HasPrefix(pg.Code, "22") || strings.HasPrefix(pg.Code, "23")):
		why = cause(err) // what PostgreSQL says there is from the tables
	case answered:
		why = errors.New(said(pg))
	case lost:
		why = errors.New("the connection was lost")
	}
	if partial, ok := errors.AsType[*goose.PartialError](err); ok {
		why = fmt.Errorf("migration %d: %w", partial.Failed.Source.Version, why)
	}
	failed := &identity.Error{Kind: identity.Internal, Reason: identity.ReasonInternal, Message: "the database cannot be migrated", Cause: why}
	if lost || answered && !isFault(pg.Code) {
		failed.Kind, failed.RetryAfter = identity.Unavailable, retryAfter
	}
	return failed
}

// up uses a connection of its own, whose limits are those of a migration.
func (s *Store) up(ctx context.Context, files fs.FS) (err error) {
	folder, err := fs.Sub(files, "migrations")
	if err != nil {
		return err
	}
	config := s.pool.Config().ConnConfig
	config.RuntimeParams["statement_timeout"] = milliseconds(migrationStatementTimeout)
	config.RuntimeParams["lock_timeout"] = milliseconds(migrationLockTimeout)
	delete(config.RuntimeParams, "idle_in_transaction_session_timeout")
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()

	provider, err := goose.NewProvider(goose.DialectPostgres, db, folder,
		goose.WithTableName(versionTable),
		goose.WithSessionLocker(turns{}),
		goose.WithSlog(s.log),
		goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	results, err := provider.Up(ctx)
	for _, r := range results {
		s.log.InfoContext(ctx, "migrated the database", slog.Int64("schema", r.Source.Version), slog.Duration("took", r.Duration))
	}
	return err
}

// turns lets one process migrate at a time. It is not goose's own locker only
// because that one looks no more often than once a second, and of twelve
// replicas that start at once the last would wait for its turn for as many
// seconds. To ask again and again is better than to wait inside PostgreSQL: an
// index that is built concurrently waits for every statement that is running.
type turns struct{}

var _ lock.SessionLocker = turns{}

func (turns) SessionLock(ctx context.Context, conn *sql.Conn) error {
	for {
		var mine bool
		err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, migrationLock).Scan(&mine)
		if err != nil || mine {
			return err
		}
		select {
		case <-time.After(migrationTurn):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (turns) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, migrationLock)
	return err
}

// lastMigration finds the highest number among the files' names.
func lastMigration(files fs.FS) int64 {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil || len(names) == 0 {
		panic("postgres: no migrations are embedded")
	}
	var last int64
	for _, name := range names {
		number, _, _ := strings.Cut(path.Base(name), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			panic("postgres: a migration has no number: " + name)
		}
		last = max(last, version)
	}
	return last
}
