package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/moving"
)

var _ moving.Store = (*Store)(nil)

// bulkTimeout is how long a statement of an import or export may take.
const bulkTimeout = time.Hour

// stagingColumns are the columns of the table of a batch.
var stagingColumns = []string{
	"n", "id", "username", "canonical_username", "email", "canonical_email", "first_name", "last_name", "scope", "language",
	"roles", "metadata", "password_hash", "email_verified_at", "activated_at", "suspended_at", "created_at", "updated_at",
	"unproved_email", "canonical_unproved_email", "unproved_since",
}

// BeginImport implements moving.Store.
func (s *Store) BeginImport(ctx context.Context, importID string) (p moving.Progress, found bool, err error) {
	err = s.inBulk(ctx, func(ctx context.Context, tx pgx.Tx) error {
		p, err = findImport(ctx, tx, importID)
		if found = err == nil; errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	return p, found && err == nil, err
}

func findImport(ctx context.Context, db querier, importID string) (p moving.Progress, err error) {
	err = named("FindImport").queryRow(ctx, db, pgx.NamedArgs{"id": importID}).
		Scan(&p.Read, &p.Imported, &p.Refused, &p.RefusedBytes, &p.Finished)
	return p, err
}

// RestartImport implements moving.Store.
func (s *Store) RestartImport(ctx context.Context, importID string) error {
	return s.exec(ctx, repeatable, named("RestartImport"), pgx.NamedArgs{"id": importID})
}

// FinishImport implements moving.Store.
func (s *Store) FinishImport(ctx context.Context, importID string, before moving.Progress) error {
	return s.inBulk(ctx, func(ctx context.Context, tx pgx.Tx) error {
		p, err := findImport(ctx, tx, importID)
		if err != nil || p != before {
			return errors.Join(err, moving.ErrInterfered)
		}
		p.Finished = true
		return advanceImport(ctx, tx, importID, p)
	})
}

func advanceImport(ctx context.Context, db querier, importID string, p moving.Progress) error {
	return named("AdvanceImport").exec(ctx, db, pgx.NamedArgs{
		"id": importID, "read": p.Read, "imported": p.Imported, "refused": p.Refused,
		"refused_bytes": p.RefusedBytes, "finished": p.Finished,
	})
}

// staged is a transaction with the accounts of a batch in a table of its own.
type staged struct {
	store *Store
	conn  *pgx.Conn
	tx    pgx.Tx
}

// Stage implements moving.Store.
func (s *Store) Stage(ctx context.Context, accounts []identity.MovedAccount) (moving.Staged, error) {
	conn, tx, err := s.beginBulk(ctx)
	if err != nil {
		return nil, err
	}
	if err := stage(ctx, unprepared{tx}, accounts); err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil, translate(ctx, err)
	}
	return &staged{s, conn, tx}, nil
}

// Discard implements moving.Staged.
func (d *staged) Discard() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = d.conn.Close(ctx)
}

// ImportBatch implements moving.Store.
func (s *Store) ImportBatch(ctx context.Context, b moving.Batch) error {
	if b.Staged == nil {
		ahead, err := s.Stage(ctx, b.Accounts)
		if err != nil {
			return err
		}
		b.Staged = ahead
	}
	ahead := b.Staged.(*staged)
	return s.finishBulk(ctx, ahead.conn, ahead.tx, func(ctx context.Context, tx pgx.Tx) error {
		st := named("CheckStaging")
		if !b.DryRun {
			st = named("StoreStaging")
			if recorded, err := findImport(ctx, tx, b.Import); err != nil || recorded != b.Before {
				return errors.Join(err, moving.ErrInterfered)
			}
		}
		if b.Exclude != nil {
			schemes, err := lockSchemes(ctx, tx)
			if err != nil {
				return err
			}
			excluded := slices.Collect(maps.Keys(b.Exclude(schemes)))
			if err := named("ExcludeStaged").exec(ctx, tx, pgx.NamedArgs{"numbers": excluded}); err != nil {
				return err
			}
		}
		found, err := tx.Query(ctx, st.sql)
		if err != nil {
			return err
		}
		taken, err := pgx.CollectRows(found, func(row pgx.CollectableRow) (t moving.Taken, err error) {
			err = row.Scan(&t.Index, &t.ID, &t.Username, &t.Email)
			return t, err
		})
		if err != nil {
			return err
		}
		after, err := b.Refuse(taken)
		if err != nil || b.DryRun {
			return err
		}
		return advanceImport(ctx, tx, b.Import, after)
	})
}

