package identity

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"time"
)

const maxMetadata = 4096 // bytes

// MovedAccount is an account that moves in from another system, or out to one: a line of the native format.
type MovedAccount struct {
	ID                string     `json:"id,omitempty"` // empty: a new one
	Username          string     `json:"username,omitempty"`
	CanonicalUsername string     `json:"-"`
	Email             string     `json:"email"`
	CanonicalEmail    string     `json:"-"`
	FirstName         string     `json:"first_name,omitempty"`
	LastName          string     `json:"last_name,omitempty"`
	Scope             *string    `json:"scope,omitempty"` // nil: the policy's
	Language          string     `json:"language,omitempty"`
	Roles             string     `json:"roles,omitempty"`         // separated by spaces
	PasswordHash      string     `json:"password_hash,omitempty"` // see package hashes; empty: no password
	EmailVerified     bool       `json:"email_verified,omitzero"` // may replace EmailVerifiedAt, if the time is not known
	EmailVerifiedAt   *time.Time `json:"email_verified_at,omitempty"`
	ActivatedAt       *time.Time `json:"activated_at,omitempty"` // when an address was proved for the first time
	SuspendedAt       *time.Time `json:"suspended_at,omitempty"`
	CreatedAt         *time.Time `json:"created_at,omitempty"`
	UpdatedAt         *time.Time `json:"updated_at,omitempty"`

	Metadata json.RawMessage `json:"metadata,omitempty"` // an object

	// An address that the account has changed to, and that is not proved yet.
	UnprovedEmail          string     `json:"unproved_email,omitempty"`
	CanonicalUnprovedEmail string     `json:"-"`
	UnprovedSince          *time.Time `json:"unproved_since,omitempty"`
}

// CheckMovedAccount brings an account that moves in into the form in which it is stored, or returns what is wrong with
// it. It does not look at the hash of the password. Names may be missing, as with accounts that were made before a
// setting required them.
func (s *Service) CheckMovedAccount(m *MovedAccount) error {
	var p problems
	m.ID = cmp.Or(m.ID, newID())
	if !IsUUID(m.ID) {
		p.add("id", Fault{FieldMalformed, "must be a UUID in lower case"})
	}
	m.CanonicalUsername = p.check("username", m.Username, orNone(true, canonicalUsername))
	m.CanonicalEmail = p.check("email", m.Email, canonicalEmail)
	m.FirstName = p.check("first_name", m.FirstName, orNone(true, personName))
	m.LastName = p.check("last_name", m.LastName, orNone(true, personName))
	if m.Scope == nil {
		m.Scope = &s.policy.SignUpScopes
	} else if *m.Scope != "" {
		m.Scope = new(p.check("scope", *m.Scope, canonicalScope))
	}
	if m.Roles != "" {
		m.Roles = p.check("roles", m.Roles, canonicalScope)
	}
	switch {
	case len(m.Metadata) == 0:
		m.Metadata = json.RawMessage("{}")
	case m.Metadata[0] != '{':
		p.add("metadata", Fault{FieldMalformed, "must be a JSON object"})
	case len(m.Metadata) > maxMetadata:
		p.add("metadata", Fault{FieldTooLong, "is longer than 4096 bytes"})
	}
	if len(m.Language) > maxLanguage {
		p.add("language", Fault{FieldTooLong, "is longer than 256 bytes"})
	}
	if m.CreatedAt == nil {
		m.CreatedAt = cmp.Or(m.EmailVerifiedAt, new(s.preciseNow()))
	}
	if m.EmailVerified && m.EmailVerifiedAt == nil {
		m.EmailVerifiedAt = m.CreatedAt
	}
	m.ActivatedAt = cmp.Or(m.ActivatedAt, m.EmailVerifiedAt)
	if m.ActivatedAt == nil {
		p.add("email", Fault{FieldMissing, "is not verified; only accounts whose address is verified can move in, the others have to sign up"})
	}
	m.UpdatedAt = cmp.Or(m.UpdatedAt, m.CreatedAt)
	// Lists begin with the newest accounts. Such a time is one that was converted wrongly.
	for _, field := range []struct {
		name string
		at   *time.Time
	}{{"created_at", m.CreatedAt}, {"email_verified_at", m.EmailVerifiedAt}} {
		if field.at != nil && field.at.After(s.now().Add(24*time.Hour)) {
			p.add(field.name, Fault{FieldMalformed, "is in the future: " + field.at.UTC().Format(time.RFC3339)})
		}
	}
	switch {
	case (m.UnprovedEmail == "") != (m.UnprovedSince == nil):
		p.add("unproved_email", Fault{FieldMissing, "and unproved_since need each other"})
	case m.UnprovedEmail != "":
		m.CanonicalUnprovedEmail = p.check("unproved_email", m.UnprovedEmail, canonicalEmail)
	}
	return p.err()
}

// RecordImport records that an import of accounts is complete.
func (s *Service) RecordImport(ctx context.Context, imported, refused int64) error {
	e := s.event(ctx, EventImported, "", "", slog.Int64("imported", imported), slog.Int64("refused", refused))
	s.logEvent(ctx, e)
	if !s.policy.KeepAudit {
		return nil
	}
	return s.store.RecordEvent(ctx, e)
}
