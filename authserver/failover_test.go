package authserver_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestAServerGoesOnAfterAFailover(t *testing.T) {
	t.Parallel()
	primary, db := ownDatabase(t)
	standby, err := primary.Standby(t.Context())
	if errors.Is(err, localpostgres.ErrNoBaseBackup) {
		t.Skip("there is no pg_basebackup on this machine; Debian has it in postgresql-client")
	}
	testenv.NoError(t, err)
	t.Cleanup(func() {
		if err := standby.Stop(); err != nil {
			t.Error(err)
		}
	})
	c := newCluster(t, db)
	hosts := env{"DB_HOST": "127.0.0.1,localhost", "DB_PORT": fmt.Sprintf("%d,%d", primary.Port(), standby.Port())}
	n := c.add(hosts)
	n.waitReady()
	u := n.newUser()
	copied := db
	copied.Port = standby.Port()
	testenv.Until(t, time.Minute, "the standby has followed", func() bool {
		return len(column(t, copied, `SELECT id::text FROM sessions`)) == len(column(t, db, `SELECT id::text FROM sessions`))
	})
	testenv.NoError(t, primary.StopNow())
	n.problem("on a standby", "is a standby, which takes no writes", db.Password)
	want(t, http.StatusOK, n.try(http.MethodGet, "/tokens/keys", nil, nil), "during a failover")
	want(t, http.StatusServiceUnavailable, n.trySignIn(u.username, u.password), "on a standby")
	late := c.add(hosts)
	late.unready("that starts with only a standby", "is a standby, which takes no writes", db.Password)

	testenv.NoError(t, standby.Promote(t.Context()))
	begun := time.Now()
	testenv.Until(t, 10*time.Second, "people sign in again", func() bool {
		return n.trySignIn(u.username, u.password).Status == http.StatusOK
	})
	t.Logf("sign-ins %v after there was a primary", time.Since(begun).Round(time.Millisecond))
	n.newUser()
	want(t, http.StatusOK, n.profile(u.access), "a session from before")
	n.waitForDatabase()
	late.waitReady()
}

func TestAServerRunsBehindAPooler(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			db := postgrestest.Unmigrated(t)
			c := newCluster(t, postgrestest.Behind(t, db, mode, "default_pool_size = 30"))
			for range 2 {
				c.add(env{"DB_MAX_CONNS": "5"})
			}
			for _, n := range c.nodes {
				n.waitReady()
			}
			c.alive("behind a pooler", c.nodes[0].newUser().access)
		})
	}
}
