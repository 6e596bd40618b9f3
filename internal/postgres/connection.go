package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// limits bound what a statement may take, by PostgreSQL's own settings.
type limits struct {
	statement time.Duration // how long it may run
	lock      time.Duration // how long it may wait for one lock
	idle      time.Duration // how long a transaction may wait for its next statement
}

// each gives the settings as f makes them of name and value.
func (l limits) each(f func(name, value string) string) string {
	return strings.Join([]string{
		f("statement_timeout", milliseconds(l.statement)),
		f("lock_timeout", milliseconds(l.lock)),
		f("idle_in_transaction_session_timeout", milliseconds(l.idle)),
	}, " ")
}

// begin is the statement that begins a transaction with these limits, whatever the
// server process that serves it has.
func (l limits) begin() string {
	return "BEGIN ISOLATION LEVEL READ COMMITTED; " +
		l.each(func(name, value string) string { return "SET LOCAL " + name + " = " + value + ";" })
}

// pooled is the key under which a connection remembers that there is a pooler.
const pooled = "pooled"

// admit looks at a new connection before it is used, in one round trip.
//
// A server that takes no writes is refused, and then the next of several hosts is
// tried. So is a database whose text is not UTF-8.
//
// Where there is no pooler, the connection gets its limits for as long as it lives.
// A pooler shows itself by the number of the server process: it gives each client one
// that it has made up, for it has to find out itself whose statement a client cancels.
// The settings of what it lends are not ours to change; see Store.begin.
func admit(l limits) pgconn.ValidateConnectFunc {
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		set := l.each(func(name, value string) string { return "set_config('" + name + "', '" + value + "', false)," })
		results, err := conn.Exec(ctx, fmt.Sprintf(`
			SELECT direct, pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', current_setting('server_encoding'), current_database(),
				CASE WHEN direct THEN concat(%s set_config('default_transaction_isolation', 'read committed', false)) END
			FROM (SELECT pg_backend_pid() = %d AS direct) process`, set, conn.PID())).ReadAll()
		if err != nil {
			return err
		}
		if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 5 {
			return errors.New("what answers there is no PostgreSQL")
		}
		row := results[0].Rows[0]
		is := func(column int) bool { return string(row[column]) == "t" }
		switch at := conn.Conn().RemoteAddr().String(); {
		case is(1):
			return &unfitError{why: at + " is a standby, which takes no writes"}
		case is(2):
			return &unfitError{why: at + " is read-only: default_transaction_read_only is on there"}
		case string(row[3]) != "UTF8":
			return &unfitError{forGood: true, why: fmt.Sprintf("the encoding of the database %q is %s, in which names of people would be damaged: "+
				"make a database with ENCODING 'UTF8' TEMPLATE template0, and set DB_NAME to it", row[4], row[3])}
		}
		if !is(0) {
			conn.CustomData()[pooled] = true
		}
		return nil
	}
}

// unfitError is of a server that answers, and cannot be used.
type unfitError struct {
	why     string
	forGood bool // waiting does not mend it
}

func (e *unfitError) Error() string { return e.why }

// isPooled tells whether there is a pooler between us and the server process, so that
// the next transaction may meet another process. One that passes on the numbers of
// server processes is found out by the first prepared statement that is lost.
func (s *Store) isPooled(conn *pgx.Conn) bool {
	return conn.PgConn().CustomData()[pooled] != nil || s.hidden.Load()
}

// begin begins a transaction. Behind a pooler, it brings its limits with it, and its
// statements are not prepared for a later transaction.
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

// unprepared is a transaction whose statements are parsed each time. What their
// parameters are is remembered.
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

// inTurn runs f while no other process does what has this lock, an advisory one;
// held is false, and f was not run, where another holds it, unless it waits for its
// turn. An error is f's if held is true.
//
// The lock is that of a transaction, since a pooler lends a server process for no
// longer. Its connection is not one of the pool's: f needs those, and may take long.
// Where it is lost meanwhile, the lock is too, and f goes on.
func (s *Store) inTurn(ctx context.Context, lock int64, wait, longest time.Duration, f func(context.Context) error) (held bool, err error) {
	bounded, cancel := context.WithTimeout(ctx, s.callTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(bounded, s.pool.Config().ConnConfig)
	if err != nil {
		return false, err
	}
	// Closing the connection gives back the lock, also where ctx is over.
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

// tryLock begins a transaction and leaves it open where it got the lock.
func tryLock(ctx context.Context, within time.Duration, conn *pgx.Conn, l limits, lock int64) (held bool, err error) {
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
