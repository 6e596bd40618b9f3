// Package apitest talks to a running server as any client would, and holds each
// reply that it receives against the OpenAPI document and against the ground
// rules that every reply obeys. A test that uses it checks the contract besides
// what it is about.
//
//	api := apitest.New(t, "http://127.0.0.1:8080")
//	reply := api.Do("POST", "/tokens/signin", nil, map[string]string{"username": "ada", "password": "…"})
//	if reply.Status != 200 { … }
//	token := reply.Text("access_token")
package apitest

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

// Client sends requests to one server. It may be used by many goroutines.
type Client struct {
	t    testing.TB
	base string
	http *http.Client
}

// New makes a Client of the server at baseURL, with connections of its own.
func New(t testing.TB, baseURL string) *Client {
	t.Helper()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	t.Cleanup(transport.CloseIdleConnections)
	return &Client{
		t: t, base: strings.TrimSuffix(baseURL, "/"),
		http: &http.Client{
			Transport:     Transport(t, transport),
			Timeout:       time.Minute,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Reply is a reply, read to its end.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do sends a request; header may be nil. The body may be
//
//   - nil: there is none
//   - a string or []byte: sent as it is, as JSON unless header says otherwise
//   - url.Values: sent as a form
//   - anything else: marshalled as JSON
//
// A request that gets no reply ends the test.
func (c *Client) Do(method, path string, header http.Header, body any) *Reply {
	c.t.Helper()
	reply, err := c.Try(method, path, header, body)
	if err != nil {
		c.t.Fatalf("apitest: %v", err)
	}
	return reply
}

// Try is Do for those who expect that there may be no reply, and for goroutines
// other than the test's own.
func (c *Client) Try(method, path string, header http.Header, body any) (*Reply, error) {
	content, contentType, err := encode(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(method, c.base+path, content)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for name, values := range header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: read the reply: %w", method, path, err)
	}
	return &Reply{Status: resp.StatusCode, Header: resp.Header, Body: text}, nil
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
	case url.Values:
		return strings.NewReader(b.Encode()), "application/x-www-form-urlencoded", nil
	}
	text, err := json.Marshal(body)
	return bytes.NewReader(text), jsonType, err
}

// Bearer gives the header of a request with an access token.
func Bearer(accessToken string) http.Header {
	return http.Header{"Authorization": {"Bearer " + accessToken}}
}

// Text gives a member of a JSON body as text; empty where it is not there.
func (r *Reply) Text(member string) string {
	var object map[string]any
	if json.Unmarshal(r.Body, &object) != nil || object[member] == nil {
		return ""
	}
	return fmt.Sprint(object[member])
}

// String shows the reply in messages of tests.
func (r *Reply) String() string { return fmt.Sprintf("%d %s", r.Status, r.Body) }
