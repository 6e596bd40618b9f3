package httpapi

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/valyala/fasthttp"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// FuzzBody compares the parser with the standard library's: what it accepts they accept too, with the same values. What it
// refuses gets a proper error.
func FuzzBody(f *testing.F) {
	for _, seed := range []string{
		``, ` `, `{}`, `[]`, `null`, `"x"`, `0`, `{"code":"c"}`, `{"code":5}`, `{"code":null,"x":[{"y":1}]}`, `{"code":"c","code":"d"}`,
		`{"\u0063ode":"\u0000"}`, `{"CODE":"c"}`, `{"code":"\ud800"}`, "{\"code\":\"\xff\"}", "\xef\xbb\xbf{}", `{}{}`, `{"x":` + strings.Repeat("[", 40),
		`refresh_token=r`, `refresh_token=r&refresh_token=s`, `token=%00`, `token=%ff&a[9]=1`, `a=b;c=d`, `%zz`,
	} {
		f.Add([]byte(seed), "application/json")
		f.Add([]byte(seed), "application/x-www-form-urlencoded")
	}
	f.Add([]byte(`{}`), "application/json; charset=utf-8")
	f.Add([]byte(`{}`), "text/plain; a=\"")

	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		var req fasthttp.Request
		req.SetBody(body)
		req.Header.SetContentType(contentType)
		var p parameters
		if err := p.read(&req, jsonOrForm); err != nil {
			got := failureOf(err)
			if got.status != http.StatusBadRequest && got.status != http.StatusUnsupportedMediaType || got.description == "" {
				t.Fatalf("refused with %+v", got)
			}
			return
		}
		reference := map[string]any{}
		switch kind := mediaType(string(req.Header.ContentType())); {
		case len(body) == 0:
		case kind == "application/json":
			if err := json.Unmarshal(body, &reference); err != nil || reference == nil {
				t.Fatalf("accepted %q: %v", body, err)
			}
		default:
			form, err := url.ParseQuery(string(body))
			if err != nil {
				t.Fatalf("accepted %q: %v", body, err)
			}
			for name, values := range form {
				if values[0] != "" {
					reference[name] = values[0]
				}
			}
		}
		for name := range parameterCount {
			value, there := reference[name.String()]
			text, isText := value.(string)
			want := absent
			switch {
			case isText:
				want = given
			case there:
				want = mistyped
			}
			if p.state[name] != want || p.text[name] != text {
				t.Fatalf("%s is %d %q in %q, want %d %q", name, p.state[name], p.text[name], body, want, text)
			}
			if strings.Contains(text, "\x00") || !utf8.ValidString(text) {
				t.Fatalf("%s is %q", name, text)
			}
		}
	})
}

// FuzzFraming checks that an accepted head has one reading.
func FuzzFraming(f *testing.F) {
	for _, seed := range []string{
		"Host: x\r\n\r\n", "Host: x\r\nContent-Length: 5\r\n\r\n", "Host: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		"Host: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "Host: x\r\nX: a\r\n b\r\n\r\n", "Host: x\nX: y\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, fields []byte) {
		var h fasthttp.RequestHeader
		if err := h.Read(bufio.NewReaderSize(strings.NewReader("POST /users HTTP/1.1\r\n"+string(fields)), headLimit)); err != nil {
			return
		}
		if validateFraming(&h) != nil {
			return
		}
		// Each line is a name, a colon and a value.
		lengths := 0
		for line := range strings.SplitSeq(strings.TrimSuffix(string(h.RawHeaders()), "\r\n\r\n"), "\r\n") {
			name, _, found := strings.Cut(line, ":")
			if !found || strings.ContainsAny(name, " \t\r\n") || strings.ContainsAny(line, "\r\n\x00") {
				t.Fatalf("accepted %q", line)
			}
			switch strings.ToLower(name) {
			case "content-length", "transfer-encoding":
				lengths++
			}
		}
		if lengths > 1 {
			t.Fatalf("accepted %d lengths: %q", lengths, fields)
		}
	})
}

// FuzzForwardedAddress checks that no field of a client decides its address: the address is the one that the trusted
// proxy saw or, if the two fields differ, that of the proxy.
func FuzzForwardedAddress(f *testing.F) {
	for _, seed := range []string{
		"", "6.6.6.6", "for=6.6.6.6", `for="6.6.6.6`, `for="`, `for="[::1]:80";by=_x`, "unknown, _hidden", ",", `\`, `for=198.51.100.7;host="`, "198.51.100.7",
	} {
		f.Add(seed, "", byte(0))
		f.Add("", seed, byte(1))
		f.Add(seed, seed, byte(2))
	}
	peer := netip.MustParseAddr("10.0.0.9")
	client := netip.MustParseAddr("198.51.100.7")
	f.Fuzz(func(t *testing.T, forwarded, xForwardedFor string, inner byte) {
		hops := int(inner%3) + 1
		// The outermost proxy adds the client, and each inner one adds the proxy before it.
		theirs := strings.TrimPrefix(forwarded+", for=198.51.100.7;proto=https", ", ") + strings.Repeat(`, for="[fd00::1]:80"`, hops-1)
		theirsX := strings.TrimPrefix(xForwardedFor+", 198.51.100.7", ", ") + strings.Repeat(", fd00::1", hops-1)
		for _, tc := range []struct {
			name                     string
			forwarded, xForwardedFor string
			orPeer                   bool
		}{
			{"the proxies write Forwarded", theirs, "", false},
			{"the proxies write X-Forwarded-For", "", theirsX, false},
			{"the proxies write both", theirs, theirsX, false},
			{"the proxies write Forwarded and pass the other on", theirs, xForwardedFor, true},
			{"the proxies write X-Forwarded-For and pass the other on", forwarded, theirsX, true},
		} {
			got := forwardedAddress(peer, hops, tc.forwarded, tc.xForwardedFor)
			if got != client && !(tc.orPeer && got == peer) {
				t.Errorf("%s: %q and %q give %s", tc.name, tc.forwarded, tc.xForwardedFor, got)
			}
		}
		if got := forwardedAddress(peer, hops, forwarded, xForwardedFor); got.Zone() != "" || got.Is4In6() || !got.IsValid() {
			t.Errorf("%q and %q give %s", forwarded, xForwardedFor, got)
		}
	})
}

