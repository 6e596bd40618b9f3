package judges

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// proxy is a program that asks the gateway about each request. Its page in docs/consumers has the configuration, for a
// gateway at port 8080 and a backend at port 9000 whose paths are /shop/ for everyone and the rest for orders:read.
type proxy struct {
	name      string // of the program and of the page
	begin     string // of the configuration in the page
	wrap      func(config, dir, port string) string
	args      func(file, dir string) []string
	preflight func(t *testing.T, config string) string // applies the section CORS of the page
	down      []int                                    // its status while the gateway does not answer
}

var proxies = []proxy{
	{
		name: "nginx", begin: "upstream authgateway",
		wrap: func(config, dir, port string) string {
			config = strings.Replace(config, "listen 80;", "listen 127.0.0.1:"+port+";", 1)
			user := ""
			if os.Geteuid() == 0 {
				user = "user root;"
			}
			var temporary strings.Builder
			for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
				fmt.Fprintf(&temporary, "%s_temp_path %s/%s;\n", kind, dir, kind)
			}
			return "daemon off; error_log stderr; pid " + dir + "/pid;" + user + "\nevents {}\nhttp {\naccess_log off;\n" +
				temporary.String() + config + "}\n"
		},
		args: func(file, dir string) []string { return []string{"-p", dir, "-c", file} },
		preflight: func(t *testing.T, config string) string {
			return block(t, "nginx.md", "map ") + strings.Replace(config, "set $policy orders;", block(t, "nginx.md", "set "), 1)
		},
		down: []int{http.StatusServiceUnavailable},
	},
	{
		name: "caddy", begin: "shop.example.com",
		wrap: func(config, _, port string) string {
			return "{\n\tadmin off\n\tauto_https off\n}\n" + strings.Replace(config, "shop.example.com {", "http://:"+port+" {", 1)
		},
		args: func(file, _ string) []string { return []string{"run", "--adapter", "caddyfile", "--config", file} },
		preflight: func(t *testing.T, config string) string {
			line := "vars /shop/* policy shop\n"
			return strings.Replace(config, line, line+block(t, "caddy.md", "@preflight"), 1)
		},
		down: []int{http.StatusBadGateway, http.StatusGatewayTimeout},
	},
}

// runningProxy is a proxy that listens.
type runningProxy struct {
	proxy
	t       *testing.T
	address string
}

