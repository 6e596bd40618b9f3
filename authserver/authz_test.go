package authserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const policies = `[{"name":"any"},{"name":"profile","scopes":["profile"]},{"name":"both","scopes":["profile","admin"]},` +
	`{"name":"either","anyScope":["admin","email"]},{"name":"other","audience":"https://other.example.com"},` +
	`{"name":"fresh","maxAge":"5m"},{"name":"open","anonymous":true},{"name":"closed","failClosed":true}]`

func TestAuthzDecidesByPolicy(t *testing.T) {
	t.Parallel()
	c := start(t, 2, env{"AUTHZ_POLICIES": policies, "STRICT_PARAMETERS": "on"})
	n := c.nodes[0]
	u := n.newUser()
	ask := func(method, path, token string) *testenv.Reply {
		header := http.Header{"X-Auth-Subject": {"forged"}, "X-Forwarded-Uri": {"/admin"}}
		if token != "" {
			header.Set("Authorization", "Bearer "+token)
		}
		return n.try(method, path, header, nil)
	}
	decides := func(about string, status int, method, path, token string) *testenv.Reply {
		t.Helper()
		r := ask(method, path, token)
		want(t, status, r, about)
		for _, name := range []string{"X-Auth-Subject", "X-Auth-Username", "X-Auth-Email", "X-Auth-Name", "X-Auth-Scope", "X-Auth-Session"} {
			values, there := r.Header[name]
			if !there || len(values) != 1 {
				t.Errorf("%s: %s is %q", about, name, values)
			} else if known := status == http.StatusOK && token != ""; (values[0] != "") != known {
				t.Errorf("%s: %s is %q", about, name, values[0])
			}
		}
		return r
	}
	testenv.Until(t, 10*time.Second, "the endings are loaded", func() bool { return ask("GET", "/authz/any", u.access).Status == 200 })
	r := decides("a good token", 200, "GET", "/authz/any", u.access)
	if r.Header.Get("X-Auth-Subject") != u.id || r.Header.Get("X-Auth-Session") != sidOf(t, u.access) || len(r.Body) > 0 {
		t.Errorf("got %v %v", r, r.Header)
	}
	for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "QUERY"} {
		for _, suffix := range []string{"", "/", "/orders/1", "//", "/../users", "/%00%2e%2e/%25", "/a?access_token=x&x=1", "?;;=%",
			"/" + strings.Repeat("x", 4000)} {
			decides(method+" "+suffix, 200, method, "/authz/any"+suffix, u.access)
			decides("no token, "+method+" "+suffix, 401, method, "/authz/any"+suffix, "")
		}
	}
	decides("a scope", 200, "GET", "/authz/profile/x", u.access)
	if r := decides("a missing scope", 403, "GET", "/authz/both/x", u.access); r.Header.Get("WWW-Authenticate") !=
		`Bearer realm="auth-gateway", error="insufficient_scope", scope="profile admin"` {
		t.Errorf("got %q", r.Header.Get("WWW-Authenticate"))
	}
	decides("one of two scopes", 200, "GET", "/authz/either", u.access)
	decides("another audience", 401, "GET", "/authz/other", u.access)
	decides("a recent sign-in", 200, "GET", "/authz/fresh", u.access)
	decides("a policy that fails closed", 200, "GET", "/authz/closed", u.access)
	decides("an anonymous request", 200, "GET", "/authz/open", "")
	decides("a forged token is not anonymous", 401, "GET", "/authz/open", u.access+"x")
	decides("a refresh token", 401, "GET", "/authz/any", u.refresh)
	decides("an unknown policy", 404, "GET", "/authz/unknown/x", u.access)
	decides("no policy", 404, "GET", "/authz/", u.access)
	decides("another spelling", 404, "GET", "/authz/%61ny", u.access)

	c.clock.Advance(6 * time.Minute)
	old := decides("an old sign-in", 401, "GET", "/authz/fresh", u.access).Header.Get("WWW-Authenticate")
	if !strings.Contains(old, "max_age=300") {
		t.Errorf("got %q", old)
	}
	want(t, http.StatusNoContent, c.nodes[1].signOut(u.refresh), "at another replica")
	testenv.Until(t, 10*time.Second, "the ending is known", func() bool { return ask("GET", "/authz/any", u.access).Status == 401 })
	decides("after a sign-out", 401, "GET", "/authz/any", u.access)
	other := n.signIn(u)
	if sent := n.statements.during(func() { decides("no query", 200, "GET", "/authz/any", other.access) }); len(sent) > 0 {
		t.Errorf("a decision takes %d statements", len(sent))
	}
}

