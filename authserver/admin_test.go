package authserver_test

import (
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// administrators writes a file of keys, and returns its path and the keys by name.
func administrators(t *testing.T, rights map[string][]string) (file string, keys map[string]string) {
	t.Helper()
	keys = map[string]string{}
	var entries []string
	for name, of := range rights {
		expires := time.Now().Add(time.Hour)
		if name == "expired" {
			expires = time.Now().Add(-time.Hour)
		}
		key, entry, err := admin.NewKey(name, of, expires)
		testenv.NoError(t, err)
		keys[name], entries = key, append(entries, string(entry))
	}
	file = filepath.Join(t.TempDir(), "admins.json")
	testenv.NoError(t, os.WriteFile(file, []byte("["+strings.Join(entries, ",")+"]"), 0o600))
	return file, keys
}

// rightsOf are the rights of the administrators of most tests.
var rightsOf = map[string][]string{
	"viewer": {"viewer"}, "editor": {"editor"}, "expired": {"editor"}, "getter": {"users:get"},
	"keeper": {"keys:list", "keys:update"}, "owner": {"editor", "keys:update"},
}

// adminRequest sends a request of an administrator, or with another credential.
type adminRequest func(who, method, path string, body any, fields ...string) *testenv.Reply

// administrated starts a server with administrators. as sends a request of one of them.
func administrated(t *testing.T) (c *cluster, n *node, as adminRequest) {
	t.Helper()
	file, keys := administrators(t, rightsOf)
	c, n = single(t, env{"ADMIN_PORT": "3", "ADMIN_KEYS": file, "TOKEN_CLAIMS": "plan,https://example.com/seats"})
	return c, n, asAdmin(t, n.Admin, keys)
}

// asAdmin returns the requests to a server, whose replies must be as documented.
func asAdmin(t *testing.T, base string, keys map[string]string) adminRequest {
	client := testenv.NewClient(t, base)
	return func(who, method, path string, body any, fields ...string) *testenv.Reply {
		t.Helper()
		header := http.Header{}
		if key, known := keys[who]; known {
			header = testenv.Bearer(key)
		} else if who != "" {
			header = testenv.Bearer(who)
		}
		for i := 0; i+1 < len(fields); i += 2 {
			header.Set(fields[i], fields[i+1])
		}
		reply := client.Do(method, path, header, body)
		if reply.Status < 300 {
			request := testenv.Must(http.NewRequestWithContext(t.Context(), method, base+path, nil))(t)
			response := &http.Response{StatusCode: reply.Status, Header: reply.Header}
			for _, broken := range apitest.CheckAdmin(request, response, reply.Body) {
				t.Errorf("%s %s: %v is not as documented: %s", method, path, reply, broken)
			}
		}
		return reply
	}
}

func TestAdministratorsMayDoExactlyWhatTheirKeysSay(t *testing.T) {
	t.Parallel()
	_, n, as := administrated(t)
	u := n.newUser()
	user := "/admin/users/" + u.id
	for _, tc := range []struct {
		method, path   string
		viewer, getter int // else 403
		editor         int
	}{
		{"GET", "/admin/keys", 200, 403, 200},
		{"POST", "/admin/keys/rotate", 403, 403, 403},
		{"POST", "/admin/keys/none/revoke", 403, 403, 403},
		{"GET", "/admin/users", 200, 403, 200},
		{"GET", user, 200, 200, 200},
		{"PATCH", user, 403, 403, 400},
		{"POST", user + "/suspend", 403, 403, 200},
		{"POST", user + "/unsuspend", 403, 403, 200},
		{"POST", user + "/sign-out", 403, 403, 200},
		{"GET", user + "/sessions", 200, 403, 200},
		{"DELETE", user + "/sessions/" + u.id, 403, 403, 404},
		{"GET", "/admin/events", 200, 403, 200},
		{"GET", user + "/export", 200, 403, 200},
		{"POST", "/admin/users", 403, 403, 400},
		{"POST", user + "/require-password-change", 403, 403, 200},
		{"POST", user + "/resend-verification", 403, 403, 409},
		{"DELETE", user, 403, 403, 204},
	} {
		for _, caller := range []struct {
			who    string
			status int
		}{
			{"", 401}, {"someone", 401}, {"expired", 401}, {u.access, 401}, {u.refresh, 401},
			{"viewer", tc.viewer}, {"getter", tc.getter}, {"editor", tc.editor},
		} {
			r := as(caller.who, tc.method, tc.path, nil)
			if r.Status != caller.status {
				t.Errorf("%s %s by %.10s: %v", tc.method, tc.path, caller.who, r)
			}
			if r.Status == 401 && !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%s %s by %.10s lacks a challenge", tc.method, tc.path, caller.who)
			}
		}
		if r := n.as("", tc.method, tc.path, nil); r.Status != 404 {
			t.Errorf("%s %s at the port of the API: %v", tc.method, tc.path, r)
		}
	}
}

