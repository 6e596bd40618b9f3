package authserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
)

// body is the parameters of a request.
type body map[string]string

// client talks to one replica, holds every reply against the contract, and
// notes every secret that goes either way, for the check of the logs.
type client struct {
	*apitest.Client
	t    testing.TB
	base string
	logs *logs
}

func newClient(t testing.TB, base string, l *logs) *client {
	return &client{Client: apitest.New(t, base), t: t, base: base, logs: l}
}

// try is for goroutines; a request without a reply is status 0.
func (c *client) try(method, path string, header http.Header, b any) *apitest.Reply {
	if b, ok := b.(body); ok {
		c.logs.secrets(b)
	}
	reply, err := c.Try(method, path, header, b)
	if err != nil {
		return &apitest.Reply{Body: []byte(err.Error())}
	}
	var members map[string]any
	if json.Unmarshal(reply.Body, &members) == nil {
		texts := body{}
		for name, value := range members {
			if text, ok := value.(string); ok {
				texts[name] = text
			}
		}
		c.logs.secrets(texts)
	}
	return reply
}

func (c *client) post(path string, b body) *apitest.Reply {
	return c.try(http.MethodPost, path, nil, b)
}

// as sends a request with an access token.
func (c *client) as(token, method, path string, b body) *apitest.Reply {
	if b == nil {
		return c.try(method, path, apitest.Bearer(token), nil)
	}
	return c.try(method, path, apitest.Bearer(token), b)
}

// user is someone with an account, and the tokens of their latest session.
type user struct {
	id, username, email, password string
	tokens
}

type tokens struct{ access, refresh string }

func tokensOf(r *apitest.Reply) tokens {
	return tokens{r.Text("access_token"), r.Text("refresh_token")}
}

var people atomic.Int64

// newPerson invents a user that no other test uses.
func newPerson() user {
	n := people.Add(1)
	return user{
		username: fmt.Sprintf("person.number-%d", n),
		email:    fmt.Sprintf("Person.%d@mailbox.example.org", n),
		password: fmt.Sprintf("the first password of number %d", n),
	}
}

func (u user) signUpBody() body {
	return body{
		"username": u.username, "email": u.email, "password": u.password,
		"first_name": "Firstname " + u.username, "last_name": "Lastname " + u.username,
		"scope": "profile email",
	}
}

// signUp makes an account that is not verified yet.
func (c *client) signUp() (u user, code string) {
	c.t.Helper()
	u = newPerson()
	reply := want(c.t, http.StatusCreated, c.post("/users", u.signUpBody()), "sign up")
	u.id = reply.Text("id")
	return u, reply.Text("code")
}

// newUser makes an account, and verifies it, which signs in.
func (c *client) newUser() user {
	c.t.Helper()
	u, code := c.signUp()
	u.tokens = tokensOf(want(c.t, http.StatusOK, c.post("/users/verify-user", body{"code": code}), "verify"))
	return u
}

// signIn opens one more session.
func (c *client) signIn(u user) tokens {
	c.t.Helper()
	return tokensOf(want(c.t, http.StatusOK, c.trySignIn(u.username, u.password), "sign in"))
}

func (c *client) trySignIn(username, password string) *apitest.Reply {
	return c.post("/tokens/signin", body{"username": username, "password": password})
}

func (c *client) renew(refresh string) *apitest.Reply {
	return c.post("/tokens", body{"refresh_token": refresh})
}

func (c *client) signOut(refresh string) *apitest.Reply {
	return c.try(http.MethodDelete, "/tokens", nil, body{"refresh_token": refresh})
}

func (c *client) profile(access string) *apitest.Reply {
	return c.as(access, http.MethodGet, "/users", nil)
}

// sessionID returns the session of tokens.
func (c *client) sessionID(tk tokens) string {
	c.t.Helper()
	return want(c.t, http.StatusOK, c.post("/tokens/introspect", body{"token": tk.access}), "introspect").Text("sid")
}

// endSession ends a session by its id.
func (c *client) endSession(access, id string) *apitest.Reply {
	return c.as(access, http.MethodDelete, "/users/sessions/"+id, nil)
}

// recoveryCode asks for a code to set a new password.
func (c *client) recoveryCode(u user) string {
	c.t.Helper()
	return want(c.t, http.StatusOK, c.post("/users/forgot-password", body{"email": u.email}), "forgot").Text("code")
}

// emailCode asks for a code to change the address to email, or to any.
func (c *client) emailCode(access, email string) string {
	c.t.Helper()
	b := body{}
	if email != "" {
		b["email"] = email
	}
	return want(c.t, http.StatusOK, c.as(access, http.MethodPost, "/users/change-email-request", b), "request").Text("code")
}

// dead fails unless both tokens are refused at every replica.
func (c *cluster) dead(why string, list ...tokens) {
	c.t.Helper()
	for i, n := range c.nodes {
		for _, tk := range list {
			want(c.t, http.StatusUnauthorized, n.profile(tk.access), "the access token at replica", i, why)
			want(c.t, http.StatusUnauthorized, n.renew(tk.refresh), "the refresh token at replica", i, why)
		}
	}
}

// alive fails unless the access token is taken at every replica.
func (c *cluster) alive(why string, access string) {
	c.t.Helper()
	for i, n := range c.nodes {
		want(c.t, http.StatusOK, n.profile(access), "the access token at replica", i, why)
	}
}

// any gives one of the replicas.
func (c *cluster) any(i int) *node { return c.nodes[i%len(c.nodes)] }

// isRefused reports whether no server accepted a request.
func isRefused(r *apitest.Reply) bool {
	return r.Status == 0 && strings.Contains(string(r.Body), "connection refused")
}
