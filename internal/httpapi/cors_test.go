package httpapi_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const pageOrigin = "https://app.example.com"

func withPages(o *httpapi.Options) {
	o.AllowedOrigins = []string{"http://localhost:3000", pageOrigin}
}

// preflight returns the header of a preflight request.
func preflight(origin, method string) http.Header {
	return header("Origin", origin, "Access-Control-Request-Method", method, "Access-Control-Request-Headers", "authorization,content-type")
}

// corsFields returns the CORS fields of a reply, and whether it varies by Origin.
func corsFields(r *testenv.Reply) (fields []string) {
	for name, values := range r.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			fields = append(fields, name+": "+strings.Join(values, " | "))
		}
	}
	if slices.Contains(r.Header.Values("Vary"), "Origin") {
		fields = append(fields, "Vary: Origin")
	}
	slices.Sort(fields)
	return fields
}

// methodsOf returns the methods of each path, in the order of routes.go.
func methodsOf() map[string]string {
	methods := map[string]string{}
	for _, r := range httpapi.Routes() {
		method, path, _ := strings.Cut(strings.Replace(r, "{id}", userID, 1), " ")
		if method == "GET" {
			method = "GET, HEAD"
		}
		methods[path] = strings.TrimPrefix(methods[path]+", "+method, ", ")
	}
	return methods
}

// usualFields are the fields that every page may send.
const usualFields = "Authorization, Content-Type, X-Request-Id, " +
	"Accept, Accept-Language, Cache-Control, If-None-Match, Pragma, X-Requested-With, " +
	"baggage, traceparent, tracestate, sentry-trace, " +
	"b3, X-B3-TraceId, X-B3-SpanId, X-B3-ParentSpanId, X-B3-Sampled, X-B3-Flags, " +
	"X-Datadog-Trace-Id, X-Datadog-Parent-Id, X-Datadog-Origin, X-Datadog-Sampling-Priority, X-Datadog-Tags, " +
	"newrelic, elastic-apm-traceparent, Request-Id, Request-Context, X-Amzn-Trace-Id, uber-trace-id"

func TestCORSPreflightNamesTheMethodsOfThePath(t *testing.T) {
	t.Parallel()
	s := start(t, withPages)
	for path, methods := range methodsOf() {
		// The reply does not depend on the requested method: the browser compares.
		for _, method := range []string{"GET", "DELETE", "PATCH"} {
			reply := s.Do("OPTIONS", path, preflight(pageOrigin, method), nil)
			testenv.Expect(t, reply, 204)
			want := []string{
				"Access-Control-Allow-Headers: " + usualFields,
				"Access-Control-Allow-Methods: " + methods,
				"Access-Control-Allow-Origin: " + pageOrigin,
				"Access-Control-Expose-Headers: X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate",
				"Access-Control-Max-Age: 7200",
				"Vary: Origin",
			}
			if got := corsFields(reply); !slices.Equal(got, want) {
				t.Errorf("%s %s: got %q", method, path, got)
			}
		}
	}
	s.wantCall(t, "")
}

func TestCORSPreflightOfAnUnknownPathIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, withPages)
	asked := preflight(pageOrigin, "GET")
	testenv.Expect(t, s.Do("OPTIONS", "/nowhere", asked, nil), 404)
	testenv.Expect(t, s.Do("OPTIONS", "/USERS", asked, nil), 404)
	testenv.Expect(t, s.Do("OPTIONS", "/users?access_token=t", asked, nil), 400)
	testenv.Expect(t, s.Do("PATCH", "/users", asked, nil), 405)
	testenv.Expect(t, s.Do("OPTIONS", "/users", header("Access-Control-Request-Method", "GET"), nil), 405)
	reply := s.Do("OPTIONS", "/users", header("Origin", pageOrigin), nil)
	testenv.Expect(t, reply, 405)
	testenv.ExpectHeader(t, reply, "Allow", "POST, GET, HEAD, PUT, DELETE")
}

