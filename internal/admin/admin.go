package admin

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// User is an account as administrators see it.
type User struct {
	identity.User

	SuspendedAt time.Time // zero: not suspended
	Activated   bool      // the address was proved once; otherwise the account is invited
	// Version changes with every change of the account. A change can be made on condition that the account still has it.
	Version string
	// Key is the canonical address or username, in a list that is in the order of it.
	Key string
}

// Event is an entry of the audit trail.
type Event struct {
	ID        int64
	At        time.Time
	Name      identity.EventName
	UserID    string // empty: of no account
	SessionID string
	RequestID string
	Address   string // of the client; personal data
	Details   map[string]any
}

// Editable is what administrators may change of an account.
type Editable struct {
	FirstName, LastName string
	Scope, Roles        string
	Metadata            string
}

// Creation is what administrators say about a new account.
type Creation struct {
	Verified        bool
	Roles, Metadata string
	Key, Request    []byte // digests of the Idempotency-Key and of the request; Key may be nil
}

// Created is the account of a Creation.
type Created struct {
	ID    string
	Again bool // it was created by an earlier request with the same key
	Other bool // that request was another one
}

// Ref names an account. If Version is not empty, it is a condition.
type Ref struct {
	ID      string
	Version string
}

// Range selects the accounts whose key begins with Prefix, after the key After.
type Range struct {
	Prefix string
	After  string
}

// Before selects what was created before a time, or at that time with a smaller id, and after another time.
type Before struct {
	At           time.Time
	ID           string
	CreatedAfter time.Time
}

// Store keeps accounts, sessions and the audit trail. Every method is atomic. What a method records with a change is
// written if the change is made, and only then.
//
// The errors are those of identity.Store: ErrNoUser if there is no account; ErrStale if it has another version.
type Store interface {
	FindUserByID(ctx context.Context, id string) (User, error)
	FindUserByEmail(ctx context.Context, canonicalEmail string) (User, error)
	FindUserByUsername(ctx context.Context, canonicalUsername string) (User, error)

	// The lists return at most limit accounts.
	ListUsersByEmail(ctx context.Context, r Range, limit int) ([]User, error)
	ListUsersByUsername(ctx context.Context, r Range, limit int) ([]User, error)
	ListUsersByCreation(ctx context.Context, b Before, suspended bool, limit int) ([]User, error)

	// CreateUser creates an account. If the key of c is known, it returns the account that was created with it. It removes
	// sign-ups that wait for the address of an account whose address is proved. *identity.TakenError.
	CreateUser(ctx context.Context, n identity.NewSignUp, c Creation, e identity.Event) (Created, error)
	// VoidPassword replaces the password of an account, ends its sessions and codes, and returns its own address.
	VoidPassword(ctx context.Context, ref Ref, hash string, e identity.Event) (email string, err error)

	// SuspendUser suspends an account, ends its sessions and removes its codes. UnsuspendUser lifts the suspension. An
	// account that is in that state already is not changed, and changed is false.
	SuspendUser(ctx context.Context, ref Ref, e identity.Event) (changed bool, err error)
	UnsuspendUser(ctx context.Context, ref Ref, e identity.Event) (changed bool, err error)
	// EditUser replaces what administrators may change. ref has a version. ErrStale also if there is no account.
	EditUser(ctx context.Context, ref Ref, u Editable, e identity.Event) error
	// RemoveUser deletes an account with everything that belongs to it but the audit trail.
	RemoveUser(ctx context.Context, ref Ref, e identity.Event) error

	// ListSessions lists the live sessions of an account, the newest first.
	ListSessions(ctx context.Context, userID string, now time.Time) ([]identity.OwnSession, error)
	// EndSessions ends the session of an account with this id, or all if it is empty, and returns how many were live.
	EndSessions(ctx context.Context, userID, sessionID string, now time.Time, e identity.Event) (ended int, err error)

	// RecordEvent records an event that belongs to no change.
	RecordEvent(ctx context.Context, e identity.Event) error
	// ListEvents lists the newest events before an id.
	ListEvents(ctx context.Context, f EventFilter, before int64, limit int) ([]Event, error)

	// Export reads all that is stored about a person, with the newest events. ErrNoUser.
	Export(ctx context.Context, userID string, events int) (Export, error)
}

// Accounts is what administration needs of the domain: *identity.Service.
type Accounts interface {
	NewAccount(ctx context.Context, in identity.SignUp) (identity.NewSignUp, error)
	UnusableHash(ctx context.Context) (string, error)
	ForgotPassword(ctx context.Context, email string) (identity.Code, error)
	NewVerificationCode(ctx context.Context, email string) (identity.Code, error)
	Invite(ctx context.Context, email string) (identity.Code, error)
}

