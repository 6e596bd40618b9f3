package authserver_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// consumer follows the feed, and asks another replica each time.
type consumer struct {
	*cluster
	turn  int
	after string
	seen  map[string]string // kind by id
}

type endedReply struct {
	Ended []struct {
		Kind, ID string
		Until    int64
	}
	Next string
	More bool
}

func (c *cluster) consumer() *consumer {
	w := &consumer{cluster: c, seen: map[string]string{}}
	w.follow(0)
	return w
}

// follow asks until nothing more follows at once, and returns the ids that are new to it.
func (w *consumer) follow(wait int) (found []string) {
	w.t.Helper()
	for more := true; more; {
		w.turn++
		query := url.Values{"after": {w.after}, "wait": {strconv.Itoa(wait)}}
		reply := want(w.t, http.StatusOK, w.any(w.turn).try(http.MethodGet, "/sessions/ended?"+query.Encode(), nil, nil))
		var page endedReply
		testenv.NoError(w.t, json.Unmarshal(reply.Body, &page))
		for _, e := range page.Ended {
			if until := time.Until(time.Unix(e.Until, 0)); until < 15*time.Minute || until > 17*time.Minute {
				w.t.Errorf("an ending matters for %v", until)
			}
			if w.seen[e.ID] == "" {
				w.seen[e.ID] = e.Kind
				found = append(found, e.ID)
			}
		}
		w.after, more = page.Next, page.More
	}
	slices.Sort(found)
	return found
}

// learns waits until the consumer has learned of these endings, and of no others.
func (w *consumer) learns(about string, ids ...string) {
	w.t.Helper()
	var found []string
	for range 20 {
		if found = append(found, w.follow(1)...); len(found) >= len(ids) {
			break
		}
	}
	if slices.Sort(found); !slices.Equal(found, slices.Sorted(slices.Values(ids))) {
		w.t.Errorf("%s: the consumer learned of %v; want %v", about, found, ids)
	}
}

// sidOf returns the session of an access token, which may have ended.
func sidOf(t testing.TB, access string) string {
	t.Helper()
	var claims struct{ SID string }
	payload := testenv.Must(base64.RawURLEncoding.DecodeString(strings.Split(access, ".")[1]))(t)
	testenv.NoError(t, json.Unmarshal(payload, &claims))
	return claims.SID
}

func TestEndingsReachConsumers(t *testing.T) {
	t.Parallel()
	c := start(t, 3, env{"SESSIONS_PER_USER": "3", "REFRESH_REUSE_GRACE": "0s", "REFRESH_TOKEN_ROTATION": "always"})
	w := c.consumer()
	for _, name := range slices.Sorted(maps.Keys(endings)) {
		ending := endings[name]
		u := c.nodes[0].newUser()
		other := c.nodes[1].signIn(u)
		own, others := sidOf(t, u.access), sidOf(t, other.access)
		want(t, http.StatusNoContent, ending.end(c.nodes[1], u, u.tokens), name)
		var ended []string
		if !ending.ownStays {
			ended = append(ended, own)
		}
		if !ending.otherStay {
			ended = append(ended, others)
		}
		w.learns(name, ended...)
	}

	n := c.nodes[2]
	u := n.newUser()
	first := sidOf(t, u.access)
	c.clock.Advance(2 * time.Second) // sessions of the same second end in any order
	n.signIn(u)
	last := n.signIn(u)
	fourth := n.signIn(u)
	w.learns("more sessions than a user may have", first)
	renewed := tokensOf(want(t, http.StatusOK, n.renew(last.refresh)))
	want(t, http.StatusUnauthorized, c.nodes[0].renew(last.refresh), "a stolen token")
	w.learns("theft", sidOf(t, renewed.access))
	postgrestest.Exec(t, c.db, `DELETE FROM sessions WHERE id = $1`, sidOf(t, fourth.access))
	w.learns("an administrator's deletion", sidOf(t, fourth.access))
	before := len(w.seen)
	postgrestest.Exec(t, c.db, `UPDATE users SET suspended_at = now() WHERE id = $1`, u.id)
	w.follow(1)
	w.follow(1)
	if got := len(w.seen) - before; got != 1 {
		t.Errorf("%d sessions ended with a suspension; want 1", got)
	}
	before = len(w.seen)
	n.newUser()
	if found := w.follow(1); len(found) > 0 || len(w.seen) != before {
		t.Errorf("a sign-up ended %v", found)
	}

	// A new consumer, and one whose cursor means nothing here, get all.
	fresh := c.consumer()
	if !maps.Equal(fresh.seen, w.seen) {
		t.Errorf("a new consumer knows %d endings; want %d", len(fresh.seen), len(w.seen))
	}
	stranger := &consumer{cluster: c, seen: map[string]string{}, after: "AQIDBAUGBwgJCgs"}
	stranger.follow(0)
	if !maps.Equal(stranger.seen, w.seen) {
		t.Errorf("a consumer with an unknown cursor knows %d endings; want %d", len(stranger.seen), len(w.seen))
	}
}

