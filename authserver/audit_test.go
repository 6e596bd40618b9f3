package authserver_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
)

func TestTheTrailOfAnAccountOutlivesIt(t *testing.T) {
	t.Parallel()
	c := start(t, 2, always)
	n := c.nodes[0]
	u := n.newUser()
	stolen := n.signIn(u)
	want(t, http.StatusUnauthorized, n.trySignIn(u.username, "a wrong guess at it"))
	want(t, http.StatusUnauthorized, n.trySignIn("nobody.at.all", "a wrong guess at it"))
	want(t, http.StatusOK, n.renew(stolen.refresh))
	c.clock.Advance(2 * time.Minute)
	want(t, http.StatusUnauthorized, c.nodes[1].renew(stolen.refresh), "after its grace")
	want(t, http.StatusNoContent, n.try(http.MethodDelete, "/users", apitest.Bearer(u.access), nil))

	got := column(t, c.db, "SELECT event FROM audit_events WHERE user_id = $1 ORDER BY id", u.id)
	wanted := []string{
		"signed up", "email verified", "signed in", "password refused",
		"refresh token reused: session ended", "account deleted",
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("the trail is %q; want %q", got, wanted)
	}
	if nobodys := column(t, c.db,
		"SELECT details::text FROM audit_events WHERE user_id IS NULL AND event = 'password refused'"); len(nobodys) != 1 {
		t.Errorf("of a login that no account has, there is %q", nobodys)
	}
	if anonymous := column(t, c.db, "SELECT event FROM audit_events WHERE request_id IS NULL AND event <> 'keys changed'"); anonymous != nil {
		t.Errorf("no request is named in %q", anonymous)
	}
	for _, event := range wanted {
		if !c.logs.Contains(`"msg":"` + event + `"`) {
			t.Errorf("the log does not have %q", event)
		}
	}
}

func TestWithoutARetentionTheTableStaysEmptyAndTheLogHasTheTrail(t *testing.T) {
	t.Parallel()
	c := start(t, 1, env{"AUDIT_RETENTION": "0"})
	c.nodes[0].newUser()
	if got := column(t, c.db, "SELECT event FROM audit_events WHERE event <> 'keys changed'"); got != nil {
		t.Errorf("the table has %q", got)
	}
	if !c.logs.Contains(`"msg":"signed up"`) {
		t.Error("the log does not have it")
	}
}
