package httpapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const bodyLimit = 64 << 10

// Row I07.
func TestBodyHasAtMost64KiB(t *testing.T) {
	t.Parallel()
	s := start(t)
	body := func(size int) []byte {
		text := []byte(`{"refresh_token":"r","x":""}`)
		return append(text[:len(text)-2], append(bytes.Repeat([]byte("a"), size-len(text)), `"}`...)...)
	}
	for size, status := range map[int]int{bodyLimit: 200, bodyLimit + 1: 413, 1 << 20: 413, 20 << 20: 413} {
		testenv.Expect(t, s.Do("POST", "/tokens", nil, body(size)), status)

		// Without a length, the client sends chunks.
		testenv.Expect(t, s.Do("POST", "/tokens", nil, struct{ io.Reader }{bytes.NewReader(body(size))}), status)
	}
}

func TestHeadHasAtMost16KiB(t *testing.T) {
	t.Parallel()
	s := start(t)
	token := strings.Repeat("t", 8<<10)
	testenv.Expect(t, s.Do("GET", "/users", header("Authorization", "Bearer "+token, "Cookie", strings.Repeat("c", 4<<10)), nil), 200)
	for _, h := range []http.Header{
		header("Authorization", "Bearer "+strings.Repeat("t", 16<<10)),
		header("X", strings.Repeat("x", 1<<20)),
	} {
		testenv.Expect(t, s.Do("GET", "/users", h, nil), 431)
	}
	testenv.Expect(t, s.Do("GET", "/users?"+strings.Repeat("x", 17<<10), nil, nil), 431)
	many := http.Header{}
	for i := range 2000 {
		many.Set(fmt.Sprintf("X-%d", i), "x")
	}
	testenv.Expect(t, s.Do("GET", "/users", many, nil), 431)
}

// Row H09.
func TestSlowClientGets408AndIsClosed(t *testing.T) {
	t.Parallel()
	const patience = time.Second // long, because a busy machine is slow
	s := start(t, func(o *httpapi.Options) { o.Timeout = patience })
	for name, tc := range map[string]struct {
		wire     string
		statuses string
	}{
		"no bytes":             {"", "[]"},
		"half a request line":  {"GET /us", "[408]"},
		"half of the fields":   {"GET /users HTTP/1.1\r\nHost: x\r\n", "[408]"},
		"half of the body":     {"POST /tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{", "[408]"},
		"half of a chunk":      {"POST /tokens HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na", "[408]"},
		"idle after a request": {"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", "[404]"},
		"slow second request":  {"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\nGET", "[404 408]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := s.dial(t)
			begin := time.Now()
			_, _ = io.WriteString(c, tc.wire)
			var statuses []int
			replies, closed := readReplies(t, c, "GET /nowhere HTTP/1.1\r\n")
			for _, r := range replies {
				statuses = append(statuses, r.Status)
			}
			if fmt.Sprint(statuses) != tc.statuses || !closed {
				t.Errorf("got %v, closed %t; want %s, closed", statuses, closed, tc.statuses)
			}
			if took := time.Since(begin); took < patience*2/3 || took > patience*5 {
				t.Errorf("closed after %v", took)
			}
		})
	}
	t.Run("a byte now and then", func(t *testing.T) {
		t.Parallel()
		c := s.dial(t)
		begin := time.Now()
		for _, b := range []byte("GET /users HTTP/1.1\r\nHost: " + strings.Repeat("x", 1000)) {
			if _, err := c.Write([]byte{b}); err != nil || time.Since(begin) > 10*patience {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if took := time.Since(begin); took > 5*patience {
			t.Errorf("the connection held for %v", took)
		}
	})
}

func TestSlowReaderIsClosed(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *httpapi.Options) { o.Timeout = 300 * time.Millisecond })
	c := s.dial(t)
	// Replies of 60 KB fill all buffers.
	_ = c.SetWriteDeadline(time.Now().Add(5 * time.Second))
	var err error
	for err == nil {
		_, err = io.WriteString(c, strings.Repeat("GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", 100))
	}
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Error("the server still waits for a client that does not read")
	}
}

func TestRequestThatTakesTooLongGets503(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *httpapi.Options) { o.Timeout = 200 * time.Millisecond })
	s.accounts.do = func(ctx context.Context, _ string) error {
		<-ctx.Done()
		return ctx.Err()
	}
	testenv.Expect(t, s.Do("POST", "/tokens", nil, object("refresh_token", "r")), 503, "too long")
}

// Row H07.
func TestPanicEndsOnlyItsRequest(t *testing.T) {
	t.Parallel()
	var log testenv.Output
	s := start(t, func(o *httpapi.Options) { o.Log = logTo(&log) })
	s.accounts.do = func(_ context.Context, call string) error {
		if call == "Renew(panic)" {
			panic("s3cr3t of the database")
		}
		return nil
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			token, status := "r", 200
			if i%2 == 0 {
				token, status = "panic", 500
			}
			reply, err := s.Try("POST", "/tokens", nil, object("refresh_token", token))
			if err != nil || reply.Status != status || strings.Contains(reply.String(), "s3cr3t") {
				t.Errorf("got %v %v, not %d", reply, err, status)
			}
		})
	}
	wg.Wait()
	if text := log.String(); strings.Count(text, "panic: s3cr3t of the database") != 10 || !strings.Contains(text, "limits_test.go") {
		t.Error("the log does not have the panics with their positions")
	}
}

