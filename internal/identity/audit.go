package identity

import (
	"context"
	"log/slog"
	"net/netip"
)

// Event is one entry of the audit trail: ids, and the client's address, which is
// personal data; no names, mail addresses, codes or tokens. It is one value from which both the line of the log and the row of the
// Store are made, so that they cannot disagree.
type Event struct {
	Name      EventName
	UserID    string     // empty where it is nobody's: a login that no account has
	SessionID string     // empty where it is about no session
	RequestID string     // empty where no request asked for it
	Address   netip.Addr // of the client; not valid where it is not known
	Details   []slog.Attr
}

// EventName says what has happened, in the words of the log.
type EventName string

// The events. A Store takes any name, so that a release may add one.
const (
	EventSignedUp        EventName = "signed up"      // and waits for the proof of its address
	EventEmailVerified   EventName = "email verified" // of a sign-up, which makes it an account, or of an account; signs in
	EventSignedIn        EventName = "signed in"
	EventPasswordRefused EventName = "password refused"
	EventTokenReused     EventName = "refresh token reused: session ended"
	EventSignedOut       EventName = "signed out"
	EventSessionEnded    EventName = "session ended" // by its owner, from a session of theirs
	EventCodeIssued      EventName = "code issued"
	EventMailWithheld    EventName = "mail withheld: too many to its recipient" // as LIMIT_MAILS says
	EventPasswordReset   EventName = "password reset"
	EventPasswordChanged EventName = "password changed"
	EventProfileChanged  EventName = "profile changed"
	EventEmailChanged    EventName = "email changed"
	EventAccountDeleted  EventName = "account deleted"
	EventKeysChanged     EventName = "keys changed"

	// Refusals, of which one entry a minute stands for all alike; see Refusal.
	EventPasswordThrottled EventName = "password throttled"
	EventSignInRefused     EventName = "sign-in refused"
	EventCodeRefused       EventName = "code refused"
	EventLimitExceeded     EventName = "limit exceeded"
)

type eventKey struct{}

// WithEvent has the Store record an event together with what it changes in ctx:
// in the same statement or transaction, so that both are there, or neither.
func WithEvent(ctx context.Context, e Event) context.Context {
	return context.WithValue(ctx, eventKey{}, e)
}

// EventOf gives the event of WithEvent, for the Store.
func EventOf(ctx context.Context) (e Event, ok bool) {
	e, ok = ctx.Value(eventKey{}).(Event)
	return e, ok && e.Name != ""
}

// event prepares an entry of the audit trail: ctx for the Store, which records it
// where the policy keeps a trail, and the event for tell, once it is done.
func (s *Service) event(ctx context.Context, name EventName, userID, sessionID string, details ...slog.Attr) (context.Context, Event) {
	c := CallerOf(ctx)
	e := Event{Name: name, UserID: userID, SessionID: sessionID, RequestID: c.RequestID, Address: c.Address, Details: details}
	if s.policy.KeepAudit {
		ctx = WithEvent(ctx, e)
	}
	return ctx, e
}

// tell writes the line of the log for an event that is done.
func (s *Service) tell(ctx context.Context, e Event) {
	s.audit.LogAttrs(ctx, slog.LevelInfo, string(e.Name), e.attrs()...)
}

func (e Event) attrs() (attrs []slog.Attr) {
	for _, a := range []slog.Attr{slog.String("user", e.UserID), slog.String("session", e.SessionID)} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	attrs = append(attrs, e.Details...)
	if e.RequestID != "" {
		attrs = append(attrs, slog.String("request_id", e.RequestID))
	}
	if e.Address.IsValid() {
		attrs = append(attrs, slog.String("address", e.Address.String()))
	}
	return attrs
}
