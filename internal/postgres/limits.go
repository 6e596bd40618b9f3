package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// TakeLimit implements identity.Store. It is sent again if its answer was lost: that
// uses up one more, which does less harm than a refusal.
func (s *Store) TakeLimit(
	ctx context.Context, key identity.LimitKey, rate identity.Rate,
) (identity.Allowance, error) {
	return s.takeLimit(ctx, named("TakeLimit"), rate, pgx.NamedArgs{"key": key[:]})
}

// TakeSessionLimit implements identity.Store.
func (s *Store) TakeSessionLimit(
	ctx context.Context, ref identity.SessionRef, key identity.LimitKey, rate identity.Rate,
) (identity.Allowance, error) {
	a, err := s.takeLimit(ctx, named("TakeSessionLimit"), rate, sessionArgs(ref, pgx.NamedArgs{"key": key[:]}))
	return a, noRowsIs(err, identity.ErrNoSession)
}

func (s *Store) takeLimit(
	ctx context.Context, st *statement, rate identity.Rate, args pgx.NamedArgs,
) (identity.Allowance, error) {
	args["interval"], args["window"] = rate.Interval(), rate.Window()
	var allowed bool
	var microseconds int64
	err := s.queryRow(ctx, repeatable, st, args, &allowed, (*zeronull.Int8)(&microseconds))
	if err != nil {
		return identity.Allowance{}, err
	}
	return rate.Allow(allowed, time.Duration(microseconds)*time.Microsecond), nil
}
