package postgres

import (
	"context"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// insertEvent and asEvent make the statement that records an event, with a FROM
// between them: one row of what was changed, so that nothing is recorded where
// nothing was, and jsonb_to_record of the parameter that eventArg gives. As a part
// of the statement that makes the change it costs no round trip.
const (
	insertEvent = `INSERT INTO audit_events (event, user_id, session_id, request_id, address, details)
		SELECT e.event, e.user_id, e.session_id, e.request_id, e.address, e.details FROM `
	asEvent = ` AS e(event text, user_id uuid, session_id uuid, request_id text, address inet, details jsonb)
		WHERE e.event IS NOT NULL`
)

// RecordEvent implements identity.Store. An event is not worth a second row: where the
// answer was lost, it is not sent again.
func (s *Store) RecordEvent(ctx context.Context, e identity.Event) error {
	return s.exec(ctx, onlyOnce, insertEvent+`jsonb_to_record($1::jsonb)`+asEvent, eventArg(e))
}

// auditEvent is an event as jsonb_to_record takes it apart.
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
	// What is no UUID names nobody; see the type id.
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
