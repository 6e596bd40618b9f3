package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/valyala/fasthttp"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// The error codes. There are no others.
const (
	codeInvalidArguments = "invalid_arguments"
	codeUnauthenticated  = "unauthenticated"
	codeForbidden        = "forbidden"
	codeNotFound         = "not_found"
	codeInternal         = "internal_error"
	codeRateLimited      = "rate_limited"
)

// errorReply is the form of all errors.
type errorReply struct {
	Code        string          `json:"error_code"`
	Description string          `json:"error_description"`
	Reason      identity.Reason `json:"reason"`
	OAuth       string          `json:"error,omitempty"` // at /tokens; see oauth.go
	Fields      fieldsReply     `json:"fields,omitempty"`
}

// fieldsReply is an object with a member for each invalid parameter, in the order of the description.
type fieldsReply []identity.Problem

// MarshalJSONTo writes the object. If a parameter has several problems, it contains the first.
func (r fieldsReply) MarshalJSONTo(e *jsontext.Encoder) error {
	if err := e.WriteToken(jsontext.BeginObject); err != nil {
		return err
	}
	for i, p := range r {
		if slices.ContainsFunc(r[:i], func(q identity.Problem) bool { return q.Parameter == p.Parameter }) {
			continue
		}
		if err := e.WriteToken(jsontext.String(p.Parameter)); err != nil {
			return err
		}
		if err := e.WriteToken(jsontext.String(string(p.Reason))); err != nil {
			return err
		}
	}
	return e.WriteToken(jsontext.EndObject)
}

// failure is an error and its reply.
type failure struct {
	status      int
	code        string
	reason      identity.Reason
	fields      []identity.Problem
	description string // for the caller: no secrets, no internals, and of the request only names of parameters
	allow       string // with 405
	retryAfter  time.Duration
	close       bool  // close the connection after the reply
	cause       error // for the log
}

func (f *failure) Error() string { return f.description }

func (f *failure) Unwrap() error { return f.cause }

// answers is the only mapping of the domain's errors to HTTP.
var answers = map[identity.Kind]failure{
	identity.Invalid:         {status: http.StatusBadRequest, code: codeInvalidArguments},
	identity.Conflict:        {status: http.StatusConflict, code: codeInvalidArguments},
	identity.Unauthenticated: {status: http.StatusUnauthorized, code: codeUnauthenticated},
	identity.Forbidden:       {status: http.StatusForbidden, code: codeForbidden},
	identity.NotFound:        {status: http.StatusNotFound, code: codeNotFound},
	identity.RateLimited:     {status: http.StatusTooManyRequests, code: codeRateLimited, retryAfter: time.Second},
	identity.Unavailable:     {status: http.StatusServiceUnavailable, code: codeInternal, retryAfter: time.Second},
	identity.Overloaded:      {status: http.StatusServiceUnavailable, code: codeInternal, retryAfter: time.Second},
}

// failureOf returns the reply to any error. An unclassified error is internal, and its text is only
// logged, because it may contain anything.
func failureOf(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if e, ok := errors.AsType[*identity.Error](err); ok {
		if f, ok := answers[e.Kind]; ok {
			f.description, f.cause = e.Message, e.Cause
			f.reason, f.fields = e.Reason, e.Fields
			f.retryAfter = max(f.retryAfter, e.RetryAfter)
			return &f
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		f := answers[identity.Unavailable]
		f.description, f.cause, f.reason = "the request took too long; try again", err, reasonTookTooLong
		return &f
	}
	return &failure{
		status: http.StatusInternalServerError, code: codeInternal, reason: identity.ReasonInternal, cause: err,
		description: "internal error; the log of the gateway has the cause under the X-Request-Id",
	}
}

func invalid(status int, reason identity.Reason, description string) *failure {
	return &failure{status: status, code: codeInvalidArguments, reason: reason, description: description}
}

// invalidFields returns the reply to invalid parameters. There must be at least one.
func invalidFields(problems []identity.Problem) *failure {
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = p.String()
	}
	f := invalid(http.StatusBadRequest, identity.ReasonOf(problems), strings.Join(texts, "; "))
	if !slices.ContainsFunc(problems, func(p identity.Problem) bool { return p.Reason != identity.FieldUnrecognized }) {
		f.reason = reasonParameterUnknown
	}
	f.fields = problems
	return f
}

