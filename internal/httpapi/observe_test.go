package httpapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

func logTo(w io.Writer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestErrorOfEachKindHasItsReply(t *testing.T) {
	t.Parallel()
	secret := errors.New("s3cr3t: duplicate key (email)=(ada@example.com)")
	for _, tc := range []struct {
		name       string
		err        error
		status     int
		code       string
		retryAfter string
	}{
		{"invalid", &identity.Error{Kind: identity.Invalid, Reason: identity.ReasonInvalidFields, Message: "why",
			Cause: secret}, 400, "invalid_arguments", ""},
		{"conflict", &identity.Error{Kind: identity.Conflict, Reason: identity.ReasonUsernameTaken, Message: "why"}, 409,
			"invalid_arguments", ""},
		{"unauthenticated", &identity.Error{Kind: identity.Unauthenticated, Reason: identity.ReasonTokenInvalid,
			Message: "why"}, 401, "unauthenticated", ""},
		{"forbidden", &identity.Error{Kind: identity.Forbidden, Reason: identity.ReasonScopeMissing, Message: "why"}, 403, "forbidden", ""},
		{"not found", &identity.Error{Kind: identity.NotFound, Reason: identity.ReasonAccountNotFound, Message: "why"}, 404, "not_found", ""},
		{"rate limited", &identity.Error{Kind: identity.RateLimited, Reason: identity.ReasonTooManyRequests, Message: "why",
			RetryAfter: 90*time.Second + 1}, 429, "rate_limited", "91"},
		{"rate limited for less than a second", &identity.Error{Kind: identity.RateLimited,
			Reason: identity.ReasonTooManyRequests, Message: "why", RetryAfter: time.Millisecond}, 429, "rate_limited", "1"},
		{"unavailable", &identity.Error{Kind: identity.Unavailable, Reason: identity.ReasonDatabaseUnavailable,
			Message: "why", Cause: secret}, 503, "internal_error", "1"},
		{"overloaded", &identity.Error{Kind: identity.Overloaded, Reason: identity.ReasonOverloaded, Message: "why",
			RetryAfter: 2500 * time.Millisecond}, 503, "internal_error", "3"},
		{"wrapped", fmt.Errorf("s3cr3t: %w", &identity.Error{Kind: identity.Conflict, Reason: identity.ReasonUsernameTaken,
			Message: "why"}), 409, "invalid_arguments", ""},
		{"joined", errors.Join(secret, &identity.Error{Kind: identity.Overloaded, Reason: identity.ReasonOverloaded,
			Message: "why"}), 503, "internal_error", "1"},
		{"internal", &identity.Error{Kind: identity.Internal, Message: "s3cr3t", Cause: secret}, 500, "internal_error", ""},
		{"an unknown kind", &identity.Error{Kind: 99, Message: "s3cr3t"}, 500, "internal_error", ""},
		{"unknown", secret, 500, "internal_error", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var log testenv.Output
			s := start(t, func(o *httpapi.Options) { o.Log = logTo(&log) })
			s.accounts.err = tc.err
			path := "/users/verification-code"
			if tc.status == 401 {
				path = "/tokens/signin" // the other route has no 401
			}
			reply := s.Do("POST", path, header("X-Request-Id", "find-me"), object("email", "a@b.c", "username", "u", "password", "p"))
			testenv.Expect(t, reply, tc.status, `"error_code":"`+tc.code+`"`)
			if tc.status != 500 {
				testenv.Expect(t, reply, tc.status, `"error_description":"why"`)
			}
			testenv.ExpectHeader(t, reply, "Retry-After", tc.retryAfter)
			if strings.Contains(fmt.Sprint(reply, reply.Header), "s3cr3t") {
				t.Errorf("the reply contains internals: %v", reply)
			}
			if tc.status == 500 && !(strings.Contains(log.String(), "find-me") && strings.Contains(log.String(), "s3cr3t")) {
				t.Errorf("the log does not have the cause with the request id: %s", log.String())
			}
		})
	}
}

// Row E01.
func TestSignInsThatFailLookAlike(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.accounts.err = &identity.Error{Kind: identity.Unauthenticated, Reason: identity.ReasonTokenInvalid,
		Message: "the username or the password is wrong"}
	var first string
	for _, body := range []map[string]string{
		object("username", "ada", "password", "wrong"), object("username", "unknown", "password", ""),
		object("username", "unknown@example.com", "password", "x"), object("username", "", "password", strings.Repeat("x", 1000)),
	} {
		reply := s.Do("POST", "/tokens/signin", header("X-Request-Id", "same"), body)
		reply.Header.Del("Date")
		if all := fmt.Sprint(reply, reply.Header); first == "" {
			first = all
		} else if all != first {
			t.Errorf("got %s, want %s", all, first)
		}
	}
}

func TestScopeThatIsMissingIsChallenged(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.accounts.err = &identity.Error{Kind: identity.Forbidden, Reason: identity.ReasonScopeMissing, Message: "the token lacks the scope"}
	reply := s.Do("GET", "/users", testenv.Bearer("t"), nil)
	testenv.ExpectHeader(t, reply, "WWW-Authenticate", `Bearer realm="auth-gateway", error="insufficient_scope"`)
	reply = s.Do("POST", "/tokens/signin", nil, object("username", "u", "password", "p"))
	if got := reply.Header.Get("WWW-Authenticate"); reply.Status != 403 || got != "" {
		t.Error(got)
	}
}

