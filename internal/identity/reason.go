package identity

// Reason is the cause of an Error, for programs. Each cause has one reason, which does
// not change after its release; Message says the same to people. A reason never says
// more than the message: errors that must look the same have the same reason.
//
// The reasons of HTTP itself (a path, a method, a body) are in httpapi.
type Reason string

// The reasons of the domain. httpapi/reasons.go, from which docs/reference/errors.md is
// generated, says what each means to a client and what to do about it.
const (
	// Parameters. ReasonInvalidFields means that a parameter is missing or malformed,
	// or that several are wrong: Error.Fields lists them.
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

	// Not allowed.
	ReasonEmailNotVerified Reason = "email_not_verified"
	ReasonAccountSuspended Reason = "account_suspended"
	ReasonScopeMissing     Reason = "scope_missing"

	// Not found.
	ReasonAccountNotFound Reason = "account_not_found"
	ReasonSessionNotFound Reason = "session_not_found"

	// Limits and outages.
	ReasonTooManyRequests       Reason = "too_many_requests"
	ReasonTooManyWrongPasswords Reason = "too_many_wrong_passwords"
	ReasonOverloaded            Reason = "overloaded"
	ReasonDatabaseUnavailable   Reason = "database_unavailable"
	ReasonKeysNotLoaded         Reason = "keys_not_loaded"
	ReasonEndingsNotLoaded      Reason = "endings_not_loaded"
	ReasonInternal              Reason = "internal_error"
)

// FieldReason says what is wrong with one parameter, for programs.
type FieldReason string

// The reasons of parameters. httpapi/reasons.go says what each means to a client.
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

// Fault says what is wrong with the value of a parameter, for programs and for people.
// The zero Fault means that nothing is wrong. A Fault never contains the value.
type Fault struct {
	Reason FieldReason
	Text   string // follows the parameter's name: "is empty"
}

// Problem is one wrong parameter.
type Problem struct {
	Parameter string // its name in the API
	Fault
}

func (p Problem) String() string { return p.Parameter + ": " + p.Text }

// ReasonOf returns the reason of an error about these parameters. Some faults of a single parameter have their own
// reason, such as a username that is taken. All others have ReasonInvalidFields.
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