// With a port of their own, decisions are not served by the API, in a whole server.
func TestAuthzHasAPortOfItsOwn(t *testing.T) {
	t.Parallel()
	_, n := single(t, env{"AUTHZ_POLICIES": policies, "AUTHZ_PORT": "3"})
	u := n.newUser()
	ask := func(base, path string) int {
		request := testenv.Must(http.NewRequestWithContext(t.Context(), "PROPFIND", base+path, nil))(t)
		request.Header.Set("Authorization", "Bearer "+u.access)
		reply := testenv.Must(http.DefaultClient.Do(request))(t)
		_ = reply.Body.Close()
		return reply.StatusCode
	}
	testenv.Until(t, 10*time.Second, "the endings are loaded", func() bool { return ask(n.Authz, "/authz/any/x") == 200 })
	for path, status := range map[string]int{"/authz/both": 403, "/authz/unknown": 404, "/users": 404} {
		if got := ask(n.Authz, path); got != status {
			t.Errorf("%s at the port of decisions got %d", path, got)
		}
	}
	if got := ask(n.API, "/authz/any"); got != 404 {
		t.Errorf("the API's port answers with %d", got)
	}
	if metrics := n.metrics(); !strings.Contains(metrics, `http_authz_decisions_total{policy="any",result="allowed"}`) ||
		!strings.Contains(metrics, "http_authz_connections_memory_limit_bytes ") {
		t.Errorf("the metrics are %s", metrics)
	}
	n.end()
	if r, err := http.Get(n.Authz + "/authz/open"); err == nil {
		_ = r.Body.Close()
		t.Error("the port is still open")
	}
}

// Hundreds of connections with forged tokens, a storm of sign-ins and a database that is gone: each decision is answered.
func TestDecisionsBesideAStorm(t *testing.T) {
	t.Parallel()
	database, config := ownDatabase(t)
	c := newCluster(t, config)
	n := c.addReady(1, env{"AUTHZ_POLICIES": policies, "AUTHZ_PORT": "3", "SALT_ROUNDS": "10"})
	u, other := n.newUser(), n.newUser()
	proxies := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 300, MaxIdleConnsPerHost: 300}, Timeout: 30 * time.Second}
	t.Cleanup(proxies.CloseIdleConnections)
	ask := func(policy, token string) (status int, retryAfter string) {
		request := testenv.Must(http.NewRequestWithContext(t.Context(), http.MethodGet, n.Authz+"/authz/"+policy, nil))(t)
		request.Header.Set("Authorization", "Bearer "+token)
		reply, err := proxies.Do(request)
		if err != nil {
			t.Errorf("%s got no answer: %v", policy, err)
			return 0, ""
		}
		_ = reply.Body.Close()
		return reply.StatusCode, reply.Header.Get("Retry-After")
	}
	testenv.Until(t, 10*time.Second, "the endings are loaded", func() bool { s, _ := ask("any", u.access); return s == 200 })

	var sent atomic.Int64
	storm := func(about string) {
		together(300, func(i int) {
			for turn := range 4 {
				switch i % 6 {
				case 0:
					if r := n.trySignIn(other.username, other.password); r.Status == 0 {
						t.Errorf("%s: a sign-in got no reply: %s", about, r.Body)
					}
				case 1:
					if status, _ := ask("profile", u.access); status != 200 {
						t.Errorf("%s: a token that is known got %d", about, status)
					}
				case 2:
					if status, _ := ask("both", u.access); status != 403 {
						t.Errorf("%s: a token without a scope got %d", about, status)
					}
				default: // no two are the same, so none is remembered
					signature := strings.LastIndexByte(u.access, '.')
					forged := u.access[:signature-12] + fmt.Sprintf("%012d", sent.Add(1)) + u.access[signature:]
					switch status, retryAfter := ask("any", forged); {
					case status == http.StatusServiceUnavailable && retryAfter == "1", status == http.StatusUnauthorized:
					default:
						t.Errorf("%s: a forged token got %d, Retry-After %q, in turn %d", about, status, retryAfter, turn)
					}
				}
			}
		})
	}
	storm("with a database")
	testenv.NoError(t, database.StopNow())
	storm("without a database")
}
