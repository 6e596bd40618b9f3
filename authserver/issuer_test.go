package authserver_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// Two replicas that derive different issuers from their host and port would silently refuse each other's tokens.
func TestIssuerIsRememberedByTheDatabase(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgrestest.Config(t))
	first := c.addReady(1, env{"ISSUER": unset, "PORT": "8080"})
	u := first.newUser()

	second := c.add(env{"ISSUER": unset, "PORT": "8081"})
	err := second.Result()
	if err == nil || !strings.Contains(err.Error(), "belongs to http://127.0.0.1:8080") || !strings.Contains(err.Error(), "set ISSUER=http://127.0.0.1:8080") {
		t.Errorf("another port: %v", err)
	}
	c.nodes = c.nodes[:1]

	// An issuer that is set replaces the former one. Replicas with the former one report it.
	changed := c.addReady(1, env{"ISSUER": "https://auth.example.com"})
	if !c.logs.Contains("ISSUER was changed") {
		t.Error("the log does not say that it was changed")
	}
	first.problem("with the former issuer", "another replica of this database was started with https://auth.example.com")
	want(t, http.StatusUnauthorized, changed.profile(u.access), "a token of the former issuer")
	changed.waitForDatabase()

	again := c.addReady(1, env{"ISSUER": "https://auth.example.com"})
	again.waitForDatabase()
}

func TestTokensWithTheLongestSettingsFit(t *testing.T) {
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
		want(t, http.StatusOK, n.verify(reply.Text("code")), algorithm)
		r := want(t, http.StatusOK, n.trySignIn(username, password), algorithm)
		t.Logf("%s: an access token of %d bytes", algorithm, len(r.Text("access_token")))
		want(t, http.StatusOK, n.profile(r.Text("access_token")), algorithm)
		want(t, http.StatusOK, n.renew(r.Text("refresh_token")), algorithm)
		c.stop()
	}
}
