package identity

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/token"
)

// Kind is the class of an Error. Each edge (HTTP, command line) maps kinds, and
// nothing else, to its own vocabulary.
type Kind int

// The kinds of Error. The zero value is Internal, so that an error nobody
// classified is never shown to a caller.
const (
	Internal        Kind = iota // our fault; the cause is logged, never shown
	Invalid                     // a parameter is missing or malformed, or a code does not hold
	Conflict                    // a parameter is taken by another account
	Unauthenticated             // no credentials, or some that do not hold
	Forbidden                   // known, but not allowed
	NotFound                    // no such thing
	RateLimited                 // too many tries; RetryAfter says when to come back
	Unavailable                 // the database or the keys are away; RetryAfter as with RateLimited
	Overloaded                  // shed before any work was done; RetryAfter says when to come back
)

// String gives the kind's name for logs and metrics.
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

// Error is the one error of the domain. Message is written for the caller of
// the API and never holds a secret or anything internal; the cause is for the
// log alone.
type Error struct {
	Kind       Kind
	Reason     Reason        // for programs that call the API
	Message    string        // for the caller; with Invalid and Conflict it names every parameter that is wrong
	Fields     []Problem     // the parameters that are wrong; each is in Message too
	RetryAfter time.Duration // with RateLimited, Unavailable and Overloaded: when to come back; 0 where unknown
	Cause      error         // for the log; may be nil
}

// Error gives the kind, the message and the cause: for logs, not for callers.
func (e *Error) Error() string {
	text := e.Kind.String() + ": " + e.Message
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// KindOf classifies any error: that of the *Error in its chain, else Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

func failure(kind Kind, reason Reason, format string, args ...any) *Error {
	return &Error{Kind: kind, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// fieldFailure is an error about one parameter.
func fieldFailure(kind Kind, parameter string, fault Fault) *Error {
	return problems{{parameter, fault}}.as(kind)
}

// errCredentials is the one answer to a sign-in that does not hold: an unknown
// user, a wrong password and a suspended account look alike (decision 2 of the
// security notes: no enumeration).
func errCredentials() *Error {
	return failure(Unauthenticated, ReasonWrongCredentials, "the username or the password is wrong")
}

// errToken is the answer to a token that does not hold. Why is said only of a token
// that this gateway signed; of anything else, nothing.
func errToken(cause error) *Error {
	e := &Error{Kind: Unauthenticated, Reason: ReasonTokenInvalid, Message: "the token is invalid, expired or revoked", Cause: cause}
	switch {
	case errors.Is(cause, token.ErrExpired):
		e.Reason, e.Message = ReasonTokenExpired, "the token has expired; renew an access token with POST /tokens, and sign in again if the refresh token has expired"
	case errors.Is(cause, token.ErrWrongKind):
		e.Reason, e.Message = ReasonTokenWrongKind, "the token is of the wrong kind; a refresh token is only for POST and DELETE /tokens, and an access token for all else"
	case errors.Is(cause, ErrNoSession):
		e.Reason, e.Message = ReasonSessionEnded, "the session of the token has ended; sign in again"
	}
	return e
}

// wrongCode is the one thing told of a code that does not hold: used, expired,
// replaced, made for another purpose or another person, or never issued.
var wrongCode = Fault{FieldExpiredOrUsed, "is invalid, expired or used already"}

// errCode is the answer where nothing but the code is wrong.
func errCode() *Error {
	return fieldFailure(Invalid, "code", wrongCode)
}

// problems collects what is wrong with the parameters of a call, so that the
// caller hears of all of it at once.
type problems []Problem

func (p *problems) add(parameter string, wrong Fault) {
	*p = append(*p, Problem{parameter, wrong})
}

// check gives the canonical form of a parameter, and notes what is wrong with
// it where it has none.
func (p *problems) check(parameter, value string, canonical func(string) (form string, wrong Fault)) string {
	form, wrong := canonical(value)
	if wrong != (Fault{}) {
		p.add(parameter, wrong)
	}
	return form
}

// err is nil where nothing is wrong.
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
