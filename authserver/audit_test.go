package authserver_test

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

func TestAuditTrailOutlivesTheAccount(t *testing.T) {
	t.Parallel()
	c := start(t, 2, always)
	n := c.nodes[0]
	u := n.newUser()
	stolen := n.signIn(u)
	want(t, http.StatusUnauthorized, n.trySignIn(u.username, "a wrong guess at it"))
	want(t, http.StatusUnauthorized, n.trySignIn("unknown.user", "a wrong guess at it"))
	want(t, http.StatusOK, n.renew(stolen.refresh))
	c.clock.Advance(2 * time.Minute)
	want(t, http.StatusUnauthorized, c.nodes[1].renew(stolen.refresh), "after its grace")
	want(t, http.StatusNoContent, n.deleteUser(u.access))

	got := column(t, c.db, "SELECT event FROM audit_events WHERE user_id = $1 ORDER BY id", u.id)
	wanted := []string{
		"signed up", "email verified", "signed in", "password refused",
		"refresh token reused: session ended", "account deleted",
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("the trail is %q; want %q", got, wanted)
	}
	if unknown := column(t, c.db,
		"SELECT details::text FROM audit_events WHERE user_id IS NULL AND event = 'password refused'"); len(unknown) != 1 {
		t.Errorf("events of an unknown login: %q", unknown)
	}
	if anonymous := column(t, c.db, "SELECT event FROM audit_events WHERE request_id IS NULL AND event <> 'keys changed'"); anonymous != nil {
		t.Errorf("events without a request: %q", anonymous)
	}
	for _, event := range wanted {
		if !c.logs.Contains(`"msg":"` + event + `"`) {
			t.Errorf("the log does not have %q", event)
		}
	}
}

func TestAuditTrailIsOnlyLoggedWithoutARetention(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"AUDIT_RETENTION": "0"})
	c.nodes[0].newUser()
	if got := column(t, c.db, "SELECT event FROM audit_events WHERE event <> 'keys changed'"); got != nil {
		t.Errorf("the table has %q", got)
	}
	if !c.logs.Contains(`"msg":"signed up"`) {
		t.Error("the log does not have the event")
	}
}
