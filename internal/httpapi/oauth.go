package httpapi

import (
	"net/http"
	"strings"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// The errors of RFC 6749 section 5.2, and those that section 4.1.2.1 has for a
// server that cannot answer.
const (
	oauthInvalidRequest   = "invalid_request"
	oauthInvalidClient    = "invalid_client"
	oauthInvalidGrant     = "invalid_grant"
	oauthUnsupportedGrant = "unsupported_grant_type"
	oauthServerError      = "server_error"
	oauthUnavailable      = "temporarily_unavailable"
)

// oauthError returns the error of RFC 6749 for a failure at /tokens, which OAuth
// libraries go by; elsewhere it is empty.
//
// A token or password that does not hold is 401 everywhere in this API, and 400 in
// RFC 6749. Libraries of OAuth send forms, and take a 401 with WWW-Authenticate for
// a failure of the client, not of the grant. So a form is answered as the RFC says,
// and JSON as the rest of the API is.
func (x *exchange) oauthError(f *failure) string {
	if x.path != "/tokens" && !strings.HasPrefix(x.path, "/tokens/") {
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
