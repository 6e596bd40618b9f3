package postgres

import (
	"cmp"
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

// queryRow runs one statement that returns at most one row, and scans the row. It returns
// pgx.ErrNoRows if there is none. That error and those of the contract are for the caller
// to handle; all others are translated.
func (s *Store) queryRow(ctx context.Context, mode idempotent, st *statement, args pgx.NamedArgs, dest ...any) error {
	return s.single(ctx, mode, func(ctx context.Context, db querier) error {
		return st.queryRow(ctx, db, args).Scan(dest...)
	})
}

// queryRows runs one statement and passes its rows to collect, which must overwrite what
// an earlier try has left.
func (s *Store) queryRows(
	ctx context.Context, mode idempotent, st *statement, args pgx.NamedArgs, collect func(pgx.Rows) error,
) error {
	return s.single(ctx, mode, func(ctx context.Context, db querier) error {
		rows, err := db.Query(ctx, st.sql, st.bind(args)...)
		if err != nil {
			return err
		}
		return collect(rows)
	})
}

// exec runs one statement that returns no rows.
func (s *Store) exec(ctx context.Context, mode idempotent, st *statement, args pgx.NamedArgs) error {
	return s.single(ctx, mode, func(ctx context.Context, db querier) error { return st.exec(ctx, db, args) })
}

// single runs f, which sends one statement, as a transaction of its own. Behind a
// pooler that takes a BEGIN, because only within it do limits hold.
func (s *Store) single(ctx context.Context, mode idempotent, f func(context.Context, querier) error) error {
	return s.call(ctx, func(ctx context.Context, conn *pgxpool.Conn) (idempotent, error) {
		if !s.isPooled(conn.Conn()) {
			return mode, f(ctx, conn)
		}
		tx, err := s.begin(ctx, conn.Conn())
		if err != nil {
			return repeatable, err
		}
		err = f(ctx, tx)
		if conn.Conn().PgConn().TxStatus() != 'T' {
			_ = tx.Rollback(ctx) // nothing was done; see inTx
			return mode, err
		}
		return mode, cmp.Or(tx.Commit(ctx), err) // an err is of reading: without a BEGIN it would be done, too
	})
}

// inTx runs f in a transaction, and commits where f returns nil. f may run more
// than once, so it must change nothing but the database and what it overwrites.
func (s *Store) inTx(ctx context.Context, f func(ctx context.Context, tx pgx.Tx) error) error {
	return s.call(ctx, func(ctx context.Context, conn *pgxpool.Conn) (idempotent, error) {
		tx, err := s.begin(ctx, conn.Conn())
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
		case isUnpreparable(err) && s.hidden.CompareAndSwap(false, true):
			s.log.WarnContext(ctx, "a pooler is in front of PostgreSQL: statements are no longer prepared")
			continue
		case isLost(err) && try < s.tries && mode == repeatable, isUnusable(err) && try < s.tries:
			s.reset()
			continue
		case isMute(err) && ctx.Err() == nil:
			s.reset() // for those who come later; there is no time left
		}
		return translate(ctx, err)
	}
}

func (s *Store) try(ctx context.Context, f attempt) (idempotent, error) {
	waiting, cancel := context.WithTimeout(ctx, s.acquireTimeout)
	conn, err := s.pool.Acquire(waiting)
	cancel()
	if err != nil {
		return onlyOnce, s.notAcquired(err)
	}
	defer conn.Release()
	mode, err := f(ctx, conn)
	if isUnusable(err) {
		_ = conn.Conn().Close(ctx)
	}
	return mode, err
}

// notAcquired says what keeps a connection away that does not come: whoever has
// them all, or the way to the database.
func (s *Store) notAcquired(err error) error {
	if stat := s.pool.Stat(); stat.AcquiredConns() >= stat.MaxConns() {
		return &acquireError{cause: err, late: "no free connection in time", busy: true}
	}
	return &acquireError{cause: err, late: "cannot reach " + places(&s.pool.Config().ConnConfig.Config) + ": " + tooLate}
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

// isUnusable tells of a connection over which nothing can be written, and over which
// nothing was: its server has become a standby, or read-only, or its transaction was
// broken off before the statement came. The statement may be sent again, over another.
func isUnusable(err error) bool {
	code := sqlState(err)
	return code == readOnlyTransaction || code == "25P02"
}

// readOnlyTransaction is the code of a write to a standby, or where
// default_transaction_read_only is on.
const readOnlyTransaction = "25006"

// isUnpreparable tells of a prepared statement that another server process has than
// the one that was asked, or that another client has prepared there. Nothing was done.
func isUnpreparable(err error) bool {
	code := sqlState(err)
	return code == "26000" || code == "42P05"
}

// isMute tells of a server that has not even told that its own limits were over, or
// that could not be reached in time: over the other connections it is not reached
// either.
func isMute(err error) bool {
	acquiring, waited := errors.AsType[*acquireError](err)
	return isTimeout(err) && sqlState(err) == "" && !(waited && acquiring.busy)
}

// isLost tells of a connection that has died, or was dead when it was taken
// from the pool; but not of a database that cannot be reached, for which a
// further try would only make the caller wait.
func isLost(err error) bool {
	if isRefused(err) || isTimeout(err) {
		return false
	}
	switch code := sqlState(err); {
	case code == "57P01", code == "57P02", code == "57P03", strings.HasPrefix(code, "08"):
		return true // admin shutdown, crash shutdown, cannot connect now, connection exceptions
	case code != "":
		return false
	}
	_, isNetwork := errors.AsType[net.Error](err)
	return isNetwork || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, pgconn.ErrConnClosed)
}
