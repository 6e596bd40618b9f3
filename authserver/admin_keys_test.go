package authserver_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/keys"
)

// ring is a reply of /admin/keys.
type ring struct {
	Generation int64
	Items      []struct{ Kid, Use, Phase, Next string }
	Instead    string
	Changed    bool
}

func ringOf(t testing.TB, r *testenv.Reply) (out ring) {
	t.Helper()
	want(t, http.StatusOK, r).JSON(t, &out)
	return out
}

// in returns the kids of a use in a phase.
func (r ring) in(use, phase string) (kids []string) {
	for _, k := range r.Items {
		if k.Use == use && k.Phase == phase {
			kids = append(kids, k.Kid)
		}
	}
	return kids
}

// administratedKeys starts replicas with administrators.
func administratedKeys(t *testing.T, replicas int, changes ...env) (c *cluster, as []adminRequest) {
	t.Helper()
	file, keys := administrators(t, rightsOf)
	c = start(t, replicas, append([]env{{"ADMIN_PORT": "3", "ADMIN_KEYS": file}}, changes...)...)
	for _, n := range c.nodes {
		as = append(as, asAdmin(t, n.Admin, keys))
	}
	return c, as
}

// Two administrators who rotate at two replicas at once start one rotation. A key that is revoked stops at every replica,
// and both are in the trail once, with who did it and why.
func TestAdminRotatesAndRevokesKeys(t *testing.T) {
	t.Parallel()
	c, as := administratedKeys(t, 2)
	u := c.nodes[0].newUser()
	before := ringOf(t, as[0]("viewer", "GET", "/admin/keys", nil))
	if len(before.in("access", "Signing")) != 1 || len(before.in("refresh", "Signing")) != 1 || before.Instead != "" ||
		before.Items[0].Next != "rotates" {
		t.Fatalf("the ring is %+v", before)
	}
	started, published := 0, map[string]string{}
	for _, r := range atOnce(2, func(i int) *testenv.Reply {
		return as[i]("keeper", "POST", "/admin/keys/rotate", body{"reason": "a copy was seen"})
	}) {
		after := ringOf(t, r)
		if after.Changed {
			started++
		}
		for _, use := range []string{"access", "refresh"} {
			if len(after.in(use, "Published")) != 1 || !slices.Equal(after.in(use, "Signing"), before.in(use, "Signing")) {
				t.Fatalf("after the rotation began: %+v", after)
			}
			published[use] = after.in(use, "Published")[0]
		}
	}
	if started != 1 {
		t.Errorf("%d requests started a rotation", started)
	}
	c.alive("a rotation begins", u.access)
	if ringOf(t, as[1]("keeper", "POST", "/admin/keys/rotate", nil)).Changed {
		t.Error("a second rotation began")
	}

	stolen := before.in("access", "Signing")[0]
	revoked := ringOf(t, as[1]("keeper", "POST", "/admin/keys/"+stolen+"/revoke", body{"reason": "stolen"}))
	if !revoked.Changed || !slices.Equal(revoked.in("access", "Revoked"), []string{stolen}) || len(revoked.in("access", "Signing")) != 1 {
		t.Errorf("after it was revoked: %+v", revoked)
	}
	if ended := column(t, c.db, "SELECT id FROM endings WHERE kind = 'kid'"); !slices.Equal(ended, []string{stolen}) {
		t.Errorf("the feed of endings has %q", ended)
	}
	want(t, http.StatusUnauthorized, c.nodes[1].profile(u.access), "at the replica that revoked its key")
	testenv.Until(t, time.Minute, "the key is dead at the other replica", func() bool {
		return c.nodes[0].profile(u.access).Status == http.StatusUnauthorized
	})
	c.alive("a sign-in after that", c.nodes[0].signIn(u).access)
	again := ringOf(t, as[0]("keeper", "POST", "/admin/keys/"+stolen+"/revoke", body{"reason": "again"}))
	if again.Changed || again.Generation != revoked.Generation {
		t.Errorf("revoked twice: %+v", again)
	}
	if r := want(t, 404, as[0]("keeper", "POST", "/admin/keys/unknown/revoke", nil)); r.Text("reason") != "key_not_found" {
		t.Errorf("got %v", r)
	}

	events := column(t, c.db, `SELECT concat_ws(' ', event, details->>'actor', details->>'reason', details->>'kind', details->>'kid')
		FROM audit_events WHERE details ? 'actor' AND request_id IS NOT NULL AND address IS NOT NULL ORDER BY id`)
	if wanted := []string{
		"key rotation started by an administrator key:keeper a copy was seen access " + published["access"],
		"key rotation started by an administrator key:keeper a copy was seen refresh " + published["refresh"],
		"key revoked by an administrator key:keeper stolen access " + stolen,
	}; !slices.Equal(events, wanted) {
		t.Errorf("the trail is %q, want %q", events, wanted)
	}
	if r := as[0]("viewer", "GET", "/admin/events?actor=key:keeper", nil); strings.Count(string(r.Body), `"actor"`) != 3 {
		t.Errorf("the events of the keeper are %v", r)
	}
	if _, text := c.nodes[1].Probe("/metrics"); !strings.Contains(text,
		`http_admin_requests_total{method="POST",route="/admin/keys/{kid}/revoke",status="200"} 1`) {
		t.Error("the request is not counted")
	}
}

