package verify

import (
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Require returns middleware that admits requests with a valid access token that has all of some scopes. It passes the
// claims on: see FromContext. Other requests are answered as RFC 6750 says:
//
//	400 invalid_request                   several tokens, or one in the query
//	401                                   no token
//	401 invalid_token                     a token that is not accepted
//	401 insufficient_user_authentication  MaxAge or ACR is not met (RFC 9470)
//	403 insufficient_scope                a scope is missing
//	503                                   no keys, or too old ones; the token may be valid
//
// A token is accepted only in the header Authorization: a URL gets into logs. Answer the preflight requests of CORS,
// which have no token, before this middleware.
func (v *Verifier) Require(scopes ...string) func(http.Handler) http.Handler {
	v = v.With(Scopes(scopes...))
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := v.VerifyRequest(r)
			if err != nil {
				v.Refuse(w, err)
				return
			}
			next.ServeHTTP(w, r.WithContext(NewContext(r.Context(), c)))
		})
	}
}

// VerifyRequest verifies the token of a request, for middleware that answers in its own way.
func (v *Verifier) VerifyRequest(r *http.Request) (*Claims, error) {
	inQuery := strings.Contains(r.URL.RawQuery, "access_token") && r.URL.Query().Has("access_token")
	token, err := TokenOf(r.Header["Authorization"], inQuery)
	if err != nil {
		return nil, err
	}
	return v.Verify(r.Context(), token)
}

// TokenOf returns the token in the values of the header Authorization (RFC 6750, section 2.1), for middleware of other
// frameworks. inQuery says that the query has a parameter access_token, which is not accepted.
func TokenOf(values []string, inQuery bool) (string, error) {
	token, err := bearerToken(values)
	switch {
	case err == nil:
		return token, nil
	case err.Check == ErrNoToken && inQuery:
		return "", refuse(ErrRequest, ReasonTokenInQuery,
			"the token is in the query, which gets into logs; send it in the header Authorization")
	}
	return "", err
}

func bearerToken(values []string) (string, *Error) {
	switch len(values) {
	case 0:
		return "", refuse(ErrNoToken, ReasonNoToken, "there is no header Authorization")
	case 1:
	default:
		return "", refuse(ErrRequest, ReasonSeveralTokens, "there are several headers Authorization")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.Trim(token, " ")
	switch {
	case !strings.EqualFold(scheme, "Bearer"):
		return "", refuse(ErrNoToken, ReasonOtherScheme, "the scheme of Authorization is not Bearer")
	case token == "":
		return "", refuse(ErrNoToken, ReasonNoToken, "the header Authorization has no token")
	case strings.ContainsAny(token, ", "):
		return "", refuse(ErrRequest, ReasonSeveralTokens, "the header Authorization has several values")
	}
	return token, nil
}

// Refuse answers a request whose token was not accepted.
func (v *Verifier) Refuse(w http.ResponseWriter, err error) {
	a := v.Answer(err)
	for name, value := range a.Header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(a.Status)
	_, _ = io.WriteString(w, a.Body)
}

// Answer is the answer to a request whose token was not accepted.
type Answer struct {
	Status int
	Header map[string]string
	Body   string // JSON with error and error_description
}

// Answer returns the answer for an error of Verify, for middleware of other frameworks.
func (v *Verifier) Answer(err error) Answer {
	status, challenge := v.Challenge(err)
	code, description := Describe(err)
	a := Answer{
		Status: status,
		Header: map[string]string{
			"Cache-Control": "no-store", "Content-Type": "application/json", "X-Content-Type-Options": "nosniff",
		},
		Body: `{"error":` + strconv.Quote(code) + `,"error_description":` + strconv.Quote(description) + "}\n",
	}
	if challenge != "" {
		a.Header["WWW-Authenticate"] = challenge
	}
	if status == http.StatusServiceUnavailable {
		a.Header["Retry-After"] = "1"
	}
	return a
}

// Challenge returns the status and the header WWW-Authenticate for an error of Verify. The header has nothing about
// the configuration of the service, so a client may see it.
func (v *Verifier) Challenge(err error) (status int, challenge string) {
	code, description := Describe(err)
	var wanted requirements
	switch e := asError(err); {
	case e == nil || e.Check == ErrUnavailable || e.Check == ErrSource:
		return http.StatusServiceUnavailable, ""
	case e.Check == ErrRequest:
		status = http.StatusBadRequest
	case e.Check == ErrScope:
		status, wanted.scopes = http.StatusForbidden, e.wanted.scopes
	case e.Check == ErrAuthTime:
		status, wanted.maxAge = http.StatusUnauthorized, e.wanted.maxAge
	case e.Check == ErrACR:
		status, wanted.acr = http.StatusUnauthorized, e.wanted.acr
	case e.Check == ErrNoToken:
		status, code, wanted.scopes = http.StatusUnauthorized, "", v.scopes // RFC 6750, section 3.1: no error
	default:
		status = http.StatusUnauthorized
	}
	var b strings.Builder
	b.WriteString("Bearer")
	parameter := func(name, value string) {
		if value != "" {
			if b.Len() > len("Bearer") {
				b.WriteByte(',')
			}
			b.WriteString(" " + name + `="` + strings.Map(quotable, value) + `"`)
		}
	}
	parameter("realm", v.audiences[0])
	if code != "" {
		parameter("error", code)
		parameter("error_description", description)
	}
	parameter("scope", strings.Join(wanted.scopes, " "))
	if wanted.maxAge > 0 {
		parameter("max_age", strconv.Itoa(int(wanted.maxAge.Seconds())))
	}
	parameter("acr_values", strings.Join(wanted.acr, " "))
	return status, b.String()
}

// quotable drops what the values of a challenge must not have (RFC 6750, section 3).
func quotable(r rune) rune {
	if r < ' ' || r > '~' || r == '"' || r == '\\' {
		return -1
	}
	return r
}

func asError(err error) *Error {
	e, _ := err.(*Error) //nolint:errorlint // Verify wraps nothing; another error is not about a token
	return e
}

// Describe returns what a client may know of an error: a code of RFC 6750, and a sentence.
func Describe(err error) (code, description string) {
	e := asError(err)
	if e == nil {
		return "temporarily_unavailable", "Tokens cannot be verified now."
	}
	switch e.Check {
	case ErrUnavailable, ErrSource:
		return "temporarily_unavailable", "Tokens cannot be verified now."
	case ErrNoToken:
		return "invalid_token", "An access token is required."
	case ErrRequest:
		return "invalid_request", "Send one access token, in the header Authorization."
	case ErrScope:
		return "insufficient_scope", "The access token lacks a scope."
	case ErrAuthTime, ErrACR:
		return "insufficient_user_authentication", "Sign in again."
	case ErrExpired:
		return "invalid_token", "The access token has expired."
	case ErrEnded:
		return "invalid_token", "The session has ended."
	case ErrType:
		return "invalid_token", "This is not an access token."
	case ErrAudience, ErrIssuer:
		return "invalid_token", "The access token is for another service."
	}
	return "invalid_token", "The access token is not valid."
}
