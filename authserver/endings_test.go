package authserver_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// endings are the ways in which sessions end. Each returns whether the session
// that did it lives on.
var endings = map[string]struct {
	end       func(n *node, u user, tk tokens) *apitest.Reply
	ownStays  bool
	otherStay bool // the user's other sessions
}{
	"a sign-out": {
		end:       func(n *node, _ user, tk tokens) *apitest.Reply { return n.signOut(tk.refresh) },
		otherStay: true,
	},
	"an end by its id": {
		end:       func(n *node, _ user, tk tokens) *apitest.Reply { return n.endSession(tk.access, n.sessionID(tk)) },
		otherStay: true,
	},
	"a change of the password": {
		end: func(n *node, u user, tk tokens) *apitest.Reply {
			return n.as(tk.access, http.MethodPost, "/users/change-password",
				body{"old_password": u.password, "password": "the next " + u.password})
		},
		ownStays: true,
	},
	"a reset of the password": {
		end: func(n *node, u user, _ tokens) *apitest.Reply {
			code := n.post("/users/forgot-password", body{"email": u.email}).Text("code")
			return n.post("/users/change-password", body{"code": code, "password": "the next " + u.password})
		},
	},
	"a deletion": {
		end: func(n *node, _ user, tk tokens) *apitest.Reply {
			return n.as(tk.access, http.MethodDelete, "/users", nil)
		},
	},
}

func TestTokensDieAtEveryReplicaWithTheirSession(t *testing.T) {
	t.Parallel()
	c := start(t, 3)
	for name, ending := range endings {
		u := c.nodes[0].newUser()
		others := []tokens{c.nodes[1].signIn(u), c.nodes[2].signIn(u)}
		c.alive("before "+name, others[0].access)
		want(t, http.StatusNoContent, ending.end(c.nodes[1], u, u.tokens), name)
		if ending.ownStays {
			c.alive("of the session that did it, after "+name, u.access)
			want(t, http.StatusOK, c.nodes[0].renew(u.refresh), "the session that did it, after", name)
		} else {
			c.dead("after "+name, u.tokens)
		}
		if ending.otherStay {
			c.alive("of another session, after "+name, others[0].access)
		} else {
			c.dead("after "+name, others...)
		}
	}
}

func TestSuspensionEndsWhatIsOpenAndKeepsOut(t *testing.T) {
	t.Parallel()
	c := start(t, 2)
	u := c.nodes[0].newUser()
	code := c.nodes[0].recoveryCode(u)
	postgrestest.Exec(t, c.db, "UPDATE users SET suspended_at = now()")
	c.dead("of a suspended user", u.tokens)
	want(t, http.StatusUnauthorized, c.nodes[0].trySignIn(u.username, u.password))
	// A reset is answered as ever, and opens nothing.
	redeem["recovery"](c.nodes[1], u, code)
	want(t, http.StatusUnauthorized, c.nodes[0].trySignIn(u.username, "a password that is new"))
	c.dead("after the reset", u.tokens)
}

