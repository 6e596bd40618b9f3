package httpapi

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// The reasons of this package. Package identity has those of the domain.
const (
	reasonPathNotFound           identity.Reason = "path_not_found"
	reasonIDMalformed            identity.Reason = "id_malformed"
	reasonMethodNotAllowed       identity.Reason = "method_not_allowed"
	reasonRequestMalformed       identity.Reason = "request_malformed"
	reasonRequestTimeout         identity.Reason = "request_timeout"
	reasonHeadTooLong            identity.Reason = "head_too_long"
	reasonParameterUnknown       identity.Reason = "parameter_unknown"
	reasonQueryMalformed         identity.Reason = "query_malformed"
	reasonBodyMalformed          identity.Reason = "body_malformed"
	reasonBodyTooLong            identity.Reason = "body_too_long"
	reasonMediaType              identity.Reason = "media_type_unsupported"
	reasonContentEncoding        identity.Reason = "content_encoding_unsupported"
	reasonTokenMissing           identity.Reason = "token_missing"
	reasonAuthorizationMalformed identity.Reason = "authorization_malformed"
	reasonCallerKeyMissing       identity.Reason = "caller_key_missing"
	reasonCallerKeyWrong         identity.Reason = "caller_key_wrong"
	reasonCallerKeyNotSet        identity.Reason = "caller_key_not_set"
	reasonAdminCredential        identity.Reason = "admin_credential_invalid"
	reasonRightMissing           identity.Reason = "right_missing"
	reasonRightUndecided         identity.Reason = "right_undecided"
	reasonTookTooLong            identity.Reason = "took_too_long"
	reasonCrowded                identity.Reason = "too_many_unfinished_requests"
	reasonTooManyWait            identity.Reason = "too_many_waiting"
)

// documentedReason is a row of docs/reference/errors.md.
type documentedReason struct {
	reason identity.Reason
	status int
	when   string
	advice string // what the client should do
}

