package httpapi_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/token"
)

// verifier knows tokens by their text.
type verifier map[string]token.Claims

func (v verifier) VerifyClaims(text string) (token.Claims, error) {
	if c, ok := v[text]; ok {
		return c, nil
	}
	return token.Claims{}, errors.New("unknown")
}

func (v verifier) Verified(string) bool { return true }

// nothingEnded knows that no session has ended.
type nothingEnded struct{}

func (nothingEnded) Ended(string) bool          { return false }
func (nothingEnded) Age() (time.Duration, bool) { return 0, true }

func withAuthz(ownPort bool) func(*httpapi.Options) {
	return func(o *httpapi.Options) {
		o.Authz = &httpapi.Authz{
			Policies: []httpapi.Policy{{Name: "orders", Scopes: []string{"orders"}}, {Name: "open", Anonymous: true}},
			Tokens: verifier{
				"reader": {Subject: "1", Username: "ada", Email: "ada@example.com", Name: "Ada", Scope: "orders", SessionID: "2"},
				"other":  {Subject: "3", Scope: "profile"},
			},
			Ended: nothingEnded{}, Now: time.Now, OwnPort: ownPort,
		}
	}
}

// startAuthz runs a server, and returns it twice: the second one is dialed at the port of decisions.
func startAuthz(t *testing.T, ownPort bool, changes ...func(*httpapi.Options)) (api, decisions *running) {
	t.Helper()
	api = start(t, append([]func(*httpapi.Options){withAuthz(ownPort)}, changes...)...)
	if !ownPort {
		return api, api
	}
	listener := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	served := make(chan error, 1)
	go func() { served <- api.ServeAuthz(listener) }()
	return api, &running{Server: api.Server, address: listener.Addr().String(), served: served}
}

// The outcomes of a request in a table.
const (
	asPlain = "the decision of the plain request"
	refused = "refused with 4xx"
	either  = "either, by the limit of the port"
)

const plain = "GET /authz/orders HTTP/1.1\r\nHost: x\r\n{auth}\r\n"