func TestAnAdministratorSuspendsAndSignsOut(t *testing.T) {
	t.Parallel()
	c, n, as := administrated(t)
	u := n.newUser()
	user := "/admin/users/" + u.id

	found := as("viewer", "GET", "/admin/users?email="+strings.ToUpper(u.email), nil)
	if want(t, 200, found); !strings.Contains(string(found.Body), u.id) {
		t.Errorf("not found by address: %v", found)
	}
	second := n.signIn(u)
	var sessions struct{ Items []struct{ ID string } }
	want(t, 200, as("viewer", "GET", user+"/sessions", nil)).JSON(t, &sessions)
	if len(sessions.Items) != 2 {
		t.Errorf("the sessions are %+v", sessions)
	}
	want(t, 204, as("editor", "DELETE", user+"/sessions/"+sidOf(t, second.access), nil))
	want(t, 404, as("editor", "DELETE", user+"/sessions/"+sidOf(t, second.access), nil))
	want(t, 401, n.profile(second.access))
	want(t, 200, n.profile(u.access))
	if r := want(t, 200, as("editor", "POST", user+"/sign-out", nil)); !strings.Contains(string(r.Body), `"ended":1`) {
		t.Errorf("ended %v", r)
	}
	want(t, 401, n.profile(u.access))
	if r := want(t, 200, as("editor", "POST", user+"/sign-out", nil)); !strings.Contains(string(r.Body), `"ended":0`) {
		t.Errorf("ended %v", r)
	}

	again := n.signIn(u)
	tag := want(t, 200, as("viewer", "GET", user, nil)).Header.Get("ETag")
	suspended := want(t, 200, as("editor", "POST", user+"/suspend", body{"reason": "spam"}, "If-Match", tag))
	if suspended.Text("state") != "suspended" || suspended.Header.Get("ETag") == tag {
		t.Errorf("suspended: %v", suspended)
	}
	if r := want(t, 412, as("editor", "POST", user+"/unsuspend", nil, "If-Match", tag)); r.Text("reason") != "account_changed" {
		t.Errorf("a stale version: %v", r)
	}
	want(t, 401, n.profile(again.access))
	want(t, 401, n.trySignIn(u.username, u.password))
	want(t, 200, as("editor", "POST", user+"/suspend", nil)) // again: nothing changes, nothing is recorded
	list := want(t, 200, as("viewer", "GET", "/admin/users?state=suspended", nil))
	if !strings.Contains(string(list.Body), u.id) {
		t.Errorf("the suspended accounts are %v", list)
	}
	want(t, 200, as("editor", "POST", user+"/unsuspend", nil))
	want(t, 401, n.profile(again.access))
	n.signIn(u)
	want(t, 204, as("editor", "DELETE", user, body{"reason": "asked for it"}))
	want(t, 404, as("editor", "DELETE", user, nil))
	want(t, 404, as("viewer", "GET", user, nil))

	var events struct {
		Items []struct {
			Event   identity.EventName
			Details map[string]any
		}
	}
	want(t, 200, as("viewer", "GET", "/admin/events?user="+u.id, nil)).JSON(t, &events)
	var byEditor []string
	for _, e := range slices.Backward(events.Items) {
		if e.Details["actor"] == "key:editor" {
			reason, _ := e.Details["reason"].(string)
			byEditor = append(byEditor, strings.TrimSpace(string(e.Event)+" "+reason))
		}
	}
	if wanted := []string{
		string(admin.EventSessionsEnded), string(admin.EventSessionsEnded), string(admin.EventSuspended) + " spam",
		string(admin.EventUnsuspended), string(admin.EventDeleted) + " asked for it",
	}; !slices.Equal(byEditor, wanted) {
		t.Errorf("the trail is %q; want %q", byEditor, wanted)
	}
	if c.logs.Contains(admin.KeyPrefix) {
		t.Error("a key is in the log")
	}
}

// adminUser is an account as the port of administrators returns it.
type adminUser struct {
	ID, Username, Email, State, Scope string
	FirstName                         string `json:"first_name"`
	LastName                          string `json:"last_name"`
	Roles                             []string
	Metadata                          map[string]any
}