// reasons documents every reason that a reply can have. Tests compare it with the constants, with the
// enum in openapi.yaml, and with the replies of the server.
var reasons = []documentedReason{
	{identity.ReasonInvalidFields, http.StatusBadRequest, "A parameter is missing or malformed, or several are invalid.", "Show `fields` next to the inputs."},
	{identity.ReasonUsernameTaken, http.StatusConflict, "Another account has the username.", "Ask for another username."},
	{identity.ReasonEmailTaken, http.StatusConflict, "Another account has the address (`EXPOSURE=internal` only).", "Offer to sign in or to reset the password."},
	{identity.ReasonEmailVerified, http.StatusConflict, "The address of the account is already verified (`EXPOSURE=internal` only).", "Offer to sign in."},
	{identity.ReasonPasswordTooCommon, http.StatusBadRequest, "The new password is one of the most common ones.", "Ask for another password."},
	{identity.ReasonPasswordUnchanged, http.StatusBadRequest, "The new password is the same as the old one.", "Ask for another password."},
	{identity.ReasonPasswordRequired, http.StatusBadRequest, "Several sign-ups wait for this address, and the code does not identify one of them.", "Ask for the password of the sign-up, and send it with the code."},
	{identity.ReasonCodeExpiredOrUsed, http.StatusBadRequest, "The one-time code is wrong, expired, used, replaced by a newer one, or was created for another purpose.", "Ask for the newest code, or offer to send a new one."},
	{reasonParameterUnknown, http.StatusBadRequest, "The request has a parameter that the route does not know, and no other error (`STRICT_PARAMETERS` only).", "Fix the client; `fields` names the parameter."},
	{identity.ReasonUnsupportedGrantType, http.StatusBadRequest, "`grant_type` is not `refresh_token`.", "Fix the client."},

	{identity.ReasonWrongCredentials, http.StatusUnauthorized, "No account has this username or address, the password is wrong, or the account is suspended.", "Show that the username or the password is wrong."},
	{identity.ReasonWrongOldPassword, http.StatusUnauthorized, "`old_password` is not the account's password.", "Ask for it again."},
	{reasonTokenMissing, http.StatusUnauthorized, "The route requires an access token, and the request has none.", "Sign in."},
	{reasonAuthorizationMalformed, http.StatusUnauthorized, "The `Authorization` field is not `Bearer`, one space and a token.", "Fix the client."},
	{identity.ReasonTokenInvalid, http.StatusUnauthorized, "This gateway did not sign the token for this purpose, or its key was revoked.", "Sign in again."},
	{identity.ReasonTokenExpired, http.StatusUnauthorized, "The token is genuine but has expired.", "Renew an access token with `POST /tokens`; if the refresh token has expired, sign in again."},
	{identity.ReasonTokenWrongKind, http.StatusUnauthorized, "The token is genuine, but it is a refresh token and the route requires an access token, or the reverse.", "Fix the client."},
	{identity.ReasonSessionEnded, http.StatusUnauthorized, "The token is genuine, but its session has ended or its account was deleted.", "Sign in again."},

	{identity.ReasonEmailNotVerified, http.StatusForbidden, "The password is right, but the address of the account is not verified yet.", "Ask for the code, or offer to send a new one."},
	{identity.ReasonAccountSuspended, http.StatusForbidden, "The operator has suspended the account.", "Tell the user."},
	{identity.ReasonScopeMissing, http.StatusForbidden, "The access token lacks the scope that the route needs.", "Sign in as a user with that scope."},
	{reasonCallerKeyMissing, http.StatusForbidden, "The gateway has a `TRUSTED_CALLER_KEY`, and the request has no `X-Caller-Key`.", "Send the key."},
	{reasonCallerKeyWrong, http.StatusForbidden, "The `X-Caller-Key` of the request is not the gateway's `TRUSTED_CALLER_KEY`.", "Fix the configuration of the backend."},
	{reasonCallerKeyNotSet, http.StatusForbidden, "The gateway has `EXPOSURE=public` and no `TRUSTED_CALLER_KEY`, and the route is not for strangers.", "Set the key on the gateway, and send it."},

	{reasonAdminCredential, http.StatusUnauthorized, "The credential of an administrator is unknown or has expired (`/admin` only).", "Send another one."},
	{reasonRightMissing, http.StatusForbidden, "The administrator lacks the right that the route needs (`/admin` only).", "Ask for the right."},
	{reasonRightUndecided, http.StatusServiceUnavailable, "It cannot be decided now whether the administrator may do this (`/admin` only).", "Try again."},
	{admin.ReasonAccountChanged, http.StatusPreconditionFailed, "The account has changed since the administrator read it (`/admin` only, with `If-Match`).", "Read it again."},

	{admin.ReasonKeysElsewhere, http.StatusConflict, "The signing keys are not changed here, for example because the operator does it (`/admin/keys` only).", "Do what the description says."},
	{admin.ReasonKeyNotFound, http.StatusNotFound, "No signing key has this kid (`/admin/keys` only).", "Read the list again."},
	{admin.ReasonKeysBusy, http.StatusServiceUnavailable, "Another replica is changing the signing keys (`/admin/keys` only).", "Try again after `Retry-After` seconds."},

	{identity.ReasonAccountNotFound, http.StatusNotFound, "No account has this address (`EXPOSURE=internal` only), or no account has this id (`/admin`).", "Offer to sign up."},
	{identity.ReasonSessionNotFound, http.StatusNotFound, "You have no session with this id, or it has ended.", "Reload the list."},
	{reasonPathNotFound, http.StatusNotFound, "The path does not exist.", "Fix the client."},
	{reasonIDMalformed, http.StatusNotFound, "The path must end in a UUID in lower case.", "Fix the client."},
	{reasonMethodNotAllowed, http.StatusMethodNotAllowed, "The path does not support this method; `Allow` lists the supported ones.", "Fix the client."},

	{reasonRequestTimeout, http.StatusRequestTimeout, "The request did not arrive in time. The connection is closed.", "Try again."},
	{reasonBodyTooLong, http.StatusRequestEntityTooLarge, "The body is longer than 64 KiB. The connection is closed.", "Fix the client."},
	{reasonMediaType, http.StatusUnsupportedMediaType, "The route does not accept the `Content-Type` of the body.", "Send JSON."},
	{reasonContentEncoding, http.StatusUnsupportedMediaType, "The body has a `Content-Encoding`.", "Send the body uncompressed."},
	{reasonHeadTooLong, http.StatusRequestHeaderFieldsTooLarge, "The request line and the header fields are longer than 16 KiB. The connection is closed.", "Send fewer header fields."},
	{reasonRequestMalformed, http.StatusBadRequest, "The request is not well-formed HTTP/1.1, or it is ambiguous.", "Fix the client or the proxy in front."},
	{reasonQueryMalformed, http.StatusBadRequest, "The query string is malformed.", "Fix the client."},
	{reasonBodyMalformed, http.StatusBadRequest, "The body is not a JSON object, or a form on routes that accept forms.", "Fix the client."},

	{identity.ReasonTooManyRequests, http.StatusTooManyRequests, "Too many requests of this kind came from the client's network, or from the user.", "Wait for `Retry-After` seconds."},
	{identity.ReasonTooManyWrongPasswords, http.StatusTooManyRequests, "Too many wrong passwords were sent for this login.", "Wait for `Retry-After` seconds."},
	{identity.ReasonOverloaded, http.StatusServiceUnavailable, "More passwords, or for proxies more tokens, are being verified than the machine can handle, or a password cannot be verified because the system that accounts come from does not answer. Nothing was changed.", "Try again after `Retry-After` seconds."},
	{identity.ReasonDatabaseUnavailable, http.StatusServiceUnavailable, "The database cannot be reached.", "Try again after `Retry-After` seconds."},
	{identity.ReasonKeysNotLoaded, http.StatusServiceUnavailable, "The server has just started and has not loaded its signing keys yet.", "Try again after `Retry-After` seconds."},
	{identity.ReasonEndingsNotLoaded, http.StatusServiceUnavailable, "The server is still reading which sessions have ended, for example after its start.", "Try again after `Retry-After` seconds."},
	{reasonTooManyWait, http.StatusServiceUnavailable, "More requests wait for sessions to end than the server's memory allows (`CONNECTION_MEMORY`).", "Try again after `Retry-After` seconds, or share one request among several consumers."},
	{reasonTookTooLong, http.StatusServiceUnavailable, "The request could not be finished in time.", "Try again after `Retry-After` seconds."},
	{reasonCrowded, http.StatusServiceUnavailable, "The request did not arrive completely, and its memory was needed for other requests. Nothing was changed. The connection is closed.", "Try again after `Retry-After` seconds."},
	{identity.ReasonInternal, http.StatusInternalServerError, "An internal error. The log of the gateway has the cause under the `X-Request-Id`.", "Report the request id."},
}

