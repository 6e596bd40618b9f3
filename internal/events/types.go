package events

import (
	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// Types are the types of the messages, by the events of the audit trail that they announce; docs/events.md describes
// them. They are what other systems may have to follow. Sign-ins, refusals and codes are not: there are many of them,
// they change no account, and strangers cause them.
//
// The database keeps the types with the queued events, so a release sends those of another one too.
func Types() map[identity.EventName]string {
	return map[identity.EventName]string{
		identity.EventSignedUp:          "user.signed_up",
		identity.EventEmailVerified:     "user.email_verified",
		admin.EventCreated:              "user.created",
		identity.EventProfileChanged:    "user.updated",
		admin.EventUpdated:              "user.updated",
		identity.EventEmailChanged:      "user.email_changed",
		identity.EventPasswordChanged:   "user.password_changed",
		identity.EventPasswordReset:     "user.password_reset",
		admin.EventPasswordVoided:       "user.password_voided",
		admin.EventSuspended:            "user.suspended",
		admin.EventUnsuspended:          "user.unsuspended",
		admin.EventSessionsEnded:        "user.sessions_ended",
		identity.EventTokenReused:       "user.refresh_token_reused",
		identity.EventAccountDeleted:    "user.deleted",
		admin.EventDeleted:              "user.deleted",
		identity.EventInvitationExpired: "user.deleted",
		identity.EventImported:          "users.imported",
	}
}