func TestAnAdministratorChangesAnAccount(t *testing.T) {
	t.Parallel()
	c, n, as := administrated(t)
	u := n.newUser()
	user := "/admin/users/" + u.id
	before := claimsOf(t, u.access)
	if _, there := before["roles"]; there || before["plan"] != nil {
		t.Errorf("without roles and metadata, a token has %v", before)
	}
	for _, tc := range []struct {
		patch string
		want  func(u *adminUser)
	}{
		{`{"roles": ["support", "billing", "support"], "reason": "moved to support"}`, func(u *adminUser) { u.Roles = []string{"support", "billing"} }},
		{`{"metadata": {"plan": "gold", "note": {"a": 1, "b": [2]}}}`, func(u *adminUser) {
			u.Metadata = map[string]any{"plan": "gold", "note": map[string]any{"a": 1., "b": []any{2.}}}
		}},
		{`{"metadata": {"note": {"a": null, "c": "\u0000"}, "https://example.com/seats": 3}}`, func(u *adminUser) {
			u.Metadata = map[string]any{"plan": "gold", "note": map[string]any{"b": []any{2.}, "c": "\x00"}, "https://example.com/seats": 3.}
		}},
		{`{"first_name": "Grace", "last_name": "Hopper", "scope": "profile  admin profile"}`, func(u *adminUser) {
			u.FirstName, u.LastName, u.Scope = "Grace", "Hopper", "profile admin"
		}},
		{`{}`, func(*adminUser) {}},
		{`{"roles": ["support", "billing"], "metadata": {}}`, func(*adminUser) {}},
	} {
		var want, got adminUser
		want200(t, as("viewer", "GET", user, nil)).JSON(t, &want)
		tc.want(&want)
		want200(t, as("editor", "PATCH", user, tc.patch)).JSON(t, &got)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", tc.patch, got, want)
		}
	}
	u.tokens = tokensOf(want200(t, n.renew(u.refresh)))
	claims := claimsOf(t, u.access)
	if !reflect.DeepEqual(claims["roles"], []any{"support", "billing"}) || claims["plan"] != "gold" ||
		claims["https://example.com/seats"] != 3. || claims["note"] != nil || claims["name"] != "Grace Hopper" || claims["scope"] != "profile" {
		t.Errorf("the next token has %v", claims)
	}
	for about, r := range map[string]*testenv.Reply{"the owner": n.profile(u.access), "introspection": n.introspect(u.access)} {
		if want200(t, r); !strings.Contains(string(r.Body), `"roles":["support","billing"]`) || strings.Contains(string(r.Body), "gold") {
			t.Errorf("%s sees %v", about, r)
		}
	}
	if signedIn := claimsOf(t, n.signIn(u).access); signedIn["scope"] != "profile admin" || signedIn["plan"] != "gold" {
		t.Errorf("the token of a new session has %v", signedIn)
	}
	tag := as("viewer", "GET", user, nil).Header.Get("ETag")
	cleared := want200(t, as("editor", "PATCH", user, `{"roles": null, "metadata": null, "scope": null}`, "If-Match", tag))
	if !strings.Contains(string(cleared.Body), `"scope":"","roles":[],"metadata":{}`) {
		t.Errorf("cleared: %v", cleared)
	}
	want(t, 412, as("editor", "PATCH", user, `{"roles": ["x"]}`, "If-Match", tag))
	claims = claimsOf(t, want200(t, n.renew(u.refresh)).Text("access_token"))
	if claims["roles"] != nil || claims["plan"] != nil || claims["scope"] != "" {
		t.Errorf("after clearing, a token has %v", claims)
	}
	trail := string(want200(t, as("viewer", "GET", "/admin/events?user="+u.id, nil)).Body)
	if strings.Count(trail, string(admin.EventUpdated)) != 5 || !strings.Contains(trail, "moved to support") ||
		!strings.Contains(trail, `"changed":"first_name last_name scope"`) || strings.Contains(trail, "gold") {
		t.Errorf("the trail is %s", trail)
	}
	if c.logs.Contains("gold") {
		t.Error("metadata is in the log")
	}
	for query, want := range map[string]int{
		"user=" + u.id + "&actor=key:editor": 5, "user=" + u.id + "&event=signed+in": 1, "user=" + u.id + "&event=signed+in&actor=key:editor": 0,
		"actor=key:editor": 5, "actor=key:editor&event=account+suspended": 0, "actor=key:viewer": 0, "event=account+changed+by+an+administrator": 5,
	} {
		var list struct{ Items []any }
		want200(t, as("viewer", "GET", "/admin/events?"+query, nil)).JSON(t, &list)
		if len(list.Items) != want {
			t.Errorf("%s has %d events; want %d", query, len(list.Items), want)
		}
	}
}

