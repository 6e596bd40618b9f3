package httpapi_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// exchange sends bytes over a new connection and reads the replies.
func exchange(t *testing.T, s *running, wire string, enough ...int) (replies []*testenv.Reply, closed bool) {
	t.Helper()
	c := s.dial(t)
	go func() { _, _ = io.WriteString(c, wire) }() // the server may close before it has read all
	return readReplies(t, c, wire, enough...)
}

// readReplies reads until there are enough replies, the server closes the connection, or it sends nothing for two seconds.
func readReplies(t *testing.T, c net.Conn, wire string, enough ...int) (replies []*testenv.Reply, closed bool) {
	t.Helper()
	method, target, _ := strings.Cut(strings.TrimSpace(wire), " ")
	target, _, _ = strings.Cut(target, " ")
	path, _, _ := strings.Cut(target, "?")
	// The check of the contract needs no more of the request.
	req := &http.Request{Method: method, URL: &url.URL{Path: path}, Header: http.Header{}}
	r := bufio.NewReader(c)
	for {
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		resp, err := http.ReadResponse(r, req)
		if err != nil {
			timeout, ok := err.(net.Error)
			return replies, !ok || !timeout.Timeout()
		}
		body := testenv.Must(io.ReadAll(resp.Body))(t)
		for _, broken := range apitest.Check(req, resp, body) {
			t.Errorf("%.60q got %d, which breaks the contract: %s", wire, resp.StatusCode, broken)
		}
		if resp.Close {
			resp.Header.Set("Connection", "close") // net/http has removed it
		}
		replies = append(replies, &testenv.Reply{Status: resp.StatusCode, Header: resp.Header, Body: body})
		if len(enough) > 0 && len(replies) == enough[0] {
			return replies, false
		}
	}
}

// smuggled must never be served: some read it as a body, and others as the next request.
const smuggled = "POST /users/forgot-password HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" +
	"Content-Length: 17\r\n\r\n{\"email\":\"a@b.c\"}"