func errNoRoute() *failure {
	return &failure{
		status: http.StatusNotFound, code: codeNotFound, reason: reasonPathNotFound,
		description: "this path does not exist; see /openapi.json",
	}
}

func errTrailingSlash() *failure {
	f := errNoRoute()
	f.description = "this path does not exist; remove the slash at its end"
	return f
}

// errNoID is the reply to a path that would match a route if it ended in a UUID.
func errNoID() *failure {
	return &failure{
		status: http.StatusNotFound, code: codeNotFound, reason: reasonIDMalformed,
		description: "id: the path must end in a UUID in lower case",
		fields:      []identity.Problem{{Parameter: paramID.String(), Fault: identity.Fault{Reason: identity.FieldMalformed}}},
	}
}

func errMethod(allow string) *failure {
	return &failure{
		status: http.StatusMethodNotAllowed, code: codeNotFound, reason: reasonMethodNotAllowed, allow: allow,
		description: "this path does not support this method; it supports " + allow,
	}
}

// errUntrusted is the reply to a caller that is not trusted.
func errUntrusted(ctx *fasthttp.RequestCtx) *failure {
	f := &failure{
		status: http.StatusForbidden, code: codeForbidden, reason: reasonCallerKeyMissing,
		description: "only trusted callers may do this: send the key as X-Caller-Key",
	}
	if len(ctx.Request.Header.Peek("X-Caller-Key")) > 0 {
		f.reason, f.description = reasonCallerKeyWrong, "the key in X-Caller-Key is not the TRUSTED_CALLER_KEY of this gateway"
	}
	return f
}

// errNoKeySet is the reply to any caller if there is no key by which to trust it.
func errNoKeySet() *failure {
	return &failure{
		status: http.StatusForbidden, code: codeForbidden, reason: reasonCallerKeyNotSet,
		description: "EXPOSURE is public, so strangers could read this: set TRUSTED_CALLER_KEY on the gateway, and send it as X-Caller-Key",
	}
}

func errNoToken() *failure {
	return &failure{
		status: http.StatusUnauthorized, code: codeUnauthenticated, reason: reasonTokenMissing,
		description: "an access token is required: send it as Authorization: Bearer, or as access_token in the body",
	}
}

func errBadHeader() *failure {
	return &failure{
		status: http.StatusUnauthorized, code: codeUnauthenticated, reason: reasonAuthorizationMalformed,
		description: "the Authorization field must be the word Bearer, one space, and an access token",
	}
}

// errAmbiguous is the reply to a request that two parties may interpret differently. The connection
// is closed, because nothing that follows on it can be trusted.
func errAmbiguous(description string) *failure {
	f := invalid(http.StatusBadRequest, reasonRequestMalformed, description)
	f.close = true
	return f
}

// errCrowded is the reply to an incomplete request whose memory is needed for others.
func errCrowded() *failure {
	return &failure{
		status: http.StatusServiceUnavailable, code: codeInternal, reason: reasonCrowded, retryAfter: time.Second,
		description: "too many requests are unfinished, and this one has waited longest; send it again, without pauses",
	}
}

// readFailure returns the reply to a request that fasthttp could not read. The error of fasthttp
// quotes the request, including tokens, so it is neither shown nor logged.
func readFailure(err error, headLimit int) *failure {
	f := errAmbiguous("the request is not well-formed HTTP/1.1")
	var timeout net.Error
	switch {
	case errors.As(err, new(*fasthttp.ErrSmallBuffer)):
		f.status, f.reason = http.StatusRequestHeaderFieldsTooLarge, reasonHeadTooLong
		f.description = fmt.Sprintf("the request line and the header fields are longer than %d KiB", headLimit>>10)
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		f.status, f.reason = http.StatusRequestEntityTooLarge, reasonBodyTooLong
		f.description = "the body is longer than 64 KiB"
	case errors.As(err, &timeout) && timeout.Timeout():
		f.status, f.reason = http.StatusRequestTimeout, reasonRequestTimeout
		f.description = "the request did not arrive in time"
	}
	return f
}