func TestAnAdministratorMakesAccounts(t *testing.T) {
	t.Parallel()
	c, n, as := administrated(t)
	grace, _ := n.signUp() // a sign-up that waits does not keep an administrator from using its address
	verified := map[string]any{
		"state": "verified", "email": grace.email, "username": grace.username, "first_name": "Grace", "last_name": "Hopper",
		"password": grace.password, "scope": "profile orders", "roles": []string{"admiral"}, "metadata": map[string]any{"plan": "gold"}, "reason": "moved",
	}
	made := want(t, 201, as("editor", "POST", "/admin/users", verified, "Idempotency-Key", "1"))
	if made.Text("state") != "active" || made.Text("is_verified") != "true" || made.Text("code") != "" || made.Header.Get("ETag") == "" {
		t.Errorf("made: %v", made)
	}
	claims := claimsOf(t, n.signIn(grace).access)
	if claims["scope"] != "profile orders" || !reflect.DeepEqual(claims["roles"], []any{"admiral"}) ||
		claims["plan"] != "gold" || claims["email_verified"] != true {
		t.Errorf("the first token has %v", claims)
	}
	again := want200(t, as("editor", "POST", "/admin/users", verified, "Idempotency-Key", "1"))
	if again.Text("id") != made.Text("id") {
		t.Errorf("sent again: %v", again)
	}
	want(t, 409, as("editor", "POST", "/admin/users", verified))
	verified["first_name"] = "Ada"
	r := want(t, 409, as("editor", "POST", "/admin/users", verified, "Idempotency-Key", "1"))
	if !strings.Contains(string(r.Body), "Idempotency-Key") {
		t.Errorf("another request with the key: %v", r)
	}

	ada := newPerson()
	invited := body{"state": "invited", "email": ada.email, "username": ada.username, "first_name": "Ada", "last_name": "Lovelace"}
	var waits *testenv.Reply
	ids := map[string]int{}
	for _, r := range atOnce(8, func(int) *testenv.Reply { return as("editor", "POST", "/admin/users", invited, "Idempotency-Key", "2") }) {
		if r.Status != 200 && r.Status != 201 {
			t.Errorf("one of many requests with one key: %v", r)
		}
		ids[r.Text("id")]++
		if r.Status == 201 {
			waits = r
		}
	}
	if len(ids) != 1 || waits == nil {
		t.Fatalf("the requests made the accounts %v", ids)
	}
	user := "/admin/users/" + waits.Text("id")
	if waits.Text("state") != "invited" || waits.Text("is_verified") != "false" {
		t.Errorf("invited: %v", waits)
	}
	want(t, 401, n.trySignIn(ada.username, ada.password))
	want(t, 409, n.post("/users", ada.signUpBody()))
	first := want200(t, as("editor", "POST", user+"/resend-verification", body{"reason": "the mail is lost"})).Text("code")
	second := want200(t, as("editor", "POST", user+"/resend-verification", nil)).Text("code")
	want(t, 400, n.resetPassword(first, ada.password))
	want(t, 204, n.resetPassword(second, ada.password))
	old := n.signIn(ada)
	if r := want200(t, as("viewer", "GET", user, nil)); r.Text("state") != "active" || r.Text("is_verified") != "true" {
		t.Errorf("after the invitation was accepted: %v", r)
	}

	code := want200(t, as("editor", "POST", user+"/require-password-change", body{"reason": "leaked"})).Text("code")
	want(t, 401, n.profile(old.access))
	want(t, 401, n.trySignIn(ada.username, ada.password))
	want(t, 204, n.resetPassword(code, "another password of hers"))
	want200(t, n.trySignIn(ada.username, "another password of hers"))

	trail := string(want200(t, as("viewer", "GET", "/admin/events?actor=key:editor", nil)).Body)
	if strings.Count(trail, string(admin.EventCreated)) != 2 || strings.Count(trail, string(admin.EventPasswordVoided)) != 1 ||
		strings.Count(trail, string(admin.EventCodeSent)) != 2 ||
		!strings.Contains(trail, "leaked") || !strings.Contains(trail, "the mail is lost") {
		t.Errorf("the trail is %s", trail)
	}
	if c.logs.Contains(ada.email) {
		t.Error("an address is in the log")
	}
}

// A public gateway mails the codes, and shows none.
func TestAPublicGatewayMailsInvitations(t *testing.T) {
	t.Parallel()
	file, keys := administrators(t, map[string][]string{"editor": {"editor"}})
	c, n := single(t, public, env{"ADMIN_PORT": "3", "ADMIN_KEYS": file})
	ada := newPerson()
	r := want(t, 201, testenv.NewClient(t, n.Admin).Do("POST", "/admin/users", testenv.Bearer(keys["editor"]),
		body{"state": "invited", "email": ada.email, "username": ada.username, "first_name": "Ada", "last_name": "Lovelace"}))
	if r.Text("code") != "" {
		t.Errorf("the reply has the code: %v", r)
	}
	first := n.mail(identity.MailInvitation, ada.email)
	if first.TTL != 7*24*time.Hour {
		t.Errorf("the code is valid for %v", first.TTL)
	}
	resend := "/admin/users/" + r.Text("id") + "/resend-verification"
	want(t, 200, testenv.NewClient(t, n.Admin).Do("POST", resend, testenv.Bearer(keys["editor"]), nil))
	second := n.mail(identity.MailInvitation, ada.email)
	want(t, 400, n.resetPassword(first.Code, ada.password), "the code that was replaced")
	if lives := column(t, c.db, "SELECT expires_at > now() + interval '6 days' FROM codes"); !slices.Equal(lives, []string{"true"}) {
		t.Errorf("the code lives for six days: %q", lives)
	}
	want(t, 204, n.resetPassword(second.Code, ada.password))
	n.signIn(ada)
}