// Service does what administrators ask for. It does not check their rights: see Authorizer.
type Service struct {
	store     Store
	accounts  Accounts
	keys      Keyring
	audit     *slog.Logger
	keepTrail bool
	now       func() time.Time
	optional  identity.OptionalNames
	claims    []string
	room      int
}

// Config is what a Service needs.
type Config struct {
	Store     Store
	Accounts  Accounts
	Keys      Keyring
	Audit     *slog.Logger // the log of the audit trail
	KeepTrail bool         // the Store keeps the audit trail too
	Now       func() time.Time

	Optional    identity.OptionalNames // which names an account may lack
	TokenClaims []string               // the members of the metadata that access tokens contain
	Room        int                    // the longest roles and claims of a token, in bytes; see token.Room
}

// New returns a Service.
func New(c Config) *Service {
	return &Service{
		store: c.Store, accounts: c.Accounts, keys: c.Keys, audit: c.Audit, keepTrail: c.KeepTrail, now: c.Now,
		optional: c.Optional, claims: c.TokenClaims, room: c.Room,
	}
}

// The events of administrators. Their details name the actor, and the reason if one was given.
const (
	EventSuspended       identity.EventName = "account suspended"
	EventCreated         identity.EventName = "account created by an administrator"
	EventPasswordVoided  identity.EventName = "password voided by an administrator"
	EventCodeSent        identity.EventName = "another code asked for by an administrator"
	EventUpdated         identity.EventName = "account changed by an administrator"
	EventUnsuspended     identity.EventName = "account suspension lifted"
	EventDeleted         identity.EventName = "account deleted by an administrator"
	EventSessionsEnded   identity.EventName = "sessions ended by an administrator"
	EventRotationStarted identity.EventName = "key rotation started by an administrator"
	EventKeyRevoked      identity.EventName = "key revoked by an administrator"
)

// maxReason is the longest reason of a change, in characters.
const maxReason = 200

// Change is what an administrator says about a change.
type Change struct {
	Actor  Actor
	Reason string // may be empty; see NewChange
}

// NewChange returns what an actor says about a change, or an error if the reason cannot stand in the audit trail.
func NewChange(actor Actor, reason string) (Change, error) {
	switch {
	case utf8.RuneCountInString(reason) > maxReason:
		return Change{}, invalid("reason", "is longer than 200 characters")
	case strings.ContainsFunc(reason, unicode.IsControl):
		return Change{}, invalid("reason", "has a control character: write plain text on one line")
	}
	return Change{Actor: actor, Reason: reason}, nil
}

// event returns the event of a change. It holds the actor's name, which is not a user's.
func (s *Service) event(ctx context.Context, name identity.EventName, c Change, userID, sessionID string) identity.Event {
	caller := identity.CallerOf(ctx)
	e := identity.Event{
		Name: name, UserID: userID, SessionID: sessionID, RequestID: caller.RequestID, Address: caller.Address,
		Details: []slog.Attr{slog.String("actor", c.Actor.Name)},
	}
	if c.Reason != "" {
		e.Details = append(e.Details, slog.String("reason", c.Reason))
	}
	return e
}

// audited returns what the Store records.
func (s *Service) audited(e identity.Event) identity.Event {
	if !s.keepTrail {
		return identity.Event{}
	}
	return e
}

// translate returns the error of the Store for the caller.
func translate(err error) error {
	switch {
	case errors.Is(err, identity.ErrNoUser):
		return &identity.Error{Kind: identity.NotFound, Reason: identity.ReasonAccountNotFound, Message: "there is no such account"}
	case errors.Is(err, identity.ErrStale):
		return &identity.Error{
			Kind: identity.Conflict, Reason: ReasonAccountChanged, Message: "the account has changed since you read it: read it again",
		}
	}
	if taken, ok := errors.AsType[*identity.TakenError](err); ok {
		var fields []identity.Problem
		for _, field := range []struct {
			name  string
			taken bool
		}{{"username", taken.Username}, {"email", taken.Email}} {
			if field.taken {
				fields = append(fields, identity.Problem{Parameter: field.name, Fault: identity.Fault{Reason: identity.FieldTaken, Text: "is taken"}})
			}
		}
		reason := identity.ReasonUsernameTaken
		if taken.Email {
			reason = identity.ReasonEmailTaken
		}
		return &identity.Error{Kind: identity.Conflict, Reason: reason, Message: fields[0].Parameter + ": is taken", Fields: fields}
	}
	return err
}

// ReasonAccountChanged is the reason of a change that was made on condition of another version.
const ReasonAccountChanged identity.Reason = "account_changed"
