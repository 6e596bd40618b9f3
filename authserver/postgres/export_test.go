package postgres

import (
	"context"
	"io/fs"

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

// Translate and the lock's number, for tests that stand outside.
var Translate = translate

const RotationLock = rotationLock