func TestRequestIDOfTheCallerIsUsedIfItIsValid(t *testing.T) {
	t.Parallel()
	s := start(t)
	seen := map[string]bool{}
	for sent, taken := range map[string]bool{
		"a": true, "A.b_c-9": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "a b": false, "a\"b": false, "é": false, "a/b": false, "a\tb": false,
		"<script>": false, "{}": false,
	} {
		got := s.Do("GET", "/nowhere", header("X-Request-Id", sent), nil).Header.Get("X-Request-Id")
		if (got == sent) != taken || seen[got] {
			t.Errorf("%q became %q", sent, got)
		}
		seen[got] = true
	}
}

// Rows L01 and L02.
func TestLogHasALineForEachRequestAndNothingPersonal(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t"
	var log testenv.Output
	s := start(t, func(o *httpapi.Options) { o.Log, o.ProxyHops = logTo(&log), 1 })
	const address = "192.0.2.43"
	fields := header("User-Agent", "s3cr3t\u2028", "Cookie", secret, "Authorization", "Bearer "+secret,
		"X-Forwarded-For", secret+", "+address, "X-Request-Id", "id-1")
	s.Do("POST", "/users", fields, signUpBody("username", secret, "password", secret, "email", secret))
	s.Do("GET", "/users?x="+secret, fields, nil)
	s.Do("GET", "/users?access_token="+secret, fields, nil)
	s.Do("GET", "/"+secret+"%0a%1b%5b31m", fields, nil)
	s.Do(secret, "/users", fields, nil)
	s.Do("POST", "/users", fields, `{"`+secret+`":`)
	exchange(t, s, "GET /users HTTP/1.1\r\nHost: x\r\n"+secret+"\r\n\r\n")
	exchange(t, s, secret+"\r\n\r\n")
	s.accounts.err = &identity.Error{Kind: identity.Unauthenticated, Reason: identity.ReasonTokenInvalid, Message: "no"}
	s.Do("POST", "/tokens/signin", fields, object("username", secret, "password", secret))

	text := strings.TrimSpace(log.String())
	if strings.Contains(text, secret) || strings.Contains(text, address) || strings.Contains(text, "127.0.0.1") {
		t.Errorf("the log contains secrets or addresses:\n%s", text)
	}
	var routes []string
	for line := range strings.Lines(text) {
		var entry struct {
			Msg, Method, Route string
			ID                 string `json:"request_id"`
			Status, Bytes      int
			Duration           int64
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if entry.Msg != "request" || entry.ID == "" || entry.Duration <= 0 || entry.Bytes == 0 {
			t.Errorf("incomplete entry %s", line)
		}
		routes = append(routes, fmt.Sprint(entry.Method, " ", entry.Route, " ", entry.Status))
	}
	want := "POST /users 201; GET /users 200; GET /users 400; GET  404; other /users 405; POST /users 400; GET  400; GET  400; " +
		"POST /tokens/signin 401"
	if got := strings.Join(routes, "; "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestMetricsHaveNoLabelsThatCallersChoose(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	s := start(t, func(o *httpapi.Options) { o.Metrics = registry })
	s.Do("GET", "/users", testenv.Bearer("t"), nil)
	s.Do("GET", "/users", testenv.Bearer("t"), nil)
	for i := range 50 {
		s.Do("GET", fmt.Sprintf("/nowhere/%d", i), nil, nil)
		s.Do(fmt.Sprintf("X%d", i), fmt.Sprintf("/nowhere/%d", i), nil, nil)
	}
	s.Do("DELETE", "/users/sessions/"+userID, testenv.Bearer("t"), nil)
	s.Do("DELETE", "/users/sessions/"+strings.Replace(userID, "6", "7", 1), testenv.Bearer("t"), nil)
	exchange(t, s, "x\r\n\r\n")
	scrape := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(scrape, httptest.NewRequest("GET", "/metrics", nil))
	var got []string
	for line := range strings.Lines(scrape.Body.String()) {
		if strings.HasPrefix(line, "http_requests_") || strings.HasPrefix(line, "http_request_duration_seconds_count") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{
		`http_request_duration_seconds_count{method="DELETE",route="/users/sessions/{id}",status="204"} 2`,
		`http_request_duration_seconds_count{method="GET",route="/users",status="200"} 2`,
		`http_request_duration_seconds_count{method="GET",route="other",status="400"} 1`,
		`http_request_duration_seconds_count{method="GET",route="other",status="404"} 50`,
		`http_request_duration_seconds_count{method="other",route="other",status="404"} 50`,
		`http_requests_in_flight 0`,
		`http_requests_total{method="DELETE",route="/users/sessions/{id}",status="204"} 2`,
		`http_requests_total{method="GET",route="/users",status="200"} 2`,
		`http_requests_total{method="GET",route="other",status="400"} 1`,
		`http_requests_total{method="GET",route="other",status="404"} 50`,
		`http_requests_total{method="other",route="other",status="404"} 50`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %s", strings.Join(got, "\n"))
	}
}

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
