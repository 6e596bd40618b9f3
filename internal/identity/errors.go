package identity

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/token"
)

// Kind is the class of an Error. HTTP and the command line map kinds, and nothing else, to their own codes.
type Kind int

// The kinds of Error. The zero value is Internal, so that an unclassified error is never shown to a caller.
const (
	Internal        Kind = iota // a bug; the cause is logged, never shown
	Invalid                     // a parameter is missing or malformed, or a code is invalid
	Conflict                    // another account has the value of a parameter
	Unauthenticated             // credentials are missing or invalid
	Forbidden                   // authenticated, but not allowed
	NotFound                    // does not exist
	RateLimited                 // too many attempts; RetryAfter says when to retry
	Unavailable                 // the database or the keys are unavailable; RetryAfter as with RateLimited
	Overloaded                  // rejected before any work was done; RetryAfter says when to retry
)

// String returns the kind's name for logs and metrics.
func (k Kind) String() string {
	switch k {
	case Invalid:
		return "invalid"
	case Conflict:
		return "conflict"
	case Unauthenticated:
		return "unauthenticated"
	case Forbidden:
		return "forbidden"
	case NotFound:
		return "not_found"
	case RateLimited:
		return "rate_limited"
	case Unavailable:
		return "unavailable"
	case Overloaded:
		return "overloaded"
	default:
		return "internal"
	}
}

// Error is the error type of the domain. Message is written for the caller of the API
// and contains nothing secret or internal. Cause is only for the log.
type Error struct {
	Kind       Kind
	Reason     Reason        // for programs that call the API
	Message    string        // for the caller; with Invalid and Conflict it names every wrong parameter
	Fields     []Problem     // the wrong parameters; each is in Message too
	RetryAfter time.Duration // with RateLimited, Unavailable and Overloaded: when to retry; 0: unknown
	Cause      error         // for the log; may be nil
}

// Error returns the kind, the message and the cause: for logs, not for callers.
func (e *Error) Error() string {
	text := e.Kind.String() + ": " + e.Message
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// KindOf returns the kind of the *Error in the chain of err, or Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

func failure(kind Kind, reason Reason, format string, args ...any) *Error {
	return &Error{Kind: kind, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// fieldFailure returns an error about one parameter.
func fieldFailure(kind Kind, parameter string, fault Fault) *Error {
	return problems{{parameter, fault}}.as(kind)
}

// errCredentials returns the one answer to a failed sign-in. An unknown user, a wrong
// password and a suspended account look the same, so that accounts cannot be enumerated.
func errCredentials() *Error {
	return failure(Unauthenticated, ReasonWrongCredentials, "the username or the password is wrong")
}

// errToken returns the answer to an invalid token. It gives a reason only for a token that this gateway has signed.
func errToken(cause error) *Error {
	e := failure(Unauthenticated, ReasonTokenInvalid, "the token is invalid, expired or revoked")
	e.Cause = cause
	switch {
	case errors.Is(cause, token.ErrExpired):
		e.Reason = ReasonTokenExpired
		e.Message = "the token has expired; renew an access token with POST /tokens, and sign in again if the refresh token has expired"
	case errors.Is(cause, token.ErrWrongKind):
		e.Reason = ReasonTokenWrongKind
		e.Message = "the token is of the wrong kind; a refresh token is only for POST and DELETE /tokens, and an access token for all else"
	case errors.Is(cause, ErrNoSession):
		e.Reason, e.Message = ReasonSessionEnded, "the session of the token has ended; sign in again"
	}
	return e
}

// wrongCode is the one answer to an invalid code, whether it was used, has expired, was
// replaced, was made for another purpose or person, or was never issued.
var wrongCode = Fault{FieldExpiredOrUsed, "is invalid, expired or used already"}

// errCode returns the answer if only the code is wrong.
func errCode() *Error {
	return fieldFailure(Invalid, "code", wrongCode)
}

// problems collects what is wrong with the parameters of a call, so that one answer names all of it.
type problems []Problem

func (p *problems) add(parameter string, wrong Fault) {
	*p = append(*p, Problem{parameter, wrong})
}

// check returns the canonical form of a parameter, or adds the problem if it has none.
func (p *problems) check(parameter, value string, canonical func(string) (form string, wrong Fault)) string {
	form, wrong := canonical(value)
	if wrong != (Fault{}) {
		p.add(parameter, wrong)
	}
	return form
}

// err returns nil if there are no problems.
func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p.as(Invalid)
}

func (p problems) as(kind Kind) *Error {
	texts := make([]string, len(p))
	for i, problem := range p {
		texts[i] = problem.String()
	}
	return &Error{Kind: kind, Reason: ReasonOf(p), Message: strings.Join(texts, "; "), Fields: p}
}
