package testenv

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Client sends requests to one server. Goroutines can share it.
//
//	client := testenv.NewClient(t, "http://127.0.0.1:8080")
//	reply := client.Do("POST", "/tokens/signin", nil, map[string]string{"username": "ada", "password": "…"})
//	Expect(t, reply, 200)
//	token := reply.Text("access_token")
type Client struct {
	Base string // the URL of the server
	HTTP *http.Client

	t testing.TB
}

// NewClient returns a client with its own connections, which follows no redirects.
func NewClient(t testing.TB, base string) *Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	t.Cleanup(transport.CloseIdleConnections)
	return &Client{t: t, Base: strings.TrimSuffix(base, "/"), HTTP: &http.Client{
		Transport:     transport,
		Timeout:       time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Do sends a request and reads the whole reply. header may be nil. The body is
//
//   - nil: none
//   - a string, []byte or io.Reader: sent unchanged, as JSON unless header has another type
//   - url.Values: sent as a form
//   - anything else: encoded as JSON
//
// A request without a reply ends the test.
func (c *Client) Do(method, path string, header http.Header, body any) *Reply {
	c.t.Helper()
	return Must(c.Try(method, path, header, body))(c.t)
}

// Try is Do for requests that may get no reply, and for goroutines other than the test's.
func (c *Client) Try(method, path string, header http.Header, body any) (*Reply, error) {
	content, contentType, err := encode(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequest(method, c.Base+path, content)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	for name, values := range header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: read the reply: %w", method, path, err)
	}
	return &Reply{Status: response.StatusCode, Header: response.Header, Body: text}, nil
}

func encode(body any) (content io.Reader, contentType string, err error) {
	const jsonType = "application/json"
	switch b := body.(type) {
	case nil:
		return nil, "", nil
	case string:
		return strings.NewReader(b), jsonType, nil
	case []byte:
		return bytes.NewReader(b), jsonType, nil
	case io.Reader:
		return b, jsonType, nil
	case url.Values:
		return strings.NewReader(b.Encode()), "application/x-www-form-urlencoded", nil
	}
	text, err := json.Marshal(body)
	return bytes.NewReader(text), jsonType, err
}

// Bearer returns the header of a request with an access token.
func Bearer(accessToken string) http.Header {
	return http.Header{"Authorization": {"Bearer " + accessToken}}
}

// Reply is a reply with its whole body.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// Text returns a member of a JSON body as text, or "" if it is missing.
func (r *Reply) Text(member string) string {
	var object map[string]any
	if json.Unmarshal(r.Body, &object) != nil || object[member] == nil {
		return ""
	}
	return fmt.Sprint(object[member])
}

// JSON decodes the body.
func (r *Reply) JSON(t testing.TB, into any) {
	t.Helper()
	if err := json.Unmarshal(r.Body, into); err != nil {
		t.Fatalf("%v: %v", r, err)
	}
}

func (r *Reply) String() string { return fmt.Sprintf("%d %s", r.Status, r.Body) }

// Expect reports an error unless a reply has a status and its body contains the texts, such as an error code.
func Expect(t testing.TB, reply *Reply, status int, texts ...string) {
	t.Helper()
	if reply.Status != status {
		t.Errorf("got %v, want status %d", reply, status)
	}
	for _, text := range texts {
		if !bytes.Contains(reply.Body, []byte(text)) {
			t.Errorf("got %v, which does not contain %q", reply, text)
		}
	}
}

// ExpectHeader reports an error unless a header field of a reply has a value; "" means that it is missing or empty.
func ExpectHeader(t testing.TB, reply *Reply, name, want string) {
	t.Helper()
	if got := reply.Header.Get(name); got != want {
		t.Errorf("%v: %s is %q, want %q", reply, name, got, want)
	}
}
