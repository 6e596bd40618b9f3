package authserver_test

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// browser fills in forms as a browser does: it keeps cookies, and says where a form comes from.
type browser struct {
	t      *testing.T
	base   string
	client *http.Client
	origin string // of its forms; empty: this site
}

func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	return &browser{t: t, base: base, client: &http.Client{Jar: testenv.Must(cookiejar.New(nil))(t)}}
}

// page is what a browser shows after it has followed all redirects.
type page struct {
	status int
	path   string
	text   string
	header http.Header
}

func (p page) has(text string) bool { return strings.Contains(html.UnescapeString(p.text), text) }

func (b *browser) get(path string) page { return b.do(http.MethodGet, path, nil) }

func (b *browser) send(path string, form ...string) page {
	values := url.Values{}
	for i := 0; i+1 < len(form); i += 2 {
		values.Set(form[i], form[i+1])
	}
	return b.do(http.MethodPost, path, values)
}

func (b *browser) do(method, path string, form url.Values) page {
	b.t.Helper()
	q := testenv.Must(http.NewRequestWithContext(b.t.Context(), method, b.base+path, strings.NewReader(form.Encode())))(b.t)
	if method == http.MethodPost {
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		q.Header.Set("Sec-Fetch-Site", "same-origin")
		if b.origin != "" {
			q.Header.Set("Sec-Fetch-Site", "cross-site")
			q.Header.Set("Origin", b.origin)
		}
	}
	a := testenv.Must(b.client.Do(q))(b.t)
	defer a.Body.Close()
	text := testenv.Must(io.ReadAll(a.Body))(b.t)
	return page{a.StatusCode, a.Request.URL.RequestURI(), string(text), a.Header}
}

// consoles starts a server with administrators, and returns its keys and a browser for each of them.
func consoles(t *testing.T) (n *node, keys map[string]string, of func(who string) *browser) {
	t.Helper()
	file, keys := administrators(t, rightsOf)
	_, n = single(t, env{"ADMIN_PORT": "3", "ADMIN_KEYS": file})
	return n, keys, func(who string) *browser {
		t.Helper()
		b := newBrowser(t, n.Admin)
		if p := b.send("/console/sign-in", "credential", keys[who]); p.status != 200 || p.path != "/console/users" {
			t.Fatalf("%s cannot sign in: %+v", who, p)
		}
		return b
	}
}

func TestConsoleFindsAnAccountAndEndsItsSessions(t *testing.T) {
	t.Parallel()
	n, _, of := consoles(t)
	u, other := n.newUser(), n.newUser()
	b := of("editor")
	for _, asked := range []string{u.id, u.email, strings.ToUpper(u.email), u.username, u.email[:len(u.email)-2]} {
		if p := b.get("/console/users?q=" + url.QueryEscape(asked)); p.path != "/console/users/"+u.id {
			t.Errorf("%s leads to %d %s", asked, p.status, p.path)
		}
	}
	if p := b.get("/console/users?q=zz-like-this"); p.status != 200 || !p.has("begins with “zz-like-this”") {
		t.Errorf("what is not there: %+v", p)
	}
	account := "/console/users/" + u.id
	if p := b.get(account); !p.has("End all sessions") || !p.has("Go-http-client") {
		t.Errorf("the account has no session: %+v", p)
	}
	if p := b.send(account+"/sign-out", "reason", "<b>stolen</b> phone"); p.path != account+"?done=signed-out" ||
		!p.has("All sessions have ended.") || !p.has("This account has no session.") || !p.has("“<b>stolen</b> phone”") ||
		strings.Contains(p.text, "<b>stolen") || !p.has("by key:editor") {
		t.Errorf("after the sessions were ended: %+v", p)
	}
	if r := n.as(u.access, "GET", "/users", nil); r.Status != 401 {
		t.Errorf("the token of an ended session: %v", r)
	}
	if r := n.as(other.access, "GET", "/users", nil); r.Status != 200 {
		t.Errorf("another account: %v", r)
	}
}

