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

	"github.com/auth-gateway/auth-gateway/internal/span"
)

// idempotent is whether a statement whose answer was lost may be sent again.
type idempotent bool

const (
	repeatable idempotent = true  // a read, or a write that a second run does not change
	onlyOnce   idempotent = false // a second run would act twice, or fail
)

// queryRow runs one statement that returns at most one row, and scans the row. It returns pgx.ErrNoRows if there is
// none. That error and those of the contract are for the caller to handle; all others are translated.
func (s *Store) queryRow(ctx context.Context, mode idempotent, st *statement, args pgx.NamedArgs, dest ...any) error {
	return s.single(ctx, mode, func(ctx context.Context, db querier) error {
		return st.queryRow(ctx, db, args).Scan(dest...)
	})
}

// queryRows runs one statement and passes its rows to collect, which must overwrite what an earlier try has left.
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

// findAll runs one statement that reads, and returns its rows. dest returns the scan destinations of a row.
func findAll[T any](
	ctx context.Context, s *Store, st *statement, args pgx.NamedArgs, dest func(*T) []any,
) (found []T, err error) {
	err = s.queryRows(ctx, repeatable, st, args, func(rows pgx.Rows) (err error) {
		found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (value T, err error) {
			err = row.Scan(dest(&value)...)
			return value, err
		})
		return err
	})
	return found, err
}

// exec runs one statement that returns no rows.
func (s *Store) exec(ctx context.Context, mode idempotent, st *statement, args pgx.NamedArgs) error {
	return s.single(ctx, mode, func(ctx context.Context, db querier) error { return st.exec(ctx, db, args) })
}

// single runs f, which sends one statement, in a transaction. Behind a pooler that takes
// an explicit BEGIN, because the limits only hold within one.
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
			_ = tx.Rollback(ctx) // the statement failed; see inTx
			return mode, err
		}
		return mode, cmp.Or(tx.Commit(ctx), err) // an err is of scanning: without a BEGIN the statement is committed as well
	})
}

// inTx runs f in a transaction, and commits if f returns nil. f may run more than once,
// so besides the database it may only change variables that it overwrites.
func (s *Store) inTx(ctx context.Context, f func(ctx context.Context, tx pgx.Tx) error) error {
	return s.call(ctx, func(ctx context.Context, conn *pgxpool.Conn) (idempotent, error) {
		tx, err := s.begin(ctx, conn.Conn())
		if err != nil {
			return repeatable, err
		}
		if err := f(ctx, tx); err != nil {
			// If this fails, the connection is broken, which ends the transaction.
			_ = tx.Rollback(ctx)
			return repeatable, err
		}
		return onlyOnce, tx.Commit(ctx)
	})
}

// attempt does its work over one connection, and reports whether it may be repeated after
// an error that leaves open whether the work was done.
type attempt func(ctx context.Context, conn *pgxpool.Conn) (idempotent, error)

// call gives f a connection and a deadline, repeats it when that does no harm, and translates its errors into the
// domain's. It does not use pgconn.SafeToRetry, which returns true for a COMMIT that was sent and whose answer was lost
// ("conn closed", pgx 5.12).
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
			// PostgreSQL has rolled back this transaction to resolve a conflict.
			aborted = true
			continue
		case isUnpreparable(err) && s.hidden.CompareAndSwap(false, true):
			s.log.WarnContext(ctx, "a pooler is in front of PostgreSQL: statements are no longer prepared")
			continue
		case isLost(err) && try < s.tries && mode == repeatable, isUnusable(err) && try < s.unusableTries():
			s.reset(ctx)
			continue
		case isMute(err) && ctx.Err() == nil:
			s.reset(ctx) // for later calls; this one has no time left
		}
		return translate(ctx, err)
	}
}

// unusableTries is how often a call is tried at servers that take no writes. If such servers are accepted, the next
// connection leads to one too.
func (s *Store) unusableTries() int {
	if s.hosts.accepted == readWrite {
		return s.tries
	}
	return 2
}

