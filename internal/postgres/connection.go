package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// limits bound how long a statement may take, by PostgreSQL's own settings.
type limits struct {
	statement time.Duration // how long it may run
	lock      time.Duration // how long it may wait for one lock
	idle      time.Duration // how long a transaction may wait for its next statement
}

// begin returns the statement that begins a transaction with these limits, whatever limits its server process has.
func (l limits) begin() string {
	return fmt.Sprintf(`BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = %s;
		SET LOCAL lock_timeout = %s; SET LOCAL idle_in_transaction_session_timeout = %s;`,
		milliseconds(l.statement), milliseconds(l.lock), milliseconds(l.idle))
}

// pooled is the key under which a connection records that it goes through a pooler.
const pooled = "pooled"

// isPooled reports whether a connection goes through a pooler, so that its next
// transaction may run in another server process. A pooler that passes on the process
// numbers of servers is detected by the first prepared statement that is lost.
func (s *Store) isPooled(conn *pgx.Conn) bool {
	return conn.PgConn().CustomData()[pooled] != nil || s.hidden.Load()
}

// begin begins a transaction. Behind a pooler, the transaction sets its own limits, and
// prepares no statement for a later transaction.
func (s *Store) begin(ctx context.Context, conn *pgx.Conn) (pgx.Tx, error) {
	if !s.isPooled(conn) {
		return conn.Begin(ctx)
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: s.limits.begin()})
	if err != nil {
		return nil, err
	}
	return unprepared{tx}, nil
}

// querier is a connection or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// unprepared is a transaction whose statements are parsed each time. The driver only
// caches the types of their parameters.
type unprepared struct{ pgx.Tx }

func (u unprepared) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return u.Tx.Exec(ctx, sql, unnamed(args)...)
}

func (u unprepared) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return u.Tx.Query(ctx, sql, unnamed(args)...)
}

func (u unprepared) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return u.Tx.QueryRow(ctx, sql, unnamed(args)...)
}

func unnamed(args []any) []any {
	return append([]any{pgx.QueryExecModeCacheDescribe}, args...)
}

// inTurn runs f under an advisory lock. If another process holds the lock, inTurn tries again every wait, or, if wait
// is 0, returns with held false and does not run f. If held is true, the error is f's.
//
// The lock belongs to a transaction, because a pooler lends a server process for no
// longer. Its connection is not one of the pool's: f needs those, and may take long. If
// the connection is lost meanwhile, the lock is lost too, and f continues.
func (s *Store) inTurn(
	ctx context.Context, lock int64, wait, longest time.Duration, f func(context.Context) error,
) (held bool, err error) {
	bounded, cancel := context.WithTimeout(ctx, s.callTimeout)
	defer cancel()
	conn, err := s.connect(bounded)
	if err != nil {
		return false, err
	}
	// Closing the connection releases the lock, even if ctx has ended.
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.acquireTimeout)
		defer cancel()
		_ = conn.Close(closing)
	}()
	l := s.limits
	l.idle = longest
	for {
		if held, err = tryLock(ctx, s.callTimeout, conn, l, lock); held || err != nil || wait == 0 {
			break
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	if !held {
		return false, err
	}
	return true, f(ctx)
}

// connect opens a connection that is not one of the pool's.
func (s *Store) connect(ctx context.Context) (*pgx.Conn, error) {
	config := s.pool.Config().ConnConfig
	// A statement that COPY prepares under a name would stay in the server process that a pooler has lent, and the next
	// import could not prepare it there.
	config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	if err := s.hosts.single(ctx, config); err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, config)
}

// tryLock begins a transaction, and leaves it open if it got the lock.
func tryLock(
	ctx context.Context, within time.Duration, conn *pgx.Conn, l limits, lock int64,
) (held bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: l.begin()})
	if err != nil {
		return false, err
	}
	err = tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, pgx.QueryExecModeExec, lock).Scan(&held)
	if err != nil || held {
		return held, err
	}
	return false, tx.Rollback(ctx)
}