// strangeRequests are requests for the policy orders, as clients of a proxy may write them. {auth} stands for the
// Authorization line.
func strangeRequests() map[string][2]string {
	requests := map[string][2]string{}
	target := func(outcome string, targets ...string) {
		for _, target := range targets {
			requests[fmt.Sprintf("the target %.40q", target)] = [2]string{"GET " + target + " HTTP/1.1\r\nHost: x\r\n{auth}\r\n", outcome}
		}
	}
	for _, suffix := range []string{
		"", "/", "//", "/.", "/..", "/../", "/../open", "/../../users", "/%2e%2e/open", "/..%2fopen", "/%zz", "/%", "/%0", "/%00", "/%0d%0aX:%20y",
		"/;a=b", "/;/../open", "/\\..\\open", "/a\\b", "/\xff\xfe", "/\xc3\xa9", "/\xc0\xae\xc0\xae", "/{}|^`\"<>'",
		"?", "??", "?#", "?access_token=reader", "?token=%zz", "?a=b?c", "?/../open", "#", "#/../open", "#?", "/#?#", "/?a#b", "/http://y/authz/open",
		"/" + strings.Repeat("x", 7500), "?" + strings.Repeat("../", 2500),
	} {
		target(asPlain, "/authz/orders"+suffix, "http://x/authz/orders"+suffix)
	}
	target(asPlain, "http://elsewhere.example:81/authz/orders", "HTTPS://x/authz/orders/", "http://[::1]/authz/orders")
	target(refused,
		"/authz", "/authz/", "/authz//", "/authz?orders", "/authz#orders", "/authz/?orders", "/authz//orders", "/authz/./orders", "/authz/../orders",
		"/authz/../authz/orders", "//authz/orders", "/./authz/orders", "/x/../authz/orders", "/AUTHZ/orders", "/%61uthz/orders", "/authz%2forders",
		"/authz/ORDERS", "/authz/Orders", "/authz/%6frders", "/authz/orders%2f..", "/authz/orders%2fopen", "/authz/orders%00", "/authz/orders\x00/",
		"/authz/orders;a=b", "/authz/orders\\", "/authz/orders\\..\\open", "/authz/orders.", "/authz/orders..", "/authz/orders,open", "/authz/orders ",
		"/authz/orders%20", "/authz/\xefrders", "/authz/orders\xff", "/authz/orders&open", "/authz/"+strings.Repeat("o", 5000), "\\authz\\orders",
		"authz/orders", "*", "x:443", "x/authz/orders", "http:/authz/orders", "http:///authz/orders", "http://me@x/authz/orders", "ftp://x/authz/orders",
		"http://x\\/authz/orders", "http://x//authz/orders", "http://x/../authz/orders", "/ http://x/authz/orders", "",
		// No target has spaces or control characters (RFC 9112 section 3).
		"/authz/orders/\x01", "/authz/orders/\x7f", "/authz/orders/\t", "/authz/orders/a b", "/authz/orders \t/",
	)
	for _, method := range []string{
		"HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "MKCOL", "QUERY", "get", "Post", "G", "!#$%&'*+-.^_`|~",
		strings.Repeat("M", 200), strings.Repeat("M", 7500),
	} {
		requests[fmt.Sprintf("the method %.20s", method)+fmt.Sprint(len(method))] = [2]string{strings.Replace(plain, "GET", method, 1), asPlain}
	}
	field := func(about, lines, outcome string) {
		requests[about] = [2]string{strings.Replace(plain, "{auth}", lines, 1), outcome}
	}
	field("a preflight", "Origin: https://app.example.com\r\nAccess-Control-Request-Method: PUT\r\n{auth}", asPlain)
	field("a page that is not allowed", "Origin: https://evil.example\r\n{auth}", asPlain)
	field("fields that say what was asked", "X-Original-URI: /authz/open\r\nX-Forwarded-Uri: /authz/open\r\nX-Forwarded-Method: OPTIONS\r\n"+
		"X-Original-Method: OPTIONS\r\nX-HTTP-Method-Override: OPTIONS\r\nForwarded: for=127.0.0.1;host=localhost\r\nX-Rewrite-URL: /authz/open\r\n{auth}", asPlain)
	field("forged fields", "X-Auth-Subject: root\r\nX-Auth-Scope: orders\r\nx-auth-session: 1\r\n{auth}", asPlain)
	field("other places for a token", "Cookie: access_token=reader; Authorization=Bearer reader\r\nX-Access-Token: reader\r\n"+
		"Proxy-Authorization: Bearer reader\r\nX-Authorization: Bearer reader\r\nAuthorization-: Bearer reader\r\n{auth}", asPlain)
	field("a field that ends the next one", "Connection: Authorization\r\n{auth}", asPlain)
	field("an upgrade", "Connection: Upgrade\r\nUpgrade: websocket\r\n{auth}", asPlain)
	field("8 KiB of fields", strings.Repeat("X-Some-Field: "+strings.Repeat("y", 112)+"\r\n", 64)+"{auth}", asPlain)
	field("one field of 8 KiB", "Cookie: "+strings.Repeat("y", 8<<10)+"\r\n{auth}", asPlain)
	field("a thousand fields", strings.Repeat("X: y\r\n", 1000)+"{auth}", asPlain)
	field("60 KiB of fields", strings.Repeat("X-Some-Field: "+strings.Repeat("y", 112)+"\r\n", 480)+"{auth}", either)
	field("70 KiB of fields", strings.Repeat("X-Some-Field: "+strings.Repeat("y", 112)+"\r\n", 560)+"{auth}", refused)
	field("two Authorization fields", "{auth}Authorization: Bearer reader\r\nAuthorization: Bearer reader\r\n", refused)
	field("two Authorization fields, one of them in lower case", "Authorization: Bearer other\r\nauthorization: Bearer reader\r\n", refused)
	field("two Authorization fields, the first empty", "Authorization:\r\nAuthorization: Bearer reader\r\n", refused)
	field("a space before the colon", "Authorization : Bearer reader\r\n", refused)
	field("a folded field", "X: y\r\n Authorization: Bearer reader\r\n{auth}", refused)
	field("a folded token", "Authorization: Bearer\r\n reader\r\n", refused)
	field("a bare LF", "X: y\nAuthorization: Bearer reader\r\n{auth}", refused)
	field("a bare CR", "X: y\rAuthorization: Bearer reader\r\n{auth}", refused)
	field("a NUL", "X: \x00\r\n{auth}", refused)
	field("two tokens", "Authorization: Bearer reader, Bearer reader\r\n", refused)
	field("two spaces", "Authorization: Bearer  reader\r\n", refused)
	field("another scheme", "Authorization: Basic reader\r\n", refused)
	field("a token without a scheme", "Authorization: reader\r\n", refused)
	field("two hosts", "Host: y\r\n{auth}", refused)
	wire := func(about, text, outcome string) { requests[about] = [2]string{text, outcome} }
	const post = "POST /authz/orders HTTP/1.1\r\nHost: x\r\n{auth}"
	wire("8 KiB of fields and a suffix of 8 KiB", "GET /authz/orders/"+strings.Repeat("x", 8<<10)+" HTTP/1.1\r\nHost: x\r\n"+
		strings.Repeat("X-Some-Field: "+strings.Repeat("y", 112)+"\r\n", 64)+"{auth}\r\n", either)
	wire("a trailer that must not be one", post+"Trailer: Authorization\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused)
	wire("a body", post+"Content-Length: 25\r\n\r\n{\"access_token\":\"reader\"}", asPlain)
	wire("a body of a GET", strings.Replace(post, "POST", "GET", 1)+"Content-Length: 5\r\n\r\nhello", asPlain)
	const smuggled = "GET /authz/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer reader\r\n\r\n"
	wire("a body that looks like a request", post+"Content-Length: "+strconv.Itoa(len(smuggled))+"\r\n\r\n"+smuggled, asPlain)
	wire("a body of 64 KiB", post+"Content-Length: 65536\r\n\r\n"+strings.Repeat("x", 65536), asPlain)
	wire("a longer body", post+"Content-Length: 65537\r\n\r\n", refused)
	wire("a chunked body", post+"Transfer-Encoding: chunked\r\n\r\n5;ext=\"a\"\r\nhello\r\n0\r\n\r\n", asPlain)
	wire("a chunked body with a token in its trailer", post+"Transfer-Encoding: chunked\r\n\r\n"+
		"5\r\nhello\r\n0\r\nAuthorization: Bearer reader\r\nX-Auth-Subject: 1\r\n\r\n", asPlain)
	wire("a form", post+"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 19\r\n\r\naccess_token=reader", asPlain)
	wire("a broken multipart body", post+"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n\r\n--y\r\n", asPlain)
	wire("a compressed body", post+"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", asPlain)
	wire("two lengths", post+"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", refused)
	wire("a length and chunks", post+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused)
	wire("another coding", post+"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", refused)
	wire("a negative length", post+"Content-Length: -5\r\n\r\n", refused)
	wire("a chunk without a size", post+"Transfer-Encoding: chunked\r\n\r\nhello\r\n", refused)
	wire("HTTP/1.0 with keep-alive", "GET /authz/orders HTTP/1.0\r\nConnection: keep-alive\r\n{auth}\r\n", asPlain)
	wire("an empty line before", "\r\n"+plain, asPlain)
	wire("HTTP/0.9", "GET /authz/orders\r\n{auth}\r\n", refused)
	wire("HTTP/1.2", strings.Replace(plain, "HTTP/1.1", "HTTP/1.2", 1), refused)
	wire("HTTP/2.0", strings.Replace(plain, "HTTP/1.1", "HTTP/2.0", 1), refused)
	wire("no spaces", "GET/authz/ordersHTTP/1.1\r\nHost: x\r\n{auth}\r\n", refused)
	return requests
}

// A strange request gets the decision of the plain one or a 4xx, at either port, and the next request on the connection
// gets its own.
func TestStrangeRequestsGetTheDecisionOfThePlainOne(t *testing.T) {
	t.Parallel()
	const next = "GET /authz/orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	for _, port := range []string{"the API's port", "its own port"} {
		_, s := startAuthz(t, port == "its own port", withPages)
		for about, request := range strangeRequests() {
			t.Run(port+"/"+about, func(t *testing.T) {
				t.Parallel()
				for authorization, plain := range map[string]int{
					"": 401, "Bearer reader": 200, "Bearer other": 403, "bearer reader": 200, "Bearer x": 401,
				} {
					line := ""
					if authorization != "" {
						line = "Authorization: " + authorization + "\r\n"
					}
					method, _, _ := strings.Cut(strings.TrimLeft(request[0], "\r\n"), " ")
					c := s.dial(t)
					go func() { _, _ = io.WriteString(c, strings.ReplaceAll(request[0], "{auth}", line)+next) }()
					r := bufio.NewReader(c)
					first, err := http.ReadResponse(r, &http.Request{Method: method})
					if err != nil {
						t.Fatalf("%q: %v", authorization, err)
					}
					_, _ = io.Copy(io.Discard, first.Body)
					decided := first.StatusCode == plain && (first.StatusCode != 401 || first.Header.Get("WWW-Authenticate") != "")
					switch refusal := first.StatusCode >= 400 && first.StatusCode < 500; {
					case request[1] == asPlain && !decided, request[1] == refused && !refusal, request[1] == either && !decided && !refusal:
						t.Errorf("%q got %d, want %s, %d", authorization, first.StatusCode, request[1], plain)
						continue
					case request[1] == either && port == "its own port" && !decided:
						t.Errorf("%q got %d on a port of its own", authorization, first.StatusCode)
					}
					wantIdentity(t, first, "1")
					if first.Close {
						if decided && request[1] == asPlain {
							t.Errorf("%q: the connection is closed", authorization)
						}
						continue
					}
					second, err := http.ReadResponse(r, nil)
					if err != nil || second.StatusCode != 401 {
						t.Errorf("%q: the next request got %v, %v", authorization, second, err)
					} else {
						wantIdentity(t, second, "1")
					}
					_ = c.Close()
				}
			})
		}
	}
}

