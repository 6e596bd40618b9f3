package httpapi

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// The reasons of HTTP itself. Those of the domain are identity's.
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
	reasonTookTooLong            identity.Reason = "took_too_long"
	reasonCrowded                identity.Reason = "too_many_unfinished_requests"
)

// documentedReason is a row of docs/reference/errors.md.
type documentedReason struct {
	reason identity.Reason
	status int
	when   string
	advice string // what a client does about it
}

// reasons documents every reason that a reply can have. Tests hold it against the
// constants, against the document's enum, and against what the server answers.
var reasons = []documentedReason{
	{identity.ReasonInvalidFields, http.StatusBadRequest, "A parameter is missing or malformed, or several are wrong.", "Show `fields` beside the inputs."},
	{identity.ReasonUsernameTaken, http.StatusConflict, "Another account has the username.", "Ask for another username."},
	{identity.ReasonEmailTaken, http.StatusConflict, "Another account has the address (`EXPOSURE=internal` only).", "Offer to sign in, or to reset the password."},
	{identity.ReasonEmailVerified, http.StatusConflict, "The address of the account is verified already (`EXPOSURE=internal` only).", "Offer to sign in."},
	{identity.ReasonPasswordTooCommon, http.StatusBadRequest, "The new password is one of the most common ones.", "Ask for another password."},
	{identity.ReasonPasswordUnchanged, http.StatusBadRequest, "The new password is the old one.", "Ask for another password."},
	{identity.ReasonPasswordRequired, http.StatusBadRequest, "Several sign-ups wait for this address, and the code alone does not say which one is meant.", "Ask for the password that was chosen at sign-up, and send it with the code."},
	{identity.ReasonCodeExpiredOrUsed, http.StatusBadRequest, "The one-time code is wrong, expired, used, replaced by a newer one, or made for something else.", "Ask for the newest code, or offer to send a new one."},
	{reasonParameterUnknown, http.StatusBadRequest, "The request has a parameter that the route does not know, and nothing else is wrong (`STRICT_PARAMETERS` only).", "Mend the client; `fields` names the parameter."},
	{identity.ReasonUnsupportedGrantType, http.StatusBadRequest, "`grant_type` is not `refresh_token`.", "Mend the client."},

	{identity.ReasonWrongCredentials, http.StatusUnauthorized, "No account has this username or address, the password is wrong, or the account is suspended.", "Say that the username or the password is wrong."},
	{identity.ReasonWrongOldPassword, http.StatusUnauthorized, "`old_password` is not the account's password.", "Ask for it again."},
	{reasonTokenMissing, http.StatusUnauthorized, "The route needs an access token, and none was sent.", "Sign in."},
	{reasonAuthorizationMalformed, http.StatusUnauthorized, "The `Authorization` field is not `Bearer`, one space, and a token.", "Mend the client."},
	{identity.ReasonTokenInvalid, http.StatusUnauthorized, "The token is not one that this gateway signed for this purpose, or its key was revoked.", "Sign in again."},
	{identity.ReasonTokenExpired, http.StatusUnauthorized, "The token is genuine, but has expired.", "Renew an access token with `POST /tokens`; if the refresh token has expired, sign in again."},
	{identity.ReasonTokenWrongKind, http.StatusUnauthorized, "The token is genuine, but is a refresh token where an access token is needed, or the reverse.", "Mend the client."},
	{identity.ReasonSessionEnded, http.StatusUnauthorized, "The token is genuine, but its session has ended or its account is gone.", "Sign in again."},

	{identity.ReasonEmailNotVerified, http.StatusForbidden, "The password is right, but the address of the account is not verified yet.", "Ask for the code, or offer to send a new one."},
	{identity.ReasonAccountSuspended, http.StatusForbidden, "The operator has suspended the account.", "Say so."},
	{identity.ReasonScopeMissing, http.StatusForbidden, "The access token lacks the scope that the route needs.", "Sign in as a user with that scope."},
	{reasonCallerKeyMissing, http.StatusForbidden, "The gateway has a `TRUSTED_CALLER_KEY`, and the request has no `X-Caller-Key`.", "Send the key."},
	{reasonCallerKeyWrong, http.StatusForbidden, "The `X-Caller-Key` of the request is not the gateway's `TRUSTED_CALLER_KEY`.", "Mend the backend's configuration."},

	{identity.ReasonAccountNotFound, http.StatusNotFound, "No account has this address (`EXPOSURE=internal` only).", "Offer to sign up."},
	{identity.ReasonSessionNotFound, http.StatusNotFound, "You have no session of this id, or it has ended.", "Read the list again."},
	{reasonPathNotFound, http.StatusNotFound, "There is no such path.", "Mend the client."},
	{reasonIDMalformed, http.StatusNotFound, "The path would name a thing if it ended in a UUID in lower case.", "Mend the client."},
	{reasonMethodNotAllowed, http.StatusMethodNotAllowed, "The path does not take this method; `Allow` lists those that it takes.", "Mend the client."},

	{reasonRequestTimeout, http.StatusRequestTimeout, "The request did not arrive in time. The connection is closed.", "Try again."},
	{reasonBodyTooLong, http.StatusRequestEntityTooLarge, "The body is longer than 64 KiB. The connection is closed.", "Mend the client."},
	{reasonMediaType, http.StatusUnsupportedMediaType, "The body's `Content-Type` is not one that the route takes.", "Send JSON."},
	{reasonContentEncoding, http.StatusUnsupportedMediaType, "The body has a `Content-Encoding`.", "Send the body as it is."},
	{reasonHeadTooLong, http.StatusRequestHeaderFieldsTooLarge, "The request line and the header fields are longer than 16 KiB. The connection is closed.", "Send fewer cookies and fields."},
	{reasonRequestMalformed, http.StatusBadRequest, "The request is not well-formed HTTP/1.1, or can be read in two ways.", "Mend the client, or the proxy in front."},
	{reasonQueryMalformed, http.StatusBadRequest, "The query string is malformed.", "Mend the client."},
	{reasonBodyMalformed, http.StatusBadRequest, "The body is not one JSON object (or a form where forms are taken).", "Mend the client."},

	{identity.ReasonTooManyRequests, http.StatusTooManyRequests, "Too many requests of this kind came from the client's network.", "Wait for `Retry-After` seconds."},
	{identity.ReasonTooManyWrongPasswords, http.StatusTooManyRequests, "Too many wrong passwords for this login.", "Wait for `Retry-After` seconds."},
	{identity.ReasonOverloaded, http.StatusServiceUnavailable, "More passwords are being checked than the machine can. Nothing was done.", "Try again after `Retry-After` seconds."},
	{identity.ReasonDatabaseUnavailable, http.StatusServiceUnavailable, "The database cannot be reached.", "Try again after `Retry-After` seconds."},
	{identity.ReasonKeysNotLoaded, http.StatusServiceUnavailable, "The server has just started and has no signing keys yet.", "Try again after `Retry-After` seconds."},
	{reasonTookTooLong, http.StatusServiceUnavailable, "The request could not be finished in time.", "Try again after `Retry-After` seconds."},
	{reasonCrowded, http.StatusServiceUnavailable, "The request did not arrive completely, and the memory that it held was needed for others. Nothing was done. The connection is closed.", "Try again after `Retry-After` seconds."},
	{identity.ReasonInternal, http.StatusInternalServerError, "The gateway failed. Its log has the cause under the `X-Request-Id`.", "Report the request id."},
}

