package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// useUp ends an INSERT into limits of a row that is used up once: the generic cell
// rate algorithm. The row says when all that is used up will have come back; one
// more moves that by the interval, $1, and is allowed where it stays within the
// window, $2. The time is the clock's and not the transaction's: of calls that wait
// for each other the later one must not have the earlier time.
const (
	usedOnce = `clock_timestamp() + $1::interval`
	useUp    = `
			ON CONFLICT (key) DO UPDATE
			SET until = greatest(limits.until, clock_timestamp()) + $1::interval
			WHERE greatest(limits.until, clock_timestamp()) + $1::interval <= clock_timestamp() + $2::interval`
)

// limitArgs are the first parameters of a statement with useUp; null where there is
// no limit.
func limitArgs(r identity.Rate, more ...any) []any {
	if r == (identity.Rate{}) {
		return append([]any{nil, nil}, more...)
	}
	return append([]any{r.Interval(), r.Window()}, more...)
}

// TakeLimit implements identity.Store.
//
// Who is refused has not changed the row, and reads it as it was when the
// statement began: it may be an older one, or, where it was made at this very
// moment, none. So the wait may be told too short, or not at all, but never too
// long. To send it again, where the answer was lost, uses up one more, which is
// less harm than a refusal.
func (s *Store) TakeLimit(ctx context.Context, key identity.LimitKey, rate identity.Rate) (identity.Allowance, error) {
	const sql = `
		WITH taken AS (
			INSERT INTO limits (key, until) VALUES ($3, ` + usedOnce + `)` + useUp + `
			RETURNING until
		)
		SELECT EXISTS (SELECT FROM taken),
			(extract(epoch FROM coalesce(
				(SELECT until FROM taken), (SELECT until FROM limits WHERE key = $3)) - clock_timestamp()) * 1000000)::bigint`
	return s.takeLimit(ctx, rate, sql, limitArgs(rate, key[:])...)
}

// TakeSessionLimit implements identity.Store.
func (s *Store) TakeSessionLimit(ctx context.Context, ref identity.SessionRef, key identity.LimitKey, rate identity.Rate) (identity.Allowance, error) {
	// As in TakeLimit, with the parameters of a session before those of the limit.
	const sql = `
		WITH alive AS (
			SELECT s.id FROM sessions s, users u WHERE ` + isLive + `
		), taken AS (
			INSERT INTO limits (key, until)
			SELECT $6::bytea, clock_timestamp() + $4::interval FROM alive
			ON CONFLICT (key) DO UPDATE
			SET until = greatest(limits.until, clock_timestamp()) + $4::interval
			WHERE greatest(limits.until, clock_timestamp()) + $4::interval <= clock_timestamp() + $5::interval
			RETURNING until
		)
		SELECT EXISTS (SELECT FROM taken),
			(extract(epoch FROM coalesce(
				(SELECT until FROM taken), (SELECT until FROM limits WHERE key = $6::bytea)) - clock_timestamp()) * 1000000)::bigint
		FROM alive`
	a, err := s.takeLimit(ctx, rate, sql, refArgs(ref, rate.Interval(), rate.Window(), key[:])...)
	return a, noRowsIs(err, identity.ErrNoSession)
}

func (s *Store) takeLimit(ctx context.Context, rate identity.Rate, sql string, args ...any) (identity.Allowance, error) {
	var allowed bool
	var microseconds int64
	err := s.query(ctx, repeatable, into(&allowed, (*zeronull.Int8)(&microseconds)), sql, args...)
	if err != nil {
		return identity.Allowance{}, err
	}
	return rate.Allow(allowed, time.Duration(microseconds)*time.Microsecond), nil
}
