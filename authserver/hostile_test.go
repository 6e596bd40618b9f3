package authserver_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
)

func TestHostileValuesInEveryParameterAreAnsweredInShape(t *testing.T) {
	t.Parallel()
	c, n := single(t)
	u := n.newUser()
	revoked := n.signIn(u) // POST /tokens/revoke ends this session
	apitest.Hostile(t, n.Client, map[string]string{
		"username": "somebody.else", "email": "somebody.else@mailbox.example.org", "first_name": "First", "last_name": "Last",
		"password": "some password of theirs", "old_password": "some other password", "scope": "profile email",
		"code": strings.Repeat("A", 43), "id": "00000000-0000-4000-8000-000000000000", "refresh_token": "a.b.c",
		"grant_type": "refresh_token", "token": revoked.access, "access_token": u.access,
	})
	want(t, http.StatusOK, n.profile(u.access), "the user has not changed")
	names := column(t, c.db, "SELECT canonical_username FROM users")
	if slices.ContainsFunc(names, func(name string) bool { return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" }) {
		t.Errorf("stored usernames: %q", names)
	}
}