// Rows H01 and H02.
func TestFramingThatIsAmbiguousIsRefusedAndEndsTheConnection(t *testing.T) {
	t.Parallel()
	const post = "POST /tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	chunked := "21\r\n" + `{"refresh_token":"0123456789abcd"}`[:33] + "\r\n0\r\n\r\n"
	for name, wire := range map[string]string{
		"two lengths":                      post + "Content-Length: 0\r\nContent-Length: 21\r\n\r\n",
		"two equal lengths":                post + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
		"a list of lengths":                post + "Content-Length: 0, 0\r\n\r\n",
		"negative length":                  post + "Content-Length: -1\r\n\r\n",
		"signed length":                    post + "Content-Length: +0\r\n\r\n",
		"hexadecimal length":               post + "Content-Length: 0x0\r\n\r\n",
		"length with a fraction":           post + "Content-Length: 0.0\r\n\r\n",
		"huge length":                      post + "Content-Length: 99999999999999999999999\r\n\r\n",
		"empty length":                     post + "Content-Length: \r\n\r\n",
		"length and chunks":                post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
		"chunks and length":                post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + chunked,
		"length and chunks of other case":  post + "content-LENGTH: 4\r\ntransfer-ENCODING: CHUNKED\r\n\r\n" + chunked,
		"two encodings":                    post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
		"chunked and identity":             post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunked,
		"identity":                         post + "Transfer-Encoding: identity\r\n\r\n",
		"identity and length":              post + "Content-Length: 0\r\nTransfer-Encoding: identity\r\n\r\n",
		"a list of encodings":              post + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunked,
		"chunked twice in a list":          post + "Transfer-Encoding: chunked, chunked\r\n\r\n" + chunked,
		"xchunked":                         post + "Transfer-Encoding: xchunked\r\n\r\n" + chunked,
		"chunked and a comma":              post + "Transfer-Encoding: chunked,\r\n\r\n" + chunked,
		"quoted chunked":                   post + "Transfer-Encoding: \"chunked\"\r\n\r\n" + chunked,
		"vertical tab before chunked":      post + "Transfer-Encoding: \vchunked\r\n\r\n" + chunked,
		"space before the colon":           post + "Transfer-Encoding : chunked\r\n\r\n" + chunked,
		"tab before the colon":             post + "Content-Length\t: 0\r\n\r\n",
		"length with a space in its name":  post + "Content Length: 0\r\n\r\n",
		"chunked in HTTP/1.0":              "POST /tokens HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
		"two hosts":                        "GET /users HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
		"two equal hosts":                  "GET /users HTTP/1.1\r\nHost: x\r\nhost: x\r\n\r\n",
		"no host":                          "GET /users HTTP/1.1\r\nAccept: */*\r\n\r\n",
		"two content types":                post + "Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n",
		"folded line":                      post + "X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
		"folded length":                    post + "Content-Length:\r\n 0\r\n\r\n",
		"folded first line":                "GET /users HTTP/1.1\r\n Host: x\r\n\r\n",
		"bare LF":                          post + "X: a\nContent-Length: 0\r\n\r\n",
		"bare LF before chunked":           post + "X: a\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
		"bare CR in a value":               post + "X: a\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
		"bare CR before the colon":         post + "X\r: a\r\nContent-Length: 0\r\n\r\n",
		"NUL in a value":                   post + "X: a\x00b\r\nContent-Length: 0\r\n\r\n",
		"NUL in a name":                    post + "X\x00: a\r\nContent-Length: 0\r\n\r\n",
		"no colon":                         post + "X\r\nContent-Length: 0\r\n\r\n",
		"no name":                          post + ": a\r\nContent-Length: 0\r\n\r\n",
		"a name that is no token":          post + "X(a): b\r\nContent-Length: 0\r\n\r\n",
		"a name beyond ASCII":              post + "Contént-Length: 5\r\nContent-Length: 0\r\n\r\n",
		"chunk size with a sign":           post + "Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n",
		"chunk size with 0x":               post + "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
		"chunk size beyond 64 bits":        post + "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n",
		"chunk ended by LF":                post + "Transfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n",
		"chunk longer than it says":        post + "Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n",
		"LF in a chunk extension":          post + "Transfer-Encoding: chunked\r\n\r\n0;a\nb\r\n\r\n",
		"trailer that says another length": post + "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
		"no version":                       "GET /users\r\nHost: x\r\n\r\n",
		"another version":                  "GET /users HTTP/2.0\r\nHost: x\r\n\r\n",
		"a later version":                  "GET /users HTTP/1.2\r\nHost: x\r\n\r\n",
		"version in other case":            "GET /users http/1.1\r\nHost: x\r\n\r\n",
		"two spaces":                       "GET  /users HTTP/1.1\r\nHost: x\r\n\r\n",
		"a space in the target":            "GET /users x HTTP/1.1\r\nHost: x\r\n\r\n",
		"CR in the target":                 "GET /users\r HTTP/1.1\r\nHost: x\r\n\r\n",
		"NUL in the target":                "GET /users\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
		"TLS":                              "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"HTTP/2 preface":                   "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"a method that is no token":        "G@T /users HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			replies, closed := exchange(t, s, wire+smuggled)
			if len(replies) != 1 || replies[0].Status != 400 || replies[0].Header.Get("Connection") != "close" {
				t.Errorf("got %v, want one 400 with Connection: close", replies)
			}
			if !closed {
				t.Error("the connection is still open")
			}
			s.wantCall(t, "")
		})
	}
}