// documentedField is a row of the second table of docs/reference/errors.md.
type documentedField struct {
	reason identity.FieldReason
	when   string
}

// fieldReasons documents the values of the members of fields.
var fieldReasons = []documentedField{
	{identity.FieldMissing, "The parameter is missing."},
	{identity.FieldRequired, "The parameter is required in this case; otherwise it is optional."},
	{identity.FieldNotText, "It is not a JSON string."},
	{identity.FieldEmpty, "It is empty."},
	{identity.FieldTooShort, "It is too short; the description states the minimum length."},
	{identity.FieldTooLong, "It is too long; the description states the maximum length."},
	{identity.FieldMalformed, "It does not have the required form, which the description states."},
	{identity.FieldTaken, "Another account has it."},
	{identity.FieldTooCommon, "It is one of the most common passwords."},
	{identity.FieldTooGuessable, "It is the user's own name or address, or the name of the service."},
	{identity.FieldUnchanged, "It is the same as before."},
	{identity.FieldWrong, "It is wrong."},
	{identity.FieldExpiredOrUsed, "The code is wrong, expired, used, replaced or was created for another purpose."},
	{identity.FieldNotAllowed, "This gateway does not allow the value; the description lists the allowed ones."},
	{identity.FieldUnknown, "No account has it."},
	{identity.FieldVerified, "It is already verified."},
	{identity.FieldConflicting, "It contradicts another parameter or a header field."},
	{identity.FieldInQuery, "It is in the query string, which must not contain secrets."},
	{identity.FieldUnrecognized, "The route has no such parameter (`STRICT_PARAMETERS` only)."},
}

// ErrorsReference returns the content of docs/reference/errors.md.
func ErrorsReference() string {
	var b strings.Builder
	b.WriteString(`# Errors

<!-- Generated by go generate ./internal/httpapi from reasons.go. -->

All errors have the same form:

    {"error_code": "invalid_arguments", "error_description": "password: is shorter than 8 characters",
     "reason": "invalid_fields", "fields": {"password": "too_short"}}

| member | |
|---|---|
| ` + "`error_code`" + ` | The class of the error, which corresponds to the status. |
| ` + "`error_description`" + ` | A description for people, in English. It may change. |
| ` + "`reason`" + ` | The cause, for programs. Reasons do not change, but new ones may be added. Handle an unknown one by its ` + "`error_code`" + `. |
| ` + "`fields`" + ` | The invalid parameters, and why each is invalid. Present only if a parameter is invalid. |

If a reply must not reveal whether an account exists, neither do ` + "`reason` and `fields`" + `: they are the same for an unknown
username and a wrong password.

## Reasons

| reason | status | when | what to do |
|---|---|---|---|
`)
	for _, r := range reasons {
		fmt.Fprintf(&b, "| `%s` | %d | %s | %s |\n", r.reason, r.status, r.when, r.advice)
	}
	b.WriteString(`
A reason for a single parameter, such as ` + "`username_taken`" + `, is used if there is no other error. If several parameters are
invalid, the reason is ` + "`invalid_fields`" + `, with the status of the error, and ` + "`fields`" + ` contains all of them.

## Fields

| value | when |
|---|---|
`)
	for _, f := range fieldReasons {
		fmt.Fprintf(&b, "| `%s` | %s |\n", f.reason, f.when)
	}
	return b.String()
}
