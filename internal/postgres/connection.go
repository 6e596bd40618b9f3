package postgres

import (
	"context"
	"errors"
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

// admit checks a new connection before it is used, in one round trip.
//
// It refuses a server that takes no writes, so that the next of several hosts is tried,
// and a database whose encoding is not UTF-8.
//
// Without a pooler, it sets the limits for the lifetime of the connection. A pooler is recognized by the process number
// of the server: a pooler makes up one for each client, because it has to find out whose statement a client cancels.
// The settings of a pooler's connections belong to all its clients; see Store.begin.
func admit(l limits) pgconn.ValidateConnectFunc {
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		results, err := conn.Exec(ctx, fmt.Sprintf(`
			SELECT direct, pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
				current_setting('server_encoding'), current_database(),
				CASE WHEN direct THEN concat(
					set_config('statement_timeout', '%s', false),
					set_config('lock_timeout', '%s', false),
					set_config('idle_in_transaction_session_timeout', '%s', false),
					set_config('default_transaction_isolation', 'read committed', false)) END
			FROM (SELECT pg_backend_pid() = %d AS direct) process`,
			milliseconds(l.statement), milliseconds(l.lock), milliseconds(l.idle), conn.PID())).ReadAll()
		if err != nil {
			return err
		}
		if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 5 {
			return errors.New("the server is not PostgreSQL")
		}
		row := results[0].Rows[0]
		is := func(column int) bool { return string(row[column]) == "t" }
		switch at := conn.Conn().RemoteAddr().String(); {
		case is(1):
			return &unfitError{why: at + " is a standby, which takes no writes"}
		case is(2):
			return &unfitError{why: at + " is read-only: default_transaction_read_only is on there"}
		case string(row[3]) != "UTF8":
			return &unfitError{permanent: true, why: fmt.Sprintf("the encoding of the database %q is %s, which damages names: "+
				"create a database with ENCODING 'UTF8' TEMPLATE template0, and set DB_NAME to it", row[4], row[3])}
		}
		if !is(0) {
			conn.CustomData()[pooled] = true
		}
		return nil
	}
}

// unfitError is the error of a server that answers but cannot be used.
type unfitError struct {
	why       string
	permanent bool // waiting does not help
}

func (e *unfitError) Error() string { return e.why }

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
	conn, err := pgx.ConnectConfig(bounded, s.pool.Config().ConnConfig)
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
