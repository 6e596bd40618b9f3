package authserver_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// endings are the ways to end sessions.
var endings = map[string]struct {
	end       func(n *node, u user, tk tokens) *testenv.Reply
	ownStays  bool // the session that sends the request
	otherStay bool // the user's other sessions
}{
	"a sign-out": {
		end:       func(n *node, _ user, tk tokens) *testenv.Reply { return n.signOut(tk.refresh) },
		otherStay: true,
	},
	"an end by its id": {
		end:       func(n *node, _ user, tk tokens) *testenv.Reply { return n.endSession(tk.access, n.sessionID(tk)) },
		otherStay: true,
	},
	"a change of the password": {
		end: func(n *node, u user, tk tokens) *testenv.Reply {
			return n.changePassword(tk.access, u.password, "the next "+u.password)
		},
		ownStays: true,
	},
	"a reset of the password": {
		end: func(n *node, u user, _ tokens) *testenv.Reply {
			return n.resetPassword(n.recoveryCode(u), "the next "+u.password)
		},
	},
	"a deletion": {
		end: func(n *node, _ user, tk tokens) *testenv.Reply { return n.deleteUser(tk.access) },
	},
}

func TestSessionEndInvalidatesItsTokensAtEveryReplica(t *testing.T) {
	t.Parallel()
	c := start(t, 3)
	for name, ending := range endings {
		u := c.nodes[0].newUser()
		others := []tokens{c.nodes[1].signIn(u), c.nodes[2].signIn(u)}
		c.alive("before "+name, others[0].access)
		want(t, http.StatusNoContent, ending.end(c.nodes[1], u, u.tokens), name)
		if ending.ownStays {
			c.alive("the session that sent the request, after "+name, u.access)
			want(t, http.StatusOK, c.nodes[0].renew(u.refresh), "the session that sent the request, after", name)
		} else {
			c.dead("after "+name, u.tokens)
		}
		if ending.otherStay {
			c.alive("another session, after "+name, others[0].access)
		} else {
			c.dead("after "+name, others...)
		}
	}
}

func TestSuspensionEndsSessionsAndPreventsSignIns(t *testing.T) {
	t.Parallel()
	c := start(t, 2)
	u := c.nodes[0].newUser()
	code := c.nodes[0].recoveryCode(u)
	postgrestest.Exec(t, c.db, "UPDATE users SET suspended_at = now()")
	c.dead("tokens of a suspended user", u.tokens)
	want(t, http.StatusUnauthorized, c.nodes[0].trySignIn(u.username, u.password))
	// A reset gets its usual reply and opens no session.
	redeem["recovery"](c.nodes[1], u, code)
	want(t, http.StatusUnauthorized, c.nodes[0].trySignIn(u.username, "a password that is new"))
	c.dead("after the reset", u.tokens)
}

// Whichever comes first, no session that was opened before the end or renewed meanwhile is valid after both replies.
func TestRenewalThatRacesASessionEndLeavesNoValidToken(t *testing.T) {
	t.Parallel()
	c := start(t, 3, always, env{"HASHING_MAX_WAIT": "5s"})
	const rounds, renewers = 60, 4
	for name, ending := range endings {
		t.Run(name, func(t *testing.T) {
			for round := range rounds {
				u := c.any(round).newUser()
				thief := c.any(round + 1).signIn(u)
				victim := thief // the tokens of the session that must end
				if ending.otherStay {
					victim = u.tokens
				}
				first := rand.IntN(renewers + 1)
				replies := atOnce(renewers+1, func(i int) *testenv.Reply {
					if i == first {
						return ending.end(c.any(i+round), u, u.tokens)
					}
					return c.any(i).renew(victim.refresh)
				})
				want(t, http.StatusNoContent, replies[first], name)
				for i, r := range replies {
					if i == first {
						continue
					}
					switch r.Status {
					case http.StatusOK:
						survivor := tokensOf(r)
						want(t, http.StatusUnauthorized, c.any(i).profile(survivor.access), "a survivor of", name)
						want(t, http.StatusUnauthorized, c.any(i+1).renew(survivor.refresh), "a survivor of", name)
					case http.StatusUnauthorized:
					default:
						t.Errorf("got %v", r)
					}
				}
				if t.Failed() {
					return
				}
			}
		})
	}
}

// A sign-in with the old password that runs while the password changes leaves no session.
func TestSignInThatRacesAPasswordChangeLeavesNoSession(t *testing.T) {
	t.Parallel()
	c := start(t, 3, env{"HASHING_MAX_WAIT": "5s"})
	for _, name := range []string{"a change of the password", "a reset of the password", "a deletion"} {
		for round := range 20 {
			u := c.any(round).newUser()
			replies := atOnce(4, func(i int) *testenv.Reply {
				if i == 0 {
					return endings[name].end(c.any(round), u, u.tokens)
				}
				return c.any(i).trySignIn(u.username, u.password)
			})
			want(t, http.StatusNoContent, replies[0], name)
			for _, r := range replies[1:] {
				if r.Status == http.StatusOK {
					want(t, http.StatusUnauthorized, c.nodes[0].profile(r.Text("access_token")), "a survivor of", name)
					want(t, http.StatusUnauthorized, c.nodes[1].renew(r.Text("refresh_token")), "a survivor of", name)
				} else {
					want(t, http.StatusUnauthorized, r, fmt.Sprintf("beside %s", name))
				}
			}
		}
	}
}

