package authserver_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"

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
