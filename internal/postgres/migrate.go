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

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

//go:embed migrations/*.sql
var migrations embed.FS

// SchemaVersion is the schema that this binary needs: the number of its last migration.
var SchemaVersion = lastMigration(migrations)

// versionTable records the applied migrations. Its name is part of every database in use.
const versionTable = "schema_version"

// migrationLock is the advisory lock of the process that migrates: "authgate" in ASCII.
const migrationLock int64 = 0x6175746867617465

// Limits of a migration. Its statements may take long, but they soon stop waiting for the lock of a table, because all
// traffic on that table queues behind them. The server then tries again.
const (
	migrationStatementTimeout = 10 * time.Minute
	migrationLockTimeout      = 5 * time.Second
	migrationTurn             = 50 * time.Millisecond // between two attempts at the lock
	migrationsTimeout         = time.Hour             // all of them
)

// Version reads the number of the last migration of the database, or 0 if the database is empty.
func (s *Store) Version(ctx context.Context) (version int64, err error) {
	err = s.single(ctx, repeatable, func(ctx context.Context, db querier) error {
		return ifMigrated(named("SchemaVersion").queryRow(ctx, db, nil).Scan(&version))
	})
	return version, err
}

// ifMigrated drops the error of a database in which the table of versions is missing.
func ifMigrated(err error) error {
	const undefinedTable = "42P01"
	if sqlState(err) == undefinedTable {
		return nil
	}
	return err
}

// Ready reports an error unless the database answers, takes writes, and has the schema that this binary needs or a
// newer one. It also replaces connections that have become useless.
func (s *Store) Ready(ctx context.Context) error {
	var version int64
	err := s.single(ctx, repeatable, func(ctx context.Context, db querier) error {
		var readOnly bool
		version = 0
		if err := ifMigrated(named("Ready").queryRow(ctx, db, nil).Scan(&version, &readOnly)); err != nil {
			return err
		}
		if readOnly {
			return &pgconn.PgError{
				Code: readOnlyTransaction, Message: "the database takes no writes: it is a standby, or read-only",
			}
		}
		return nil
	})
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

// Look connects to each host, to find out whether the database has moved. Connections to a former primary are then
// closed. A server that is not asked to write would otherwise not notice that another one has replaced it.
func (s *Store) Look(ctx context.Context) { _, _ = s.hosts.find(ctx) }

// Migrate brings the schema up to SchemaVersion. Any number of processes may call it at once: one migrates, under an
// advisory lock, and the others wait. Each migration is a transaction, so one that is killed leaves nothing behind. If
// there is nothing to do, it costs one query. An error is Unavailable if trying again may help.
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

// migrate applies the migrations that the database has not had.
func (s *Store) migrate(ctx context.Context, files fs.FS) error {
	up := func(ctx context.Context) error { return s.up(ctx, files) }
	_, err := s.inTurn(ctx, migrationLock, migrationTurn, migrationsTimeout, up)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return unmigrated(err)
}

// unmigrated turns an error of a migration into one of the domain. If a table is in use, or the database becomes
// unavailable, trying again is right, because each migration is a transaction.
func unmigrated(err error) error {
	pg, answered := errors.AsType[*pgconn.PgError](err)
	_, network := errors.AsType[net.Error](err)
	lost := network || isLost(err) || isTimeout(err) || errors.Is(err, driver.ErrBadConn)
	why := err
	switch {
	case errors.Is(err, errTurnLost):
		why, lost = errTurnLost, true
	case isRefused(err):
		why, lost = cause(err), true
	case answered && (strings.HasPrefix(pg.Code, "22") || strings.HasPrefix(pg.Code, "23")):
		why = cause(err) // the message contains data of the tables
	case answered:
		why = errors.New(said(pg))
	case lost:
		why = errors.New("the connection was lost")
	}
	if partial, ok := errors.AsType[*goose.PartialError](err); ok {
		why = fmt.Errorf("migration %d: %w", partial.Failed.Source.Version, why)
	}
	failed := &identity.Error{
		Kind: identity.Internal, Reason: identity.ReasonInternal, Message: "the database cannot be migrated", Cause: why,
	}
	if lost || answered && !isFault(pg.Code) {
		failed.Kind, failed.RetryAfter = identity.Unavailable, retryAfter
	}
	return failed
}

// up applies the missing migrations over a separate connection.
func (s *Store) up(ctx context.Context, files fs.FS) (err error) {
	steps, err := migrationSteps(files)
	if err != nil {
		return err
	}
	config := s.pool.Config().ConnConfig
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // a pooler may be in front
	db := stdlib.OpenDB(*config, stdlib.OptionBeforeConnect(s.hosts.single))
	defer func() { err = errors.Join(err, db.Close()) }()

	provider, err := goose.NewProvider(goose.DialectPostgres, db, nil,
		goose.WithGoMigrations(steps...),
		goose.WithTableName(versionTable),
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

// migrationSteps makes each file a transaction with the limits of a migration, which goose
// cannot set. If the lock was lost with its connection, a second process that applies the
// same migration notices it in the table of versions, and fails.
func migrationSteps(files fs.FS) (steps []*goose.Migration, err error) {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil || len(names) == 0 {
		return nil, errors.Join(errors.New("there are no migrations"), err)
	}
	const limits = `SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
		SET LOCAL statement_timeout = %s; SET LOCAL lock_timeout = %s;
		LOCK TABLE schema_version IN SHARE ROW EXCLUSIVE MODE`
	for _, name := range names {
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		version, err := migrationNumber(name)
		if err != nil {
			return nil, err
		}
		steps = append(steps, goose.NewGoMigration(version, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			set := fmt.Sprintf(limits, milliseconds(migrationStatementTimeout), milliseconds(migrationLockTimeout))
			if _, err := tx.ExecContext(ctx, set); err != nil {
				return err
			}
			const find = `SELECT EXISTS (SELECT FROM schema_version WHERE version_id = $1)`
			var applied bool
			err := tx.QueryRowContext(ctx, find, version).Scan(&applied)
			if err != nil {
				return err
			}
			if applied {
				return errTurnLost
			}
			_, err = tx.ExecContext(ctx, string(content))
			return err
		}}, nil))
	}
	return steps, nil
}

// errTurnLost is the error of a migration that another process has applied meanwhile.
var errTurnLost = errors.New("another process has applied it meanwhile")

// lastMigration finds the highest number among the files' names.
func lastMigration(files fs.FS) int64 {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil || len(names) == 0 {
		panic("postgres: no migrations are embedded")
	}
	var last int64
	for _, name := range names {
		version, err := migrationNumber(name)
		if err != nil {
			panic("postgres: " + err.Error())
		}
		last = max(last, version)
	}
	return last
}

func migrationNumber(name string) (int64, error) {
	number, _, _ := strings.Cut(path.Base(name), "_")
	version, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("a migration has no number: %s", name)
	}
	return version, nil
}
