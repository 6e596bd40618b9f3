package admin

import (
	"context"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// Suspend suspends an account: no one can sign in to it, and all its sessions end. A suspended account stays as it
// is, and nothing is recorded.
func (s *Service) Suspend(ctx context.Context, ref Ref, c Change) (User, error) {
	e := s.event(ctx, EventSuspended, c, ref.ID, "")
	changed, err := s.store.SuspendUser(ctx, ref, s.audited(e))
	return s.changed(ctx, ref.ID, e, changed, err)
}

// Unsuspend lifts a suspension. The sessions that it ended stay ended.
func (s *Service) Unsuspend(ctx context.Context, ref Ref, c Change) (User, error) {
	e := s.event(ctx, EventUnsuspended, c, ref.ID, "")
	changed, err := s.store.UnsuspendUser(ctx, ref, s.audited(e))
	return s.changed(ctx, ref.ID, e, changed, err)
}

// changed logs a change, and returns the account as it is now.
func (s *Service) changed(ctx context.Context, id string, e identity.Event, changed bool, err error) (User, error) {
	if err != nil {
		return User{}, translate(err)
	}
	if changed {
		e.Log(ctx, s.audit)
	}
	return s.User(ctx, id)
}

// Remove deletes an account with everything that belongs to it but the audit trail.
func (s *Service) Remove(ctx context.Context, ref Ref, c Change) error {
	e := s.event(ctx, EventDeleted, c, ref.ID, "")
	if err := s.store.RemoveUser(ctx, ref, s.audited(e)); err != nil {
		return translate(err)
	}
	e.Log(ctx, s.audit)
	return nil
}

// Sessions lists the live sessions of an account, the newest first.
func (s *Service) Sessions(ctx context.Context, userID string) ([]identity.OwnSession, error) {
	sessions, err := s.store.ListSessions(ctx, userID, s.now())
	return sessions, translate(err)
}

// EndSessions ends all sessions of an account, and returns how many were live.
func (s *Service) EndSessions(ctx context.Context, userID string, c Change) (ended int, err error) {
	return s.endSessions(ctx, userID, "", c)
}

// EndSession ends one session of an account.
func (s *Service) EndSession(ctx context.Context, userID, sessionID string, c Change) error {
	ended, err := s.endSessions(ctx, userID, sessionID, c)
	if err == nil && ended == 0 {
		return &identity.Error{
			Kind: identity.NotFound, Reason: identity.ReasonSessionNotFound,
			Message: "the account has no session with this id, or it has ended",
		}
	}
	return err
}

func (s *Service) endSessions(ctx context.Context, userID, sessionID string, c Change) (ended int, err error) {
	e := s.event(ctx, EventSessionsEnded, c, userID, sessionID)
	if ended, err = s.store.EndSessions(ctx, userID, sessionID, s.now(), s.audited(e)); err != nil {
		return 0, translate(err)
	}
	if ended > 0 {
		e.Details = append(e.Details, slog.Int("sessions", ended))
		e.Log(ctx, s.audit)
	}
	return ended, nil
}

// EventFilter selects events. An empty field is any.
type EventFilter struct {
	UserID string
	Event  string // the name
	Actor  string
}

// maxEventFilter bounds Event and Actor, in bytes.
const maxEventFilter = 400

func (f EventFilter) check() error {
	for name, value := range map[string]string{"event": f.Event, "actor": f.Actor} {
		if len(value) > maxEventFilter || !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
			return invalid(name, "must be text on one line, as the events have it")
		}
	}
	return nil
}

// Events lists the audit trail, the newest event first. The account of UserID may be deleted.
func (s *Service) Events(ctx context.Context, f EventFilter, c Cursor, limit int) (Page[Event], error) {
	limit, err := pageSize(limit)
	if err != nil {
		return Page[Event]{}, err
	}
	if err := f.check(); err != nil {
		return Page[Event]{}, err
	}
	at, err := c.open(f)
	if err != nil {
		return Page[Event]{}, err
	}
	events, err := s.store.ListEvents(ctx, f, at.Number, limit+1)
	if err != nil {
		return Page[Event]{}, err
	}
	return pageOf(events, limit, func(e Event) Cursor { return newCursor(f, position{Number: e.ID}) }), nil
}