// served returns a connection as fasthttp gets it, and its other end.
func served(t *testing.T, all *connections) (c, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testenv.NoError(t, err)
	defer l.Close()
	client = testenv.Must(net.Dial("tcp", l.Addr().String()))(t)
	t.Cleanup(func() { _ = client.Close() })
	c = testenv.Must(newListener(l, all).Accept())(t)
	t.Cleanup(func() { _ = c.Close() })
	return c, client
}

func TestConnectionThatIsEvictedReadsWhatHasArrived(t *testing.T) {
	t.Parallel()
	for name, arrives := range map[string]string{"a request": "GET / HTTP/1.1\r\n\r\n", "nothing": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := newConnections(0, 100, headLimit)
			c, client := served(t, all)
			testenv.Must(io.WriteString(client, arrives))(t)
			testenv.Until(t, 10*time.Second, "the request arrives", func() bool { return arrives == "" || bytesWait(c) })
			all.evictOne()
			got := make([]byte, 100)
			n, err := io.ReadFull(c, got[:max(len(arrives), 1)])
			if string(got[:n]) != arrives || (err == nil) != (arrives != "") {
				t.Errorf("it reads %q, %v", got[:n], err)
			}
			if open, held := all.count(); open != 1 || arrives != "" && held != all.requestCost() {
				t.Errorf("%d connections are open and use %d bytes", open, held)
			}
		})
	}
}

func TestConnectionWithUnreadBytesIsNotEvicted(t *testing.T) {
	t.Parallel()
	all := newConnections(0, 100, headLimit)
	c, client := served(t, all)
	testenv.NoError(t, testenv.Err(io.WriteString(client, "GET / HTTP/1.1\r\n")))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // as fasthttp does it
		t.Fatal(err)
	}
	all.evictOne()
	if got, err := io.ReadFull(c, make([]byte, 15)); err != nil {
		t.Errorf("after %d bytes: %v", got, err)
	}
	all.evictOne()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("an unfinished request is not evicted")
	}
}

// A client reads a reply and sends the next request before the server's goroutine runs again. That goroutine may wait
// for a processor for so long that its connection is the oldest one.
func TestConnectionThatHasSentAReplyReadsTheNextRequest(t *testing.T) {
	t.Parallel()
	all := newConnections(0, 100, headLimit)
	c, client := served(t, all)
	const request, reply = "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	got := make([]byte, 100)
	for range 3 {
		testenv.Must(io.WriteString(client, request))(t)
		if n, err := io.ReadFull(c, got[:1]); err != nil {
			t.Fatalf("the first byte: %d, %v", n, err)
		}
		testenv.Must(io.ReadFull(c, got[1:len(request)]))(t)
		testenv.Must(io.WriteString(c, reply))(t)
		testenv.Must(io.ReadFull(client, got[:len(reply)]))(t)
		all.evictOne()
	}
}

// Small replies that the client does not read fill the kernel's buffer. Then the connection waits for the client.
func TestConnectionWhoseRepliesAreNotReadIsEvicted(t *testing.T) {
	t.Parallel()
	all := newConnections(0, 100, headLimit)
	c, client := served(t, all)
	testenv.NoError(t, client.(*net.TCPConn).SetReadBuffer(4<<10))
	const request = "GET / HTTP/1.1\r\n\r\n"
	reply := make([]byte, smallBody)
	var evictions sync.WaitGroup
	evictions.Go(func() {
		testenv.Until(t, 20*time.Second, "the connection waits for its client", func() bool {
			all.mu.Lock()
			defer all.mu.Unlock()
			return all.waiting.first != nil
		})
		all.evictOne()
	})
	got := make([]byte, len(request))
	for {
		testenv.Must(io.WriteString(client, request))(t)
		testenv.Must(io.ReadFull(c, got[:1]))(t)
		testenv.Must(io.ReadFull(c, got[1:]))(t)
		if _, err := c.Write(reply); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			break
		}
	}
	evictions.Wait()
}

func TestNewRequestIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 10_000 {
		id := newRequestID()
		if requestID([]byte(id)) != id {
			t.Fatalf("%q: would not be accepted from a caller", id)
		}
		if len(id) != 26 || seen[id] {
			t.Fatalf("%q: %d characters, again %t", id, len(id), seen[id])
		}
		seen[id] = true
	}
}

// TestReadDeadlineHoldsForTheNextWait also covers the two deadlines of each request, of which the second is earlier.
func TestReadDeadlineHoldsForTheNextWait(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	c := &conn{Conn: here, all: newConnections(0, 0, headLimit)}
	c.all.slack = 100 * time.Millisecond
	defer c.Close()
	var buffer [16]byte
	for _, wait := range []time.Duration{10 * time.Second, 20 * time.Millisecond, 10 * time.Second, 10 * time.Millisecond} {
		testenv.NoError(t, c.SetReadDeadline(time.Now().Add(wait)))
		if wait == 10*time.Second {
			go func() { _, _ = there.Write([]byte("G")) }()
			if n, err := c.Read(buffer[:]); n != 1 || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
		} else if _, err := c.Read(buffer[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("after %s: %v, want a deadline that has passed", wait, err)
		}
	}
}