func TestFramingThatIsUnusualButClearIsServed(t *testing.T) {
	t.Parallel()
	const post = "POST /tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	for name, wire := range map[string]string{
		"chunks":                   post + "Transfer-Encoding: chunked\r\n\r\n2\r\n{\"\r\n13\r\nrefresh_token\":\"r\"}\r\n0\r\n\r\n",
		"chunks of other case":     post + "transfer-encoding:  Chunked \r\n\r\n15;a=b\r\n{\"refresh_token\":\"r\"}\r\n0\r\n\r\n",
		"a trailer":                post + "Transfer-Encoding: chunked\r\n\r\n15\r\n{\"refresh_token\":\"r\"}\r\n0\r\nX: y\r\n\r\n",
		"no space after the colon": "POST /tokens HTTP/1.1\r\nHost:x\r\nContent-Type:application/json\r\nContent-Length:21\r\n\r\n{\"refresh_token\":\"r\"}",
		"an empty line before":     "\r\n" + post + "Content-Length: 21\r\n\r\n{\"refresh_token\":\"r\"}",
		"HTTP/1.0": strings.Replace(post, "HTTP/1.1", "HTTP/1.0",
			1) + "Connection: keep-alive\r\nContent-Length: 21\r\n\r\n{\"refresh_token\":\"r\"}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			replies, _ := exchange(t, s, wire+wire+wire, 3)
			if len(replies) != 3 || replies[0].Status != 200 || replies[1].Status != 200 || replies[2].Status != 200 {
				t.Errorf("got %v", replies)
			}
		})
	}
}

// Row H04.
func TestPathHasOneSpelling(t *testing.T) {
	t.Parallel()
	s := start(t)
	for target, status := range map[string]int{
		"/users": 200, "/users?": 200, "/users?x": 200,
		"/USERS": 404, "/Users": 404, "/users/": 404, "//users": 404, "/users//": 404, "/%75sers": 404, "/./users": 404, "/x/../users": 404,
		"/users/.": 404, "/users/..": 404, "/users%2f": 404, "/users;x": 404, "/users%00": 404, "/users#x": 404,
		"/users\\": 404, "/users%20": 404,
		"/": 302, "/docs/": 302, "//": 404, "/docs//": 404, "/users.json": 404, "/users/ada": 404,
		"/tokens/": 404, "/Tokens/keys": 404, "/.well-known/": 404, "/.well-known/JWKS.json": 404, "/docs/%2e%2e/openapi.json": 404,
		"/docs/../openapi.json": 404, "/docs/swagger-ui.js": 404, "/docs/oauth2-redirect.html": 404,
		"/healthz": 404, "/readyz": 404, "/metrics": 404, "/debug/pprof/": 404, "/favicon.ico": 404, "/robots.txt": 404,
		"/.git/config": 404, "/Привет": 404,
		"users": 400, "*": 400, "x:80": 400,
	} {
		wire := "GET " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\nConnection: close\r\n\r\n"
		replies, _ := exchange(t, s, wire)
		if len(replies) != 1 || replies[0].Status != status {
			t.Errorf("%s got %v, want %d", target, replies, status)
		}
	}
}

func TestPathWithAnIDHasOneSpelling(t *testing.T) {
	t.Parallel()
	s := start(t)
	const path = "/users/sessions/"
	for target, status := range map[string]int{
		path + userID: 204, path + userID + "?": 204, path + userID + "?x": 204,
		path: 404, path + "{id}": 404, path + ":id": 404, path + "%7Bid%7D": 404, path + "*": 404, path + "x": 404,
		path + strings.ToUpper(userID): 404, path + strings.ReplaceAll(userID, "-", ""): 404, path + "{" + userID + "}": 404,
		path + "urn:uuid:" + userID: 404, path + "%36" + userID[1:]: 404, path + userID[:35]: 404, path + userID + "0": 404,
		path + userID + "/": 404, path + "/" + userID: 404, path + "./" + userID: 404, path + userID + "/.": 404,
		path + userID + "/" + userID: 404,
		path + userID + "%00":        404, path + userID + ";x": 404,
		"/USERS/sessions/" + userID: 404, "/users/" + userID: 404, "/" + userID: 404,
	} {
		wire := "DELETE " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\nConnection: close\r\n\r\n"
		replies, _ := exchange(t, s, wire)
		if len(replies) != 1 || replies[0].Status != status {
			t.Errorf("%s got %v, want %d", target, replies, status)
		}
		if call := s.accounts.last(); (call == "EndSession(t, "+userID+")") != (status == 204) {
			t.Errorf("after %s the domain was called with %q", target, call)
		}
	}
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS"} {
		wire := method + " " + path + userID + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\nConnection: close\r\n\r\n"
		replies, _ := exchange(t, s, wire)
		if len(replies) != 1 || replies[0].Status != 405 || replies[0].Header.Get("Allow") != "DELETE" {
			t.Errorf("%s got %v", method, replies)
		}
	}
}