// The export of a person has everything that the database has of them, and no secret. The person gets the same, except
// the events of codes.
func TestTheDataOfAPersonAreExported(t *testing.T) {
	t.Parallel()
	c, n, as := administrated(t)
	u := n.newUser()
	n.recoveryCode(u)
	user := "/admin/users/" + u.id
	want200(t, as("editor", "PATCH", user, `{"roles": ["support"], "metadata": {"plan": "gold"}, "reason": "ticket 1"}`))
	exported := want200(t, as("viewer", "GET", user+"/export", nil))
	var e admin.Export
	exported.JSON(t, &e)
	if e.User.Email != u.email || e.User.Username != u.username || len(e.Sessions) != 1 || len(e.Codes) != 1 ||
		e.Codes[0].Purpose != identity.Recovery || len(e.Networks) != 1 || !slices.Equal(e.User.Roles, []string{"support"}) ||
		string(e.User.Metadata) != `{"plan":"gold"}` {
		t.Errorf("exported: %s", exported.Body)
	}
	var names []string
	for _, event := range e.Events {
		names = append(names, string(event.Event))
	}
	if !slices.Contains(names, string(identity.EventCodeIssued)) || !slices.Contains(names, string(admin.EventUpdated)) ||
		!slices.Contains(names, string(identity.EventEmailVerified)) ||
		!strings.Contains(string(exported.Body), "ticket 1") {
		t.Errorf("the exported events are %q", names)
	}
	if strings.Contains(string(exported.Body), "$2") || strings.Contains(string(exported.Body), "+00:00") {
		t.Errorf("a hash, or a time in another form, is exported: %s", exported.Body)
	}
	var own admin.Export
	want200(t, n.as(u.access, "GET", "/users/data", nil)).JSON(t, &own)
	e.Codes = slices.DeleteFunc(e.Codes, func(c admin.ExportedCode) bool { return c.Email != "" && c.Email != u.email })
	e.Mails = slices.DeleteFunc(e.Mails, func(m admin.ExportedMail) bool { return m.Recipient != u.email })
	e.Events = slices.DeleteFunc(e.Events, func(e admin.ExportedEvent) bool { return e.Event == identity.EventCodeIssued })
	if !reflect.DeepEqual(own, e) {
		t.Errorf("the person gets %+v, not %+v", own, e)
	}
	want(t, 401, n.get("/users/data"))
	want(t, 404, as("viewer", "GET", "/admin/users/00000000-0000-4000-8000-000000000000/export", nil))
	// Every table that refers to accounts is in the export. admin_requests has digests, and queued_events repeats events.
	db := testenv.Must(sql.Open("pgx", postgrestest.DSN(c.db)))(t)
	t.Cleanup(func() { _ = db.Close() })
	var tables string
	testenv.NoError(t, db.QueryRowContext(t.Context(), `SELECT string_agg(DISTINCT table_name, ' ' ORDER BY table_name)
		FROM information_schema.columns WHERE table_schema = 'public' AND column_name = 'user_id'`).Scan(&tables))
	if tables != "admin_requests audit_events codes familiar_places mails queued_events sessions" {
		t.Errorf("the tables with a user_id are %s: does the export have them?", tables)
	}
}

// When TOKEN_CLAIMS names a member that an account has had for long, and a token has no room for it, the token lacks it.
// No user is kept from signing in.
func TestClaimsThatHaveNoRoomAreLeftOut(t *testing.T) {
	t.Parallel()
	file, keys := administrators(t, rightsOf)
	long := env{"ISSUER": issuer + "/" + strings.Repeat("x", 1000), "ADMIN_PORT": "3", "ADMIN_KEYS": file}
	c, n := single(t, long)
	u := n.newUser()
	want200(t, asAdmin(t, n.Admin, keys)("editor", "PATCH", "/admin/users/"+u.id,
		`{"roles": ["support"], "metadata": {"note": "`+strings.Repeat("n", 4000)+`", "plan": "gold"}}`))
	extended := c.addReady(1, long, env{"TOKEN_CLAIMS": "note,plan"})
	signedIn := extended.signIn(u)
	renewed := want200(t, extended.renew(signedIn.refresh)).Text("access_token")
	for _, access := range []string{signedIn.access, renewed} {
		claims := decodePart(t, access, 1)
		if roles, _ := claims["roles"].([]any); len(roles) != 1 || claims["plan"] != "gold" || claims["note"] != nil || len(access) > 8<<10 {
			t.Errorf("the token has %d bytes and the claims %v", len(access), claims)
		}
		c.alive("at both replicas", access)
	}
	if !c.logs.Contains("a token lacks claims") || c.logs.Contains("nnnn") {
		t.Error("the log does not say so, or has the metadata")
	}
}

func want200(t *testing.T, r *testenv.Reply) *testenv.Reply {
	t.Helper()
	return want(t, http.StatusOK, r)
}

// Changes of different members at once are all made, and no version is lost.
func TestAdminChangesAtOnceAreAllMade(t *testing.T) {
	t.Parallel()
	_, n, as := administrated(t)
	user := "/admin/users/" + n.newUser().id
	together(5, func(i int) {
		want(t, 200, as("editor", "PATCH", user, fmt.Sprintf(`{"metadata": {"member%d": %d}}`, i, i)))
	})
	var u adminUser
	want200(t, as("viewer", "GET", user, nil)).JSON(t, &u)
	if len(u.Metadata) != 5 {
		t.Errorf("the metadata is %v", u.Metadata)
	}
}

