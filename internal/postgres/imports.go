package postgres

import (
	"context"
	"encoding/json"
	"errors"
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
func (s *Store) FinishImport(ctx context.Context, importID string) error {
	return s.inBulk(ctx, func(ctx context.Context, tx pgx.Tx) error {
		p, err := findImport(ctx, tx, importID)
		if err != nil {
			return err
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

// ImportBatch implements moving.Store.
func (s *Store) ImportBatch(ctx context.Context, b moving.Batch) error {
	return s.inBulk(ctx, func(ctx context.Context, tx pgx.Tx) error {
		st := named("CheckStaging")
		if !b.DryRun {
			st = named("StoreStaging")
			if recorded, err := findImport(ctx, tx, b.Import); err != nil || recorded != b.Before {
				return errors.Join(err, moving.ErrInterfered)
			}
		}
		var excluded map[int]bool
		if b.Exclude != nil {
			schemes, err := lockSchemes(ctx, tx)
			if err != nil {
				return err
			}
			excluded = b.Exclude(schemes)
		}
		taken, err := stage(ctx, tx, st, b.Accounts, excluded)
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

// stage copies accounts into a table of the transaction, except for some, and runs a statement over it, which returns the
// accounts whose values are taken.
func stage(
	ctx context.Context, tx pgx.Tx, st *statement, accounts []identity.MovedAccount, except map[int]bool,
) ([]moving.Taken, error) {
	if err := named("CreateStaging").exec(ctx, tx, nil); err != nil {
		return nil, err
	}
	i := -1
	rows := pgx.CopyFromFunc(func() ([]any, error) {
		i++
		for except[i] {
			i++
		}
		if i == len(accounts) {
			return nil, nil
		}
		a := &accounts[i]
		return []any{
			i, id(a.ID), stored(a.Username, a.ID), stored(a.CanonicalUsername, a.ID), a.Email, a.CanonicalEmail,
			a.FirstName, a.LastName, *a.Scope, a.Language, a.Roles, string(a.Metadata), a.PasswordHash,
			a.EmailVerifiedAt, a.ActivatedAt, a.SuspendedAt, a.CreatedAt, a.UpdatedAt,
			nullable(a.UnprovedEmail), nullable(a.CanonicalUnprovedEmail), a.UnprovedSince,
		}, nil
	})
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{"staging"}, stagingColumns, rows); err != nil {
		return nil, err
	}
	found, err := tx.Query(ctx, st.sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, func(row pgx.CollectableRow) (t moving.Taken, err error) {
		err = row.Scan(&t.Index, &t.ID, &t.Username, &t.Email)
		return t, err
	})
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

// inBulk runs f in a transaction without the limits of requests. It is not repeated. Its connection is not from the
// pool, and the next call uses it again: for small batches, a new one would be most of the database's work.
func (s *Store) inBulk(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	conn, tx, err := s.beginBulk(ctx)
	if err != nil {
		return err
	}
	keep := false
	defer func() {
		if !keep || !s.bulk.CompareAndSwap(nil, conn) {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	if err := f(ctx, unprepared{tx}); err != nil {
		_ = tx.Rollback(context.WithoutCancel(ctx))
		if sqlState(err) != "" || isLost(err) || isTimeout(err) {
			return translate(ctx, err)
		}
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return translate(ctx, err)
	}
	keep = true
	return nil
}

// beginBulk opens a connection if none is left or the one that is left has been lost.
func (s *Store) beginBulk(ctx context.Context) (*pgx.Conn, pgx.Tx, error) {
	bulk := limits{statement: bulkTimeout, lock: bulkTimeout, idle: bulkTimeout}
	options := pgx.TxOptions{BeginQuery: bulk.begin()}
	if conn := s.bulk.Swap(nil); conn != nil {
		if tx, err := conn.BeginTx(ctx, options); err == nil {
			return conn, tx, nil
		}
		_ = conn.Close(context.WithoutCancel(ctx))
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
