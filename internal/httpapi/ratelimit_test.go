package httpapi_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// limited are the routes with a limit by client address.
var limited = map[string]identity.LimitClass{
	"POST /tokens/signin":              identity.LimitSignIn,
	"POST /users":                      identity.LimitSignUp,
	"POST /users/verification-code":    identity.LimitCodes,
	"POST /users/forgot-password":      identity.LimitCodes,
	"POST /users/change-email-request": identity.LimitCodes,
	"POST /users/verify-user":          identity.LimitCodes,
	"POST /users/change-password":      identity.LimitCodes,
	"POST /users/change-email":         identity.LimitCodes,
}

// admitting makes the domain record each requested limit and return the same allowance.
func admitting(s *running, a identity.Allowance, err error) (classes func() []identity.LimitClass) {
	var mu sync.Mutex
	var asked []identity.LimitClass
	s.accounts.admit = func(_ context.Context, class identity.LimitClass) (identity.Allowance, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, class)
		return a, err
	}
	return func() []identity.LimitClass {
		mu.Lock()
		defer mu.Unlock()
		defer func() { asked = nil }()
		return slices.Clone(asked)
	}
}

func TestLimitClassOfEachRoute(t *testing.T) {
	t.Parallel()
	s := start(t)
	classes := admitting(s, identity.Allowance{Allowed: true, Limit: 30, Window: 5 * time.Minute, Remaining: 29,
		Reset: 9500 * time.Millisecond}, nil)
	seen := map[string]identity.LimitClass{}
	for _, r := range httpapi.Routes() {
		method, path, _ := strings.Cut(r, " ")
		reply := s.Do(method, strings.Replace(path, "{id}", userID, 1), nil, nil)
		asked := classes()
		policy, limit := reply.Header.Get("RateLimit-Policy"), reply.Header.Get("RateLimit")
		if len(asked) == 0 {
			if policy != "" || limit != "" {
				t.Errorf("%s has no limit, but the fields %q and %q", r, policy, limit)
			}
			continue
		}
		seen[r] = asked[0]
		// The parameters are missing, but the reply has the fields.
		name := `"` + string(asked[0]) + `"`
		if reply.Status < 400 || policy != name+";q=30;w=300" || limit != name+";r=29;t=10" {
			t.Errorf("%s: %v has the fields %q and %q", r, reply, policy, limit)
		}
	}
	if !maps.Equal(seen, limited) {
		t.Errorf("the limits are %v, want %v", seen, limited)
	}
}

func TestLimitRefusesRequestsUnread(t *testing.T) {
	t.Parallel()
	s := start(t)
	admitting(s, identity.Allowance{Limit: 30, Window: 5 * time.Minute, Reset: 5 * time.Minute},
		&identity.Error{Kind: identity.RateLimited, Reason: identity.ReasonTooManyRequests, Message: "wait", RetryAfter: 9001 * time.Millisecond})
	for r, class := range limited {
		method, path, _ := strings.Cut(r, " ")
		for _, body := range []any{object("username", "ada", "password", "p"), nil, "{malformed"} {
			reply := s.Do(method, path, nil, body)
			testenv.Expect(t, reply, 429, "rate_limited", "wait")
			if retry, limit := reply.Header.Get("Retry-After"), reply.Header.Get("RateLimit"); retry != "10" ||
				limit != `"`+string(class)+`";r=0;t=300` {
				t.Errorf("%s: Retry-After is %q, RateLimit %q", r, retry, limit)
			}
		}
	}
	s.wantCall(t, "")
}

func TestLimitThatCannotBeCountedRefusesTheRequest(t *testing.T) {
	t.Parallel()
	s := start(t)
	admitting(s, identity.Allowance{}, &identity.Error{Kind: identity.Unavailable,
		Reason: identity.ReasonDatabaseUnavailable, Message: "the database is down"})
	reply := s.Do("POST", "/tokens/signin", nil, object("username", "ada", "password", "p"))
	testenv.Expect(t, reply, 503, "the database is down")
	if call := s.accounts.last(); call != "" || reply.Header.Get("RateLimit") != "" {
		t.Errorf("the domain was called with %q; RateLimit is %q", call, reply.Header.Get("RateLimit"))
	}
}

