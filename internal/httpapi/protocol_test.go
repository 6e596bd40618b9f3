package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// D3: RFC 9110 section 9.1.
func TestHEADIsAnsweredLikeGET(t *testing.T) {
	t.Parallel()
	s := start(t)
	paths := []string{"/", "/docs/"}
	for _, r := range httpapi.Routes() {
		if path, isGet := strings.CutPrefix(r, "GET "); isGet {
			paths = append(paths, path)
		}
	}
	for _, path := range paths {
		for _, h := range []http.Header{testenv.Bearer("t"), nil, header("If-None-Match", "*")} {
			get, head := s.Do("GET", path, h, nil), s.Do("HEAD", path, h, nil)
			if head.Status != get.Status || len(head.Body) != 0 {
				t.Errorf("HEAD %s got %d and %d bytes, GET %d", path, head.Status, len(head.Body), get.Status)
			}
			for name := range get.Header {
				if name == "Content-Length" && get.Header.Get(name) == "0" {
					continue // optional
				}
				if name != "Date" && name != "X-Request-Id" && head.Header.Get(name) != get.Header.Get(name) {
					t.Errorf("HEAD %s: %s is %q, with GET %q", path, name, head.Header.Get(name), get.Header.Get(name))
				}
			}
		}
	}
	testenv.Expect(t, s.Do("HEAD", "/tokens", nil, nil), 405)
	testenv.Expect(t, s.Do("HEAD", "/nowhere", nil, nil), 404)
	// The reply to HEAD has no body on the connection, so the next reply follows at once.
	replies := converse(t, s, "HEAD /users HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD", "GET")
	if len(replies) != 2 || replies[0].StatusCode != 401 || replies[1].StatusCode != 404 {
		t.Errorf("got %v", replies)
	}
}

// converse sends bytes, and reads a reply for each of the methods.
func converse(t *testing.T, s *running, wire string, methods ...string) (replies []*http.Response) {
	t.Helper()
	c := s.dial(t)
	go func() { _, _ = io.WriteString(c, wire) }()
	return readEach(t, c, wire, methods...)
}

func readEach(t *testing.T, c net.Conn, wire string, methods ...string) (replies []*http.Response) {
	t.Helper()
	r := bufio.NewReader(c)
	for _, method := range methods {
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Errorf("%.60q: %v", wire, err)
			return replies
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		replies = append(replies, resp)
	}
	return replies
}

// D4: RFC 9112 section 3.2.2.
func TestPathInAnAbsoluteTarget(t *testing.T) {
	t.Parallel()
	s := start(t)
	for target, status := range map[string]int{
		"http://x/users": 200, "https://x/users": 200, "HTTP://x/users": 200, "http://auth.example.com:8080/users": 200,
		"http://[::1]:8080/users": 200,
		"http://x/users?":         200, "http://x/users?access_token=t": 400, "http://x": 302, "http://x/": 302, "http://x:/users": 200,
		"http://x//users": 404, "http://x/users/": 404, "http://x/USERS": 404, "http://x/nowhere": 404, "http://x/http://x/users": 404,
		"http:///users": 400, "http://ada@x/users": 400, "http://ada:pw@x/users": 400, "http://x\\y/users": 400,
		"ftp://x/users": 400, "http:/users": 400, "http:users": 400, "//x/users": 404,
	} {
		// Host does not matter beside an absolute target.
		for _, host := range []string{"x", "elsewhere.example"} {
			wire := "GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: Bearer t\r\nConnection: close\r\n\r\n"
			replies := converse(t, s, wire, "GET")
			if len(replies) != 1 || replies[0].StatusCode != status {
				t.Errorf("%s got %v, want %d", target, replies, status)
			}
		}
	}
	reply := converse(t, s,
		"POST http://x/users/verify-user HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"code\":\"c\"}", "POST")
	if len(reply) != 1 || reply[0].StatusCode != 200 || s.accounts.last() != "VerifyUser(c)" {
		t.Errorf("got %v", reply)
	}
}