// A server for administrators has the database, and neither keys nor the API.
func TestAdminAloneServesAdministratorsAndNothingElse(t *testing.T) {
	t.Parallel()
	c, n := single(t)
	u := n.newUser()
	file, keys := administrators(t, map[string][]string{"editor": {"editor"}})
	settings := gatewaytest.Environ(c.db, env{
		"ADMIN_PORT": "3", "ADMIN_KEYS": file, "ACCESS_PASSPHRASE": unset, "REFRESH_PASSPHRASE": unset,
		"EXPOSURE": "public", "MAIL_WEBHOOK_URL": "https://example.com/hook", // the server has the key that signs calls
	})
	alone := testenv.Must(gatewaytest.Start(t, testenv.Must(config.LoadAdmin(settings.Lookup, os.ReadFile))(t),
		authserver.Options{Log: c.logs.logger(), Version: "test", Now: c.clock.Now}))(t)
	t.Cleanup(func() { testenv.NoError(t, alone.End()) })
	testenv.Until(t, time.Minute, "it is ready", func() bool { status, _ := alone.Probe("/readyz"); return status == 200 })
	if alone.API != "http://" || alone.Authz != "" {
		t.Errorf("it serves the API at %q", alone.API)
	}
	client, ed := testenv.NewClient(t, alone.Admin), testenv.Bearer(keys["editor"])
	want(t, 200, client.Do("POST", "/admin/users/"+u.id+"/suspend", ed, body{"reason": "spam"}))
	want(t, 401, n.profile(u.access))
	if r := client.Do("GET", "/admin/events?user="+u.id, ed, nil); !strings.Contains(string(r.Body), "key:editor") {
		t.Errorf("the trail is %v", r)
	}
	for _, path := range []string{"/users", "/tokens/keys", "/.well-known/jwks.json", "/metrics"} {
		if r := client.Do("GET", path, ed, nil); r.Status != 404 {
			t.Errorf("%s: %v", path, r)
		}
	}
	if status, text := alone.Probe("/metrics"); status != 200 || !strings.Contains(text, "authgateway_database_up 1") ||
		strings.Contains(text, "authgateway_key_ring_generation") {
		t.Errorf("/metrics is %d %.300s", status, text)
	}
}

// No value of a parameter, of a field or of a path is answered 500 or with a redirect.
func TestAdminHostileValuesAreAnsweredInShape(t *testing.T) {
	t.Parallel()
	_, n, as := administrated(t)
	user := "/admin/users/" + n.newUser().id
	for _, value := range apitest.HostileValues {
		if len(value) > 8000 { // the request line is longer than the port accepts
			continue
		}
		escaped := url.QueryEscape(value)
		var replies []*testenv.Reply
		for _, name := range []string{"id", "email", "username", "email_prefix", "username_prefix", "state", "created_after", "limit", "cursor"} {
			replies = append(replies, as("viewer", "GET", "/admin/users?"+name+"="+escaped, nil))
		}
		for _, name := range []string{"user", "event", "actor", "limit", "cursor"} {
			replies = append(replies, as("viewer", "GET", "/admin/events?"+name+"="+escaped, nil))
		}
		forged := base64.RawURLEncoding.EncodeToString(testenv.Must(json.Marshal(map[string]any{"k": value, "i": value}))(t))
		replies = append(replies,
			as("viewer", "GET", "/admin/users?cursor="+forged, nil),
			as("viewer", "GET", "/admin/users/"+url.PathEscape(value), nil),
			as("editor", "DELETE", user+"/sessions/"+url.PathEscape(value), nil),
			as("editor", "PATCH", user, map[string]any{"first_name": value}),
			as("editor", "PATCH", user, map[string]any{"scope": value, "last_name": "L"}),
			as("editor", "PATCH", user, map[string]any{"roles": []string{value}}),
			as("editor", "PATCH", user, map[string]any{"metadata": map[string]any{value: value, "plan": value}}),
			as("editor", "PATCH", user, `{"metadata": `+value+`}`),
			as("editor", "POST", "/admin/users", body{"state": value}),
			as("editor", "POST", "/admin/users", body{"state": "invited", "email": value}),
			as("editor", "POST", "/admin/users", body{"state": "invited", "email": "x@example.com", "username": value,
				"first_name": "A", "last_name": "B"}),
			as("editor", "POST", "/admin/users", body{"state": "verified", "email": "x@example.com", "username": "x",
				"first_name": value, "last_name": value, "password": value, "scope": value}),
			as("editor", "POST", user+"/suspend", body{"reason": value}),
			as("keeper", "POST", "/admin/keys/"+url.PathEscape(value)+"/revoke", body{"reason": value}),
			as("editor", "POST", user+"/unsuspend", body{"reason": value}))
		if !strings.ContainsAny(value, "\x00\r\n\x1b\x7f") { // no client sends such a field
			replies = append(replies, as("editor", "POST", user+"/sign-out", nil, "If-Match", value, "X-Request-Id", value+"!"),
				as("editor", "POST", "/admin/users", body{"state": "invited", "email": "y@example.com", "username": "y",
					"first_name": "A", "last_name": "B"}, "Idempotency-Key", value))
		}
		for i, r := range replies {
			if r.Status >= 500 || r.Status == 301 || r.Status == 307 || r.Status >= 400 && r.Text("reason") == "" {
				t.Errorf("%.60q, request %d: %v", value, i, r)
			}
		}
	}
}

