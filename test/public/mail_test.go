package public

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// An attacker with a thousand addresses requests mail to one mailbox on every route. The mailbox gets as many mails as
// LIMIT_MAILS allows, and replies for a mailbox over the limit look like any other.
func TestMailboxIsNotFlooded(t *testing.T) {
	const addresses, limit = 1000, 3
	g := start(t, map[string]string{"TRUSTED_PROXY_HOPS": "1", "LIMIT_MAILS": fmt.Sprint(limit, "/1h")})
	g.populate(2)
	routes := []struct {
		path string
		ask  ask
	}{{"/users/forgot-password", byAddress}, {"/users/verification-code", byAddress}, {"/users", signUp}}
	var first reply
	for _, victim := range []string{verified, unverified, nobody} {
		for i := range addresses {
			route := routes[i%len(routes)]
			r := g.post(route.path, from(fmt.Sprintf("203.0.%d.%d", 100+i/250, i%250)), route.ask(victim, 0))
			if i == 0 && victim == verified {
				first = r
			}
			if r.status != http.StatusAccepted || r.body != first.body {
				t.Fatalf("%s is answered with %d %s", route.path, r.status, r.body)
			}
		}
	}
	g.drained()
	for _, victim := range []string{verified, unverified, nobody} {
		got := len(g.mail.of(address(victim, 0)))
		t.Logf("%s: %d mails for %d requests", victim, got, addresses)
		// LIMIT_MAILS applies to each of two kinds: recovery codes, and verification codes or notices of a sign-up.
		if got > 2*limit {
			t.Errorf("%s was sent %d mails of two kinds, and the limit of each is %d", victim, got, limit)
		}
	}
	if got := len(g.mail.of(address(verified, 0))); got == 0 {
		t.Error("the mailbox gets no mail at all")
	}
	t.Logf("%d mails in all, %d rows of limits", g.mail.all(), g.number("SELECT count(*) FROM limits"))
}

// A client over the limit gets a Retry-After; other clients are served.
func TestClientAddressIsLimited(t *testing.T) {
	const limit = 30
	g := start(t, map[string]string{"TRUSTED_PROXY_HOPS": "1"})
	for path, ask := range map[string]ask{"/tokens/signin": signIn, "/users/forgot-password": byAddress, "/users": signUp} {
		taken := 0
		for i := range 3 * limit {
			r := g.post(path, from("203.0.113.7"), ask(nobody, i))
			switch {
			case r.status != http.StatusTooManyRequests:
				taken++
			case r.header.Get("Retry-After") == "" || r.header.Get("RateLimit") == "" || r.header.Get("RateLimit-Policy") == "":
				t.Fatalf("%s: a header is missing: %v", path, r.header)
			}
		}
		// The limit allows one more request every ten seconds.
		if taken < limit || taken > limit+3 {
			t.Errorf("%s: %d requests from one address were accepted, and the limit is %d", path, taken, limit)
		}
		if r := g.post(path, from("203.0.113.8"), ask(nobody, 0)); r.status == http.StatusTooManyRequests {
			t.Errorf("%s: another address is rejected too", path)
		}
		// Addresses to the left of the one that the proxy added are the client's own claims, and are ignored.
		if r := g.post(path, from("198.51.100.9, 203.0.113.7"), ask(nobody, 0)); r.status != http.StatusTooManyRequests {
			t.Errorf("%s: a client that invents an address is not limited: %d", path, r.status)
		}
	}
}

// drained waits until no mail waits to be sent.
func (g *gateway) drained() {
	g.t.Helper()
	testenv.Until(g.t, 3*time.Minute, "no mail waits to be sent", func() bool { return g.number("SELECT count(*) FROM mails") == 0 })
}
