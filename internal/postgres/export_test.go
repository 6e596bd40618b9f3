package postgres

import (
	"context"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// WithPoolConfig lets tests look at, or stand in, the connections.
func WithPoolConfig(f func(*pgxpool.Config)) Option {
	return func(o *options) { o.onConfig = f }
}

// MigrateWith applies other migrations than the embedded ones.
func (s *Store) MigrateWith(ctx context.Context, files fs.FS) error { return s.migrate(ctx, files) }

// Migrations are the embedded ones.
var Migrations fs.FS = migrations

// MigrationCount is how many there are.
func MigrationCount() int {
	names, _ := fs.Glob(migrations, "migrations/*.sql")
	return len(names)
}

// Do runs f as a write over some connection, with the tries that those get.
func (s *Store) Do(ctx context.Context, f func() error) error {
	return s.call(ctx, func(context.Context, *pgxpool.Conn) (idempotent, error) { return onlyOnce, f() })
}

// InTx runs f while a connection of the pool is in a transaction.
func (s *Store) InTx(ctx context.Context, f func(context.Context) error) error {
	return s.inTx(ctx, func(ctx context.Context, _ pgx.Tx) error { return f(ctx) })
}

// Reset throws away all connections.
func (s *Store) Reset() { s.pool.Reset() }

// Raw sends a statement over some connection, as it is.
func (s *Store) Raw(ctx context.Context, sql string) error {
	return s.call(ctx, func(ctx context.Context, conn *pgxpool.Conn) (idempotent, error) {
		_, err := conn.Exec(ctx, sql)
		return onlyOnce, err
	})
}

// Settings reads PostgreSQL's settings as a connection of the pool has them.
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

// Translate is the edge where the driver's errors become the domain's.
var Translate = translate

// Statements returns the texts of all statements, as they are sent, by name.
func Statements() map[string]string {
	texts := map[string]string{}
	for name, st := range statements {
		texts[name] = st.sql
	}
	return texts
}
