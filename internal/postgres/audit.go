package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// RecordEvent implements identity.Store. A duplicate would do more harm than a missing
// event, so it is not sent again if its answer was lost.
func (s *Store) RecordEvent(ctx context.Context, e identity.Event) error {
	return s.exec(ctx, onlyOnce, named("RecordEvent"), pgx.NamedArgs{"event": eventArg(e)})
}

// auditEvent is an event as a row of audit_events, for jsonb_populate_record.
type auditEvent struct {
	Event     identity.EventName `json:"event"`
	UserID    string             `json:"user_id,omitempty"`
	SessionID string             `json:"session_id,omitempty"`
	RequestID string             `json:"request_id,omitempty"`
	Address   string             `json:"address,omitempty"`
	Details   map[string]any     `json:"details,omitempty"`
}

// eventArg returns an event as a parameter: NULL for the zero Event.
func eventArg(e identity.Event) any {
	if e.Name == "" {
		return nil
	}
	arg := &auditEvent{Event: e.Name, RequestID: e.RequestID}
	// An invalid UUID refers to nothing; see the type id.
	if identity.IsUUID(e.UserID) {
		arg.UserID = e.UserID
	}
	if identity.IsUUID(e.SessionID) {
		arg.SessionID = e.SessionID
	}
	if e.Address.IsValid() {
		arg.Address = e.Address.WithZone("").String() // inet has no zones
	}
	if len(e.Details) > 0 {
		arg.Details = map[string]any{}
		for _, d := range e.Details {
			arg.Details[d.Key] = d.Value.Any()
		}
	}
	return arg
}
