package postgres_test

import (
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// User names and passwords may contain any character, and reach PostgreSQL unchanged.
func TestSettingsMayContainAnyCharacter(t *testing.T) {
	t.Parallel()
	const password = `it's a "\' host=evil.example %00 ?&=@/`
	admin := postgrestest.Config(t)
	postgrestest.Exec(t, admin, `CREATE ROLE "odd 'user\" LOGIN SUPERUSER PASSWORD 'it''s a "\'' host=evil.example %00 ?&=@/'`)
	t.Cleanup(func() { postgrestest.Exec(t, admin, `DROP ROLE "odd 'user\"`) })
	c := admin
	c.SSLMode = "" // the default, prefer, also works with a server without TLS
	c.User, c.Password = `odd 'user\`, password
	if err := postgrestest.Open(t, c).Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestErrorsDoNotContainThePassword(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	const wrong = "the-wrong-password"
	c.Password = wrong
	err := postgrestest.Open(t, c).Ready(t.Context())
	if identity.KindOf(err) != identity.Unavailable || strings.Contains(err.Error(), wrong) {
		t.Errorf("the error is %v", err)
	}
	if !strings.Contains(err.Error(), "password authentication failed") {
		t.Errorf("the error does not name the cause: %v", err)
	}
	for _, broken := range []func(*postgres.Config){
		func(c *postgres.Config) { c.SSLMode = "sometimes" },
		func(c *postgres.Config) { c.SSLMode, c.SSLRootCert = "verify-full", "/nowhere/ca.pem" },
		func(c *postgres.Config) { c.Port = -1 },
	} {
		c := c
		broken(&c)
		if _, err := postgres.Open(c); err == nil || strings.Contains(err.Error(), wrong) {
			t.Errorf("the error is %v", err)
		} else {
			t.Log(err)
		}
	}
}

func TestConnectionsHaveTheirLimits(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c)
	testenv.NoError(t, store.Ready(t.Context()))
	settings := store.Settings(t.Context(), "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "application_name")
	if want := "5s 2500ms 7s authserver"; strings.Join(settings, " ") != want {
		t.Errorf("the settings are %q; want %q", settings, want)
	}
}

func TestErrorOfTheSettingsNamesVariablesOfLibpq(t *testing.T) {
	t.Setenv("PGSERVICE", "a-name-that-is-not-said")
	t.Setenv("PGSERVICEFILE", t.TempDir()+"/none")
	t.Setenv("PGHOST", "localhost")
	_, err := postgres.Open(postgres.Config{Host: "localhost", Port: 5432, User: "u", Database: "d"})
	if err == nil || !strings.Contains(err.Error(), "also reads PGSERVICE, PGSERVICEFILE from the environment") ||
		strings.Contains(err.Error(), "not-said") {
		t.Errorf("%v", err)
	}
}
