package identitytest

import (
	"cmp"
	"context"
	"slices"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// OpenSession implements identity.Store.
func (s *Store) OpenSession(ctx context.Context, n identity.NewSession, e identity.Event) error {
	defer s.leave()
	if err := s.enter(ctx, "OpenSession"); err != nil {
		return err
	}
	u, ok := s.users[n.UserID]
	if !ok || u.suspended || u.passwordHash != n.PasswordHash {
		return identity.ErrStale
	}
	if failures := s.throttles[n.ThrottleKey].failures; failures > n.Failures && failures >= n.FailureLimit {
		return identity.ErrStale
	}
	if n.Rehash != "" {
		u.passwordHash = n.Rehash
	}
	if n.Forgive {
		delete(s.throttles, n.ThrottleKey)
	}
	s.prune(n.UserID, n.Keep-1)
	s.putSession(n.UserID, n.Scope, n)
	s.record(e, n.UserID)
	return nil
}

// sessionsOf returns the sessions of a user, newest first.
func (s *Store) sessionsOf(userID string) (open []*session) {
	for _, candidate := range s.sessions {
		if candidate.userID == userID {
			open = append(open, candidate)
		}
	}
	slices.SortFunc(open, func(a, b *session) int {
		return cmp.Or(b.openedAt.Compare(a.openedAt), cmp.Compare(b.id, a.id))
	})
	return open
}

// prune ends all sessions of a user except the newest ones.
func (s *Store) prune(userID string, keep int) {
	for i, candidate := range s.sessionsOf(userID) {
		if i >= keep {
			delete(s.sessions, candidate.id)
		}
	}
}

func (s *Store) putSession(userID, scope string, n identity.NewSession) {
	s.addKnownNetwork(userID, n.From)
	s.sessions[n.ID] = &session{
		id: n.ID, userID: userID, scope: scope,
		openedAt: n.OpenedAt, refreshedAt: n.OpenedAt,
		expiresAt: n.ExpiresAt, endsAt: n.EndsAt, userAgent: n.UserAgent,
	}
}

// FindSession implements identity.Store.
func (s *Store) FindSession(ctx context.Context, ref identity.SessionRef) (identity.Session, error) {
	defer s.leave()
	found, u, err := s.enterLive(ctx, "FindSession", ref)
	if err != nil {
		return identity.Session{}, err
	}
	return found.with(u), nil
}

// AdvanceSession implements identity.Store.
func (s *Store) AdvanceSession(
	ctx context.Context, ref identity.SessionRef, generation int64, renewal identity.Renewal,
) (identity.Session, bool, error) {
	defer s.leave()
	if err := s.enter(ctx, "AdvanceSession"); err != nil {
		return identity.Session{}, false, err
	}
	found, u, err := s.live(ref)
	if err != nil || found.generation > generation {
		return identity.Session{}, false, nil
	}
	found.generation = generation + 1
	found.refreshedAt = renewal.RefreshedAt
	found.expiresAt = renewal.RefreshedAt.Add(renewal.Lifetime)
	if found.endsAt.Before(found.expiresAt) {
		found.expiresAt = found.endsAt
	}
	return found.with(u), true, nil
}

// EndSession implements identity.Store.
func (s *Store) EndSession(ctx context.Context, ref identity.SessionRef, e identity.Event) (bool, error) {
	defer s.leave()
	if err := s.enter(ctx, "EndSession"); err != nil {
		return false, err
	}
	found, ok := s.sessions[ref.ID]
	if !ok || found.userID != ref.UserID {
		return false, nil
	}
	delete(s.sessions, ref.ID)
	s.record(e, ref.UserID)
	return true, nil
}

// FindOwnSessions implements identity.Store.
func (s *Store) FindOwnSessions(ctx context.Context, ref identity.SessionRef) (own []identity.OwnSession, err error) {
	defer s.leave()
	if _, _, err := s.enterLive(ctx, "FindOwnSessions", ref); err != nil {
		return nil, err
	}
	for _, open := range s.sessionsOf(ref.UserID) {
		if !ref.Now.Before(open.expiresAt) {
			continue
		}
		own = append(own, identity.OwnSession{
			ID: open.id, OpenedAt: open.openedAt, RefreshedAt: open.refreshedAt, ExpiresAt: open.expiresAt,
			UserAgent: open.userAgent, Current: open.id == ref.ID,
		})
	}
	return own, nil
}

// EndOwnSession implements identity.Store.
func (s *Store) EndOwnSession(
	ctx context.Context, ref identity.SessionRef, id string, e identity.Event,
) (ended bool, err error) {
	defer s.leave()
	if _, _, err := s.enterLive(ctx, "EndOwnSession", ref); err != nil {
		return false, err
	}
	found, ok := s.sessions[id]
	if !ok || found.userID != ref.UserID || !ref.Now.Before(found.expiresAt) {
		return false, nil
	}
	delete(s.sessions, id)
	s.record(e, ref.UserID)
	return true, nil
}

func (s session) with(u *user) identity.Session {
	return identity.Session{
		ID: s.id, User: u.shown(), Scope: s.scope, Generation: s.generation,
		OpenedAt: s.openedAt, RefreshedAt: s.refreshedAt, ExpiresAt: s.expiresAt, EndsAt: s.endsAt,
	}
}
