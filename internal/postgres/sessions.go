package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// OpenSession implements identity.Store.
func (s *Store) OpenSession(ctx context.Context, n identity.NewSession, e identity.Event) error {
	st, args := named("OpenSession"), pgx.NamedArgs{
		"session_id": id(n.ID), "user_id": id(n.UserID), "scope": n.Scope, "user_agent": n.UserAgent,
		"opened_at": n.OpenedAt, "expires_at": n.ExpiresAt, "ends_at": n.EndsAt, "keep": n.Keep,
		"password_hash": n.PasswordHash, "throttle": n.ThrottleKey[:], "failures": n.Failures,
		"failure_limit": n.FailureLimit, "forgive": n.Forgive,
		"network": n.From, "known_networks": identity.KnownNetworks, "event": eventArg(e),
	}
	if n.Rehash != "" {
		st, args["new_hash"] = named("OpenSessionWithNewHash"), n.Rehash
	}
	err := s.queryRow(ctx, onlyOnce, st, args)
	return noRowsIs(err, identity.ErrStale)
}

// FindSession implements identity.Store.
func (s *Store) FindSession(ctx context.Context, ref identity.SessionRef) (identity.Session, error) {
	var found identity.Session
	err := s.queryRow(ctx, repeatable, named("FindSession"), sessionArgs(ref, nil), sessionDest(&found)...)
	return found, noRowsIs(err, identity.ErrNoSession)
}

// AdvanceSession implements identity.Store. It may be sent again: if the first run succeeded and its answer was lost,
// the second one advances nothing, and the caller finds the generation that the first one made.
func (s *Store) AdvanceSession(
	ctx context.Context, ref identity.SessionRef, generation int64, renewal identity.Renewal,
) (session identity.Session, advanced bool, err error) {
	err = s.queryRow(ctx, repeatable, named("AdvanceSession"), sessionArgs(ref, pgx.NamedArgs{
		"generation": generation, "refreshed_at": renewal.RefreshedAt, "lifetime": renewal.Lifetime,
	}), sessionDest(&session)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return identity.Session{}, false, nil
	}
	return session, err == nil, err
}

// EndSession implements identity.Store.
func (s *Store) EndSession(ctx context.Context, ref identity.SessionRef, e identity.Event) (ended bool, err error) {
	err = s.queryRow(ctx, repeatable, named("EndSession"), pgx.NamedArgs{
		"session_id": id(ref.ID), "user_id": id(ref.UserID), "event": eventArg(e),
	}, &ended)
	return ended, err
}

// FindOwnSessions implements identity.Store. A live session is among those of its user,
// so if there is no row, it is not alive.
func (s *Store) FindOwnSessions(ctx context.Context, ref identity.SessionRef) ([]identity.OwnSession, error) {
	found, err := findAll(ctx, s, named("FindOwnSessions"), sessionArgs(ref, nil), func(o *identity.OwnSession) []any {
		return []any{&o.ID, &o.OpenedAt, &o.RefreshedAt, &o.ExpiresAt, &o.UserAgent, &o.Current}
	})
	if err == nil && len(found) == 0 {
		return nil, identity.ErrNoSession
	}
	return found, err
}

// EndOwnSession implements identity.Store.
func (s *Store) EndOwnSession(
	ctx context.Context, ref identity.SessionRef, sessionID string, e identity.Event,
) (ended bool, err error) {
	err = s.queryRow(ctx, onlyOnce, named("EndOwnSession"), sessionArgs(ref, pgx.NamedArgs{
		"own_session_id": id(sessionID), "event": eventArg(e),
	}), &ended)
	return ended, noRowsIs(err, identity.ErrNoSession)
}