// D5: RFC 9110 section 6.5.1.
func TestTrailerFieldsAreIgnored(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *httpapi.Options) { o.TrustedCallerKey = "the key of the trusted caller" }, withPages)
	send := func(path, head, body, trailer string) *http.Response {
		wire := "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + head + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" +
			fmt.Sprintf("%x\r\n%s\r\n0\r\n%s\r\n", len(body), body, trailer)
		replies := converse(t, s, wire, "POST")
		if len(replies) != 1 {
			t.Fatalf("%q: no reply", wire)
		}
		return replies[0]
	}
	const typed = "Content-Type: application/json\r\n"
	for _, declared := range []string{"", "Trailer: X-Caller-Key, X-Request-Id, Origin\r\n", "TE: trailers\r\n"} {
		if r := send("/tokens/introspect", typed+declared, `{"token":"t"}`,
			"X-Caller-Key: the key of the trusted caller\r\n"); r.StatusCode != 403 {
			t.Errorf("a key in a trailer got %d", r.StatusCode)
		}
		if r := send("/tokens", typed+declared, `{"refresh_token":"r"}`,
			"X-Request-Id: of-the-trailer\r\nOrigin: "+pageOrigin+"\r\n"); r.StatusCode != 200 ||
			r.Header.Get("X-Request-Id") == "of-the-trailer" || r.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("an id in a trailer got %d %v", r.StatusCode, r.Header)
		}
		if r := send("/users/change-password", typed+declared, `{"old_password":"a","password":"b"}`,
			"Authorization: Bearer t\r\n"); r.StatusCode != 401 && r.StatusCode != 400 {
			t.Errorf("a token in a trailer got %d", r.StatusCode)
		}
		if r := send("/tokens", declared, `{"refresh_token":"r"}`,
			"Content-Type: application/json\r\n"); r.StatusCode == 200 && s.accounts.last() != "Renew(r)" {
			t.Errorf("a type in a trailer got %d", r.StatusCode)
		}
		if r := send("/tokens", typed+declared+"X-Request-Id: of-the-head\r\n", `{"refresh_token":"r"}`,
			"x-request-id: of-the-trailer\r\nX: y\r\n"); r.Header.Get("X-Request-Id") != "of-the-head" {
			t.Errorf("the id is %q", r.Header.Get("X-Request-Id"))
		}
	}
	for _, trailer := range []string{"Host: y\r\n", "transfer-encoding: chunked\r\n", "CONTENT-LENGTH: 5\r\n",
		"X : y\r\n", " folded\r\n", "no colon\r\n", "X: y\n", "X: y\n\r\n", "\rX: y\r\n", "X: " + strings.Repeat("y", 17<<10) + "\r\n"} {
		if r := send("/tokens", typed, `{"refresh_token":"r"}`, trailer); r.StatusCode != 400 {
			t.Errorf("the trailer %.20q got %d", trailer, r.StatusCode)
		}
	}
}

// D5: RFC 9112 section 2.2.
func TestFramingWithABareLFIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, wire := range []string{
		"GET /users HTTP/1.1\nHost: x\r\n\r\n",
		"GET /users HTTP/1.1\nHost: x\n\n",
		"GET /users HTTP/1.1\r\nHost: x\n\r\n",
		"GET /users HTTP/1.1\r\nHost: x\r\n\n",
		"\nGET /users HTTP/1.1\r\nHost: x\r\n\r\n",
		"\r\n\nGET /users HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /nowhere HTTP/1.1\nHost: x\r\n\r\n",
		"GET /users\nHost: x\r\n\r\n",
	} {
		for _, pieces := range [][]string{{wire}, strings.SplitAfter(wire, "\n"), strings.Split(wire, "")} {
			c := s.dial(t)
			go func() {
				for _, piece := range pieces {
					_, _ = io.WriteString(c, piece)
				}
			}()
			replies, closed := readReplies(t, c, wire)
			if silent := strings.HasPrefix(strings.TrimPrefix(wire, "\r\n"), "\n"); silent && len(replies) == 0 && closed {
				continue // there is no request to reply to
			}
			if len(replies) != 1 || replies[0].Status != 400 || !closed {
				t.Errorf("%q in %d pieces got %v, closed %t", wire, len(pieces), replies, closed)
			}
		}
	}
}