// start runs a proxy with the configuration of its page, which edits change.
func (p proxy) start(t *testing.T, gatewayURL string, b *backend, edits ...func(t *testing.T, config string) string) *runningProxy {
	t.Helper()
	program, err := exec.LookPath(p.name)
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/" + p.name); err != nil {
			t.Skipf("%s is not installed; hack/test.sh installs it on Debian", p.name)
		}
	}
	config := block(t, p.name+".md", p.begin)
	for _, edit := range edits {
		changed := edit(t, config)
		if changed == config {
			t.Fatal("a change of the configuration changes nothing")
		}
		config = changed
	}
	for _, address := range []string{"127.0.0.1:8080", "127.0.0.1:9000"} {
		if !strings.Contains(config, address) {
			t.Fatalf("the configuration lacks %s", address)
		}
	}
	dir, address := t.TempDir(), testenv.FreeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	config = strings.NewReplacer("127.0.0.1:8080", strings.TrimPrefix(gatewayURL, "http://"),
		"127.0.0.1:9000", b.server.Listener.Addr().String()).Replace(config)
	file := filepath.Join(dir, "proxy.conf")
	testenv.NoError(t, os.WriteFile(file, []byte(p.wrap(config, dir, port)), 0o600))
	said := &testenv.Output{}
	command := exec.Command(program, p.args(file, dir)...)
	command.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	command.Stdout, command.Stderr = said, said
	testenv.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM) // it may have ended
		late := time.AfterFunc(10*time.Second, func() { _ = command.Process.Kill() })
		_ = command.Wait()
		late.Stop()
		if t.Failed() {
			t.Logf("the output of %s:\n%s", p.name, said)
		}
	})
	testenv.Eventually(t, time.Minute, "the proxy listens", func() error {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	return &runningProxy{proxy: p, t: t, address: address}
}

// identity is what the fields say, in the order of identityFields.
type identity [6]string

var identityFields = [6]string{
	"X-Auth-Subject", "X-Auth-Username", "X-Auth-Email", "X-Auth-Name", "X-Auth-Scope", "X-Auth-Session",
}

// backend is the service behind a proxy. It replies what it received, and notes every request that must not have
// reached it, whatever the test expects of that request.
type backend struct {
	server *httptest.Server

	mu    sync.Mutex
	known []identity // of the users
	// preflights says that OPTIONS needs no token.
	preflights bool
	wrong      []string
}

// received is the backend's reply.
type received struct {
	Method, Target string
	Who            identity
	Body           int
}

func startBackend(t *testing.T) *backend {
	t.Helper()
	b := &backend{known: []identity{{}}}
	b.server = httptest.NewServer(b)
	t.Cleanup(func() {
		b.server.Close()
		for _, wrong := range b.wrong {
			t.Errorf("it reached the backend: %s", wrong)
		}
	})
	return b
}

func (b *backend) know(who identity) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known = append(b.known, who)
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	size, err := io.Copy(io.Discard, r.Body)
	got := received{Method: r.Method, Target: r.RequestURI, Body: int(size)}
	for i, name := range identityFields {
		if values := r.Header[name]; len(values) > 0 {
			got.Who[i] = strings.Join(values, "; ")
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err != nil:
		b.wrong = append(b.wrong, fmt.Sprintf("%s %.100s, with half a body: %v", r.Method, r.RequestURI, err))
	case !slices.Contains(b.known, got.Who):
		b.wrong = append(b.wrong, fmt.Sprintf("%s %.100s of %q", r.Method, r.RequestURI, got.Who))
	case got.Who == identity{} && !public(r.RequestURI) && (!b.preflights || r.Method != http.MethodOptions):
		b.wrong = append(b.wrong, fmt.Sprintf("%s %.100s without a user", r.Method, r.RequestURI))
	}
	for name := range r.Header {
		// CGI, WSGI and Rack write each of these as HTTP_X_AUTH_….
		if strings.HasPrefix(aliases.Replace(strings.ToLower(name)), "x-auth-") &&
			!slices.Contains(identityFields[:], name) {
			b.wrong = append(b.wrong, "the field "+name)
		}
	}
	w.Header().Set("X-Backend", "reached")
	_ = json.NewEncoder(w).Encode(got)
}

var aliases = strings.NewReplacer("_", "-", ".", "-")

// public reports whether a target is below /shop/, read as most frameworks do: unescaped once, then cleaned. Caddy
// ignores case.
func public(target string) bool {
	target, _, _ = strings.Cut(target, "?")
	if decoded, err := url.PathUnescape(target); err == nil {
		target = decoded
	}
	return strings.HasPrefix(strings.ToLower(path.Clean(target))+"/", "/shop/")
}

// request is what a client sends, byte by byte. Empty members are GET /orders HTTP/1.1.
type request struct {
	method, target, version string
	token                   string
	lines                   []string // of the header
	body                    string
}

func (r request) text() string {
	or := func(text, other string) string {
		if text == "" {
			return other
		}
		return text
	}
	lines := []string{or(r.method, "GET") + " " + or(r.target, "/orders") + " " + or(r.version, "HTTP/1.1"), "Host: shop.example.com"}
	if r.token != "" {
		lines = append(lines, "Authorization: Bearer "+r.token)
	}
	return strings.Join(append(lines, r.lines...), "\r\n") + "\r\n\r\n" + r.body
}

// answer is what the client gets. received is nil if the request did not reach the backend.
type answer struct {
	status int
	header http.Header
	*received
}

func (a answer) String() string {
	return fmt.Sprintf("%d %v, reached the backend: %v", a.status, a.header, a.received != nil)
}

// ask sends requests on one connection.
func (p *runningProxy) ask(requests ...request) (answers []answer, err error) {
	connection, err := net.Dial("tcp", p.address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = connection.Close() }()
	_ = connection.SetDeadline(time.Now().Add(30 * time.Second))
	reader := bufio.NewReader(connection)
	for _, r := range requests {
		if _, err := io.WriteString(connection, r.text()); err != nil {
			return answers, err
		}
		method := r.method
		reply, err := http.ReadResponse(reader, &http.Request{Method: method})
		for err == nil && reply.StatusCode == http.StatusContinue {
			reply, err = http.ReadResponse(reader, &http.Request{Method: method})
		}
		if err != nil {
			return answers, err
		}
		body, err := io.ReadAll(reply.Body)
		if err != nil {
			return answers, err
		}
		a := answer{status: reply.StatusCode, header: reply.Header}
		if reply.Header.Get("X-Backend") != "" {
			a.received = &received{}
			if method != http.MethodHead {
				if err := json.Unmarshal(body, a.received); err != nil {
					return answers, fmt.Errorf("%w: %s", err, body)
				}
			}
		}
		answers = append(answers, a)
	}
	return answers, nil
}

// one asks for one answer.
func (p *runningProxy) one(r request) answer {
	p.t.Helper()
	answers, err := p.ask(r)
	if err != nil {
		p.t.Fatalf("%.200q: %v", r.text(), err)
	}
	return answers[0]
}

// user is a user with a session.
type user struct {
	tokens
	who identity
}

// newUser signs a user up.
func newUser(t *testing.T, g *gateway, b *backend, username, first, last, name, scope string) user {
	t.Helper()
	var code struct{ Code string }
	email := username + "@" + strings.Repeat(strings.Repeat("d", 58)+".", 3) + "example.com"
	g.call("POST", "/users", map[string]string{
		"username": username, "email": email, "first_name": first, "last_name": last, "password": password, "scope": scope,
	}, &code)
	var u user
	g.call("POST", "/users/verify-user", map[string]string{"code": code.Code}, &u.tokens)
	u.who = identity{
		part(t, u.Access, 1, "sub").(string), username, email, name, scope, part(t, u.Access, 1, "sid").(string),
	}
	b.know(u.who)
	return u
}

// TestProxiesAskTheGateway runs each proxy with the configuration of its page, and has clients try to get past it.
func TestProxiesAskTheGateway(t *testing.T) {
	t.Parallel()
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			g := startGateway(t, `AUTHZ_POLICIES=[{"name":"orders","scopes":["orders:read"]},{"name":"shop","anonymous":true}]`)
			b := startBackend(t)
			// Fields of more than 4 KiB: characters of four bytes are percent-encoded.
			long, encoded := strings.Repeat("𝔤", 100), strings.Repeat("%F0%9D%94%A4", 100)
			grace := newUser(t, g, b, "grace"+strings.Repeat("e", 45), long, long, encoded+" "+encoded,
				"profile orders:read "+strings.Repeat("s", 980))
			kim := newUser(t, g, b, "kim", "Kim", "Höpper 100%", "Kim H%C3%B6pper 100%25", "orders:read")
			customer := newUser(t, g, b, "customer", "Carl", "Custer", "Carl Custer", "profile")
			running := p.start(t, g.url, b)
			testenv.Until(t, patience, "the gateway knows the ended sessions", func() bool {
				return running.one(request{token: grace.Access}).status == http.StatusOK
			})

			t.Run("decisions", func(t *testing.T) { decisions(t, running, g, grace, customer) })
			t.Run("targets", func(t *testing.T) { targets(t, running, grace) })
			t.Run("connections", func(t *testing.T) { connections(t, running, grace, kim, customer) })
			t.Run("sign-out", func(t *testing.T) {
				g.call("DELETE", "/tokens", map[string]string{"refresh_token": kim.Refresh}, nil)
				took := testenv.Eventually(t, 5*time.Second, "the ended session is refused", func() error {
					if a := running.one(request{token: kim.Access}); a.status != http.StatusUnauthorized {
						return errors.New(a.String())
					}
					return nil
				})
				t.Logf("an ended session is refused after %v", took)
			})
			t.Run("preflight", func(t *testing.T) {
				b := startBackend(t)
				b.preflights = true
				b.know(grace.who)
				other := p.start(t, g.url, b, p.preflight)
				forged := []string{"X-Auth-Subject: forged", "Origin: https://app.example.com", "Access-Control-Request-Method: GET"}
				for method, want := range map[string]int{"OPTIONS": http.StatusOK, "GET": http.StatusUnauthorized} {
					if a := other.one(request{method: method, lines: forged}); a.status != want {
						t.Errorf("%s without a token: %v", method, a)
					}
				}
			})
			t.Run("misspelt policy", func(t *testing.T) {
				other := p.start(t, g.url, b, func(_ *testing.T, config string) string {
					return strings.Replace(config, "policy orders", "policy order", 1)
				})
				if a := other.one(request{token: grace.Access}); a.status < 400 || a.received != nil {
					t.Error(a)
				}
			})
			t.Run("rotation", func(t *testing.T) {
				g.refresh = grace.Refresh
				old := kid(t, grace.Access)
				g.command("keys", "rotate")
				asked := 0
				testenv.Until(t, 5*time.Minute, "the next key signs", func() bool {
					next := g.accessToken()
					for _, token := range []string{grace.Access, next} {
						if a := running.one(request{token: token}); a.status != http.StatusOK {
							t.Errorf("during the rotation: %v", a)
						}
						asked++
					}
					time.Sleep(100 * time.Millisecond) // leave the processors to the server
					return kid(t, next) != old
				})
				t.Logf("asked %d times during the rotation", asked)
			})
			t.Run("gateway", func(t *testing.T) { failures(t, running, g, grace) })
		})
	}
}

