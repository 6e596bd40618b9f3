package adminapi

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// Client sends requests to the routes for administrators. Its methods return an *Error if the server refuses a request.
type Client struct {
	base       string
	credential string
	http       *http.Client
}

// NewClient returns a client of the server at a URL, which sends a key or a token with each request.
func NewClient(base, credential string) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%q is not the URL of a server: write one such as http://localhost:8081", base)
	}
	if credential == "" || strings.ContainsFunc(credential, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("the credential is not one line of printable ASCII: give a key of an administrator, or a token")
	}
	return &Client{base: strings.TrimSuffix(base, "/"), credential: credential, http: &http.Client{
		Timeout: time.Minute,
		// A redirect would send the credential elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Error is a reply with which the server refuses a request.
type Error struct {
	Status      int
	Description string
	Reason      string
	RequestID   string
}

func (e *Error) Error() string {
	switch {
	case e.Description == "" && e.Status == http.StatusUnauthorized:
		return "the server does not know the credential, or it has expired"
	case e.Description == "" && e.Status == http.StatusForbidden:
		return "the credential lacks a right that this needs"
	case e.Description == "":
		return fmt.Sprintf("the server answers %d %s, and not as Auth Gateway does: is its URL that of ADMIN_PORT?",
			e.Status, http.StatusText(e.Status))
	case e.Reason == "path_not_found":
		return "the server has no such route: is its URL that of ADMIN_PORT, and is its version at least that of this program?"
	case e.Status >= http.StatusInternalServerError:
		return fmt.Sprintf("%s (request %s)", e.Description, e.RequestID)
	}
	return e.Description
}

// Users lists accounts. The query has the parameters of GET /admin/users.
func (c *Client) Users(ctx context.Context, query url.Values) (page Page[User], err error) {
	_, err = c.do(ctx, http.MethodGet, "/admin/users", query, nil, nil, &page)
	return page, err
}

// User returns an account, and its entity tag for DeleteUser.
func (c *Client) User(ctx context.Context, id string) (u User, tag string, err error) {
	header, err := c.do(ctx, http.MethodGet, userPath(id), nil, nil, nil, &u)
	return u, header.Get("ETag"), err
}

// CreateUser makes an account. With the same key a request can be sent again; the key may be empty.
func (c *Client) CreateUser(ctx context.Context, in NewUser, key string) (u User, err error) {
	_, err = c.do(ctx, http.MethodPost, "/admin/users", nil, http.Header{"Idempotency-Key": {key}}, in, &u)
	return u, err
}

// Suspend suspends an account and ends its sessions.
func (c *Client) Suspend(ctx context.Context, id string, change Change) (User, error) {
	return c.change(ctx, id, "suspend", change)
}

// Unsuspend lifts a suspension.
func (c *Client) Unsuspend(ctx context.Context, id string, change Change) (User, error) {
	return c.change(ctx, id, "unsuspend", change)
}

func (c *Client) change(ctx context.Context, id, action string, change Change) (u User, err error) {
	_, err = c.do(ctx, http.MethodPost, userPath(id)+"/"+action, nil, nil, change, &u)
	return u, err
}

// SignOut ends all sessions of an account.
func (c *Client) SignOut(ctx context.Context, id string, change Change) (out SignedOut, err error) {
	_, err = c.do(ctx, http.MethodPost, userPath(id)+"/sign-out", nil, nil, change, &out)
	return out, err
}

// DeleteUser deletes an account, unless it has changed since it had the entity tag, which may be empty.
func (c *Client) DeleteUser(ctx context.Context, id, tag string, change Change) error {
	_, err := c.do(ctx, http.MethodDelete, userPath(id), nil, http.Header{"If-Match": {tag}}, change, nil)
	return err
}

// Sessions lists the live sessions of an account.
func (c *Client) Sessions(ctx context.Context, id string) (page Page[Session], err error) {
	_, err = c.do(ctx, http.MethodGet, userPath(id)+"/sessions", nil, nil, nil, &page)
	return page, err
}

// EndSession ends a session.
func (c *Client) EndSession(ctx context.Context, id, session string, change Change) error {
	_, err := c.do(ctx, http.MethodDelete, userPath(id)+"/sessions/"+url.PathEscape(session), nil, nil, change, nil)
	return err
}

// Events lists events. The query has the parameters of GET /admin/events.
func (c *Client) Events(ctx context.Context, query url.Values) (page Page[Event], err error) {
	_, err = c.do(ctx, http.MethodGet, "/admin/events", query, nil, nil, &page)
	return page, err
}

// ConsoleCode returns a path that opens the console in a browser, once, with the rights of the client.
func (c *Client) ConsoleCode(ctx context.Context) (code ConsoleCode, err error) {
	_, err = c.do(ctx, http.MethodPost, "/console/code", nil, nil, nil, &code)
	return code, err
}

func userPath(id string) string { return "/admin/users/" + url.PathEscape(id) }

// maxReply is more than a page of the largest accounts.
const maxReply = 16 << 20

// do sends a request and decodes the reply into to, which may be nil. It sends no empty field of the header.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, header http.Header, body, to any) (http.Header, error) {
	address := c.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, address, content)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+c.credential)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for name := range header {
		if value := header.Get(name); value != "" {
			request.Header.Set(name, value)
		}
	}
	response, err := c.http.Do(request)
	if err != nil {
		// The text of a *url.Error has the query, with names and addresses.
		if cause, ok := errors.AsType[*url.Error](err); ok {
			err = cause.Err
		}
		return nil, fmt.Errorf("%s does not answer: %w", c.base, err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return nil, fmt.Errorf("read the reply of %s: %w", c.base, err)
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return nil, errorOf(response, text)
	}
	if to == nil {
		return response.Header, nil
	}
	if err := json.Unmarshal(text, to); err != nil {
		return nil, fmt.Errorf("%s answers with something that is not a reply of Auth Gateway: is its URL that of ADMIN_PORT?", c.base)
	}
	return response.Header, nil
}

func errorOf(response *http.Response, text []byte) error {
	e := &Error{Status: response.StatusCode, RequestID: response.Header.Get("X-Request-Id")}
	var reply struct {
		Description string `json:"error_description"`
		Reason      string `json:"reason"`
	}
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if kind == "application/json" && json.Unmarshal(text, &reply) == nil {
		e.Description, e.Reason = reply.Description, cmp.Or(reply.Reason, "unknown")
	}
	return e
}
