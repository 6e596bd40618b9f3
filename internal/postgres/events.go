package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/events"
	"github.com/auth-gateway/auth-gateway/internal/identity"
)

var _ events.Queue = (*Store)(nil)

// QueueEvents implements events.Queue.
func (s *Store) QueueEvents(ctx context.Context, types map[identity.EventName]string, duration time.Duration) error {
	return s.exec(ctx, repeatable, named("QueueEvents"), pgx.NamedArgs{"types": types, "duration": duration})
}

// ClaimEvent implements events.Queue. If its answer was lost, the event is due again after the lease.
func (s *Store) ClaimEvent(ctx context.Context, lease time.Duration) (e events.Event, found bool, err error) {
	var microseconds int64
	err = s.queryRow(ctx, onlyOnce, named("ClaimEvent"), pgx.NamedArgs{"lease": lease},
		&e.Ref.Number, &e.Ref.Attempt, &e.Ref.ID, &e.Type, &e.At, &e.Data, &microseconds)
	found = err == nil
	e.Age = time.Duration(microseconds) * time.Microsecond
	return e, found, noRowsIs(err, nil)
}

// RemoveEvent implements events.Queue.
func (s *Store) RemoveEvent(ctx context.Context, ref events.Ref) error {
	return s.exec(ctx, repeatable, named("RemoveEvent"),
		pgx.NamedArgs{"event_id": ref.Number, "message_id": ref.ID, "attempt": ref.Attempt})
}

// PostponeEvent implements events.Queue.
func (s *Store) PostponeEvent(ctx context.Context, ref events.Ref, after time.Duration) error {
	return s.exec(ctx, repeatable, named("PostponeEvent"),
		pgx.NamedArgs{"event_id": ref.Number, "message_id": ref.ID, "attempt": ref.Attempt, "delay": after})
}

// GiveUpEvents implements events.Queue.
func (s *Store) GiveUpEvents(ctx context.Context, age time.Duration, limit int) (n int, err error) {
	err = s.queryRow(ctx, repeatable, named("GiveUpEvents"), pgx.NamedArgs{"age": age, "batch": limit}, &n)
	return n, err
}

// OldestEvent implements events.Queue.
func (s *Store) OldestEvent(ctx context.Context) (time.Duration, error) {
	var microseconds int64
	err := s.queryRow(ctx, repeatable, named("FindOldestEvent"), nil, &microseconds)
	return time.Duration(microseconds) * time.Microsecond, err
}
