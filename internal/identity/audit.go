package identity

import (
	"context"
	"log/slog"
	"net/netip"
)

// Event is one entry of the audit trail. It holds ids and the client's address, which is
// personal data, but no names, mail addresses, codes or tokens. The log line and the row
// of the Store are made from the same Event, so that they cannot disagree.
type Event struct {
	Name      EventName
	UserID    string     // empty: of no account, such as an unknown login
	SessionID string     // empty: about no session
	RequestID string     // empty: not caused by a request
	Address   netip.Addr // of the client; invalid: unknown
	Details   []slog.Attr
}

// EventName says what happened. It is the message of the log line.
type EventName string

// The events. A Store accepts any name, so that a release may add one.
const (
	EventSignedUp        EventName = "signed up"      // and the sign-up waits for the proof of its address
	EventEmailVerified   EventName = "email verified" // of a sign-up, which becomes an account, or of an account; it also signs in
	EventSignedIn        EventName = "signed in"
	EventPasswordRefused EventName = "password refused"
	EventTokenReused     EventName = "refresh token reused: session ended"
	EventSignedOut       EventName = "signed out"
	EventSessionEnded    EventName = "session ended" // by its owner, from one of their sessions
	EventCodeIssued      EventName = "code issued"
	EventMailWithheld    EventName = "mail withheld: too many to its recipient" // see LIMIT_MAILS
	EventPasswordReset   EventName = "password reset"
	EventPasswordChanged EventName = "password changed"
	EventProfileChanged  EventName = "profile changed"
	EventEmailChanged    EventName = "email changed"
	EventAccountDeleted  EventName = "account deleted"
	EventKeysChanged     EventName = "keys changed"
	EventImported        EventName = "accounts imported" // by the command users import

	// EventInvitationExpired is recorded by the clean-up, without a line in the log, for each invitation that it removes.
	EventInvitationExpired EventName = "invitation expired"

	// Refusals. One entry a minute stands for all of the same kind; see Refusal.
	EventPasswordThrottled EventName = "password throttled"
	EventSignInRefused     EventName = "sign-in refused"
	EventCodeRefused       EventName = "code refused"
	EventLimitExceeded     EventName = "limit exceeded"
)

// Record is what a Store writes together with a change: in the same statement or transaction, so that both are there,
// or neither. A zero Event or Notice is not written.
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

// done returns the error of a call of the Store for the caller. If there is none, it logs the event of the call.
func (s *Service) done(ctx context.Context, e Event, err error) error {
	if err != nil {
		return storeFailure(err)
	}
	s.logEvent(ctx, e)
	return nil
}

// logEvent logs an event after the change that it is about.
func (s *Service) logEvent(ctx context.Context, e Event) {
	e.Log(ctx, s.audit)
}

// Log writes the log line of an event.
func (e Event) Log(ctx context.Context, log *slog.Logger) {
	log.LogAttrs(ctx, slog.LevelInfo, string(e.Name), e.attrs()...)
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
