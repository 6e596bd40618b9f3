package adminapi

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxLimit is the largest number of entries of a page.
const MaxLimit = 200

// The states of an account.
const (
	StateActive    = "active"
	StateSuspended = "suspended"
	StateInvited   = "invited"
	StateVerified  = "verified" // of a new account only
)

// User is an account as administrators see it.
type User struct {
	ID          string         `json:"id"`
	Username    string         `json:"username"`
	Email       string         `json:"email"`
	FirstName   string         `json:"first_name"`
	LastName    string         `json:"last_name"`
	Scope       string         `json:"scope"`
	Roles       []string       `json:"roles"`
	Metadata    jsontext.Value `json:"metadata"`
	IsVerified  bool           `json:"is_verified"`
	State       string         `json:"state"`
	SuspendedAt *time.Time     `json:"suspended_at,omitempty"`
	CreatedAt   time.Time      `json:"created_at"`
	UpdatedAt   time.Time      `json:"updated_at"`

	// With an invitation, unless the code is sent by mail.
	Code      string `json:"code,omitempty"`
	ExpiresIn int64  `json:"expires_in,omitzero"` // seconds
}

// NewUser is an account that an administrator makes.
type NewUser struct {
	State     string         `json:"state"` // StateVerified or StateInvited
	Email     string         `json:"email"`
	Username  string         `json:"username,omitempty"`
	FirstName string         `json:"first_name,omitempty"`
	LastName  string         `json:"last_name,omitempty"`
	Password  string         `json:"password,omitempty"`
	Scope     string         `json:"scope,omitempty"`
	Roles     jsontext.Value `json:"roles,omitzero"`    // an array of strings
	Metadata  jsontext.Value `json:"metadata,omitzero"` // an object
	Reason    string         `json:"reason,omitempty"`
}

// Change is what an administrator says about a change.
type Change struct {
	Reason string `json:"reason,omitempty"` // for the audit trail
}

// Session is a session as administrators see it.
type Session struct {
	ID          string    `json:"id"`
	OpenedAt    time.Time `json:"opened_at"`
	RefreshedAt time.Time `json:"refreshed_at"`
	ExpiresAt   time.Time `json:"expires_at"`
	UserAgent   string    `json:"user_agent"`
}

// Event is an event of the audit trail.
type Event struct {
	ID        int64          `json:"id"`
	At        time.Time      `json:"at"`
	Event     string         `json:"event"`
	UserID    string         `json:"user_id,omitempty"`
	SessionID string         `json:"session_id,omitempty"`
	RequestID string         `json:"request_id,omitempty"`
	Address   string         `json:"address,omitempty"`
	Details   map[string]any `json:"details,omitempty"`
}

// Page is a part of a list.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"` // the cursor of the next page; empty: this is the last one
}

// SignedOut is the result of the end of all sessions of an account.
type SignedOut struct {
	Ended int `json:"ended"`
}

// ConsoleCode opens the console in a browser, once.
type ConsoleCode struct {
	Path      string `json:"path"`
	ExpiresIn int    `json:"expires_in"` // seconds
}
