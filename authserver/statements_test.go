package authserver_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// statements has the SQL that a replica has sent for requests.
type statements struct {
	mu   sync.Mutex
	list []string
}

func (s *statements) add(statement string) {
	for _, own := range []string{"key_ring", "schema_version", "FROM gateway"} {
		if strings.Contains(statement, own) {
			return // background work
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, statement)
}

// during returns the statements that are sent while f runs.
func (s *statements) during(f func()) []string {
	s.mu.Lock()
	before := len(s.list)
	s.mu.Unlock()
	f()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list[before:]
}

func TestStatementsPerRequest(t *testing.T) {
	t.Parallel()
	c, n := single(t, env{"REFRESH_TOKEN_EXPIRY": "1000"})
	u := n.newUser()
	counts := func(about string, wanted int, writes bool, f func()) {
		t.Helper()
		sent := n.statements.during(f)
		var wrote bool
		for _, s := range sent {
			wrote = wrote || strings.Contains(s, "INSERT") || strings.Contains(s, "UPDATE ") || strings.Contains(s, "DELETE")
		}
		if len(sent) != wanted || wrote != writes {
			t.Errorf("%s takes %d statements, want %d (writes: %v):\n%s", about, len(sent), wanted, wrote, strings.Join(sent, "\n---\n"))
		}
	}
	counts("signing in", 2, true, func() { n.signIn(u) })
	counts("renewing an access token", 1, false, func() { want(t, http.StatusOK, n.renew(u.refresh)) })
	counts("GET /users", 1, false, func() { want(t, http.StatusOK, n.profile(u.access)) })
	other := n.signIn(u)
	id := n.sessionID(other)
	counts("GET /users/sessions", 1, false, func() { want(t, http.StatusOK, n.as(u.access, http.MethodGet, "/users/sessions", nil)) })
	// Writes cost one more, for the row of their limit. In the same statement, the count would be lost if the write failed.
	counts("DELETE /users/sessions", 2, true, func() { want(t, http.StatusNoContent, n.endSession(u.access, id)) })
	other = n.signIn(u)
	counts("PUT /users", 2, true, func() {
		want(t, http.StatusOK, n.changeProfile(u.access, body{"first_name": "Ada"}))
	})
	counts("signing out", 1, true, func() { want(t, http.StatusNoContent, n.signOut(other.refresh)) })
	counts("the keys", 0, false, func() { want(t, http.StatusOK, n.get("/tokens/keys")) })
	counts("a malformed token", 0, false, func() { want(t, http.StatusUnauthorized, n.profile("a.b.c")) })
	counts("malformed parameters", 0, false, func() { want(t, http.StatusBadRequest, n.post("/users", body{"email": "x"})) })
	c.clock.Advance(501 * time.Second)
	counts("renewing a refresh token", 1, true, func() {
		if r := want(t, http.StatusOK, n.renew(u.refresh)); r.Text("refresh_token") == u.refresh {
			t.Error("it was not renewed")
		}
	})
}