// A valid request, its trailer and the next request are valid in any pieces.
func TestRequestMayArriveInAnyPieces(t *testing.T) {
	t.Parallel()
	s := start(t)
	wire := "\r\nPOST /tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"2;a=b\r\n{\"\r\n13\r\nrefresh_token\":\"r\"}\r\n0\r\nX-Request-Id: t\r\nY: z\r\n\r\n" +
		"POST /tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n{\"refresh_token\":\"r\"}" +
		"GET /users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\nConnection: close\r\n\r\n"
	for size := 1; size <= len(wire); size += 1 + size/8 {
		c := s.dial(t)
		_ = c.(*net.TCPConn).SetNoDelay(true)
		go func() {
			for piece := range slices.Chunk([]byte(wire), size) {
				_, _ = c.Write(piece)
			}
		}()
		if replies := readEach(t, c, wire, "POST", "POST", "GET"); len(replies) != 3 || replies[0].StatusCode != 200 ||
			replies[1].StatusCode != 200 || replies[2].StatusCode != 200 {
			t.Errorf("in pieces of %d: %v", size, replies)
		}
	}
}

// Clients of other protocols get a reply at once, if that is possible.
func TestOtherProtocolsGetAnAnswer(t *testing.T) {
	t.Parallel()
	s := start(t)
	get := "GET /users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n"
	hello := "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 500)
	for name, tc := range map[string]struct {
		wire     string
		statuses []int
	}{
		"a TLS hello":               {hello, []int{400}},
		"an SSH banner":             {"SSH-2.0-OpenSSH_9.2\r\n", []int{400}},
		"a PROXY line":              {"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n" + get + "\r\n", []int{400}},
		"a binary PROXY line":       {"\r\n\r\n\x00\r\nQUIT\n" + get + "\r\n", nil},
		"HTTP/2 by prior knowledge": {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", []int{400}},
		"an upgrade to h2c":         {get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n" + get + "Connection: close\r\n\r\n", []int{200, 200}},
		"an upgrade to WebSocket":   {get + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" + get + "Connection: close\r\n\r\n", []int{200, 200}},
		"HTTP/0.9":                  {"GET /users\r\n", []int{400}},
		"HTTP/1.0":                  {"GET /users HTTP/1.0\r\nAuthorization: Bearer t\r\n\r\n" + get + "\r\n", []int{200}},
		"HTTP/1.0 with keep-alive":  {"GET /users HTTP/1.0\r\nAuthorization: Bearer t\r\nConnection: keep-alive\r\n\r\n" + get + "Connection: close\r\n\r\n", []int{200, 200}},
		"CONNECT":                   {"CONNECT auth.example.com:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", []int{400}},
		"OPTIONS *":                 {"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", []int{400}},
		"many fields":               {get + strings.Repeat("X: y\r\n", 2000) + "Connection: close\r\n\r\n", []int{200}},
		"too many fields":           {get + strings.Repeat("X: y\r\n", 4000) + "\r\n", []int{431}},
		"a huge chunk extension":    {"POST /tokens HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("x", 1<<20) + "\r\n{\r\n0\r\n\r\n", []int{400}},
		"many chunk extensions":     {"POST /tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + strings.Repeat("1;ext=value\r\n \r\n", 3000) + "15\r\n{\"refresh_token\":\"r\"}\r\n0\r\n\r\n", []int{200}},
		"a hundred in a row":        {strings.Repeat(get+"\r\n", 99) + get + "Connection: close\r\n\r\n", slices.Repeat([]int{200}, 100)},
		"100-continue, too large":   {"POST /tokens HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n", []int{100, 413}},
		"100-continue, and nothing": {"POST /nowhere HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n{}   ", []int{100, 404}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := s.dial(t)
			go func() { _, _ = io.WriteString(c, tc.wire) }()
			r := bufio.NewReader(c)
			var statuses []int
			for {
				resp, err := http.ReadResponse(r, &http.Request{Method: "GET"})
				if err != nil {
					if e, ok := err.(net.Error); ok && e.Timeout() {
						t.Error("the connection is still open")
					}
					break
				}
				body, _ := io.ReadAll(resp.Body)
				if resp.StatusCode >= 400 && !strings.Contains(string(body), `"error_code":`) {
					t.Errorf("%d %s does not have the shape of errors", resp.StatusCode, body)
				}
				statuses = append(statuses, resp.StatusCode)
			}
			if !slices.Equal(statuses, tc.statuses) {
				t.Errorf("got %v, want %v", statuses, tc.statuses)
			}
		})
	}
}

// A client that expects 100-continue waits before it sends the body.
func TestExpect100ContinueIsAnswered(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.dial(t)
	r := bufio.NewReader(c)
	_, _ = io.WriteString(c,
		"POST /tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 21\r\n\r\n")
	for _, step := range []struct {
		status int
		then   string
	}{{100, `{"refresh_token":"r"}`}, {200, ""}} {
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != step.status {
			t.Fatalf("got %v %v, want %d", resp, err, step.status)
		}
		_, _ = io.WriteString(c, step.then)
	}
}

func TestErrorOfAWrongPathOrMethodSaysWhatToDo(t *testing.T) {
	t.Parallel()
	s := start(t)
	testenv.Expect(t, s.Do("PATCH", "/users", nil, nil), 405, "POST, GET, HEAD, PUT, DELETE")
	testenv.Expect(t, s.Do("GET", "/tokens/signin", nil, nil), 405, "it supports POST")
	for _, path := range []string{"/users/", "/tokens/keys/", "/openapi.json/", "/users/sessions/" + userID + "/"} {
		testenv.Expect(t, s.Do("GET", path, nil, nil), 404, "remove the slash at its end")
	}
	testenv.Expect(t, s.Do("GET", "/nowhere/", nil, nil), 404, "see /openapi.json")
	for path, to := range map[string]string{"/": "docs", "/docs/": "../docs"} {
		reply := s.Do("GET", path, nil, nil)
		testenv.Expect(t, reply, 302)
		testenv.ExpectHeader(t, reply, "Location", to)
		testenv.Expect(t, s.Do("POST", path, nil, object()), 405)
	}
}

// D2: heads and bodies have strict deadlines, and the time between two requests has a longer one.
func TestIdleConnectionIsKeptForItsOwnTimeout(t *testing.T) {
	t.Parallel()
	const strict = 250 * time.Millisecond
	s := start(t, func(o *httpapi.Options) { o.Timeout, o.IdleTimeout = strict, time.Hour })
	testenv.Expect(t, s.Do("GET", "/nowhere", nil, nil), 404) // reads the contract, which takes a second with the race detector
	const get = "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
	idle, slow := s.dial(t), s.dial(t)
	for _, c := range []net.Conn{idle, slow} {
		_, _ = io.WriteString(c, get)
		if replies, _ := readReplies(t, c, get, 1); len(replies) != 1 {
			t.Fatal("no reply")
		}
	}
	// A request that begins on the second one gets 408 at the strict deadline, which has then passed on the first one too.
	_, _ = io.WriteString(slow, "GET /no")
	if replies, closed := readReplies(t, slow, get); len(replies) != 1 || replies[0].Status != 408 || !closed {
		t.Errorf("a slow second request got %v, closed %t", replies, closed)
	}
	_, _ = io.WriteString(idle, get)
	if replies, _ := readReplies(t, idle, get, 1); len(replies) != 1 {
		t.Error("the idle connection was closed")
	}
	// Shutdown does not wait for idle connections.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// The beginning of a request may arrive with the end of another one, so that nothing waits for its first byte.
func TestRequestThatBeginsBehindAnotherHasItsDeadline(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *httpapi.Options) { o.Timeout, o.IdleTimeout = 250*time.Millisecond, time.Hour })
	const get = "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, begun := range []string{"G", "GET /nowhere HTTP/1.1\r\nHos", "POST /tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"} {
		c := s.dial(t)
		_, _ = io.WriteString(c, get+get+begun)
		replies, closed := readReplies(t, c, get+get+begun)
		if len(replies) != 3 || replies[1].Status != 404 || replies[2].Status != 408 || !closed {
			t.Errorf("%q got %v, closed %t", begun, replies, closed)
		}
	}
}

// An idle connection may also have less time than a request.
func TestSlowRequestsOutliveAShortIdleTimeout(t *testing.T) {
	t.Parallel()
	const short = 250 * time.Millisecond
	s := start(t, func(o *httpapi.Options) { o.Timeout, o.IdleTimeout = time.Hour, short })
	testenv.Expect(t, s.Do("GET", "/nowhere", nil, nil), 404) // reads the contract, which takes a second with the race detector
	const get = "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
	c := s.dial(t)
	for range 2 {
		_, _ = io.WriteString(c, get[:9])
		time.Sleep(2 * short)
		_, _ = io.WriteString(c, get[9:])
		if replies, _ := readReplies(t, c, get, 1); len(replies) != 1 || replies[0].Status != 404 {
			t.Fatalf("a slow request got %v", replies)
		}
	}
	if replies, closed := readReplies(t, c, get); len(replies) != 0 || !closed {
		t.Errorf("the idle connection got %v, closed %t", replies, closed)
	}
}

func TestCORSLogsOriginsThatAreNotAllowed(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*httpapi.Options){"with a list": withPages, "without": func(*httpapi.Options) {}} {
		var log testenv.Output
		s := start(t, change, func(o *httpapi.Options) { o.Log = logTo(&log) })
		for range 3 {
			s.Do("OPTIONS", "/tokens/signin", preflight("https://shop.example.com", "POST"), nil)
		}
		s.Do("GET", "/tokens/keys", header("Origin", "http://"+s.address), nil)
		s.Do("GET", "/tokens/keys", header("Origin", "https://behind.a.proxy", "Sec-Fetch-Site", "same-origin"), nil)
		s.Do("GET", "/tokens/keys", header("Origin", "https://"+strings.Repeat("x", 300)), nil)
		if text := log.String(); strings.Count(text, "CORS_ALLOWED_ORIGINS") != 1 || !strings.Contains(text, "https://shop.example.com") {
			t.Errorf("%s: %s", name, text)
		}
		for i := range 200 {
			s.Do("GET", "/tokens/keys", header("Origin", fmt.Sprintf("https://%d.example", i)), nil)
		}
		if n := strings.Count(log.String(), "CORS_ALLOWED_ORIGINS"); n != 51 {
			t.Errorf("%s: %d lines", name, n)
		}
	}
}

// D7 and D8.
func TestCORSAllowsFieldsOfTracingAndOfTheSettings(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *httpapi.Options) {
		o.AllowedOrigins, o.AllowedHeaders = []string{"capacitor://localhost"}, []string{"X-Tenant"}
	})
	reply := s.Do("OPTIONS", "/tokens/signin", header("Origin", "capacitor://localhost", "Access-Control-Request-Method", "POST",
		"Access-Control-Request-Headers", "baggage,content-type,sentry-trace,traceparent,tracestate,x-tenant"), nil)
	testenv.Expect(t, reply, 204)
	testenv.ExpectHeader(t, reply, "Access-Control-Allow-Origin", "capacitor://localhost")
	allowed := strings.Split(strings.ToLower(reply.Header.Get("Access-Control-Allow-Headers")), ", ")
	for _, name := range []string{"baggage", "content-type", "sentry-trace", "traceparent", "tracestate", "x-tenant", "authorization"} {
		if !slices.Contains(allowed, name) {
			t.Errorf("%s is not allowed", name)
		}
	}
	for _, name := range []string{"x-caller-key", "*", "forwarded", "x-forwarded-for"} {
		if slices.Contains(allowed, name) {
			t.Errorf("%s is allowed", name)
		}
	}
}

// D1: if connections use too much memory, the longest waiting ones are closed. A client that sends a request at once is
// served.
func TestEvictionOfUnfinishedRequests(t *testing.T) {
	t.Parallel()
	body := "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 65536\r\n\r\n"
	for name, wire := range map[string]string{
		"a body that is only announced": body,
		"a body without its end":        body + strings.Repeat(" ", 65535),
		"a chunk without its end":       "POST /tokens HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfff0\r\n",
		"a head without its end":        "GET /nowhere HTTP/1.1\r\nHost: x\r\n",
		"a first byte":                  "G",
		"nothing":                       "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, func(o *httpapi.Options) { o.Memory, o.Timeout = 8<<20, time.Hour })
			var slow []net.Conn
			for range 600 {
				c := s.dial(t)
				_, _ = io.WriteString(c, wire)
				slow = append(slow, c)
				if len(slow)%50 == 0 {
					testenv.Expect(t, s.Do("POST", "/tokens", nil, object("refresh_token", "r")), 200)
				}
			}
			// The first one was closed, with a reply if it had begun a request.
			replies, closed := readReplies(t, slow[0], "POST /nowhere HTTP/1.1")
			if !closed || len(wire) > 0 && (len(replies) != 1 || replies[0].Status != 503 ||
				replies[0].Text("reason") != "too_many_unfinished_requests") {
				t.Errorf("the first one got %v, closed %t", replies, closed)
			}
			// The last one is served when it continues.
			last := slow[len(slow)-1]
			if whole := "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"; strings.HasPrefix(whole, wire) {
				_, _ = io.WriteString(last, strings.TrimPrefix(whole, wire))
				if replies, _ := readReplies(t, last, "GET /nowhere HTTP/1.1", 1); len(replies) != 1 || replies[0].Status != 404 {
					t.Errorf("the last one got %v", replies)
				}
			}
		})
	}
}