// wantIdentity reports an error unless the reply has all fields once, with a user if, and only if, it is 200. Only a
// reply of the API to what is no request for a decision has none.
func wantIdentity(t *testing.T, r *http.Response, subject string) {
	t.Helper()
	if r.StatusCode != 200 {
		subject = ""
	}
	for _, name := range []string{"X-Auth-Subject", "X-Auth-Username", "X-Auth-Email", "X-Auth-Name", "X-Auth-Scope", "X-Auth-Session"} {
		values, there := r.Header[name]
		if !there && r.StatusCode != 200 && r.StatusCode != 401 && r.StatusCode != 403 {
			continue
		}
		if len(values) != 1 || (values[0] != "") != (subject != "") || name == "X-Auth-Subject" && values[0] != subject {
			t.Errorf("%d: %s is %q", r.StatusCode, name, values)
		}
	}
}

func TestRequestsForDecisionsInOnePieceGetTheirOwn(t *testing.T) {
	t.Parallel()
	for _, ownPort := range []bool{false, true} {
		_, s := startAuthz(t, ownPort)
		var wire strings.Builder
		var want []int
		for i := range 100 {
			tokens := []string{"reader", "x", "other", ""}
			wire.WriteString("PUT /authz/orders/../open HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n" +
				"Authorization: Bearer " + tokens[i%4] + "\r\n\r\nabc")
			want = append(want, []int{200, 401, 403, 401}[i%4])
		}
		var got []int
		for _, r := range converse(t, s, wire.String(), slices.Repeat([]string{"PUT"}, 100)...) {
			got = append(got, r.StatusCode)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

func TestRequestForADecisionThatExpectsContinueGetsIt(t *testing.T) {
	t.Parallel()
	for _, ownPort := range []bool{false, true} {
		_, s := startAuthz(t, ownPort)
		replies := converse(t, s, "POST /authz/orders HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"+
			"GET /authz/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer reader\r\n\r\n", "POST", "POST", "GET")
		if len(replies) != 3 || replies[0].StatusCode != 100 || replies[1].StatusCode != 401 || replies[2].StatusCode != 200 {
			t.Errorf("got %v", replies)
		}
	}
}

// Each port serves what is its own, and not what is the other's.
func TestPortOfDecisionsServesNothingElse(t *testing.T) {
	t.Parallel()
	api, decisions := startAuthz(t, true)
	status := func(s *running, method, target string) int {
		replies := converse(t, s, method+" "+target+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer reader\r\nConnection: close\r\n\r\n", method)
		if len(replies) != 1 {
			return 0
		}
		return replies[0].StatusCode
	}
	for _, target := range []string{"/authz/orders", "/authz/open", "/authz/unknown", "http://x/authz/orders"} {
		if got := status(api, "GET", target); got != 404 {
			t.Errorf("the API's port answers %s with %d", target, got)
		}
	}
	for _, target := range []string{"/", "/docs", "/tokens/keys", "/.well-known/jwks.json", "/openapi.json",
		"/users", "/tokens/signin", "/metrics", "/healthz"} {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			if got := status(decisions, method, target); got != 404 {
				t.Errorf("the port of decisions answers %s %s with %d", method, target, got)
			}
		}
	}
	api.wantCall(t, "")
	if got := status(api, "GET", "/tokens/keys"); got != 200 {
		t.Errorf("the API's port answers keys with %d", got)
	}
	if got := status(decisions, "GET", "/authz/orders"); got != 200 {
		t.Errorf("the port of decisions answers with %d", got)
	}
}

// The port of decisions has the protection of the API's port: slow heads end, a flood evicts the one that waited longest,
// and a shutdown finishes what has begun.
func TestPortOfDecisionsIsProtected(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	api, s := startAuthz(t, true, func(o *httpapi.Options) {
		o.Timeout, o.IdleTimeout, o.Memory, o.Metrics = 500*time.Millisecond, time.Hour, 16<<20, registry
	})
	slow := s.dial(t)
	_, _ = io.WriteString(slow, "GET /authz/or")
	if replies, closed := readReplies(t, slow, "slow"); len(replies) != 1 || replies[0].Status != 408 || !closed {
		t.Errorf("a slow head got %v, closed %t", replies, closed)
	}
	var crowd []net.Conn
	for range 400 { // more than 4 MiB
		crowd = append(crowd, s.dial(t))
	}
	testenv.Until(t, 10*time.Second, "connections are evicted", func() bool {
		return strings.Contains(exposition(t, registry), `http_authz_connections_evicted_total{waiting_for="first_request"} 1`)
	})
	if strings.Contains(exposition(t, registry), `http_connections_evicted_total{waiting_for="first_request"} 1`) {
		t.Error("connections of the API were evicted")
	}
	_, _ = io.WriteString(crowd[399], "GET /authz/open HTTP/1.1\r\nHost: x\r\n\r\n")
	if replies := readEach(t, crowd[399], "the last", "GET"); len(replies) != 1 || replies[0].StatusCode != 200 {
		t.Errorf("the last connection got %v", replies)
	}
	for _, c := range crowd {
		_ = c.Close()
	}
	idle := s.dial(t)
	_, _ = io.WriteString(idle, "GET /authz/open HTTP/1.1\r\nHost: x\r\n\r\n")
	if replies := readEach(t, idle, "idle", "GET"); len(replies) != 1 {
		t.Fatal("no reply")
	}
	api.Drain()
	last := s.dial(t)
	_, _ = io.WriteString(last, "GET /authz/open HTTP/1.1\r\nHost: x\r\n\r\n")
	if replies := readEach(t, last, "last", "GET"); len(replies) != 1 || !replies[0].Close {
		t.Errorf("while it drains: %v", replies)
	}
	testenv.NoError(t, api.Shutdown(t.Context()))
	if err := <-s.served; err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", s.address); err == nil {
		_ = c.Close()
		t.Error("the port is still open")
	}
}

// stuck verifies no token that it does not know, until it is released.
type stuck struct {
	verifier
	released chan struct{}
}

func (s stuck) Verified(text string) bool { _, known := s.verifier[text]; return known }

func (s stuck) VerifyClaims(text string) (token.Claims, error) {
	if !s.Verified(text) {
		<-s.released
	}
	return s.verifier.VerifyClaims(text)
}

// A flood of tokens that have to be verified is answered with 503, soon. It keeps neither known tokens nor the API waiting.
func TestDecisionsBeyondTheVerificationsInProgressAreRefused(t *testing.T) {
	t.Parallel()
	for _, ownPort := range []bool{false, true} {
		registry, released := prometheus.NewRegistry(), make(chan struct{})
		var log testenv.Output
		api, s := startAuthz(t, ownPort, func(o *httpapi.Options) {
			o.Authz.Tokens = stuck{o.Authz.Tokens.(verifier), released}
			o.Metrics, o.Log = registry, logTo(&log)
		})
		const flood = 200
		replies := make(chan *http.Response, flood)
		for i := range flood {
			c := s.dial(t)
			_, _ = fmt.Fprintf(c, "GET /authz/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer new%d\r\n\r\n", i)
			go func() {
				r, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Errorf("a connection has no reply: %v", err)
				}
				replies <- r
			}()
		}
		// As many verify as the runtime has threads; all others are answered while none of these has finished.
		overloaded := 0
		next := func() *http.Response {
			select {
			case r := <-replies:
				if r == nil {
					t.FailNow()
				}
				return r
			case <-time.After(20 * time.Second):
				t.Fatalf("own port %t: a reply is missing after %d", ownPort, overloaded)
				return nil
			}
		}
		begun := time.Now()
		verifying := runtime.GOMAXPROCS(0)
		for ; overloaded < flood-verifying; overloaded++ {
			r := next()
			var body struct {
				Reason string `json:"reason"`
			}
			err := json.UnmarshalRead(r.Body, &body)
			if err != nil || r.StatusCode != 503 || r.Header.Get("Retry-After") != "1" || body.Reason != "overloaded" {
				t.Fatalf("own port %t: got %d %v %v, %v", ownPort, r.StatusCode, r.Header, body, err)
			}
			wantIdentity(t, r, "")
		}
		t.Logf("own port %t: %d were refused within %v", ownPort, overloaded, time.Since(begun))
		for _, field := range []string{"Bearer reader", ""} {
			request := "GET /authz/open HTTP/1.1\r\nHost: x\r\nAuthorization: " + field + "\r\n\r\n"
			request = strings.Replace(request, "Authorization: \r\n", "", 1)
			if replies := converse(t, s, request, "GET"); len(replies) != 1 || replies[0].StatusCode != 200 {
				t.Errorf("own port %t: beside the flood, %q got %v", ownPort, field, replies)
			}
		}
		if replies := converse(t, api, "GET /tokens/keys HTTP/1.1\r\nHost: x\r\n\r\n", "GET"); len(replies) != 1 || replies[0].StatusCode != 200 {
			t.Errorf("own port %t: beside the flood, the API replies %v", ownPort, replies)
		}
		close(released)
		for range verifying {
			if r := next(); r.StatusCode != 401 {
				t.Errorf("own port %t: a token that was verified got %d", ownPort, r.StatusCode)
			}
		}
		series := fmt.Sprintf(`http_authz_decisions_total{policy="orders",result="overloaded"} %d`, overloaded)
		if text := exposition(t, registry); !strings.Contains(text, series) {
			t.Errorf("own port %t: %s", ownPort, text)
		}
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "overloaded") && !strings.Contains(line, `"level":"DEBUG"`) {
				t.Errorf("a flood must not fill the log: %s", line)
			}
		}
	}
}

