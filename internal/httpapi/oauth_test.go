package httpapi_test

import (
	"net/url"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// OAuth libraries read the member error of RFC 6749 section 5.2. They expect status 400 for an invalid grant: a 401 with a
// challenge is another error.
func TestOAuthErrorsOfTokenRoutes(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *httpapi.Options) { o.TrustedCallerKey = "a key of the trusted caller" })
	dead := &identity.Error{Kind: identity.Unauthenticated, Reason: identity.ReasonSessionEnded, Message: "why"}
	away := &identity.Error{Kind: identity.Unavailable, Reason: identity.ReasonDatabaseUnavailable, Message: "why"}
	form := func(pairs ...string) url.Values {
		values := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			values.Set(pairs[i], pairs[i+1])
		}
		return values
	}
	for name, tc := range map[string]struct {
		method, path string
		body         any
		err          error
		status       int
		code, oauth  string
	}{
		"a dead token in JSON":    {"POST", "/tokens", object("refresh_token", "r"), dead, 401, "unauthenticated", "invalid_grant"},
		"a dead token in a form":  {"POST", "/tokens", form("refresh_token", "r", "grant_type", "refresh_token"), dead, 400, "invalid_arguments", "invalid_grant"},
		"a dead token at the end": {"DELETE", "/tokens", form("refresh_token", "r"), dead, 400, "invalid_arguments", "invalid_grant"},
		"another grant":           {"POST", "/tokens", form("grant_type", "authorization_code", "code", "c"), nil, 400, "invalid_arguments", "unsupported_grant_type"},
		"another grant in JSON":   {"POST", "/tokens", object("grant_type", "password", "username", "u"), nil, 400, "invalid_arguments", "unsupported_grant_type"},
		"no token":                {"POST", "/tokens", form("grant_type", "refresh_token"), nil, 400, "invalid_arguments", "invalid_request"},
		"no JSON":                 {"POST", "/tokens", "{", nil, 400, "invalid_arguments", "invalid_request"},
		"no caller key":           {"POST", "/tokens/introspect", form("token", "t"), nil, 403, "forbidden", "invalid_client"},
		"wrong password":          {"POST", "/tokens/signin", object("username", "u", "password", "p"), dead, 401, "unauthenticated", "invalid_grant"},
		"no database":             {"POST", "/tokens", form("refresh_token", "r"), away, 503, "internal_error", "temporarily_unavailable"},
		"a fault":                 {"POST", "/tokens", form("refresh_token", "r"), errFault, 500, "internal_error", "server_error"},
		"another method":          {"PUT", "/tokens", nil, nil, 405, "not_found", "invalid_request"},
		"another path":            {"PUT", "/users", object("access_token", "t", "username", "c"), dead, 401, "unauthenticated", ""},
	} {
		s.accounts.err = tc.err
		reply := s.Do(tc.method, tc.path, nil, tc.body)
		testenv.Expect(t, reply, tc.status)
		if reply.Text("error") != tc.oauth || reply.Text("error_code") != tc.code {
			t.Errorf("%s got %v", name, reply)
		}
		if challenged := reply.Header.Get("WWW-Authenticate") != ""; challenged != (tc.status == 401) {
			t.Errorf("%s has WWW-Authenticate %q", name, reply.Header.Get("WWW-Authenticate"))
		}
	}
}

var errFault = &identity.Error{Kind: identity.Internal, Reason: identity.ReasonInternal, Message: "a fault"}