func TestConsoleSuspendsAndDeletesWhatThePersonHasSeen(t *testing.T) {
	t.Parallel()
	n, _, of := consoles(t)
	u := n.newUser()
	account := "/console/users/" + u.id
	b, second := of("editor"), of("editor")
	version := regexp.MustCompile(`name="version" value="([^"]+)"`)
	seen := version.FindStringSubmatch(second.get(account).text)[1]

	p := b.send(account+"/suspend", "version", seen, "reason", "spam")
	if !p.has("The account is suspended") || !p.has("Lift the suspension") {
		t.Errorf("suspended: %+v", p)
	}
	if p := second.send(account+"/delete", "version", seen, "confirm", u.username); p.status != 409 || !p.has("The account has changed") {
		t.Errorf("a form that was loaded before: %+v", p)
	}
	if p := b.get("/console/users?state=suspended"); !p.has(u.username) {
		t.Errorf("the suspended accounts: %+v", p)
	}
	if p := b.send(account+"/unsuspend", "reason", ""); !p.has("The account can sign in again.") {
		t.Errorf("lifted: %+v", p)
	}
	if p := b.send(account+"/delete", "confirm", "someone"); p.status != 400 || !p.has("type "+u.username) {
		t.Errorf("deleted with another name: %+v", p)
	}
	if p := b.send(account+"/delete", "confirm", u.username); p.path != "/console/users?done=deleted" || !p.has("The account is deleted.") {
		t.Errorf("deleted: %+v", p)
	}
	if p := b.get(account); p.status != 404 {
		t.Errorf("an account that is gone: %+v", p)
	}
	if p := b.get("/console/events"); !p.has("account suspended</strong> by key:editor") || !p.has("“spam”") {
		t.Errorf("the events: %+v", p)
	}
}

