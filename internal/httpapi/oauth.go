package httpapi

import (
	"net/http"
	"strings"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// The errors of RFC 6749 section 5.2, and those of section 4.1.2.1 for server errors.
const (
	oauthInvalidRequest   = "invalid_request"
	oauthInvalidClient    = "invalid_client"
	oauthInvalidGrant     = "invalid_grant"
	oauthUnsupportedGrant = "unsupported_grant_type"
	oauthServerError      = "server_error"
	oauthUnavailable      = "temporarily_unavailable"
)

// oauthError returns the error of RFC 6749 for a failure on /tokens and below, which OAuth libraries
// use, or "" for other paths. A path below it need not exist.
//
// The status of an invalid token or password is 401 in this API, but 400 in RFC 6749. OAuth libraries
// send forms, and interpret a 401 with WWW-Authenticate as a failure of the client, not of the
// grant. Forms therefore get the status of the RFC, and JSON that of the API.
func (x *exchange) oauthError(f *failure) string {
	path := x.path
	if path == "" { // the request failed before its route was found
		path = string(x.http.Path())
	}
	if path != "/tokens" && !strings.HasPrefix(path, "/tokens/") {
		return ""
	}
	switch {
	case f.reason == identity.ReasonUnsupportedGrantType:
		return oauthUnsupportedGrant
	case f.reason == reasonCallerKeyMissing, f.reason == reasonCallerKeyWrong:
		return oauthInvalidClient
	case f.code == codeUnauthenticated, f.code == codeForbidden:
		if f.status == http.StatusUnauthorized && x.isForm() {
			f.status, f.code = http.StatusBadRequest, codeInvalidArguments
		}
		return oauthInvalidGrant
	case f.status == http.StatusInternalServerError:
		return oauthServerError
	case f.code == codeInternal, f.code == codeRateLimited:
		return oauthUnavailable
	default:
		return oauthInvalidRequest
	}
}

func (x *exchange) isForm() bool {
	return mediaType(string(x.http.Request.Header.ContentType())) == "application/x-www-form-urlencoded"
}
