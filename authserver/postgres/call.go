package postgres

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// idempotent tells whether a statement whose answer was lost may be sent again.
type idempotent bool

const (
	repeatable idempotent = true  // a read, or a write that a second run does not change
	onlyOnce   idempotent = false // a second run would do it twice, or call it a failure
)

// query runs one statement that gives at most one row, and scans the row. It
// returns pgx.ErrNoRows where there is none; that and the errors of the
// contract are for the caller to tell apart, all others are translated.
func (s *Store) query(ctx context.Context, mode idempotent, scan func(pgx.Row) error, sql string, args ...any) error {
	return s.call(ctx, func(ctx context.Context, conn *pgxpool.Conn) (idempotent, error) {
		return mode, scan(conn.QueryRow(ctx, sql, args...))
	})
}

// queryAll runs one statement and gives its rows to collect, which must leave
// nothing of an earlier try.
func (s *Store) queryAll(ctx context.Context, mode idempotent, collect func(pgx.Rows) error, sql string, args ...any) error {
	return s.call(ctx, func(ctx context.Context, conn *pgxpool.Conn) (idempotent, error) {
		rows, err := conn.Query(ctx, sql, args...)
		if err != nil {
			return mode, err
		}
		return mode, collect(rows)
	})
}

// into makes the scan of query from the places that the columns go to.
func into(places ...any) func(pgx.Row) error {
	return func(row pgx.Row) error { return row.Scan(places...) }
}

// exec runs one statement that gives no rows.
func (s *Store) exec(ctx context.Context, mode idempotent, sql string, args ...any) error {
	return s.call(ctx, func(ctx context.Context, conn *pgxpool.Conn) (idempotent, error) {
		_, err := conn.Exec(ctx, sql, args...)
		return mode, err
	})
}

// inTx runs f in a transaction, and commits where f returns nil. f may run more
// than once, so it must change nothing but the database and what it overwrites.
func (s *Store) inTx(ctx context.Context, f func(ctx context.Context, tx pgx.Tx) error) error {
	return s.call(ctx, func(ctx context.Context, conn *pgxpool.Conn) (idempotent, error) {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return repeatable, err
		}
		if err := f(ctx, tx); err != nil {
			// Where this fails, the connection does too, and with it the transaction.
			_ = tx.Rollback(ctx)
			return repeatable, err
		}
		return onlyOnce, tx.Commit(ctx)
	})
}

// attempt does its work over one connection, and tells whether it may be done
// again after an error that leaves open whether it was done.
type attempt func(ctx context.Context, conn *pgxpool.Conn) (idempotent, error)

// call gives f a connection, a deadline, and further tries where those do no
// harm; and turns what went wrong into the domain's errors. It does not ask
// pgconn.SafeToRetry, which says yes to a COMMIT that was sent, and whose answer
// was lost ("conn closed", pgx 5.12).
func (s *Store) call(ctx context.Context, f attempt) error {
	bounded, cancel := context.WithTimeout(ctx, s.callTimeout)
	defer cancel()
	aborted := false
	for try := 1; ; try++ {
		mode, err := s.try(bounded, f)
		switch {
		case err == nil:
			return nil
		case isAborted(err) && !aborted:
			// PostgreSQL chose this one to solve a conflict, and undid it.
			aborted = true
			continue
		case isLost(err) && try < s.tries && mode == repeatable:
			s.reset()
			continue
		}
		return translate(ctx, err)
	}
}

func (s *Store) try(ctx context.Context, f attempt) (idempotent, error) {
	waiting, cancel := context.WithTimeout(ctx, s.acquireTimeout)
	conn, err := s.pool.Acquire(waiting)
	cancel()
	if err != nil {
		return onlyOnce, &acquireError{cause: err, late: s.waitedFor()}
	}
	defer conn.Release()
	return f(ctx, conn)
}

// waitedFor says what keeps a connection away that does not come: whoever has
// them all, or the way to the database.
func (s *Store) waitedFor() string {
	if stat := s.pool.Stat(); stat.AcquiredConns() >= stat.MaxConns() {
		return "no free connection in time"
	}
	return unreachable(&s.pool.Config().ConnConfig.Config, tooLate)
}

// reset throws away all idle connections: where one was found dead, they most
// likely all are, and a write that meets a dead one cannot be tried again. Many
// calls find out at once; one reset is enough for them all.
func (s *Store) reset() {
	const pause = time.Second
	now, last := time.Now().UnixNano(), s.lastReset.Load()
	if now-last > int64(pause) && s.lastReset.CompareAndSwap(last, now) {
		s.pool.Reset()
	}
}

// isAborted tells of a transaction that PostgreSQL has undone for another's
// sake (serialization failure, deadlock).
func isAborted(err error) bool {
	code := sqlState(err)
	return code == "40001" || code == "40P01"
}

// isLost tells of a connection that has died, or was dead when it was taken
// from the pool; but not of a database that cannot be reached, for which a
// further try would only make the caller wait.
func isLost(err error) bool {
	if isRefused(err) || isTimeout(err) {
		return false
	}
	switch code := sqlState(err); {
	case code == "57P01", code == "57P02", strings.HasPrefix(code, "08"):
		return true // admin shutdown, crash shutdown, connection exceptions
	case code != "":
		return false
	}
	_, isNetwork := errors.AsType[net.Error](err)
	return isNetwork || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, pgconn.ErrConnClosed)
}
