package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
)

// TakeLimit implements identity.Store. The row says when all that is used up will
// have come back; one more moves that by an interval, and is allowed where it stays
// within the window. The time is the clock's and not the transaction's: of calls
// that wait for each other the later one must not have the earlier time.
//
// Who is refused has not changed the row, and reads it as it was when the
// statement began: it may be an older one, or, where it was made at this very
// moment, none. So the wait may be told too short, or not at all, but never too
// long. To send it again, where the answer was lost, uses up one more, which is
// less harm than a refusal.
func (s *Store) TakeLimit(ctx context.Context, key identity.LimitKey, rate identity.Rate) (identity.Allowance, error) {
	const sql = `
		WITH taken AS (
			INSERT INTO limits (key, until) VALUES ($1, clock_timestamp() + $2::interval)
			ON CONFLICT (key) DO UPDATE
			SET until = greatest(limits.until, clock_timestamp()) + $2::interval
			WHERE greatest(limits.until, clock_timestamp()) + $2::interval <= clock_timestamp() + $3::interval
			RETURNING until
		)
		SELECT EXISTS (SELECT FROM taken),
			(extract(epoch FROM coalesce(
				(SELECT until FROM taken), (SELECT until FROM limits WHERE key = $1)) - clock_timestamp()) * 1000000)::bigint`
	var allowed bool
	var microseconds int64
	err := s.query(ctx, repeatable, into(&allowed, (*zeronull.Int8)(&microseconds)), sql, key[:], rate.Interval(), rate.Window())
	if err != nil {
		return identity.Allowance{}, err
	}
	return rate.Allow(allowed, time.Duration(microseconds)*time.Microsecond), nil
}
