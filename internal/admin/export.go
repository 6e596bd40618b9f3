package admin

import (
	"context"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// MaxExportedEvents bounds the events of an export.
const MaxExportedEvents = 10_000

// Export is all that is stored about a person, except hashes of secrets. Its JSON is part of the API.
type Export struct {
	User     ExportedUser      `json:"user"`
	Sessions []ExportedSession `json:"sessions"`
	Codes    []ExportedCode    `json:"codes"`
	// Networks from which the person has signed in. Only digests of their addresses are stored.
	Networks []ExportedNetwork `json:"networks"`
	Mails    []ExportedMail    `json:"mails"` // that wait to be sent
	Events   []ExportedEvent   `json:"events"`
}

// ExportedUser is the account.
type ExportedUser struct {
	ID              string         `json:"id"`
	Username        string         `json:"username"`
	Email           string         `json:"email"`
	UnprovedEmail   string         `json:"unproved_email,omitempty"`
	FirstName       string         `json:"first_name"`
	LastName        string         `json:"last_name"`
	Scope           string         `json:"scope"`
	Roles           []string       `json:"roles"`
	Metadata        jsontext.Value `json:"metadata"`
	Language        string         `json:"language"`
	EmailVerifiedAt time.Time      `json:"email_verified_at,omitzero"`
	SuspendedAt     time.Time      `json:"suspended_at,omitzero"`
	CreatedAt       time.Time      `json:"created_at"`
	UpdatedAt       time.Time      `json:"updated_at"`
}

// ExportedSession is a session, or one that has expired and is not removed yet.
type ExportedSession struct {
	ID          string    `json:"id"`
	Scope       string    `json:"scope"`
	OpenedAt    time.Time `json:"opened_at"`
	RefreshedAt time.Time `json:"refreshed_at"`
	ExpiresAt   time.Time `json:"expires_at"`
	UserAgent   string    `json:"user_agent"`
}

// ExportedCode is a one-time code, without the code.
type ExportedCode struct {
	Purpose   identity.Purpose `json:"purpose"`
	Email     string           `json:"email,omitempty"` // that it proves
	ExpiresAt time.Time        `json:"expires_at"`
}

// ExportedNetwork is a network, without its address.
type ExportedNetwork struct {
	LastSeenAt time.Time `json:"last_seen_at"`
}

// ExportedMail is a mail in the outbox.
type ExportedMail struct {
	Purpose   identity.MessagePurpose `json:"purpose"`
	Recipient string                  `json:"recipient"`
	QueuedAt  time.Time               `json:"queued_at"`
}

// ExportedEvent is an event of the audit trail.
type ExportedEvent struct {
	At        time.Time          `json:"at"`
	Event     identity.EventName `json:"event"`
	SessionID string             `json:"session_id,omitempty"`
	RequestID string             `json:"request_id,omitempty"`
	Address   string             `json:"address,omitempty"`
	Details   jsontext.Value     `json:"details,omitempty"`
}

// ExportOwn returns what a person may read of it themselves. It leaves out codes and mails for other addresses, and the
// events of codes: there is a code for another address only if no other account has that address, which the answer to
// its request conceals.
func (s *Service) ExportOwn(ctx context.Context, userID string) (Export, error) {
	e, err := s.Export(ctx, userID)
	e.Codes = slices.DeleteFunc(e.Codes, func(c ExportedCode) bool { return c.Email != "" && c.Email != e.User.Email })
	e.Mails = slices.DeleteFunc(e.Mails, func(m ExportedMail) bool { return m.Recipient != e.User.Email })
	e.Events = slices.DeleteFunc(e.Events, func(e ExportedEvent) bool { return e.Event == identity.EventCodeIssued })
	return e, err
}

// Export returns all that is stored about a person.
func (s *Service) Export(ctx context.Context, userID string) (Export, error) {
	e, err := s.store.Export(ctx, userID, MaxExportedEvents)
	e.toUTC()
	return e, translate(err)
}

// toUTC gives all times the zone that the API has.
func (e *Export) toUTC() {
	u := &e.User
	times := []*time.Time{&u.EmailVerifiedAt, &u.SuspendedAt, &u.CreatedAt, &u.UpdatedAt}
	for i := range e.Sessions {
		times = append(times, &e.Sessions[i].OpenedAt, &e.Sessions[i].RefreshedAt, &e.Sessions[i].ExpiresAt)
	}
	for i := range e.Codes {
		times = append(times, &e.Codes[i].ExpiresAt)
	}
	for i := range e.Networks {
		times = append(times, &e.Networks[i].LastSeenAt)
	}
	for i := range e.Mails {
		times = append(times, &e.Mails[i].QueuedAt)
	}
	for i := range e.Events {
		times = append(times, &e.Events[i].At)
	}
	for _, t := range times {
		*t = t.UTC()
	}
}