func TestAdminIsToldToWaitForTheSchema(t *testing.T) {
	t.Parallel()
	file, keys := administrators(t, map[string][]string{"viewer": {"viewer"}})
	c := newCluster(t, postgrestest.Config(t))
	n := c.add(env{"ADMIN_PORT": "3", "ADMIN_KEYS": file, "DB_PORT": strconv.Itoa(testenv.FreePort(t))})
	r := testenv.NewClient(t, n.Admin).Do("GET", "/admin/users", testenv.Bearer(keys["viewer"]), nil)
	if r.Status != 503 || r.Text("reason") != "database_unavailable" || r.Header.Get("Retry-After") == "" {
		t.Errorf("got %v", r)
	}
}

// Of many suspensions at once one is recorded, and no session that was opened meanwhile stays alive.
func TestAdminSuspensionsAtOnceAreOne(t *testing.T) {
	t.Parallel()
	_, n, as := administrated(t)
	u := n.newUser()
	user := "/admin/users/" + u.id
	opened := atOnce(30, func(i int) *testenv.Reply {
		if i%3 == 0 {
			return n.trySignIn(u.username, u.password)
		}
		return as("editor", "POST", user+"/suspend", nil)
	})
	for i, r := range opened {
		if i%3 == 0 && r.Status == 200 {
			want(t, 401, n.profile(r.Text("access_token")), "a session that was opened meanwhile")
		} else if i%3 > 0 {
			want(t, 200, r)
		}
	}
	if r := as("viewer", "GET", "/admin/events?user="+u.id, nil); strings.Count(string(r.Body), string(admin.EventSuspended)) != 1 {
		t.Errorf("the trail is %v", r)
	}
}

