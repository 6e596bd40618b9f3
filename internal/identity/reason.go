package identity

// Reason is the cause of an Error, for programs. Each cause has one reason, which
// never changes once it is released; the Message says the same to people. A reason
// never says more than the message: two errors that must look alike have the same.
//
// The reasons of HTTP itself (a path, a method, a body) are httpapi's.
type Reason string

// The reasons of the domain. What each means to a client, and what to do about it,
// is in httpapi/reasons.go, from which docs/reference/errors.md is made.
const (
	// Parameters. ReasonInvalidFields stands where a parameter is missing or
	// malformed, or where several are wrong: Error.Fields says which.
	ReasonInvalidFields        Reason = "invalid_fields"
	ReasonUsernameTaken        Reason = "username_taken"
	ReasonEmailTaken           Reason = "email_taken"
	ReasonEmailVerified        Reason = "email_already_verified"
	ReasonPasswordTooCommon    Reason = "password_too_common"
	ReasonPasswordUnchanged    Reason = "password_unchanged"
	ReasonPasswordRequired     Reason = "password_required"
	ReasonCodeExpiredOrUsed    Reason = "code_expired_or_used"
	ReasonUnsupportedGrantType Reason = "unsupported_grant_type"

	// Credentials and tokens.
	ReasonWrongCredentials Reason = "wrong_credentials"
	ReasonWrongOldPassword Reason = "wrong_old_password"
	ReasonTokenInvalid     Reason = "token_invalid"
	ReasonTokenExpired     Reason = "token_expired"    // the signature was good
	ReasonTokenWrongKind   Reason = "token_wrong_kind" // the signature was good
	ReasonSessionEnded     Reason = "session_ended"    // the signature was good

	// What the caller may not do.
	ReasonEmailNotVerified Reason = "email_not_verified"
	ReasonAccountSuspended Reason = "account_suspended"
	ReasonScopeMissing     Reason = "scope_missing"

	// What is not there.
	ReasonAccountNotFound Reason = "account_not_found"
	ReasonSessionNotFound Reason = "session_not_found"

	// Limits and outages.
	ReasonTooManyRequests       Reason = "too_many_requests"
	ReasonTooManyWrongPasswords Reason = "too_many_wrong_passwords"
	ReasonOverloaded            Reason = "overloaded"
	ReasonDatabaseUnavailable   Reason = "database_unavailable"
	ReasonKeysNotLoaded         Reason = "keys_not_loaded"
	ReasonInternal              Reason = "internal_error"
)

// FieldReason is what is wrong with one parameter, for programs.
type FieldReason string

// What can be wrong with a parameter. As with reasons, httpapi/reasons.go says what
// each means to a client.
const (
	FieldMissing       FieldReason = "missing"
	FieldNotText       FieldReason = "not_a_string"
	FieldEmpty         FieldReason = "empty"
	FieldTooShort      FieldReason = "too_short"
	FieldTooLong       FieldReason = "too_long"
	FieldMalformed     FieldReason = "malformed"
	FieldTaken         FieldReason = "taken"
	FieldTooCommon     FieldReason = "too_common"
	FieldTooGuessable  FieldReason = "too_guessable"
	FieldUnchanged     FieldReason = "unchanged"
	FieldWrong         FieldReason = "wrong"
	FieldExpiredOrUsed FieldReason = "expired_or_used"
	FieldNotAllowed    FieldReason = "not_allowed"
	FieldUnknown       FieldReason = "unknown"
	FieldVerified      FieldReason = "already_verified"
	FieldConflicting   FieldReason = "conflicting"
	FieldRequired      FieldReason = "required"
	FieldInQuery       FieldReason = "in_query"
	FieldUnrecognized  FieldReason = "unrecognized"
)

// Fault is what is wrong with the value of a parameter, for programs and for
// people; the zero Fault is nothing. It never holds the value.
type Fault struct {
	Reason FieldReason
	Text   string // follows the parameter's name: "is empty"
}

// Problem is one parameter that is wrong.
type Problem struct {
	Parameter string // its name in the API
	Fault
}

func (p Problem) String() string { return p.Parameter + ": " + p.Text }

// ReasonOf returns the reason of an error about these parameters. One parameter
// whose fault is a cause of its own, such as a username that is taken, has a reason
// of its own. Several parameters, and one that is simply malformed, have
// ReasonInvalidFields.
func ReasonOf(problems []Problem) Reason {
	if len(problems) == 1 {
		if reason, ok := ownReasons[fieldFault{problems[0].Parameter, problems[0].Reason}]; ok {
			return reason
		}
	}
	return ReasonInvalidFields
}

type fieldFault struct {
	parameter string
	reason    FieldReason
}

var ownReasons = map[fieldFault]Reason{
	{"username", FieldTaken}:        ReasonUsernameTaken,
	{"email", FieldTaken}:           ReasonEmailTaken,
	{"email", FieldVerified}:        ReasonEmailVerified,
	{"email", FieldUnknown}:         ReasonAccountNotFound,
	{"password", FieldTooCommon}:    ReasonPasswordTooCommon,
	{"password", FieldUnchanged}:    ReasonPasswordUnchanged,
	{"password", FieldRequired}:     ReasonPasswordRequired,
	{"code", FieldExpiredOrUsed}:    ReasonCodeExpiredOrUsed,
	{"old_password", FieldWrong}:    ReasonWrongOldPassword,
	{"grant_type", FieldNotAllowed}: ReasonUnsupportedGrantType,
}
