package httpapi

import (
	"bytes"
	"strings"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// accessToken returns the access token of a request, from the Authorization field (RFC 6750
// section 2.1) or from the body (section 2.2). err returns what is wrong with it.
func (x *exchange) accessToken() string {
	inBody, there := x.params.optional(paramAccessToken)
	field := x.http.Request.Header.Peek("Authorization")
	if len(field) == 0 {
		if !there && x.params.state[paramAccessToken] == absent {
			x.denied = errNoToken()
		}
		x.tokenSent = there
		return inBody
	}
	inField, ok := bearer(field)
	switch {
	case !ok:
		x.denied = errBadHeader()
	case there && inBody != inField:
		x.params.wrong(paramAccessToken, identity.FieldConflicting, "differs from the token in the Authorization field; send only one")
	}
	x.tokenSent = true
	return inField
}

// err returns an error if the access token is missing, or if parameters are invalid.
func (x *exchange) err() error {
	if x.denied != nil {
		return x.denied
	}
	return x.params.err()
}

// bearer parses the scheme, in any case, one space, and a token without white space (RFC 6750
// section 2.1; RFC 9110 section 11.1).
func bearer(field []byte) (token string, ok bool) {
	scheme, rest, _ := bytes.Cut(field, []byte(" "))
	if !strings.EqualFold(string(scheme), "Bearer") || len(rest) == 0 || bytes.ContainsAny(rest, " \t,") {
		return "", false
	}
	return string(rest), true
}

// challenge returns the value of WWW-Authenticate (RFC 6750 section 3). It contains the error
// only if the request had a token.
func challenge(tokenSent bool, code string) string {
	const scheme = `Bearer realm="auth-gateway"`
	if !tokenSent {
		return scheme
	}
	return scheme + `, error="` + code + `"`
}