func TestAdminRequestsThatAreWrongAreNamed(t *testing.T) {
	t.Parallel()
	_, n, as := administrated(t)
	u := n.newUser()
	user := "/admin/users/" + u.id
	for _, tc := range []struct {
		method, path string
		body         any
		fields       []string
		status       int
		reason       string
	}{
		{"GET", "/admin", nil, nil, 404, "path_not_found"},
		{"GET", "/admin/users/", nil, nil, 404, "path_not_found"},
		{"GET", "//admin/users", nil, nil, 404, "path_not_found"},
		{"GET", "/admin/./users", nil, nil, 404, "path_not_found"},
		{"GET", "/admin%2fusers", nil, nil, 404, "path_not_found"},
		{"GET", "/users", nil, nil, 404, "path_not_found"},
		{"PUT", "/admin/users", nil, nil, 405, "method_not_allowed"},
		{"GET", user + "/suspend", nil, nil, 405, "method_not_allowed"},
		{"GET", "/admin/users/" + strings.ToUpper(u.id), nil, nil, 404, "id_malformed"},
		{"GET", "/admin/users/" + strings.Repeat("0", 36), nil, nil, 404, "id_malformed"},
		{"GET", "/admin/users?name=ada", nil, nil, 400, "parameter_unknown"},
		{"GET", "/admin/users?email=", nil, nil, 400, "invalid_fields"},
		{"GET", "/admin/users?email=a&email=b", nil, nil, 400, "invalid_fields"},
		{"GET", "/admin/users?email=a@b.c&username=x", nil, nil, 400, "invalid_fields"},
		{"GET", "/admin/users?limit=0", nil, nil, 400, "invalid_fields"},
		{"GET", "/admin/users?limit=201", nil, nil, 400, "invalid_fields"},
		{"GET", "/admin/users?state=active", nil, nil, 400, "invalid_fields"},
		{"GET", "/admin/users?created_after=yesterday", nil, nil, 400, "invalid_fields"},
		{"GET", "/admin/users?cursor=x", nil, nil, 400, "invalid_fields"},
		{"GET", "/admin/users?%zz", nil, nil, 400, "query_malformed"},
		{"GET", user + "?x=1", nil, nil, 400, "parameter_unknown"},
		{"GET", "/admin/events?user=ada", nil, nil, 400, "invalid_fields"},
		{"GET", "/admin/events?event=a%00b", nil, nil, 400, "invalid_fields"},
		{"GET", "/admin/events?actor=%ff", nil, nil, 400, "invalid_fields"},
		{"POST", "/admin/users", nil, nil, 400, "body_malformed"},
		{"POST", "/admin/users", body{"state": "active", "email": "new@example.com"}, nil, 400, "invalid_fields"},
		{"POST", "/admin/users", body{"state": "verified", "email": "new@example.com"}, nil, 400, "invalid_fields"},
		{"POST", "/admin/users", body{"state": "invited", "email": "new@example.com", "password": "a good password"}, nil, 400, "invalid_fields"},
		{"POST", "/admin/users", body{"state": "invited", "email": "new"}, nil, 400, "invalid_fields"},
		{"POST", "/admin/users", body{"state": "verified", "email": "new@example.com", "username": "new", "first_name": "A", "last_name": "B",
			"password": "password12"}, nil, 400, "password_too_common"},
		{"POST", "/admin/users", body{"state": "invited", "email": u.email, "username": "new", "first_name": "A", "last_name": "B"}, nil, 409, "email_taken"},
		{"POST", "/admin/users", body{"state": "invited", "email": "new@example.com", "username": u.username, "first_name": "A", "last_name": "B"},
			nil, 409, "username_taken"},
		{"POST", user + "/resend-verification", nil, nil, 409, "email_already_verified"},
		{"POST", user + "/require-password-change", nil, []string{"If-Match", `"1"`}, 412, "account_changed"},
		{"PATCH", user, nil, nil, 400, "body_malformed"},
		{"PATCH", user, " null", nil, 400, "body_malformed"},
		{"PATCH", user, "[]", nil, 400, "body_malformed"},
		{"PATCH", user, body{"email": "x@example.com"}, nil, 400, "body_malformed"},
		{"PATCH", user, `{"roles": ["a"], "roles": ["b"]}`, nil, 400, "body_malformed"},
		{"PATCH", user, `{"metadata": {"a": 1, "a": 2}}`, nil, 400, "body_malformed"},
		{"PATCH", user, body{"roles": "a"}, nil, 400, "invalid_fields"},
		{"PATCH", user, `{"roles": [1]}`, nil, 400, "invalid_fields"},
		{"PATCH", user, `{"roles": ["a b"]}`, nil, 400, "invalid_fields"},
		{"PATCH", user, `{"roles": [""]}`, nil, 400, "invalid_fields"},
		{"PATCH", user, `{"roles": ["` + strings.Repeat("a", 1001) + `"]}`, nil, 400, "invalid_fields"},
		{"PATCH", user, `{"scope": 1}`, nil, 400, "invalid_fields"},
		{"PATCH", user, `{"first_name": null}`, nil, 400, "invalid_fields"},
		{"PATCH", user, `{"metadata": "a"}`, nil, 400, "invalid_fields"},
		{"PATCH", user, `{"metadata": []}`, nil, 400, "invalid_fields"},
		{"PATCH", user, `{"metadata": {"note": "` + strings.Repeat("a", 4096) + `"}}`, nil, 400, "invalid_fields"},
		{"PATCH", user, `{"metadata": {"plan": "` + strings.Repeat("a", 2100) + `"}}`, nil, 400, "invalid_fields"},
		{"PATCH", user, `{"roles": ["a"], "reason": "two\nlines"}`, nil, 400, "invalid_fields"},
		{"PATCH", user, `{"roles": ["a"]}`, []string{"If-Match", `"1"`}, 412, "account_changed"},
		{"POST", user + "/suspend", body{"why": "x"}, nil, 400, "body_malformed"},
		{"POST", user + "/suspend", body{"reason": strings.Repeat("é", 201)}, nil, 400, "invalid_fields"},
		{"POST", user + "/suspend", body{"reason": "a\x00b"}, nil, 400, "invalid_fields"},
		{"POST", user + "/suspend", body{"reason": "two\nlines"}, nil, 400, "invalid_fields"},
		{"GET", "/admin/users?email_prefix=%00", nil, nil, 400, "invalid_fields"},
		{"GET", "/admin/users?username_prefix=%e2%82%ac", nil, nil, 400, "invalid_fields"},
		{"POST", user + "/suspend", nil, []string{"If-Match", `"\x00"`}, 400, "request_malformed"},
		{"POST", user + "/suspend", nil, []string{"If-Match", `W/"1"`}, 412, "account_changed"},
		{"POST", user + "/suspend", body{"reason": strings.Repeat("x", 70<<10)}, nil, 413, "body_too_long"},
		{"POST", user + "/suspend", nil, []string{"If-Match", "xyz"}, 400, "request_malformed"},
		{"POST", user + "/suspend", nil, []string{"If-Match", `"1"`}, 412, "account_changed"},
		{"GET", "/admin/users", nil, []string{"Authorization", "Basic eDp5"}, 401, "authorization_malformed"},
	} {
		r := as("editor", tc.method, tc.path, tc.body, tc.fields...)
		if r.Status != tc.status || r.Text("reason") != tc.reason {
			t.Errorf("%s %s: %v; want %d %s", tc.method, tc.path, r, tc.status, tc.reason)
		}
	}
	if r := as("viewer", "GET", user, nil); r.Text("state") != "active" || !strings.Contains(string(r.Body), `"roles":[],"metadata":{}`) {
		t.Errorf("a request that was refused has changed the account: %v", r)
	}
}