// lockSchemes returns the schemes of the stored hashes. Until the transaction ends, other imports that add hashes of
// other systems wait.
func lockSchemes(ctx context.Context, tx pgx.Tx) ([]string, error) {
	if err := named("LockSchemes").exec(ctx, tx, nil); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, named("FindPasswordSchemes").sql) // sees what was committed before the lock was given
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// stage copies accounts into a table of the transaction.
func stage(ctx context.Context, tx pgx.Tx, accounts []identity.MovedAccount) error {
	if err := named("CreateStaging").exec(ctx, tx, nil); err != nil {
		return err
	}
	rows := pgx.CopyFromSlice(len(accounts), func(i int) ([]any, error) {
		a := &accounts[i]
		return []any{
			i, id(a.ID), stored(a.Username, a.ID), stored(a.CanonicalUsername, a.ID), a.Email, a.CanonicalEmail,
			a.FirstName, a.LastName, *a.Scope, a.Language, a.Roles, string(a.Metadata), a.PasswordHash,
			a.EmailVerifiedAt, a.ActivatedAt, a.SuspendedAt, a.CreatedAt, a.UpdatedAt,
			nullable(a.UnprovedEmail), nullable(a.CanonicalUnprovedEmail), a.UnprovedSince,
		}, nil
	})
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"staging"}, stagingColumns, rows)
	return err
}

func nullable(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// ExportAccounts calls f with all accounts of one moment, in the order of their ids. If gently is true, the
// database reads each account when f is ready for it. Otherwise it may sort all of them first, which takes less time
// altogether and a whole processor at the beginning.
func (s *Store) ExportAccounts(ctx context.Context, gently bool, f func(*identity.MovedAccount) error) error {
	return s.inBulk(ctx, func(ctx context.Context, tx pgx.Tx) error {
		begin := []string{"BeginExport", "ReadWithOneProcess"}
		if gently {
			begin = append(begin, "ReadInOrder")
		}
		for _, name := range begin {
			if err := named(name).exec(ctx, tx, nil); err != nil {
				return err
			}
		}
		rows, err := tx.Query(ctx, named("ExportAccounts").sql)
		if err != nil {
			return err
		}
		var metadata string
		var a identity.MovedAccount // each scan overwrites all of it
		_, err = pgx.ForEachRow(rows, []any{
			&a.ID, (*storedName)(&a.Username), &a.Email, &a.FirstName, &a.LastName, &a.Scope, &a.Language, &a.Roles, &metadata, &a.PasswordHash,
			&a.EmailVerifiedAt, &a.ActivatedAt, &a.SuspendedAt, &a.CreatedAt, &a.UpdatedAt, &a.UnprovedEmail, &a.UnprovedSince,
		}, func() error {
			a.Metadata = json.RawMessage(metadata)
			return f(&a)
		})
		return err
	})
}

// inBulk runs f in a transaction without the limits of requests. It is not repeated.
func (s *Store) inBulk(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	conn, tx, err := s.beginBulk(ctx)
	if err != nil {
		return err
	}
	return s.finishBulk(ctx, conn, tx, f)
}

// finishBulk runs f in a transaction of beginBulk, and ends the transaction.
func (s *Store) finishBulk(ctx context.Context, conn *pgx.Conn, tx pgx.Tx, f func(context.Context, pgx.Tx) error) error {
	err := f(ctx, unprepared{tx})
	if err == nil {
		if err = tx.Commit(ctx); err == nil {
			s.keepBulk(ctx, conn)
			return nil
		}
		err = translate(ctx, err)
	} else if sqlState(err) != "" || isLost(err) || isTimeout(err) {
		err = translate(ctx, err)
	}
	_ = conn.Close(context.WithoutCancel(ctx)) // which rolls back
	return err
}

// keepBulk keeps a connection for the next transaction: a new one for each small batch would be most of the database's
// work. None of them is from the pool.
func (s *Store) keepBulk(ctx context.Context, conn *pgx.Conn) {
	select {
	case s.bulk <- conn:
	default:
		_ = conn.Close(context.WithoutCancel(ctx))
	}
}

// beginBulk opens a connection if none is left or the one that is left has been lost.
func (s *Store) beginBulk(ctx context.Context) (*pgx.Conn, pgx.Tx, error) {
	bulk := limits{statement: bulkTimeout, lock: bulkTimeout, idle: bulkTimeout}
	options := pgx.TxOptions{BeginQuery: bulk.begin()}
	select {
	case conn := <-s.bulk:
		if tx, err := conn.BeginTx(ctx, options); err == nil {
			return conn, tx, nil
		}
		_ = conn.Close(context.WithoutCancel(ctx))
	default:
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, nil, translate(ctx, s.notAcquired(err, false))
	}
	tx, err := func() (pgx.Tx, error) {
		if err := s.pool.Config().AfterConnect(ctx, conn); err != nil {
			return nil, err
		}
		return conn.BeginTx(ctx, options)
	}()
	if err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil, nil, translate(ctx, err)
	}
	return conn, tx, nil
}