func TestConsoleInvites(t *testing.T) {
	t.Parallel()
	n, _, of := consoles(t)
	b, viewer := of("editor"), of("viewer")
	if p := viewer.get("/console/users"); p.has("Invite") {
		t.Error("a viewer is offered to invite")
	}
	if p := viewer.send("/console/invite", "email", "eve@example.com"); p.status != 403 {
		t.Errorf("a viewer invites: %+v", p)
	}
	form := []string{"email", "grace@example.com", "username", "grace", "first_name", "Grace", "last_name", "Hopper", "key", "one form"}
	p := b.send("/console/invite", form...)
	code := regexp.MustCompile(`<p><code>([A-Z2-7]+)</code>`).FindStringSubmatch(p.text)
	if code == nil {
		t.Fatalf("invited: %+v", p)
	}
	if p := b.send("/console/invite", form...); p.status != 200 || !p.has("grace is invited") {
		t.Errorf("the form is sent twice: %+v", p)
	} else {
		code = regexp.MustCompile(`<p><code>([A-Z2-7]+)</code>`).FindStringSubmatch(p.text)
	}
	for name, other := range map[string][]string{
		"409 email": {"email", "grace@example.com", "username", "grace2", "first_name", "G", "last_name", "H"},
		"400 email": {"email", "no address", "username", "grace3", "first_name", "G", "last_name", "H"},
	} {
		if p := b.send("/console/invite", other...); !strings.HasPrefix(name, fmt.Sprint(p.status)) {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if p := b.get("/console/users?q=grace@example.com"); !strings.HasPrefix(p.path, "/console/users/") || !p.has("invited") {
		t.Errorf("the invited account: %+v", p)
	}
	want(t, http.StatusNoContent, n.resetPassword(code[1], "note G of 1843"), "set a password")
	want(t, http.StatusOK, n.trySignIn("grace", "note G of 1843"), "sign in")
}

func TestConsoleShowsAndChangesTheKeys(t *testing.T) {
	t.Parallel()
	n, _, of := consoles(t)
	owner, viewer := of("owner"), of("viewer")
	signing := kids(t, n)
	p := viewer.get("/console/keys")
	if !p.has(signing.access[0]) || !p.has(signing.refresh[0]) || p.has("Rotate") || p.has("Revoke a key") {
		t.Errorf("a viewer sees %+v", p)
	}
	for _, path := range []string{"/console/keys/rotate", "/console/keys/revoke"} {
		if p := viewer.send(path, "kid", signing.access[0], "confirm", signing.access[0]); p.status != 403 {
			t.Errorf("a viewer at %s: %+v", path, p)
		}
	}
	p = owner.send("/console/keys/rotate", "reason", "<b>a copy</b> was seen")
	if p.path != "/console/keys?done=rotated" || !p.has("A rotation has begun") || strings.Count(p.text, "<svg") != 4 ||
		strings.Count(p.text, `<th scope="row">`) != 4 || strings.Contains(p.text, " style=") {
		t.Errorf("rotated: %+v", p)
	}
	for _, kid := range kids(t, n).access {
		if !p.has(kid) {
			t.Errorf("the table lacks %s", kid)
		}
	}
	if p := owner.send("/console/keys/rotate"); !p.has("A rotation is in progress already.") {
		t.Errorf("rotated twice: %+v", p)
	}
	revoke := func(kid, confirm string) page {
		return owner.send("/console/keys/revoke", "kid", kid, "confirm", confirm)
	}
	stolen := signing.refresh[0]
	for name, tc := range map[string]struct {
		kid, confirm string
		status       int
		text         string
	}{
		"another key's name":    {stolen, signing.access[0][:8], 400, "The key was not revoked"},
		"too short":             {stolen, stolen[:7], 400, "The key was not revoked"},
		"a key that is not":     {strings.Repeat("x", 43), "xxxxxxxx", 404, "There is no such account, session or key"},
		"a text as its name":    {"", "", 400, "The key was not revoked"},
		"a name that is longer": {stolen, stolen + "x", 400, "The key was not revoked"},
	} {
		if p := revoke(tc.kid, tc.confirm); p.status != tc.status || !p.has(tc.text) {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if k := kids(t, n); !slices.Contains(k.refresh, stolen) {
		t.Error("a key was revoked although its name was not typed")
	}
	if p := revoke(stolen, stolen[:8]); !p.has("The key is revoked.") || !p.has("Revoked") {
		t.Errorf("revoked: %+v", p)
	}
	if k := kids(t, n); slices.Contains(k.refresh, stolen) {
		t.Error("the key is still published")
	}
	if p := revoke(stolen, stolen[:8]); !p.has("The key was revoked already.") {
		t.Errorf("revoked twice: %+v", p)
	}
	if p := viewer.get("/console/events"); !p.has("key revoked by an administrator</strong> by key:owner") ||
		!p.has("“<b>a copy</b> was seen”") || strings.Contains(p.text, "<b>a copy") {
		t.Errorf("the events: %+v", p)
	}
}

// The state has what this server knows, and of the outbox neither addresses nor codes.
func TestConsoleShowsTheState(t *testing.T) {
	t.Parallel()
	file, keys := administrators(t, rightsOf)
	c, n := single(t, env{"ADMIN_PORT": "3", "ADMIN_KEYS": file})
	b := newBrowser(t, n.Admin)
	b.send("/console/sign-in", "credential", keys["viewer"])
	if p := b.get("/console/state"); p.status != 200 || !p.has("ready") || !p.has("the API and administrators") ||
		!p.has("this server") || !p.has("differs by") || !p.has("No mail waits.") || !p.has("This server sends no mail.") ||
		!p.has("generation "+c.generation()+" is in use") {
		t.Errorf("the state is %+v", p)
	}
	for range 2 {
		postgrestest.Exec(t, c.db, `INSERT INTO mails (purpose, recipient, canonical_recipient, attempts)
			VALUES ('recovery', 'Ada@example.com', 'ada@example.com', 3)`)
	}
	if p := b.get("/console/state"); !p.has("2 × recovery") || !p.has("tried up to 3 times") || p.has("example.com") {
		t.Errorf("the outbox is %+v", p)
	}
	postgrestest.Exec(t, c.db, "ALTER TABLE mails RENAME TO lost")
	if p := b.get("/console/state"); p.status != 200 || p.has("differs by") || !p.has(`role="alert"`) {
		t.Errorf("without an answer: %+v", p)
	}
	postgrestest.Exec(t, c.db, "ALTER TABLE lost RENAME TO mails")
}

func TestConsoleGivesExactlyTheRightsOfTheCredential(t *testing.T) {
	t.Parallel()
	n, keys, of := consoles(t)
	u := n.newUser()
	account := "/console/users/" + u.id
	for _, who := range []string{"expired", "getter", "unknown"} {
		b := newBrowser(t, n.Admin)
		want := map[string]int{"expired": 401, "getter": 403, "unknown": 401}[who]
		if p := b.send("/console/sign-in", "credential", keys[who]); p.status != want {
			t.Errorf("%s signs in: %d", who, p.status)
		}
		if p := b.get(account); p.path != "/console/sign-in" || p.has(u.email) {
			t.Errorf("%s sees %s", who, p.path)
		}
	}
	b := of("viewer")
	if p := b.get(account); !p.has(u.email) || p.has("End all sessions") || p.has("Suspend") || p.has("Delete") {
		t.Errorf("a viewer sees %+v", p)
	}
	for _, path := range []string{"/suspend", "/unsuspend", "/delete", "/sign-out", "/sessions/" + u.id + "/end"} {
		if p := b.send(account+path, "confirm", u.username); p.status != 403 || !p.has("which your credential does not have") {
			t.Errorf("a viewer at %s: %+v", path, p)
		}
	}
	b.send("/console/sign-out")
	if p := b.get(account); p.path != "/console/sign-in" {
		t.Errorf("after signing out: %+v", p)
	}
	stolen := of("editor")
	cookies := stolen.client.Jar.Cookies(testenv.Must(url.Parse(n.Admin + "/console/"))(t))
	stolen.send("/console/sign-out")
	stolen.client.Jar.SetCookies(testenv.Must(url.Parse(n.Admin+"/console/"))(t), cookies)
	if p := stolen.get(account); p.path != "/console/sign-in" {
		t.Errorf("with the cookie of a session that has ended: %+v", p)
	}
}

func TestConsoleRefusesFormsOfOtherSites(t *testing.T) {
	t.Parallel()
	n, keys, of := consoles(t)
	u := n.newUser()
	b := of("editor")
	b.origin = "https://evil.example"
	user := "/console/users/" + u.id
	for _, path := range []string{user + "/suspend", user + "/sign-out", "/console/sign-out", "/console/sign-in"} {
		if p := b.send(path, "credential", keys["editor"]); p.status != 403 || !p.has("from another site") {
			t.Errorf("%s: %d", path, p.status)
		}
	}
	if r := n.as(u.access, "GET", "/users", nil); r.Status != 200 {
		t.Errorf("the account after that: %v", r)
	}
	p := b.get("/console/users")
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		"X-Content-Type-Options":  "nosniff", "Cache-Control": "no-store", "Cross-Origin-Opener-Policy": "same-origin",
	} {
		if got := p.header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	if strings.Contains(p.text, "<script") || strings.Contains(p.text, " style=") {
		t.Error("a page has a script or a style of its own")
	}
	if r := n.as("", "GET", "/console/users", nil); r.Status != 404 {
		t.Errorf("the console at the port of the API: %v", r)
	}
}

func TestConsoleCodeOpensOneSession(t *testing.T) {
	t.Parallel()
	n, keys, _ := consoles(t)
	client := testenv.NewClient(t, n.Admin)
	for who, want := range map[string]int{"": 401, "expired": 401, "getter": 403, "viewer": 200} {
		header := http.Header{}
		if who != "" {
			header = testenv.Bearer(keys[who])
		}
		r := client.Do("POST", "/console/code", header, nil)
		if r.Status != want {
			t.Errorf("%q gets a code: %v", who, r)
		}
		if r.Status != 200 {
			continue
		}
		path := r.Text("path")
		if strings.Contains(path, keys[who]) {
			t.Error("the URL has the credential")
		}
		if p := newBrowser(t, n.Admin).get(path); p.path != "/console/users" || !p.has("key:viewer") {
			t.Errorf("the code leads to %+v", p)
		}
		for _, again := range []string{path, "/console/enter", "/console/enter?code=", "/console/enter?code=x"} {
			if p := newBrowser(t, n.Admin).get(again); p.path != "/console/sign-in?ended" {
				t.Errorf("%s leads to %s", again, p.path)
			}
		}
	}
}

func TestConsolePagesWithHostileValues(t *testing.T) {
	t.Parallel()
	n, _, of := consoles(t)
	u := n.newUser()
	b := of("editor")
	values := slices.Concat(apitest.HostileValues,
		[]string{`"><script>alert(1)</script>`, `{{.}}`, "' OR 1=1 --", strings.Repeat("a", 10_000)})
	for _, v := range values {
		for _, path := range []string{"/console/users?q=%s", "/console/users?cursor=%s", "/console/users?q=a&by=%s", "/console/users?state=%s",
			"/console/users/%s", "/console/events?user=%s", "/console/events?cursor=%s", "/console/keys?done=%s", "/console/state?x=%s", "/console/enter?code=%s", "/console/%s"} {
			p := b.get(fmt.Sprintf(path, url.QueryEscape(v)))
			if p.status >= 500 || strings.Contains(p.text, "<script") {
				t.Errorf("%s with %.40q: %d", path, v, p.status)
			}
		}
		long := b.send("/console/users/"+u.id+"/suspend", "reason", strings.Repeat("a", 70<<10))
		if long.status != 400 || !long.has("Nothing was changed.") {
			t.Fatalf("a form that is too long: %d", long.status)
		}
		for _, action := range []string{"/suspend", "/unsuspend", "/sign-out"} {
			if p := b.send("/console/users/"+u.id+action, "reason", v, "version", v); p.status >= 500 || strings.Contains(p.text, "<script") {
				t.Errorf("%s with %.40q: %d", action, v, p.status)
			}
		}
	}
}