// documentedField is a row of the second table of docs/reference/errors.md.
type documentedField struct {
	reason identity.FieldReason
	when   string
}

// fieldReasons documents every value of a member of fields.
var fieldReasons = []documentedField{
	{identity.FieldMissing, "The parameter is not there."},
	{identity.FieldRequired, "The parameter is needed in this case; elsewhere it is optional."},
	{identity.FieldNotText, "It is not a JSON string."},
	{identity.FieldEmpty, "It has no text."},
	{identity.FieldTooShort, "It is too short; the description says how long it must be."},
	{identity.FieldTooLong, "It is too long; the description says how long it may be."},
	{identity.FieldMalformed, "It does not have the form that the parameter needs; the description says which."},
	{identity.FieldTaken, "Another account has it."},
	{identity.FieldTooCommon, "It is one of the most common passwords."},
	{identity.FieldTooGuessable, "It is the user's own name or address, or the name of the service."},
	{identity.FieldUnchanged, "It is what it was before."},
	{identity.FieldWrong, "It is not the right one."},
	{identity.FieldExpiredOrUsed, "It is a code that is wrong, expired, used, replaced or made for something else."},
	{identity.FieldNotAllowed, "It is a value that this gateway does not allow; the description says which ones it does."},
	{identity.FieldUnknown, "No account has it."},
	{identity.FieldVerified, "It is verified already."},
	{identity.FieldConflicting, "It contradicts another parameter or a header field."},
	{identity.FieldInQuery, "It is in the query string, where a secret must not be."},
	{identity.FieldUnrecognized, "The route has no such parameter (`STRICT_PARAMETERS` only)."},
}

// ErrorsReference returns docs/reference/errors.md.
func ErrorsReference() string {
	var b strings.Builder
	b.WriteString(`# Errors

<!-- Generated by go generate ./internal/httpapi from reasons.go. -->

Every error has one shape:

    {"error_code": "invalid_arguments", "error_description": "password: is shorter than 8 characters",
     "reason": "invalid_fields", "fields": {"password": "too_short"}}

| member | |
|---|---|
| ` + "`error_code`" + ` | The class of the error; it goes with the status. |
| ` + "`error_description`" + ` | For people, in English. It may change. |
| ` + "`reason`" + ` | The cause, for programs. There is one for each cause, and they do not change; new ones may come. Treat one that you do not know by its ` + "`error_code`" + `. |
| ` + "`fields`" + ` | Each parameter that is wrong, and what is wrong with it. It is there only if a parameter is wrong. |

Where the answer must not depend on who has an account, neither do ` + "`reason` and `fields`" + `: an unknown username and a wrong
password have the same ones.

## Reasons

| reason | status | when | what to do |
|---|---|---|---|
`)
	for _, r := range reasons {
		fmt.Fprintf(&b, "| `%s` | %d | %s | %s |\n", r.reason, r.status, r.when, r.advice)
	}
	b.WriteString(`
A reason that has a parameter of its own, such as ` + "`username_taken`" + `, stands where that is the only thing wrong. If several
parameters are wrong, the reason is ` + "`invalid_fields`" + `, with the status of the error, and ` + "`fields`" + ` has all of them.

## Fields

| value | when |
|---|---|
`)
	for _, f := range fieldReasons {
		fmt.Fprintf(&b, "| `%s` | %s |\n", f.reason, f.when)
	}
	return b.String()
}