// Row H05.
func TestMethodThatAPathDoesNotHaveIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	for method, status := range map[string]int{
		"OPTIONS": 405, "TRACE": 405, "CONNECT": 405, "PATCH": 405, "FOO": 405, "get": 405, "Get": 405, "GETX": 405,
		"PROPFIND": 405, "M-SEARCH": 405, strings.Repeat("X", 1000): 405,
	} {
		wire := method + " /users HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: GET\r\nAuthorization: Bearer t\r\nConnection: close\r\n\r\n"
		replies, _ := exchange(t, s, wire)
		if len(replies) != 1 || replies[0].Status != status || replies[0].Header.Get("Allow") != "POST, GET, HEAD, PUT, DELETE" {
			t.Errorf("%.20s got %v %v", method, replies, replies[0].Header)
		}
		replies, _ = exchange(t, s, strings.Replace(wire, "/users", "/nowhere", 1))
		if len(replies) != 1 || replies[0].Status != 404 {
			t.Errorf("%.20s /nowhere got %v", method, replies)
		}
	}
	testenv.Expect(t, s.Do("POST", "/users", header("X-HTTP-Method-Override", "DELETE", "X-Method-Override", "DELETE"),
		object("access_token", "t")), 400)
	s.wantCall(t, "")
	testenv.Expect(t, s.Do("DELETE", "/tokens/keys", nil, nil), 405)
	testenv.Expect(t, s.Do("POST", "/tokens/keys", header("X-HTTP-Method-Override", "GET"), nil), 405)
}

// Row H06.
func TestErrorContainsNothingOfTheRequest(t *testing.T) {
	t.Parallel()
	const mark = "s3cr3tmark"
	s := start(t)
	post := func(body string) string {
		return fmt.Sprintf("POST /users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	for _, wire := range []string{
		"GET /" + mark + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /" + strings.Repeat(mark, 200) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		mark + " /users HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /users HTTP/1.1\r\nHost: " + mark + "\r\nAuthorization: " + mark + "\r\n\r\n",
		"GET /users?" + mark + "=" + mark + "&access_token=" + mark + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"DELETE /users/sessions/" + mark + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /users " + mark + "\r\nHost: x\r\n\r\n",
		"GET /users HTTP/1.1\r\nHost: x\r\n" + mark + "\r\nAuthorization: Bearer " + mark + "\r\n\r\n",
		"GET /users HTTP/1.1\r\nHost: x\r\nX-Request-Id: \"" + mark + "\"\r\n\r\n",
		"GET /users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + strings.Repeat(mark, 2000) + "\r\n\r\n",
		fmt.Sprintf("POST /users HTTP/1.1\r\nHost: x\r\nContent-Type: application/%s\r\nContent-Length: 2\r\n\r\n{}", mark),
		post(fmt.Sprintf(`{"%s":%s}`, mark, mark)),
		post(fmt.Sprintf(`{"%s":1,"%s":1}`, mark, mark)),
		"POST /users HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " + mark + "\r\n\r\n",
		"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: " + mark + "\r\n\r\n",
	} {
		replies, _ := exchange(t, s, wire, 1)
		if len(replies) != 1 || replies[0].Status < 400 || replies[0].Status >= 500 {
			t.Errorf("%.60q got %v", wire, replies)
			continue
		}
		if all := fmt.Sprint(replies[0], replies[0].Header); strings.Contains(all, mark) {
			t.Errorf("%.60q is in the reply: %s", wire, all)
		}
	}
}