// Row D02.
func TestDisconnectedClientIsReportedToTheDomain(t *testing.T) {
	t.Parallel()
	s := start(t)
	hasher := identity.NewHasher(identity.HasherOptions{Cost: 4, Threads: 1, MaxWait: time.Second})
	t.Cleanup(hasher.Close)
	alive := func(ctx context.Context) bool {
		_, _, err := hasher.CheckSignIn(ctx, "", "x", true)
		return err == nil
	}
	entered, gone := make(chan struct{}, 1), make(chan bool, 1)
	s.accounts.do = func(ctx context.Context, _ string) error {
		if !alive(ctx) {
			t.Error("a client that waits counts as disconnected")
		}
		entered <- struct{}{}
		for range 200 {
			if !alive(ctx) {
				gone <- true
				return nil
			}
			time.Sleep(10 * time.Millisecond)
		}
		gone <- false
		return nil
	}
	for name, wire := range map[string]string{
		"idle":       "",
		"pipelining": "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		c := testenv.Must(net.Dial("tcp", s.address))(t)
		_, _ = io.WriteString(c, "GET /users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n"+wire)
		<-entered
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
		if !<-gone {
			t.Errorf("%s: the disconnected client was not noticed", name)
		}
	}
}

// Row H08: reading the next request on a connection must not change the data of the previous one.
func TestConnectionOfTwoUsersDoesNotMixThem(t *testing.T) {
	t.Parallel()
	s := start(t)
	var kept sync.Map
	var count atomic.Int64
	s.accounts.do = func(_ context.Context, call string) error {
		n := count.Add(1)
		kept.Store(n, call) // as a throttle, a queue or an audit trail does
		return &identity.Error{Kind: identity.Forbidden, Reason: identity.ReasonScopeMissing, Message: call}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			c, err := net.Dial("tcp", s.address)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			var wire strings.Builder
			for i := range 100 {
				user := []string{"AAAAAAAA", "BBBBBBBB"}[i%2]
				body := fmt.Sprintf(`{"username":"%s","password":"%s"}`, user, user)
				fmt.Fprintf(&wire,
					"POST /tokens/signin HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", user, len(body), body)
			}
			go func() { _, _ = io.WriteString(c, wire.String()) }()
			replies, _ := readReplies(t, c, "POST /tokens/signin HTTP/1.1\r\n", 100)
			if len(replies) != 100 {
				t.Errorf("%d replies", len(replies))
			}
			for i, r := range replies {
				user := []string{"AAAAAAAA", "BBBBBBBB"}[i%2]
				if r.Text("error_description") != "SignIn("+user+", "+user+")" || r.Header.Get("X-Request-Id") != user {
					t.Errorf("%s got the reply %v %v", user, r, r.Header)
				}
			}
		})
	}
	wg.Wait()
	kept.Range(func(_, call any) bool {
		if call != "SignIn(AAAAAAAA, AAAAAAAA)" && call != "SignIn(BBBBBBBB, BBBBBBBB)" {
			t.Errorf("kept %q", call)
		}
		return true
	})
}

// Row F10.
func TestDrainClosesConnectionsAndShutdownFinishesRequests(t *testing.T) {
	t.Parallel()
	s := start(t)
	entered, release := make(chan struct{}), make(chan struct{})
	s.accounts.do = func(_ context.Context, call string) error {
		if call == "Renew(slow)" {
			close(entered)
			<-release
		}
		return nil
	}
	if s.Do("GET", "/nowhere", nil, nil).Header.Get("Connection") != "" {
		t.Error("Connection: close before Drain")
	}
	s.Drain()
	replies, closed := exchange(t, s, "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"+smuggled)
	if len(replies) != 1 || replies[0].Header.Get("Connection") != "close" || !closed {
		t.Errorf("a draining server replied %v", replies)
	}

	slow := make(chan *testenv.Reply, 1)
	go func() {
		reply, _ := s.Try("POST", "/tokens", nil, object("refresh_token", "slow"))
		slow <- reply
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(context.Background()) }()
	time.Sleep(50 * time.Millisecond)
	close(release)
	if reply := <-slow; reply == nil || reply.Status != 200 {
		t.Errorf("a running request got %v", reply)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if err := <-s.served; err != nil {
		t.Error(err)
	}
}

func TestShutdownCancelsRequestsThatOutliveIt(t *testing.T) {
	t.Parallel()
	s := start(t)
	entered, cancelled := make(chan struct{}), make(chan struct{})
	s.accounts.do = func(ctx context.Context, _ string) error {
		close(entered)
		<-ctx.Done()
		close(cancelled)
		return ctx.Err()
	}
	go func() { _, _ = s.Try("POST", "/tokens", nil, object("refresh_token", "r")) }()
	<-entered
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown returned %v", err)
	}
	select {
	case <-cancelled:
	case <-time.After(2 * time.Second):
		t.Error("the request does not end")
	}
}

func TestIdleConnectionsDoNotBlockOthers(t *testing.T) {
	t.Parallel()
	s := start(t)
	for range 300 {
		s.dial(t)
	}
	testenv.Expect(t, s.Do("POST", "/tokens", nil, object("refresh_token", "r")), 200)
}

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
	"GET /users/data":                  {"change", `{}`},
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