func TestEvictionOfRepliesThatAreNotRead(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	s := start(t, func(o *httpapi.Options) { o.Memory, o.Timeout, o.Metrics = 8<<20, time.Hour, registry })
	const clients, least = 200, 100 // some 45 waiting replies fit into the memory
	var slow []net.Conn
	for range clients {
		c := s.dial(t)
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		_, _ = io.WriteString(c, strings.Repeat("GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n", 5))
		slow = append(slow, c)
	}
	testenv.Until(t, 30*time.Second, "enough connections are closed", func() bool { return evicted(t, registry, "reply") >= least })
	testenv.Expect(t, s.Do("POST", "/tokens", nil, object("refresh_token", "r")), 200)
	// A closed connection ends before one reply is complete.
	var ended atomic.Int64
	var all sync.WaitGroup
	for _, c := range slow {
		all.Go(func() {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := io.Copy(io.Discard, io.LimitReader(c, 1<<20))
			if e, ok := err.(net.Error); n < 1<<20 && (!ok || !e.Timeout()) {
				ended.Add(1)
			}
		})
	}
	all.Wait()
	if n := ended.Load(); n < least {
		t.Errorf("%d of %d were closed, not %d", n, clients, least)
	}
}

// A request that is sent at once gets its reply, unless its connection was closed before.
func TestEvictionAnswersRequestsThatHaveArrived(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *httpapi.Options) { o.Memory, o.Timeout = 8<<20, time.Hour })
	const request = "GET /tokens/keys HTTP/1.1\r\nHost: x\r\n\r\n"
	ask := func(c net.Conn) error {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(c, request); err != nil {
			return err
		}
		reply, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && reply.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %s", reply.Status)
		}
		return err
	}
	var clients sync.WaitGroup
	begin := make(chan struct{})
	for range 400 {
		c := s.dial(t)
		testenv.NoError(t, ask(c))
		clients.Go(func() {
			<-begin
			err := ask(c)
			for _, closed := range []error{nil, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
				if errors.Is(err, closed) {
					return
				}
			}
			t.Errorf("a second request got %v", err)
		})
	}
	// There is room for 512 idle connections. The new ones evict the oldest, which all send a request now.
	close(begin)
	for range 300 {
		_, _ = io.WriteString(s.dial(t), "GET /users HTTP/1.1\r\n")
	}
	clients.Wait()
}

// evicted returns the number of closed connections that waited for something.
func evicted(t *testing.T, registry *prometheus.Registry, waitingFor string) float64 {
	t.Helper()
	families := testenv.Must(registry.Gather())(t)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "http_connections_evicted_total" && m.GetLabel()[0].GetValue() == waitingFor {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("there is no metric of connections that wait for a %s", waitingFor)
	return 0
}

func TestEvictionSparesRequestsBeingServed(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *httpapi.Options) { o.Memory, o.Timeout = 8<<20, time.Hour })
	entered, release := make(chan struct{}), make(chan struct{})
	s.accounts.do = func(context.Context, string) error {
		close(entered)
		<-release
		return &identity.Error{Kind: identity.Unauthenticated, Reason: identity.ReasonTokenInvalid, Message: "why"}
	}
	answered := make(chan *testenv.Reply, 1)
	go func() {
		reply, _ := s.Try("POST", "/tokens", nil, object("refresh_token", "r"))
		answered <- reply
	}()
	<-entered
	for range 600 {
		_, _ = io.WriteString(s.dial(t), "GET /users HTTP/1.1\r\n")
	}
	close(release)
	if reply := <-answered; reply == nil || reply.Status != 401 {
		t.Errorf("got %v", reply)
	}
}
