package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/auth-gateway/auth-gateway/internal/endings"
)

var _ endings.Store = (*Store)(nil)

// LoadEndings implements endings.Store.
func (s *Store) LoadEndings(
	ctx context.Context, after endings.Ending, age time.Duration, limit int,
) (endings.View, error) {
	return s.viewEndings(ctx, named("LoadEndings"), pgx.NamedArgs{
		"kind": string(after.Kind), "id": after.ID, "age": age, "batch": limit,
	})
}

// TailEndings implements endings.Store.
func (s *Store) TailEndings(ctx context.Context, since endings.Snapshot, limit int) (endings.View, error) {
	running := since.Running
	if running == nil {
		running = []int64{} // not NULL
	}
	return s.viewEndings(ctx, named("TailEndings"), pgx.NamedArgs{"running": running, "next": since.Next, "batch": limit})
}

// viewEndings runs a statement that reads endings. A standby is refused: it may be behind,
// and its snapshots are others.
func (s *Store) viewEndings(ctx context.Context, st *statement, args pgx.NamedArgs) (view endings.View, err error) {
	var snapshot string
	err = s.queryRows(ctx, repeatable, st, args, func(rows pgx.Rows) error {
		view = endings.View{}
		var standby bool
		var kind, id zeronull.Text
		var transaction zeronull.Int8
		var endedAt zeronull.Timestamptz
		_, err := pgx.ForEachRow(rows, []any{
			&snapshot, &standby, &view.At, &view.Incarnation, &kind, &id, &transaction, &endedAt,
		}, func() error {
			if kind != "" {
				view.Endings = append(view.Endings, endings.Ending{
					Kind: endings.Kind(kind), ID: string(id), Transaction: int64(transaction), At: time.Time(endedAt),
				})
			}
			return nil
		})
		if err == nil && standby {
			return &pgconn.PgError{Code: readOnlyTransaction, Message: "the database is a standby"}
		}
		return err
	})
	if err != nil {
		return endings.View{}, err
	}
	if view.Snapshot, err = endings.ParseSnapshot(snapshot); err != nil {
		return endings.View{}, errors.New("postgres: pg_current_snapshot returned something else than a snapshot")
	}
	return view, nil
}

// EndKey records that a key of access tokens was revoked at a time. If that is recorded already, nothing changes.
func (s *Store) EndKey(ctx context.Context, id string, at time.Time) error {
	return s.exec(ctx, repeatable, named("EndKey"), pgx.NamedArgs{"id": id, "ended_at": at})
}
