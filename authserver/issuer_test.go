package authserver_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// Two replicas that each make an issuer of their own host and port would refuse each
// other's tokens, and nothing would say so.
func TestTheDatabaseRemembersTheIssuer(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgrestest.Config(t))
	first := c.add(env{"ISSUER": unset, "PORT": "8080"})
	first.waitReady()
	u := first.newUser()

	second := c.add(env{"ISSUER": unset, "PORT": "8081"})
	select {
	case <-second.done:
	case <-time.After(time.Minute):
		t.Fatal("it runs")
	}
	err := second.result()
	if err == nil || !strings.Contains(err.Error(), "belongs to http://127.0.0.1:8080") || !strings.Contains(err.Error(), "set ISSUER=http://127.0.0.1:8080") {
		t.Errorf("another port: %v", err)
	}
	c.nodes = c.nodes[:1]

	// A person who sets it means it. Those who run with the former one say so.
	changed := c.add(env{"ISSUER": "https://auth.example.com"})
	changed.waitReady()
	if !c.logs.Contains("ISSUER was changed") {
		t.Error("the log does not say that it was changed")
	}
	first.problem("with the former issuer", "another replica of this database was started with https://auth.example.com")
	want(t, http.StatusUnauthorized, changed.profile(u.access), "a token of the former issuer")
	changed.waitForDatabase()

	again := c.add(env{"ISSUER": "https://auth.example.com"})
	again.waitReady()
	again.waitForDatabase()
}

func TestTheLongestSettingsMakeTokens(t *testing.T) {
	t.Parallel()
	host := "https://auth.example.com/"
	scopes := "profile " + strings.Repeat("s", 992)
	for _, algorithm := range []string{"ES256", "RS256", "EdDSA"} {
		c := newCluster(t, postgrestest.Config(t))
		n := c.add(env{
			"ISSUER": host + strings.Repeat("i", 1024-len(host)), "AUDIENCE": strings.Repeat("a", 1498) + ",b",
			"CLIENT_ID": strings.Repeat(`"`, 255), "SIGNUP_SCOPES": scopes, "SIGNING_ALGORITHM": algorithm,
		})
		n.waitReady()
		const password = "the password of a user"
		username := strings.Repeat("u", 64)
		reply := want(t, http.StatusCreated, n.post("/users", body{
			"username": username, "email": strings.Repeat("e", 64) + "@" + strings.Repeat("d", 60) + "." + strings.Repeat("d", 60) + "." + strings.Repeat("d", 60) + ".com",
			"first_name": strings.Repeat("\U0001D4B6", 100), "last_name": strings.Repeat("\U0001D4B6", 100), "password": password,
		}), algorithm)
		want(t, http.StatusOK, n.post("/users/verify-user", body{"code": reply.Text("code")}), algorithm)
		r := want(t, http.StatusOK, n.trySignIn(username, password), algorithm)
		t.Logf("%s: an access token of %d bytes", algorithm, len(r.Text("access_token")))
		want(t, http.StatusOK, n.profile(r.Text("access_token")), algorithm)
		want(t, http.StatusOK, n.renew(r.Text("refresh_token")), algorithm)
		c.stop()
	}
}
