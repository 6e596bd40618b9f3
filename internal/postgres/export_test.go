package postgres

import (
	"context"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// WithPoolConfig lets tests change the configuration of the pool, for example to observe or replace its connections.
func WithPoolConfig(f func(*pgxpool.Config)) Option {
	return func(o *options) { o.onConfig = f }
}

// MigrateWith applies these migrations instead of the embedded ones.
func (s *Store) MigrateWith(ctx context.Context, files fs.FS) error { return s.migrate(ctx, files) }

// Migrations contains the embedded migrations.
var Migrations fs.FS = migrations

// MigrationCount returns the number of embedded migrations.
func MigrationCount() int {
	names, _ := fs.Glob(migrations, "migrations/*.sql")
	return len(names)
}

// Do runs f with a connection of the pool, and retries it like a write.
func (s *Store) Do(ctx context.Context, f func() error) error {
	return s.call(ctx, func(context.Context, *pgxpool.Conn) (idempotent, error) { return onlyOnce, f() })
}

// InTx runs f in a transaction, which occupies one connection of the pool.
func (s *Store) InTx(ctx context.Context, f func(context.Context) error) error {
	return s.inTx(ctx, func(ctx context.Context, _ pgx.Tx) error { return f(ctx) })
}

// Reset closes all connections of the pool.
func (s *Store) Reset() { s.pool.Reset() }

// EndQuarantine has the store accept a former primary if the newest one has not answered since then.
func (s *Store) EndQuarantine() { s.hosts.quarantine = 0 }

// Raw runs a statement, unchanged, over a connection of the pool.
func (s *Store) Raw(ctx context.Context, sql string) error {
	return s.call(ctx, func(ctx context.Context, conn *pgxpool.Conn) (idempotent, error) {
		_, err := conn.Exec(ctx, sql)
		return onlyOnce, err
	})
}

// Settings returns the values of PostgreSQL's settings for a connection of the pool.
func (s *Store) Settings(ctx context.Context, names ...string) (values []string) {
	for _, name := range names {
		var value string
		err := s.queryRow(ctx, repeatable, newStatement("setting", `SELECT current_setting(:'name')`),
			pgx.NamedArgs{"name": name}, &value)
		if err != nil {
			value = err.Error()
		}
		values = append(values, value)
	}
	return values
}

// Translate converts errors of the driver to errors of the domain.
var Translate = translate

// Statements returns the text of every statement, as sent, by name.
func Statements() map[string]string {
	texts := map[string]string{}
	for name, st := range statements {
		texts[name] = st.sql
	}
	return texts
}