func TestCORSLetsAllowedOriginsReadEveryReply(t *testing.T) {
	t.Parallel()
	want := []string{
		"Access-Control-Allow-Origin: " + pageOrigin,
		"Access-Control-Expose-Headers: X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate",
		"Vary: Origin",
	}
	post := "POST /tokens HTTP/1.1\r\nHost: x\r\nOrigin: " + pageOrigin + "\r\nContent-Type: application/json\r\n"
	answer := func(err error) func(context.Context, string) error {
		return func(context.Context, string) error { return err }
	}
	for name, tc := range map[string]struct {
		wire   string
		do     func(context.Context, string) error
		status int
	}{
		"success":                        {"GET /users HTTP/1.1\r\nHost: x\r\norigin:" + pageOrigin + "\r\nAuthorization: Bearer t\r\n\r\n", nil, 200},
		"no content":                     {"DELETE /users HTTP/1.1\r\nHost: x\r\nOrigin: " + pageOrigin + "\r\nAuthorization: Bearer t\r\n\r\n", nil, 204},
		"the keys":                       {"GET /.well-known/jwks.json HTTP/1.1\r\nHost: x\r\nOrigin: " + pageOrigin + "\r\n\r\n", nil, 200},
		"the document":                   {"GET /openapi.json HTTP/1.1\r\nHost: x\r\nOrigin: " + pageOrigin + "\r\n\r\n", nil, 200},
		"keys that have not changed":     {"GET /tokens/keys HTTP/1.1\r\nHost: x\r\nOrigin: " + pageOrigin + "\r\nIf-None-Match: *\r\n\r\n", nil, 304},
		"what varies already":            {"GET /docs/swagger-ui.css HTTP/1.1\r\nHost: x\r\nOrigin: " + pageOrigin + "\r\n\r\n", nil, 200},
		"a wrong parameter":              {post + "Content-Length: 2\r\n\r\n{}", nil, 400},
		"no token":                       {"GET /users HTTP/1.1\r\nHost: x\r\nOrigin: " + pageOrigin + "\r\n\r\n", nil, 401},
		"no such path":                   {"GET /nowhere HTTP/1.1\r\nHost: x\r\nOrigin: " + pageOrigin + "\r\n\r\n", nil, 404},
		"no such method":                 {"PUT /tokens HTTP/1.1\r\nHost: x\r\nOrigin: " + pageOrigin + "\r\n\r\n", nil, 405},
		"a secret in the query":          {"GET /users?code=c HTTP/1.1\r\nHost: x\r\nOrigin: " + pageOrigin + "\r\n\r\n", nil, 400},
		"two readings":                   {post + "Content-Length: 2\r\nContent-Type: text/plain\r\n\r\n{}", nil, 400},
		"a body that is too long":        {post + "Content-Length: 1000000\r\n\r\n", nil, 413},
		"a media type that is not taken": {strings.Replace(post, "application/json", "text/plain", 1) + "Content-Length: 2\r\n\r\n{}", nil, 415},
		"too many tries":                 {post + "Content-Length: 21\r\n\r\n{\"refresh_token\":\"r\"}", answer(&identity.Error{Kind: identity.RateLimited, Reason: identity.ReasonTooManyRequests, Message: "why"}), 429},
		"a database that is down":        {post + "Content-Length: 21\r\n\r\n{\"refresh_token\":\"r\"}", answer(&identity.Error{Kind: identity.Unavailable, Reason: identity.ReasonDatabaseUnavailable, Message: "why"}), 503},
		"a panic":                        {post + "Content-Length: 21\r\n\r\n{\"refresh_token\":\"r\"}", func(context.Context, string) error { panic("x") }, 500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, withPages)
			s.accounts.do = tc.do
			replies, _ := exchange(t, s, tc.wire, 1)
			if len(replies) != 1 || replies[0].Status != tc.status {
				t.Fatalf("got %v, not %d", replies, tc.status)
			}
			if got := corsFields(replies[0]); !slices.Equal(got, want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// fasthttp discards the fields of a request that it cannot read to its end.
func TestCORSOmitsItsFieldsFromRequestsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	head := "POST /tokens HTTP/1.1\r\nHost: x\r\nOrigin: " + pageOrigin + "\r\nContent-Type: application/json\r\n"
	for wire, status := range map[string]int{
		head + "X: " + strings.Repeat("x", 17<<10) + "\r\n\r\n": 431,
		head + "Content-Length: 10\r\n\r\n{":                    408,
		head + "Transfer-Encoding: chunked\r\n\r\nx\r\n":        400,
	} {
		s := start(t, withPages, func(o *httpapi.Options) { o.Timeout = 300 * time.Millisecond })
		replies, _ := exchange(t, s, wire, 1)
		if len(replies) != 1 || replies[0].Status != status || !slices.Equal(corsFields(replies[0]), []string{"Vary: Origin"}) {
			t.Errorf("%d: got %v, with %q", status, replies, corsFields(replies[0]))
		}
	}
}

// Row H12.
func TestCORSAllowsNoOtherOrigin(t *testing.T) {
	t.Parallel()
	s := start(t, withPages)
	for _, origin := range []string{
		"https://evil.example", "null", "*", "", "http://app.example.com", "https://app.example.com:443", "https://app.example.com:8443",
		"https://app.example.com/", "https://app.example.com.evil.example", "https://evil-app.example.com", "https://evil.app.example.com",
		"https://APP.example.com", "https://app.example.com, https://evil.example", "https://app.example.com https://app.example.com",
		"app.example.com", "https://app.example.co", "http://localhost", "http://localhost:30000",
	} {
		for _, reply := range []*testenv.Reply{
			s.Do("GET", "/tokens/keys", header("Origin", origin), nil),
			s.Do("GET", "/nowhere", header("Origin", origin), nil),
		} {
			if got := corsFields(reply); !slices.Equal(got, []string{"Vary: Origin"}) {
				t.Errorf("%q: %q", origin, got)
			}
		}
		reply := s.Do("OPTIONS", "/users", preflight(origin, "GET"), nil)
		testenv.Expect(t, reply, 405)
		if got := corsFields(reply); !slices.Equal(got, []string{"Vary: Origin"}) {
			t.Errorf("a preflight of %q: %q", origin, got)
		}
	}
	twice := header("Origin", pageOrigin, "Origin", pageOrigin)
	for _, reply := range []*testenv.Reply{s.Do("GET", "/tokens/keys", twice, nil), s.Do("GET", "/tokens/keys", nil, nil)} {
		if got := corsFields(reply); !slices.Equal(got, []string{"Vary: Origin"}) {
			t.Errorf("two origins, or none: %q", got)
		}
	}
}

func TestCORSIsOffWithoutAllowedOrigins(t *testing.T) {
	t.Parallel()
	s := start(t)
	for path := range methodsOf() {
		for method, status := range map[string]int{"GET": 0, "OPTIONS": 405} {
			reply := s.Do(method, path, preflight(pageOrigin, "GET"), nil)
			if got := corsFields(reply); got != nil || status != 0 && reply.Status != status {
				t.Errorf("%s %s: %d %q", method, path, reply.Status, got)
			}
		}
	}
}
