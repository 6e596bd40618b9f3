package identitytest

import (
	"context"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// TakeLimit implements identity.Store.
func (s *Store) TakeLimit(ctx context.Context, key identity.LimitKey, rate identity.Rate) (identity.Allowance, error) {
	defer s.leave()
	if err := s.enter(ctx, "TakeLimit"); err != nil {
		return identity.Allowance{}, err
	}
	return s.useUp(string(key[:]), rate), nil
}

// TakeSessionLimit implements identity.Store.
func (s *Store) TakeSessionLimit(
	ctx context.Context, ref identity.SessionRef, key identity.LimitKey, rate identity.Rate,
) (identity.Allowance, error) {
	defer s.leave()
	if _, _, err := s.enterLive(ctx, "TakeSessionLimit", ref); err != nil {
		return identity.Allowance{}, err
	}
	return s.useUp(string(key[:]), rate), nil
}

// useUp counts one more under key, if rate allows it.
func (s *Store) useUp(key string, rate identity.Rate) identity.Allowance {
	now := s.now()
	until := s.limits[key]
	if until.Before(now) {
		until = now
	}
	more := until.Add(rate.Interval())
	if more.After(now.Add(rate.Window())) {
		return rate.Allow(false, until.Sub(now))
	}
	s.limits[key] = more
	return rate.Allow(true, more.Sub(now))
}