func (s *Store) try(ctx context.Context, f attempt) (idempotent, error) {
	answers := s.answers.Load()
	recording := span.From(ctx)
	var asked time.Time
	if recording != nil {
		asked = time.Now()
	}
	conn, err := s.acquire(ctx)
	if recording != nil {
		acquireSpan(recording, asked, err)
	}
	if err != nil {
		if isTimeout(err) {
			s.gaveUp.Add(1)
			// The opening of a connection may have failed while the call asked again, and says more.
			err = cmp.Or(s.trace.failure(s.acquireTimeout), err)
		}
		return onlyOnce, s.notAcquired(err, s.answers.Load() != answers)
	}
	defer conn.Release()
	mode, err := f(ctx, conn)
	if err == nil || sqlState(err) != "" {
		s.answers.Add(1)
	}
	if data := conn.Conn().PgConn().CustomData(); data[unreplicated] != nil {
		delete(data, unreplicated)
		if err == nil {
			return onlyOnce, errUnreplicated
		}
	}
	if isUnusable(err) {
		_ = conn.Conn().Close(ctx)
	}
	return mode, err
}

// acquire waits for a connection. If it gets none in time, it returns context.DeadlineExceeded.
//
// A caller for whom the pool opens a connection does not get another one that becomes free meanwhile. So while
// connections are being opened, it asks again from time to time. What it began to open stays in the pool.
func (s *Store) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	end, pause := time.Now().Add(s.acquireTimeout), s.acquireTimeout/8
	for {
		waiting, cancel := context.WithCancel(ctx)
		var look func()
		look = func() {
			switch {
			case waiting.Err() != nil:
			case s.pool.Stat().ConstructingConns() > 0, !time.Now().Before(end):
				cancel()
			default:
				time.AfterFunc(pause, look)
			}
		}
		first := time.AfterFunc(pause, look)
		conn, err := s.pool.Acquire(waiting)
		first.Stop()
		abandoned := waiting.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case err == nil || !abandoned:
			return conn, err
		case !time.Now().Before(end):
			return nil, context.DeadlineExceeded
		}
	}
}

// notAcquired explains why there was no connection: all are in use, or the database cannot be reached, or it is too busy
// to open one in time. It answers if other calls have had an answer meanwhile.
func (s *Store) notAcquired(err error, answers bool) error {
	if stat := s.pool.Stat(); stat.AcquiredConns() >= stat.MaxConns() {
		return &acquireError{cause: err, late: "no free connection in time", busy: true}
	}
	hosts := hostsOf(&s.pool.Config().ConnConfig.Config)
	if answers {
		return &acquireError{cause: err, late: hosts + " answers, but opened no connection in time: it is overloaded", busy: true}
	}
	return &acquireError{cause: err, late: "cannot reach " + hosts + ": " + tooLate}
}

// reset closes all idle connections: if one was dead, most likely all are, and a write over a dead one cannot be
// repeated. Many calls notice at once; one reset is enough for all of them.
//
// Unlike pgxpool.Pool.Reset, it leaves alone those that are being opened. If each took longer than the time between two
// resets, none would stay.
func (s *Store) reset(ctx context.Context) {
	const pause = time.Second
	now, last := time.Now().UnixNano(), s.lastReset.Load()
	if now-last <= int64(pause) || !s.lastReset.CompareAndSwap(last, now) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.acquireTimeout)
	defer cancel()
	for _, conn := range s.pool.AcquireAllIdle(ctx) {
		_ = conn.Conn().Close(ctx)
		conn.Release() // the pool forgets a closed connection
	}
}

// isAborted reports whether PostgreSQL has rolled back a transaction for the sake of
// another one (serialization failure, deadlock).
func isAborted(err error) bool {
	code := sqlState(err)
	return code == "40001" || code == "40P01"
}

// isUnusable reports whether a connection can no longer write, and has not written: its
// server has become a standby or read-only, or its transaction was aborted before the
// statement. The statement may be sent again over another connection.
func isUnusable(err error) bool {
	code := sqlState(err)
	return code == readOnlyTransaction || code == "25P02"
}

// readOnlyTransaction is the code of a write to a standby, or to a server on which default_transaction_read_only is on.
const readOnlyTransaction = "25006"

// isUnpreparable reports whether a prepared statement does not exist in the server
// process that was asked, or was prepared there by another client. Nothing was done.
func isUnpreparable(err error) bool {
	code := sqlState(err)
	return code == "26000" || code == "42P05"
}

// isMute reports whether a server has not even reported that its own limits were exceeded, or could not be reached in
// time. The other connections will not reach it either.
func isMute(err error) bool {
	acquiring, waited := errors.AsType[*acquireError](err)
	return isTimeout(err) && sqlState(err) == "" && !(waited && acquiring.busy)
}

// isLost reports whether a connection has died, or was dead when it was taken from the pool. It excludes a database
// that cannot be reached, because another try would only make the caller wait.
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
