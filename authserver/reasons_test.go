package authserver_test

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// givenElsewhere are the reasons of an overloaded or slow machine, with the tests that cause them.
var givenElsewhere = map[string]string{
	"request_timeout":              "httpapi: TestSlowClientGets408AndIsClosed",
	"took_too_long":                "httpapi: TestRequestThatTakesTooLongGets503",
	"too_many_unfinished_requests": "httpapi: TestEvictionOfUnfinishedRequests",
	"too_many_waiting":             "httpapi: TestEndingsBoundWaitingConsumers",
	"endings_not_loaded":           "endings: TestNextWaits",
	"overloaded":                   "identity: hasher_test.go",
	"caller_key_not_set":           "httpapi: TestEndingsOfAPublicGatewayNeedAKey",
	"admin_credential_invalid":     "TestAdministratorsMayDoExactlyWhatTheirKeysSay",
	"right_missing":                "TestAdministratorsMayDoExactlyWhatTheirKeysSay",
	"right_undecided":              "httpapi: TestAdminRightsThatAreUndecidedMeanNo",
	"account_changed":              "TestAnAdministratorSuspendsAndSignsOut",
	"keys_elsewhere":               "TestAdminKeysAreChangedWhereTheyAreKept",
	"key_not_found":                "TestAdminRotatesAndRevokesKeys",
	"keys_busy":                    "TestAdminKeysWaitForTheReplicaThatChangesThem",
}

// TestReasonsAreAllReturned causes each reason of docs/reference/errors.md.
func TestReasonsAreAllReturned(t *testing.T) {
	t.Parallel()
	given := map[string]bool{}
	gives := func(reason string, r *testenv.Reply) {
		t.Helper()
		if given[reason] = true; r.Text("reason") != reason {
			t.Errorf("want %s, got %v", reason, r)
		}
	}
	c, n := single(t, env{"STRICT_PARAMETERS": "on"})
	u, other := n.newUser(), newPerson()
	signUp := func(changes body) *testenv.Reply { return n.post("/users", other.signUpBody(changes)) }
	send := func(header http.Header, b any) *testenv.Reply {
		return n.try(http.MethodPost, "/users/verify-user", header, b)
	}

	gives("invalid_fields", n.post("/users", body{}))
	gives("parameter_unknown", signUp(body{"scopes": "admin"}))
	gives("username_taken", signUp(body{"username": u.username}))
	gives("email_taken", signUp(body{"email": u.email}))
	gives("password_too_common", signUp(body{"password": "password12"}))
	gives("email_already_verified", n.post("/users/verification-code", body{"email": u.email}))
	gives("account_not_found", n.post("/users/forgot-password", body{"email": other.email}))
	gives("code_expired_or_used", n.verify(strings.Repeat("A", 26)))
	want(t, http.StatusCreated, signUp(nil))
	gives("email_not_verified", n.trySignIn(other.username, other.password))
	code := want(t, http.StatusCreated, signUp(body{"username": "another." + other.username, "password": "another password"})).Text("code")
	gives("password_required", n.verify(code))

	gives("wrong_credentials", n.trySignIn(u.username, "a wrong password"))
	gives("wrong_old_password", n.changePassword(u.access, "a wrong password", "a better password"))
	gives("password_unchanged", n.changePassword(u.access, u.password, u.password))
	gives("unsupported_grant_type", n.post("/tokens", body{"grant_type": "password"}))

	gives("token_missing", n.get("/users"))
	gives("authorization_malformed", n.try(http.MethodGet, "/users", http.Header{"Authorization": {"Basic eDp5"}}, nil))
	gives("token_invalid", n.profile("some.access.token"))
	gives("token_wrong_kind", n.profile(u.refresh))
	gives("session_not_found", n.endSession(u.access, u.id))
	ended := n.signIn(u)
	want(t, http.StatusNoContent, n.signOut(ended.refresh))
	gives("session_ended", n.profile(ended.access))
	scopeless := newPerson()
	code = want(t, http.StatusCreated, n.post("/users", scopeless.signUpBody(body{"scope": "profile"}))).Text("code")
	scopeless.tokens = n.mustVerify(code)
	gives("scope_missing", n.as(scopeless.access, http.MethodPost, "/users/change-email-request", nil))
	// Only the verification of another address reveals that the account is suspended.
	moving, address := n.newUser(), newPerson().email
	code = want(t, http.StatusOK, n.as(moving.access, http.MethodPost, "/users/change-email-request", nil)).Text("code")
	want(t, http.StatusOK, n.changeEmail(moving.access, code, address))
	postgrestest.Exec(t, c.db, "UPDATE users SET suspended_at = now() WHERE username = $1", moving.username)
	code = want(t, http.StatusOK, n.post("/users/verification-code", body{"email": address})).Text("code")
	gives("account_suspended", n.verify(code))

	gives("path_not_found", n.get("/nowhere"))
	gives("id_malformed", n.endSession(u.access, "1"))
	gives("method_not_allowed", n.try(http.MethodPut, "/tokens", nil, nil))
	gives("request_malformed", send(http.Header{"X-Request-Id": {"a", "b"}}, nil))
	gives("head_too_long", send(http.Header{"X-Long": {strings.Repeat("x", 17<<10)}}, nil))
	gives("body_too_long", send(nil, strings.Repeat(" ", 65<<10)))
	gives("media_type_unsupported", send(http.Header{"Content-Type": {"text/plain"}}, "{}"))
	gives("content_encoding_unsupported", send(http.Header{"Content-Encoding": {"gzip"}}, "{}"))
	gives("query_malformed", n.get("/users?a=%zz"))
	gives("body_malformed", send(nil, "{"))

	guessed := n.newUser()
	for range 10 {
		want(t, http.StatusUnauthorized, n.trySignIn(guessed.username, "a wrong password"))
	}
	gives("too_many_wrong_passwords", n.trySignIn(guessed.username, "a wrong password"))

	guarded := c.addReady(1, env{"TRUSTED_CALLER_KEY": "the key of the one trusted caller", "LIMIT_SIGNIN": "1/1h"})
	gives("caller_key_missing", guarded.post("/users", other.signUpBody()))
	gives("caller_key_wrong", guarded.try(http.MethodPost, "/users", http.Header{"X-Caller-Key": {"another one"}}, other.signUpBody()))
	guarded.signIn(u)
	gives("too_many_requests", guarded.trySignIn(u.username, u.password))

	isolated := c.add(env{"DB_PORT": strconv.Itoa(testenv.FreePort(t))}) // no database listens there
	gives("keys_not_loaded", isolated.get("/tokens/keys"))
	gives("database_unavailable", isolated.post("/users/forgot-password", body{"email": u.email}))

	c.clock.Advance(time.Hour)
	gives("token_expired", n.profile(u.access))

	postgrestest.Exec(t, c.db, "ALTER TABLE sessions RENAME TO lost")
	gives("internal_error", n.renew(u.refresh))
	postgrestest.Exec(t, c.db, "ALTER TABLE lost RENAME TO sessions")

	reasons := testenv.Must(apitest.Reasons())(t)
	for _, reason := range reasons {
		if given[reason] == (givenElsewhere[reason] != "") {
			t.Errorf("%s is returned in no test, or here and in another one", reason)
		}
	}
	for reason := range givenElsewhere {
		if !slices.Contains(reasons, reason) {
			t.Errorf("%s is not documented", reason)
		}
	}
}