func TestEndingsOfRevokedKeysReachConsumers(t *testing.T) {
	t.Parallel()
	c := start(t, 2)
	w := c.consumer()
	access := kids(t, c.nodes[0]).access
	if got := c.call([]string{"keys", "revoke", access[0]}); got.code != 0 {
		t.Fatalf("revoke: %+v", got)
	}
	w.learns("a revocation", access[0])
	if w.seen[access[0]] != "kid" {
		t.Errorf("it is of kind %q", w.seen[access[0]])
	}
}

func TestFeedRefusesInvalidParameters(t *testing.T) {
	t.Parallel()
	const key = "the key of the trusted caller"
	c := start(t, 1, env{"TRUSTED_CALLER_KEY": key, "STRICT_PARAMETERS": "on"})
	n := c.nodes[0]
	trusted := http.Header{"X-Caller-Key": {key}}
	for query, fields := range map[string]string{
		"":                                   "",
		"wait=0":                             "",
		"wait=26":                            `"wait":"malformed"`,
		"wait=-1":                            `"wait":"malformed"`,
		"wait=1.5":                           `"wait":"malformed"`,
		"wait=1s&after=%20":                  `"wait":"malformed"`,
		"after=!":                            `"after":"malformed"`,
		"after=" + strings.Repeat("A", 8193): `"after":"malformed"`,
		"after=A&after=B":                    `"after":"conflicting"`,
		"cursor=1":                           `"cursor":"unrecognized"`,
	} {
		reply := n.try(http.MethodGet, "/sessions/ended?"+query, trusted, nil)
		if status := http.StatusOK; fields == "" {
			want(t, status, reply, query)
		} else if want(t, http.StatusBadRequest, reply, query); !strings.Contains(string(reply.Body), fields) {
			t.Errorf("%s: got %v; want %s", query, reply, fields)
		}
	}
	want(t, http.StatusForbidden, n.try(http.MethodGet, "/sessions/ended", nil, nil), "without the key")
	want(t, http.StatusMethodNotAllowed, n.try(http.MethodPost, "/sessions/ended", trusted, nil))
}

// A consumer must not wait while a server is shut down, nor hold a connection to the database.
func TestFeedEndsItsWaitsAtShutdown(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"DB_MAX_CONNS": "2", "SHUTDOWN_TIMEOUT": "20s"})
	n := c.nodes[0]
	after := want(t, http.StatusOK, n.try(http.MethodGet, "/sessions/ended", nil, nil)).Text("next")
	replies := make(chan *testenv.Reply, 20)
	for range cap(replies) {
		go func() { replies <- n.try(http.MethodGet, "/sessions/ended?wait=25&after="+after, nil, nil) }()
	}
	testenv.Until(t, 10*time.Second, "all wait", func() bool {
		_, metrics := n.Probe("/metrics")
		return strings.Contains(metrics, "\nhttp_endings_waiting 20\n")
	})
	n.newUser()
	began := time.Now()
	n.Cancel()
	for range cap(replies) {
		r := <-replies
		want(t, http.StatusOK, r, "at the shutdown")
		if r.Text("next") == "" {
			t.Errorf("got %v", r)
		}
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the server ended after %v", took)
	}
}