// decisions tries tokens, and fields of the header.
func decisions(t *testing.T, p *runningProxy, g *gateway, grace, customer user) {
	var forged []string
	for _, name := range identityFields {
		forged = append(forged, name+": forged", strings.ToLower(name)+": forged", strings.ToUpper(name)+": forged",
			strings.ReplaceAll(name, "-", "_")+": forged", strings.Replace(name, "-", "_", 1)+": forged",
			strings.ReplaceAll(name, "-", ".")+": forged", strings.Replace(name, "-", ".", 1)+": forged",
			strings.ToLower(strings.Replace(name, "X-Auth-", "X-Auth.", 1))+": forged",
			strings.ToLower(strings.Replace(name, "X-Auth-", "X-Auth_", 1))+": forged")
	}
	const shop = "/shop/list"
	long := strings.Repeat("x", 14<<10)
	for _, c := range []struct {
		about  string
		ask    request
		status int      // 0: any refusal
		who    identity // of a request that is allowed
	}{
		{"no token", request{}, 401, identity{}},
		{"no token, anonymous", request{target: shop}, 200, identity{}},
		{"a token", request{token: grace.Access}, 200, grace.who},
		{"a token, anonymous", request{target: shop, token: grace.Access}, 200, grace.who},
		{"a missing scope", request{token: customer.Access}, 403, identity{}},
		{"a scope that is not needed", request{target: shop, token: customer.Access}, 200, customer.who},
		{"a forged token", request{token: grace.Access[:len(grace.Access)-8] + "AAAAAAAA"}, 401, identity{}},
		{"a forged token, anonymous", request{target: shop, token: "x"}, 401, identity{}},
		{"a refresh token", request{token: grace.Refresh}, 401, identity{}},
		{"a token of 8 KiB", request{token: strings.Repeat("t", 8<<10)}, 401, identity{}},
		{"a token in the query", request{target: "/orders?access_token=" + grace.Access}, 401, identity{}},
		{"a token in a cookie", request{lines: []string{"Cookie: access_token=" + grace.Access}}, 401, identity{}},
		{"another scheme", request{lines: []string{"Authorization: Basic " + grace.Access}}, 401, identity{}},
		{"a token in lower case", request{lines: []string{"authorization: bearer " + grace.Access}}, 200, grace.who},
		{"two tokens", request{token: grace.Access, lines: []string{"Authorization: Bearer " + customer.Access}}, 0, identity{}},
		{"two tokens, anonymous", request{target: shop, token: grace.Access, lines: []string{"Authorization: Bearer x"}}, 0, identity{}},
		{"a name with an underscore", request{lines: []string{"Authorization_: Bearer " + grace.Access}}, 401, identity{}},
		{"a space before the colon", request{lines: []string{"Authorization : Bearer " + grace.Access}}, 0, identity{}},
		{"forged fields", request{lines: forged}, 401, identity{}},
		{"forged fields, anonymous", request{target: shop, lines: forged}, 200, identity{}},
		{"forged fields and a token", request{token: grace.Access, lines: forged}, 200, grace.who},
		{"forged fields and a token, anonymous", request{target: shop, token: customer.Access, lines: forged}, 200, customer.who},
		{"fields of other proxies", request{lines: []string{
			"X-Forwarded-Uri: " + shop, "X-Forwarded-Method: OPTIONS", "X-Original-URL: " + shop, "X-Rewrite-URL: " + shop,
			"X-HTTP-Method-Override: OPTIONS", "X-Original-URI: " + shop, "X-Forwarded-Host: other", "X-Forwarded-Prefix: /shop",
			"X-Accel-Redirect: " + shop, "Forwarded: for=127.0.0.1",
		}}, 401, identity{}},
		{"fields that it asks to drop", request{token: grace.Access, lines: []string{
			"Connection: close, X-Auth-Subject, x-auth-scope", "Connection: X-Auth-Session",
		}}, 200, grace.who},
		{"a large cookie", request{token: grace.Access, lines: []string{"Cookie: c=" + long}}, 200, grace.who},
		{"a long path", request{target: "/orders/" + long, token: grace.Access}, 200, grace.who},
		{"a long query", request{target: "/orders?" + long, token: grace.Access}, 200, grace.who},
		{"HTTP/1.0", request{version: "HTTP/1.0", token: grace.Access}, 200, grace.who},
		{"HTTP/1.0 without a token", request{version: "HTTP/1.0"}, 401, identity{}},
		{"an upgrade", request{token: grace.Access, lines: []string{"Connection: Upgrade", "Upgrade: websocket",
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"}}, 200, grace.who},
		{"an upgrade without a token", request{lines: []string{"Connection: Upgrade", "Upgrade: websocket",
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"}}, 401, identity{}},
		{"an upgrade to HTTP/2", request{lines: []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
			"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"}}, 401, identity{}},
	} {
		a := p.one(c.ask)
		switch {
		case c.status == 0 && (a.status < 400 || a.received != nil), c.status != 0 && a.status != c.status:
			t.Errorf("%s: %v", c.about, a)
		case (a.status == http.StatusOK) != (a.received != nil):
			t.Errorf("%s: %v", c.about, a)
		case a.received != nil && a.Who != c.who:
			t.Errorf("%s: the backend sees %q, want %q", c.about, a.Who, c.who)
		case a.status == http.StatusUnauthorized && !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer"):
			t.Errorf("%s: the challenge is %q", c.about, a.header.Get("WWW-Authenticate"))
		}
	}

	body := strings.Repeat("b", 100<<10)
	for _, sent := range []request{
		{lines: []string{fmt.Sprintf("Content-Length: %d", len(body))}, body: body},
		{lines: []string{fmt.Sprintf("Content-Length: %d", len(body)), "Expect: 100-continue"}, body: body},
		{lines: []string{"Transfer-Encoding: chunked"}, body: fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)},
	} {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "GET"} {
			sent.method, sent.token = method, grace.Access
			if a := p.one(sent); a.status != http.StatusOK || a.received == nil || a.Body != len(body) || a.Method != method {
				t.Errorf("%s with a body, %q: %v", method, sent.lines, a)
			}
			sent.token, sent.lines = "", append(sent.lines[:len(sent.lines):len(sent.lines)], "Connection: close")
			if a := p.one(sent); a.status != http.StatusUnauthorized {
				t.Errorf("%s with a body, without a token: %v", method, a)
			}
		}
	}
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "QUERY"} {
		if a := p.one(request{method: method, token: grace.Access}); a.status != http.StatusOK || a.received == nil {
			t.Errorf("%s: %v", method, a)
		}
		if a := p.one(request{method: method}); a.status != http.StatusUnauthorized || a.received != nil {
			t.Errorf("%s without a token: %v", method, a)
		}
	}
}

// targets tries spellings of paths. The backend notes those that reach it without a user and are not public.
func targets(t *testing.T, p *runningProxy, grace user) {
	long := strings.Repeat("x", 8000)
	reached := 0
	for _, target := range []string{
		"/", "/orders/", "/orders?x=1", "/orders?", "/%6frders", "/orders%2f1", "/orders/%00", "/orders/\x01", "/orders/a b", "/orders/ü",
		"/shop", "/shop/", "/shop/?policy=shop", "/SHOP/list", "/%73hop/list", "/shop%2flist", "/shop%00/list",
		"/shop/../orders", "/shop/%2e%2e/orders", "/shop/.%2e/orders", "/shop/%2E%2E%2Forders", "/shop/..%2forders",
		"/shop%2f..%2forders", "/shop/x/../../orders", "/shop/x/%2e%2e/%2e%2e/orders", "/shop/x/..//../orders", "//shop/../orders",
		"/shop//../orders", "/shop///../../orders", "/shop/./../orders", "/shop/%2e/%2e%2e/orders", "/shop/..", "/shop/.",
		"/shop/%00/../../orders", "/shop/%00", "/shop/%zz", "/shop/%", "/shop/%252e%252e/orders", "/shop/..\\orders", "/shop/..;/orders",
		"/orders/..;/shop/", "/orders/../shop/list", "/orders/%2e%2e/shop/list", "//orders", "/../orders", "/..", "/../shop/", "/./orders",
		"/orders#/shop/", "/shop/#/../orders", "/shop/?/../orders", "/shop/x?/../../orders", "?", "shop/", "*",
		"http://shop.example.com/orders", "http://shop.example.com/shop/../orders", "http://other.example.com/orders", "http:///shop/",
		"http://shop.example.com", "/_authz", "/_authz?x", "/authz/shop", "/authz/orders", "/shop/../_authz", "/@unavailable",
		"/orders/" + long, "/shop/" + long, "/shop/" + strings.Repeat("x/", 3000) + strings.Repeat("../", 3001) + "orders",
		"/orders?" + long, "/shop/?" + long,
	} {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			for _, token := range []string{"", grace.Access} {
				answers, err := p.ask(request{method: method, target: target, token: token, lines: []string{"X-Auth-Subject: forged"}})
				if err != nil {
					t.Errorf("%s %.100q: %v", method, target, err)
					continue
				}
				a := answers[0]
				switch {
				case a.received != nil && token != "" && a.Who != grace.who:
					t.Errorf("%s %.100q with a token: the backend sees %q", method, target, a.Who)
				case a.received == nil && token != "" && (a.status == 401 || a.status == 403):
					t.Errorf("%s %.100q is refused to a valid token: %v", method, target, a)
				case a.status >= 500:
					t.Errorf("%s %.100q, with a token: %v: %v", method, target, token != "", a)
				}
				if a.received != nil {
					reached++
				}
			}
		}
	}
	if reached == 0 {
		t.Error("no request reached the backend")
	}
}

// connections sends requests of several users on one connection, and of many at a time.
func connections(t *testing.T, p *runningProxy, users ...user) {
	var clients sync.WaitGroup
	for i := range 64 {
		clients.Go(func() {
			var requests []request
			for j := range 20 {
				if (i+j)%4 == 0 {
					requests = append(requests, request{target: "/shop/"})
				} else {
					requests = append(requests, request{target: "/shop/", token: users[(i+j)%len(users)].Access})
				}
			}
			answers, err := p.ask(requests...)
			if err != nil {
				t.Error(err)
			}
			for j, a := range answers {
				var want identity
				if (i+j)%4 != 0 {
					want = users[(i+j)%len(users)].who
				}
				if a.received == nil || a.Who != want {
					t.Errorf("request %d of a connection: %v", j, a)
				}
			}
		})
	}
	clients.Wait()
}

// failures stops the gateway for a time, and then kills it.
func failures(t *testing.T, p *runningProxy, g *gateway, grace user) {
	refuse := func(when string) {
		t.Helper()
		var clients sync.WaitGroup
		for _, r := range []request{{}, {token: grace.Access}, {target: "/shop/"}, {target: "/shop/", token: grace.Access}} {
			clients.Go(func() {
				answers, err := p.ask(r)
				if err != nil || !slices.Contains(p.down, answers[0].status) || answers[0].received != nil {
					t.Errorf("%s: %v %v", when, answers, err)
				}
			})
		}
		clients.Wait()
	}
	testenv.NoError(t, g.server.Signal(syscall.SIGSTOP))
	defer func() { _ = g.server.Signal(syscall.SIGCONT) }() // a stopped process would not end
	testenv.Until(t, time.Minute, "the gateway stops", func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.server.Pid))
		return err == nil && strings.Contains(string(status), "State:\tT")
	})
	refuse("while the gateway does not answer")
	testenv.NoError(t, g.server.Signal(syscall.SIGCONT))
	testenv.Until(t, time.Minute, "the gateway decides again", func() bool {
		return p.one(request{token: grace.Access}).status == http.StatusOK
	})
	testenv.NoError(t, g.server.Kill())
	testenv.Until(t, time.Minute, "the gateway has ended", func() bool {
		c, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	refuse("without a gateway")
}