// A replica that changes the keys makes others wait, and then they say so. Nothing is lost.
func TestAdminKeysWaitForTheReplicaThatChangesThem(t *testing.T) {
	t.Parallel()
	c, as := administratedKeys(t, 1)
	store := testenv.Must(postgres.Open(c.db))(t)
	defer store.Close()
	testenv.Until(t, time.Minute, "the server, which looks at the ring now and then, does not hold the lock", func() bool {
		return testenv.Must(store.TryRotationLock(t.Context(), func(context.Context) error {
			r := want(t, 503, as[0]("keeper", "POST", "/admin/keys/rotate", nil))
			if r.Text("reason") != "keys_busy" || r.Header.Get("Retry-After") == "" {
				t.Errorf("got %v", r)
			}
			return nil
		}))(t)
	})
	if !ringOf(t, as[0]("keeper", "POST", "/admin/keys/rotate", nil)).Changed {
		t.Error("no rotation began after that")
	}
}

// A server that does not change the keys shows them, and its reply to a change says how to make it.
func TestAdminKeysAreChangedWhereTheyAreKept(t *testing.T) {
	t.Parallel()
	c := start(t, 1) // creates the ring, in the database
	file, admins := administrators(t, rightsOf)
	r := prepareRotation(t)
	dir, published := t.TempDir(), filepath.Join(t.TempDir(), keys.PublicDocumentFile)
	writeRing(t, dir, r.files(r.published))
	testenv.NoError(t, os.WriteFile(published, keys.PublicFiles(r.published, issuer)[keys.PublicDocumentFile], 0o600))
	settings := env{"ADMIN_PORT": "3", "ADMIN_KEYS": file}
	serving := c.addReady(1, settings, env{"KEYS_DIR": dir})
	separate := func(changes env) string {
		all := gatewaytest.Environ(c.db, settings, env{"ACCESS_PASSPHRASE": unset, "REFRESH_PASSPHRASE": unset}, changes)
		server := testenv.Must(gatewaytest.Start(t, testenv.Must(config.LoadAdmin(all.Lookup, os.ReadFile))(t),
			authserver.Options{Log: c.logs.logger(), Version: "test", Now: c.clock.Now}))(t)
		t.Cleanup(func() { testenv.NoError(t, server.End()) })
		testenv.Until(t, time.Minute, "it is ready", func() bool { status, _ := server.Probe("/readyz"); return status == 200 })
		return server.Admin
	}
	for name, tc := range map[string]struct {
		url       string
		instead   string
		published int // access keys
	}{
		"a server with a directory":             {serving.Admin, "another program writes the keys", 1},
		"a separate process, with the database": {separate(nil), "authserver keys rotate", 0},
		"a separate process, with a directory":  {separate(env{"KEYS_DIR": dir}), "another program writes the keys", 1},
		"a separate process, with what is published": {
			separate(env{"KEYS_PUBLISHED": published, "KEYS_DIR": "/nowhere"}), "another program writes the keys", 1,
		},
		"a separate process, before anything is published": {separate(env{"KEYS_PUBLISHED": published + "x"}), "another program writes the keys", -1},
	} {
		as := asAdmin(t, tc.url, admins)
		shown := ringOf(t, as("viewer", "GET", "/admin/keys", nil))
		if tc.published < 0 {
			if shown.Generation != 0 || len(shown.Items) > 0 {
				t.Errorf("%s: %+v", name, shown)
			}
		} else if len(shown.in("access", "Published")) != tc.published || len(shown.in("access", "Signing")) != 1 {
			t.Errorf("%s: %+v", name, shown)
		}
		if !strings.Contains(shown.Instead, tc.instead) {
			t.Errorf("%s: the list says %q", name, shown.Instead)
		}
		generation := c.generation()
		for _, path := range []string{"/admin/keys/rotate", "/admin/keys/" + r.former[keys.Access] + "/revoke"} {
			reply := want(t, 409, as("keeper", "POST", path, nil), name)
			if reply.Text("reason") != "keys_elsewhere" || !strings.Contains(reply.Text("error_description"), tc.instead) {
				t.Errorf("%s, %s: %v", name, path, reply)
			}
			want(t, 403, as("editor", "POST", path, nil), name)
		}
		if after := c.generation(); after != generation {
			t.Errorf("%s: the ring in the database went from %s to %s", name, generation, after)
		}
	}
}