// Whatever order the two come in, nothing that was opened before the ending, or
// renewed while it went on, lives after both have returned.
func TestNothingSurvivesARenewalThatRacesAnEnding(t *testing.T) {
	t.Parallel()
	c := start(t, 3, always, env{"HASHING_MAX_WAIT": "5s"})
	const rounds, renewers = 60, 4
	for name, ending := range endings {
		t.Run(name, func(t *testing.T) {
			for round := range rounds {
				u := c.any(round).newUser()
				thief := c.any(round + 1).signIn(u)
				victim := thief // whose session is to end
				if ending.otherStay {
					victim = u.tokens
				}
				first := rand.IntN(renewers + 1)
				replies := atOnce(renewers+1, func(i int) *apitest.Reply {
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

// A sign-in with the old password that is under way while the password changes
// opens nothing that lives on.
func TestNothingSurvivesASignInThatRacesAChangeOfThePassword(t *testing.T) {
	t.Parallel()
	c := start(t, 3, env{"HASHING_MAX_WAIT": "5s"})
	for _, name := range []string{"a change of the password", "a reset of the password", "a deletion"} {
		for round := range 20 {
			u := c.any(round).newUser()
			replies := atOnce(4, func(i int) *apitest.Reply {
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

func TestSigningOutTwiceOrWithADeadTokenIsNoError(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"REFRESH_TOKEN_EXPIRY": "600", "ACCESS_TOKEN_EXPIRY": "300"})
	n := c.nodes[0]
	u := n.newUser()
	expiring := n.signIn(u)
	want(t, http.StatusNoContent, n.signOut(u.refresh))
	want(t, http.StatusNoContent, n.signOut(u.refresh), "twice")
	want(t, http.StatusUnauthorized, n.signOut("garbage"))
	want(t, http.StatusUnauthorized, n.signOut(expiring.access), "an access token")
	c.alive("nothing of it ended another session", expiring.access)
	c.clock.Advance(700e9)
	want(t, http.StatusNoContent, n.signOut(expiring.refresh), "expired")
}

func TestAWrongOldPasswordCountsLikeAWrongSignIn(t *testing.T) {
	t.Parallel()
	c := start(t, 2)
	u := c.nodes[0].newUser()
	for i := range 10 {
		want(t, http.StatusUnauthorized, c.any(i).as(u.access, http.MethodPost, "/users/change-password",
			body{"old_password": "a wrong guess at it", "password": "the second password"}))
	}
	for _, login := range []string{u.username, mixedCase(u.username, 7)} {
		want(t, http.StatusTooManyRequests, c.nodes[1].trySignIn(login, u.password), login)
	}
	// The owner of the mailbox is not locked out.
	want(t, http.StatusNoContent, redeem["recovery"](c.nodes[0], u, c.nodes[0].recoveryCode(u)))
	want(t, http.StatusOK, c.nodes[1].trySignIn(u.username, "a password that is new"))
}

func TestASessionThatIsEndedByAnotherIsDeadAtEveryReplica(t *testing.T) {
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
	if err := json.Unmarshal(reply.Body, &list); err != nil || len(list.Sessions) != 2 {
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
	foreign := want(t, http.StatusNotFound, c.nodes[0].endSession(stranger.access, id), "of another user")
	c.alive("after a stranger tried to end it", other.access)
	want(t, http.StatusNoContent, c.nodes[0].endSession(u.access, id))
	c.dead("after it was ended by another", other)
	c.alive("of the session that did it", u.access)
	gone := want(t, http.StatusNotFound, c.nodes[1].endSession(u.access, id), "gone")
	unknown := want(t, http.StatusNotFound, c.nodes[1].endSession(u.access, u.id), "unknown")
	if string(gone.Body) != string(foreign.Body) || string(unknown.Body) != string(foreign.Body) {
		t.Errorf("they tell apart:\n%s\n%s\n%s", foreign.Body, gone.Body, unknown.Body)
	}
}

// While the replicas are restarted with another SALT_ROUNDS, sign-ins renew each
// other's hashes.
func TestAPasswordIsChangedWhileASignInRenewsItsHash(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"HASHING_MAX_WAIT": "5s"})
	c.add(env{"HASHING_MAX_WAIT": "5s", "SALT_ROUNDS": "5"}).waitReady()
	u := c.nodes[0].newUser()
	for round := range 10 {
		next := fmt.Sprintf("password number %d", round)
		replies := atOnce(5, func(i int) *apitest.Reply {
			if i == 0 {
				return c.any(round).as(u.access, http.MethodPost, "/users/change-password", body{"old_password": u.password, "password": next})
			}
			return c.any(i).trySignIn(u.username, u.password)
		})
		want(t, http.StatusNoContent, replies[0], "while the hash is renewed")
		u.password = next
		c.alive("of the session that changed the password", u.access)
	}
}
