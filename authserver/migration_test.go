package authserver_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// Accounts whose hashes could not be had sign in with the passwords of the system that they come from. The logs have no
// password: the harness looks for all that were sent.
func TestPasswordOfAnotherSystemIsTakenOver(t *testing.T) {
	t.Parallel()
	const secret, known = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "known in the other system"
	judge := testenv.Must(standardwebhooks.NewWebhook(secret))(t)
	var asked atomic.Int64
	var away atomic.Bool
	former := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body, _ := io.ReadAll(r.Body)
		if away.Load() || judge.Verify(body, r.Header) != nil {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write(body) // a service must not do that, but the log must not have it then either
			return
		}
		var q struct{ Data struct{ Password string } }
		_ = json.Unmarshal(body, &q)
		_ = json.NewEncoder(w).Encode(map[string]bool{"correct": q.Data.Password == known})
	}))
	t.Cleanup(former.Close)
	c := start(t, 2, env{"PASSWORD_MIGRATION_URL": former.URL + "/open-sesame", "PASSWORD_MIGRATION_SECRET": secret})
	c.logs.secrets(body{"token": secret, "name": "/open-sesame"})
	n := c.nodes[0]
	marked, second, own := n.newUser(), n.newUser(), n.newUser()
	want(t, http.StatusUnauthorized, n.trySignIn("unknown.user", "a wrong password"))
	if asked.Load() != 0 {
		t.Error("it is asked although no account waits for its password")
	}
	postgrestest.Exec(t, c.db, "UPDATE users SET password_hash = '$migrate$$' WHERE username = ANY($1)",
		[]string{marked.username, second.username})
	refused := want(t, http.StatusUnauthorized, n.trySignIn(marked.username, marked.password), "the password that it had here")
	unknown := want(t, http.StatusUnauthorized, n.trySignIn("unknown.user", known))
	if asked.Load() != 2 || string(refused.Body) != string(unknown.Body) {
		t.Errorf("it was asked %d times; the replies are %v and %v", asked.Load(), refused, unknown)
	}

	away.Store(true)
	for login, password := range map[string]string{marked.username: known, "unknown.user": known, own.username: "a wrong password"} {
		r := want(t, http.StatusServiceUnavailable, n.trySignIn(login, password), login)
		if r.Header.Get("Retry-After") != "5" || r.Text("reason") != "overloaded" {
			t.Errorf("%s: %v %v", login, r, r.Header)
		}
	}
	n.signIn(own)
	away.Store(false)

	replies := atOnce(6, func(i int) *testenv.Reply { return c.any(i).trySignIn(marked.email, known) })
	if got := statuses(replies); got[http.StatusOK] != len(replies) {
		t.Errorf("sign-ins at the same time: %v", got)
	}
	was := asked.Load()
	n.signIn(user{username: marked.username, password: known})
	if asked.Load() != was {
		t.Error("it is asked again after it has said yes")
	}
	hashes := column(t, c.db, "SELECT password_hash FROM users WHERE username = $1", marked.username)
	if !strings.HasPrefix(hashes[0], "$2a$04$") {
		t.Errorf("the stored hash is of the kind %.7s", hashes[0])
	}
	if text := n.metrics(); !strings.Contains(text, `authgateway_password_migrations_total{outcome="unavailable"} 3`) ||
		!strings.Contains(text, `authgateway_password_migrations_total{outcome="refused"} 2`) {
		t.Errorf("the metrics are %s", text)
	}
	// A person whose password is in the other system can set one here instead.
	want(t, http.StatusNoContent, n.resetPassword(n.recoveryCode(second), "chosen in this system"))
	want(t, http.StatusUnauthorized, n.trySignIn(second.username, known))
	n.signIn(user{username: second.username, password: "chosen in this system"})
}
