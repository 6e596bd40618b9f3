package authserver_test

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// account is a user with the expected state of the sessions and codes.
type account struct {
	*cluster
	u        user
	sessions []*session
	recovery string // a code
	change   string // a code for a new address
	codes    bool   // both codes are valid
	open     bool   // neither suspended nor deleted
	deleted  bool
}

type session struct {
	tokens
	id    string
	alive bool
}

// caps is the maximum number of sessions of a user.
const caps = 3

func (a *account) opened(tk tokens) *session {
	s := &session{tk, a.nodes[0].sessionID(tk), true}
	a.sessions = append(a.sessions, s)
	return s
}

// actor returns the first valid session, a new one if there is none, or an ended one if the account cannot sign in.
func (a *account) actor() *session {
	for _, s := range a.sessions {
		if s.alive {
			return s
		}
	}
	if a.open {
		return a.opened(a.nodes[0].signIn(a.u))
	}
	return a.sessions[0]
}

func (a *account) allEndBut(kept *session) {
	for _, s := range a.sessions {
		s.alive = s == kept && s.alive
	}
}

// or401 returns the status of a request that needs a session.
func (a *account) or401(status int) int {
	if a.open {
		return status
	}
	return http.StatusUnauthorized
}

// steps end sessions, and update the expected state as documented.
var steps = []struct {
	name string
	do   func(t *testing.T, n *node, a *account)
}{
	{"a sign-out", func(t *testing.T, n *node, a *account) {
		s := a.actor()
		want(t, http.StatusNoContent, n.signOut(s.refresh))
		s.alive = false
	}},
	{"an end by its id", func(t *testing.T, n *node, a *account) {
		s := a.actor()
		want(t, a.or401(http.StatusNoContent), n.endSession(s.access, s.id))
		s.alive = false
	}},
	{"a change of the password", func(t *testing.T, n *node, a *account) {
		s, next := a.actor(), "the next "+a.u.password
		want(t, a.or401(http.StatusNoContent), n.changePassword(s.access, a.u.password, next))
		if a.open {
			a.u.password, a.codes = next, false
			a.allEndBut(s)
		}
	}},
	{"a reset of the password", func(t *testing.T, n *node, a *account) {
		if a.deleted {
			want(t, http.StatusNotFound, n.post("/users/forgot-password", body{"email": a.u.email}))
			return
		}
		next := "another " + a.u.password
		want(t, http.StatusNoContent, n.resetPassword(n.recoveryCode(a.u), next))
		a.u.password, a.codes = next, false
		a.allEndBut(nil)
	}},
	{"a verification of a new address", func(t *testing.T, n *node, a *account) {
		s, next := a.actor(), "new."+a.u.email
		if !a.open {
			want(t, http.StatusUnauthorized, n.as(s.access, http.MethodPost, "/users/change-email-request", nil))
			return
		}
		want(t, http.StatusOK, n.changeEmail(s.access, n.emailCode(s.access, ""), next))
		code := want(t, http.StatusOK, n.post("/users/verification-code", body{"email": next})).Text("code")
		tk := n.mustVerify(code)
		a.u.email, a.codes = next, false
		a.allEndBut(nil)
		a.opened(tk)
	}},
	{"a theft", func(t *testing.T, n *node, a *account) {
		s := a.actor()
		r := want(t, a.or401(http.StatusOK), n.renew(s.refresh))
		if a.open {
			want(t, http.StatusOK, n.renew(r.Text("refresh_token")))
			want(t, http.StatusUnauthorized, n.renew(s.refresh), "two renewals later")
		}
		s.alive = false
	}},
	{"a deletion", func(t *testing.T, n *node, a *account) {
		want(t, a.or401(http.StatusNoContent), n.deleteUser(a.actor().access))
		if a.open {
			a.open, a.deleted, a.codes = false, true, false
			a.allEndBut(nil)
		}
	}},
	{"a suspension", func(t *testing.T, _ *node, a *account) {
		postgrestest.Exec(t, a.db, "UPDATE users SET suspended_at = now() WHERE id = $1", a.u.id)
		a.open, a.codes = false, false
		a.allEndBut(nil)
	}},
	{"more sessions than a user may have", func(t *testing.T, n *node, a *account) {
		if !a.open {
			want(t, http.StatusUnauthorized, n.trySignIn(a.u.username, a.u.password))
			return
		}
		a.clock.Advance(time.Second)
		a.allEndBut(nil)
		for range caps {
			a.opened(n.signIn(a.u))
		}
	}},
}

// check reports an error unless all sessions are in the expected state.
func (a *account) check(t *testing.T, about string) {
	t.Helper()
	for i, s := range a.sessions {
		status := http.StatusUnauthorized
		if s.alive {
			status = http.StatusOK
		}
		want(t, status, a.any(i).profile(s.access), "the profile", about)
		want(t, status, a.any(i+1).changeProfile(s.access, body{"first_name": "Ada"}), "a change", about)
		want(t, status, a.any(i).as(s.access, http.MethodGet, "/users/sessions", nil), "the list", about)
		r := want(t, status, a.any(i+1).renew(s.refresh), "a renewal", about)
		if s.alive {
			s.tokens = tokensOf(r)
		}
	}
}

// checkCodes reports an error unless both codes are invalid, or the requested one is valid. The use of one invalidates the
// other.
func (a *account) checkCodes(t *testing.T, recovery bool, about string) {
	t.Helper()
	reset := func() int { return redeem["recovery"](a.nodes[0], a.u, a.recovery).Status }
	move := func() int {
		a.u.tokens = a.actor().tokens
		return redeem["email change"](a.nodes[1], a.u, a.change).Status
	}
	switch {
	case a.codes && recovery:
		if got := reset(); got != http.StatusNoContent {
			t.Errorf("%s the recovery code gets %d", about, got)
		}
	case a.codes:
		if got := move(); got != http.StatusOK {
			t.Errorf("%s the code for a new address gets %d", about, got)
		}
	default:
		if got := reset(); got != http.StatusBadRequest {
			t.Errorf("%s the recovery code gets %d", about, got)
		}
		if got := move(); got != a.or401(http.StatusBadRequest) {
			t.Errorf("%s the code for a new address gets %d", about, got)
		}
	}
}

// After any two such steps, sessions and codes are valid or invalid as docs/security.md says.
func TestSessionEndsInSequence(t *testing.T) {
	t.Parallel()
	c := start(t, 2, always, env{"HASHING_MAX_WAIT": "5s", "SESSIONS_PER_USER": strconv.Itoa(caps)})
	for i, first := range steps {
		for j, second := range steps {
			u := c.nodes[0].newUser()
			a := &account{cluster: c, u: u, codes: true, open: true}
			a.opened(u.tokens)
			a.opened(c.nodes[1].signIn(u))
			a.recovery, a.change = c.nodes[0].recoveryCode(u), c.nodes[0].emailCode(u.access, "")
			about := "after " + first.name
			first.do(t, c.nodes[0], a)
			a.check(t, about)
			about += " and " + second.name
			second.do(t, c.nodes[1], a)
			a.check(t, about)
			a.checkCodes(t, (i+j)%2 == 0, about)
		}
	}
}
