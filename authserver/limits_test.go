package authserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// from returns the header that a proxy adds for a client at an address.
func from(address string) http.Header { return http.Header{"X-Forwarded-For": {address}} }

func (c *client) signInFrom(address, username, password string) *testenv.Reply {
	return c.try(http.MethodPost, "/tokens/signin", from(address), body{"username": username, "password": password})
}

const home = "192.0.2.1"

func TestThrottleOfAThousandGuessingAddressesSparesTheOwner(t *testing.T) {
	t.Parallel()
	c := start(t, 2, env{"TRUSTED_PROXY_HOPS": "1", "HASHING_MAX_WAIT": "5s"})
	u := c.nodes[0].newUser()
	want(t, http.StatusOK, c.nodes[0].signInFrom(home, u.username, u.password), "the owner, at first")

	const addresses, atATime = 1000, 20
	var next, hashed, slowed, owner atomic.Int64
	atOnce(atATime, func(int) struct{} {
		for i := next.Add(1); i <= addresses; i = next.Add(1) {
			n := c.any(int(i))
			switch reply := n.signInFrom(fmt.Sprintf("198.51.%d.%d", i>>8, i&0xff), u.username, "a guess that is wrong"); reply.Status {
			case http.StatusUnauthorized:
				hashed.Add(1)
			case http.StatusTooManyRequests:
				slowed.Add(1)
			default:
				t.Errorf("a guess got %v", reply)
			}
			if i%50 == 0 {
				owner.Add(1)
				want(t, http.StatusOK, n.signInFrom(home, u.username, u.password), "the owner, while strangers guess")
			}
		}
		return struct{}{}
	})
	t.Logf("of %d guesses %d were hashed and %d refused; the owner signed in %d times", addresses, hashed.Load(), slowed.Load(), owner.Load())
	// Ten guesses are free, the guesses that run meanwhile are hashed too, and after that one a minute.
	if n := hashed.Load(); n < 10 || n > 3*atATime {
		t.Errorf("%d guesses were hashed", n)
	}
	want(t, http.StatusTooManyRequests, c.nodes[1].signInFrom("203.0.113.9", u.username, u.password), "a stranger with the right password")
	want(t, http.StatusOK, c.nodes[1].signInFrom(home, u.username, u.password), "the owner, afterwards")
}

func TestLimitIsCountedByAllReplicasTogether(t *testing.T) {
	t.Parallel()
	c := start(t, 2, env{"TRUSTED_PROXY_HOPS": "1", "LIMIT_SIGNIN": "6/1h", "LIMIT_CODES": "2/1h"})
	const address = "192.0.2.7"
	var counted atomic.Int64
	together(40, func(i int) {
		switch reply := c.any(i).signInFrom(address, fmt.Sprintf("unknown%d", i), "a guess that is wrong"); reply.Status {
		case http.StatusUnauthorized:
			counted.Add(1)
		case http.StatusTooManyRequests:
		default:
			t.Errorf("got %v", reply)
		}
	})
	if counted.Load() != 6 {
		t.Errorf("%d requests were served, want 6", counted.Load())
	}
	n := c.nodes[0]
	want(t, http.StatusTooManyRequests, n.signInFrom(address, "unknown", "a guess that is wrong"))
	sent := n.statements.during(func() {
		for range 20 {
			reply := want(t, http.StatusTooManyRequests, n.signInFrom(address, "unknown", "a guess that is wrong"))
			if policy := reply.Header.Get("RateLimit-Policy"); policy != `"signin";q=6;w=3600` || reply.Header.Get("Retry-After") == "" {
				t.Errorf("the policy is %q, Retry-After %q", policy, reply.Header.Get("Retry-After"))
			}
		}
	})
	if len(sent) != 0 {
		t.Errorf("refused requests sent statements:\n%s", strings.Join(sent, "\n"))
	}
	reply := want(t, http.StatusUnauthorized, n.signInFrom("192.0.2.8", "unknown", "a guess that is wrong"), "another address")
	if limit := reply.Header.Get("RateLimit"); !strings.HasPrefix(limit, `"signin";r=5;t=`) {
		t.Errorf("the limit is %q", limit)
	}
	want(t, http.StatusBadRequest, n.try(http.MethodPost, "/users/verify-user", from(address), body{"code": "none"}), "another limit")
	if !strings.Contains(n.metrics(), `authgateway_limited_requests_total{limit="signin"}`) {
		t.Error("no metric counts the refused requests")
	}
}

func TestAuditTrailHasTheAddressOfTheClient(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"TRUSTED_PROXY_HOPS": "1"})
	u := c.nodes[0].newUser()
	want(t, http.StatusUnauthorized, c.nodes[0].signInFrom("2001:db8::7", u.username, "a guess that is wrong"))
	if got := column(t, c.db, "SELECT host(address) FROM audit_events WHERE user_id = $1 AND event = 'password refused'",
		u.id); len(got) != 1 || got[0] != "2001:db8::7" {
		t.Errorf("the table has %q", got)
	}
	if !c.logs.Contains(`"address":"2001:db8::7"`) {
		t.Error("the log does not have the address")
	}
}

func TestLimitSlowsProbingForTakenNames(t *testing.T) {
	t.Parallel()
	c := start(t, 2, env{"LIMIT_WRITES": "20/1h"})
	taken, u := c.nodes[0].newUser(), c.nodes[0].newUser()
	again := c.nodes[1].signIn(u)
	got := statuses(atOnce(100, func(i int) *testenv.Reply {
		token := u.access
		if i%2 == 1 {
			token = again.access // another session does not help
		}
		return c.any(i).changeProfile(token, body{"username": taken.username})
	}))
	if got[http.StatusConflict] != 20 || got[http.StatusTooManyRequests] != 80 {
		t.Errorf("got %v, want twenty 409 and eighty 429", got)
	}
	// The limit does not prevent the end of sessions.
	want(t, http.StatusOK, c.nodes[0].renew(u.refresh))
	want(t, http.StatusNoContent, c.nodes[0].endSession(u.access, c.nodes[0].sessionID(again)))
	want(t, http.StatusNoContent, c.nodes[0].signOut(u.refresh))
}