func TestSignOutTwiceOrWithAnExpiredTokenIsNoError(t *testing.T) {
	t.Parallel()
	c, n := single(t, env{"REFRESH_TOKEN_EXPIRY": "600", "ACCESS_TOKEN_EXPIRY": "300"})
	u := n.newUser()
	expiring := n.signIn(u)
	want(t, http.StatusNoContent, n.signOut(u.refresh))
	want(t, http.StatusNoContent, n.signOut(u.refresh), "twice")
	want(t, http.StatusUnauthorized, n.signOut("garbage"))
	want(t, http.StatusUnauthorized, n.signOut(expiring.access), "an access token")
	c.alive("after all that, another session", expiring.access)
	c.clock.Advance(700e9)
	want(t, http.StatusNoContent, n.signOut(expiring.refresh), "expired")
}

func TestPasswordChangeWithAWrongPasswordCountsLikeASignIn(t *testing.T) {
	t.Parallel()
	c := start(t, 2)
	u := c.nodes[0].newUser()
	for i := range 10 {
		want(t, http.StatusUnauthorized, c.any(i).changePassword(u.access, "a wrong guess at it", "the second password"))
	}
	for _, login := range []string{u.username, mixedCase(u.username, 7)} {
		want(t, http.StatusTooManyRequests, c.nodes[1].trySignIn(login, u.password), login)
	}
	// The owner of the mailbox can still reset the password.
	want(t, http.StatusNoContent, redeem["recovery"](c.nodes[0], u, c.nodes[0].recoveryCode(u)))
	want(t, http.StatusOK, c.nodes[1].trySignIn(u.username, "a password that is new"))
}

func TestSessionEndedByAnotherIsInvalidAtEveryReplica(t *testing.T) {
	t.Parallel()
	c := start(t, 3)
	u := c.nodes[0].newUser()
	stranger := c.nodes[0].newUser()
	other := c.nodes[1].signIn(u)
	c.alive("before it is ended", other.access)
	reply := want(t, http.StatusOK, c.nodes[2].as(u.access, http.MethodGet, "/users/sessions", nil))
	var list struct {
		Sessions []struct {
			ID        string
			Current   bool
			UserAgent string `json:"user_agent"`
		}
	}
	if reply.JSON(t, &list); len(list.Sessions) != 2 {
		t.Fatalf("got %v", reply)
	}
	var id string
	for _, s := range list.Sessions {
		if s.Current != (s.ID == c.nodes[0].sessionID(u.tokens)) || s.UserAgent != "Go-http-client/1.1" {
			t.Errorf("got %v", reply)
		}
		if !s.Current {
			id = s.ID
		}
	}
	foreign := want(t, http.StatusNotFound, c.nodes[0].endSession(stranger.access, id), "a session of another user")
	c.alive("after a stranger tried to end it", other.access)
	want(t, http.StatusNoContent, c.nodes[0].endSession(u.access, id))
	c.dead("after it was ended by another", other)
	c.alive("the session that sent the request", u.access)
	gone := want(t, http.StatusNotFound, c.nodes[1].endSession(u.access, id), "a session that has ended")
	unknown := want(t, http.StatusNotFound, c.nodes[1].endSession(u.access, u.id), "an unknown session")
	if string(gone.Body) != string(foreign.Body) || string(unknown.Body) != string(foreign.Body) {
		t.Errorf("the replies differ:\n%s\n%s\n%s", foreign.Body, gone.Body, unknown.Body)
	}
}

// While replicas restart with another SALT_ROUNDS, their sign-ins replace each other's hashes.
func TestPasswordChangeSucceedsWhileSignInsRenewTheHash(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"HASHING_MAX_WAIT": "5s"})
	c.addReady(1, env{"HASHING_MAX_WAIT": "5s", "SALT_ROUNDS": "5"})
	u := c.nodes[0].newUser()
	for round := range 10 {
		next := fmt.Sprintf("password number %d", round)
		replies := atOnce(5, func(i int) *testenv.Reply {
			if i == 0 {
				return c.any(round).changePassword(u.access, u.password, next)
			}
			return c.any(i).trySignIn(u.username, u.password)
		})
		want(t, http.StatusNoContent, replies[0], "while the hash is renewed")
		u.password = next
		c.alive("the session that changed the password", u.access)
	}
}

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