func TestLimitDoesNotApplyToTheTrustedCaller(t *testing.T) {
	t.Parallel()
	body := object("username", "ada", "password", "p")
	for _, tc := range []struct {
		name, set string
		sent      []string
		counted   bool
	}{
		{"no key is set", "", nil, true},
		{"no key is set, and one is sent", "", []string{"X-Caller-Key", "the key of the backend"}, true},
		{"the key is not sent", "the key of the backend", nil, true},
		{"another key is sent", "the key of the backend", []string{"X-Caller-Key", "a key of a stranger"}, true},
		{"the key is sent", "the key of the backend", []string{"X-Caller-Key", "the key of the backend"}, false},
	} {
		s := start(t, func(o *httpapi.Options) { o.TrustedCallerKey = tc.set })
		classes := admitting(s, identity.Allowance{Allowed: true, Limit: 1, Window: time.Minute}, nil)
		reply := s.Do("POST", "/tokens/signin", header(tc.sent...), body)
		testenv.Expect(t, reply, 200)
		if counted := len(classes()) == 1; counted != tc.counted || (reply.Header.Get("RateLimit") != "") != tc.counted {
			t.Errorf("%s: counted is %v; RateLimit is %q", tc.name, counted, reply.Header.Get("RateLimit"))
		}
	}
}

func TestLimitIsCountedForTheAddressThatTheProxySaw(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *httpapi.Options) { o.ProxyHops = 1 })
	var got string
	s.accounts.admit = func(ctx context.Context, _ identity.LimitClass) (identity.Allowance, error) {
		got = identity.CallerOf(ctx).Address.String()
		return identity.Allowance{Allowed: true}, nil
	}
	testenv.Expect(t, s.Do("POST", "/tokens/signin", header("X-Forwarded-For", "192.0.2.1"), object("username", "ada", "password", "p")), 200)
	if got != "192.0.2.1" {
		t.Errorf("the limit is counted for %s", got)
	}
}

// writes are the routes with a limit by user, and parameters for them.
var writes = map[string]struct{ kind, body string }{
	"PUT /users":                       {"change", `{"first_name":"Ada"}`},
	"POST /users/change-email-request": {"change", `{}`},
	"POST /users/change-email":         {"change", `{"code":"c","email":"n@b.c"}`},
	"POST /users/change-password":      {"ending", `{"old_password":"o","password":"p"}`},
	"DELETE /users":                    {"ending", `{}`},
	"DELETE /users/sessions/{id}":      {"ending", `{}`},
}

func TestLimitOfWritesByUser(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "the key of the backend"} {
		s := start(t, func(o *httpapi.Options) { o.TrustedCallerKey = key })
		var asked string
		s.accounts.writes = func(kind string) (identity.Allowance, error) {
			asked = kind
			return identity.Allowance{Limit: 30, Window: 5 * time.Minute, Reset: 5 * time.Minute},
				&identity.Error{Kind: identity.RateLimited, Reason: identity.ReasonTooManyRequests, Message: "wait", RetryAfter: 9 * time.Second}
		}
		for _, r := range httpapi.Routes() {
			method, path, _ := strings.Cut(r, " ")
			want := writes[r]
			if want.kind == "" {
				want.body = "{}"
			}
			asked = ""
			s.accounts.last()
			reply := s.Do(method, strings.Replace(path, "{id}", userID, 1), header("Authorization", "Bearer "+goodToken,
				"X-Caller-Key", key), want.body)
			if key != "" {
				want.kind = "" // the trusted caller limits its own users
			}
			if asked != want.kind {
				t.Errorf("%s is counted as %q, want %q", r, asked, want.kind)
			}
			if want.kind != "" && (reply.Status != 429 || reply.Header.Get("Retry-After") != "9" ||
				reply.Header.Get("RateLimit-Policy") != `"writes";q=30;w=300`) {
				t.Errorf("%s: got %v, Retry-After %q, RateLimit-Policy %q", r, reply, reply.Header.Get("Retry-After"),
					reply.Header.Get("RateLimit-Policy"))
			}
			if call := s.accounts.last(); want.kind != "" && call != "" {
				t.Errorf("%s: the domain was called with %s", r, call)
			}
		}
	}
}