// exposition returns the metrics as text.
func exposition(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	scrape := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(scrape, httptest.NewRequest("GET", "/metrics", nil))
	return scrape.Body.String()
}

// A decision is counted apart from requests of the API. An ordinary one is not logged above debug.
func TestDecisionsAreCountedApartAndNotLogged(t *testing.T) {
	t.Parallel()
	for _, ownPort := range []bool{false, true} {
		registry := prometheus.NewRegistry()
		var log testenv.Output
		_, s := startAuthz(t, ownPort, func(o *httpapi.Options) { o.Metrics, o.Log = registry, logTo(&log) }, withPages)
		for _, request := range []string{"orders HTTP/1.1\r\nAuthorization: Bearer reader", "orders HTTP/1.1",
			"orders HTTP/1.1\r\nAuthorization: Bearer other",
			"open HTTP/1.1\r\nOrigin: https://elsewhere.example", "unknown HTTP/1.1", "open HTTP/1.1\r\nAuthorization: Bearer x\r\nAuthorization: Bearer x"} {
			converse(t, s, "GET /authz/"+request+"\r\nHost: x\r\n\r\n", "GET")
		}
		text := exposition(t, registry)
		for _, series := range []string{`{policy="orders",result="allowed"} 1`, `{policy="orders",result="unauthenticated"} 1`,
			`{policy="orders",result="forbidden"} 1`, `{policy="open",result="anonymous"} 1`, `{policy="open",result="unavailable"} 0`,
			`{policy="",result="unknown"} 1`, `{policy="",result="malformed"} 1`} {
			if !strings.Contains(text, "http_authz_decisions_total"+series) {
				t.Errorf("own port %t: no %s", ownPort, series)
			}
		}
		if !strings.Contains(text, "http_authz_duration_seconds_count 6") || strings.Contains(text, "http_requests_total{") ||
			strings.Contains(text, "http_request_duration_seconds_count") {
			t.Errorf("own port %t: %s", ownPort, text)
		}
		above := 0
		for line := range strings.Lines(log.String()) {
			if !strings.Contains(line, `"level":"DEBUG"`) {
				above++
				if !strings.Contains(line, `"result":"unknown"`) && !strings.Contains(line, `"result":"malformed"`) {
					t.Errorf("logged: %s", line)
				}
			}
		}
		if above != 2 || strings.Count(log.String(), `"msg":"decision"`) != 6 {
			t.Errorf("own port %t: the log is %s", ownPort, log.String())
		}
	}
}
