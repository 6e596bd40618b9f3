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

// Record is what a Store writes together with a change: in the same statement or
// transaction, so that both are there, or neither. A zero Event or Notice is not
// written.
type Record struct {
	Event  Event
	Notice Notice
}

// event returns an entry of the audit trail about the caller of ctx.
func (s *Service) event(ctx context.Context, name EventName, userID, sessionID string, details ...slog.Attr) Event {
	c := CallerOf(ctx)
	return Event{
		Name: name, UserID: userID, SessionID: sessionID, RequestID: c.RequestID, Address: c.Address, Details: details,
	}
}

// audited returns the event for the Store: the zero Event if the policy keeps no trail.
func (s *Service) audited(e Event) Event {
	if !s.policy.KeepAudit {
		return Event{}
	}
	return e
}

// record returns the event and a notice to the owner, as far as the policy wants them.
func (s *Service) record(ctx context.Context, e Event, about MessagePurpose) Record {
	r := Record{Event: s.audited(e)}
	if s.policy.SendsMail {
		r.Notice = Notice{Purpose: about, Language: CallerOf(ctx).language()}
	}
	return r
}

// logEvent logs an event after the change that it is about.
func (s *Service) logEvent(ctx context.Context, e Event) {
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
