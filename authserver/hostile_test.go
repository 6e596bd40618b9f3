package authserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// hostile are texts that some layer below may take for more than a text.
var hostile = []string{
	"", " ", "\x00", "before\x00after", "\n", "a\r\nSet-Cookie: x=y", "\t", "\x7f", "\x1b[31m", "\ufeffbom",
	"\u202eright to left", "\u200bzero\u200bwidth",
	"' OR '1'='1", "'; DROP TABLE users; --", `"; --`, "$1", "%", "_", "%s%s%n", "%00", "\\", "\\x00", `\u0000`,
	"${jndi:ldap://127.0.0.1/a}", "{{7*7}}", "<script>alert(1)</script>",
	"../../../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/", "null", "undefined", "NaN", "true", "0", "-1",
	"1e400", "99999999999999999999",
	"{00000000-0000-4000-8000-000000000000}", "00000000000040008000000000000000", "00000000-0000-4000-8000-00000000000G",
	"7ZZZZZZZZZZZZZZZZZZZZZZZZZ",
	"a@b", "@", "a@", "@b.c", "a@b.c (comment)", "Bob <a@b.example>", "<a@b.example>", `"a@evil.example"@b.example`,
	"a@[127.0.0.1]", "=?utf-8?q?a?=@b.example", "a@b.example\r\nBcc: c@d.example",
	"a@xn--0.example", "a@\u0430\u0440\u0440\u04cf\u0435.example", "\u017fomeone", "\u212aelvin", "\uff21dmin",
	"\u0430dmin", "admin\u0301", "\U0001f511", "ı", "İ", "ß", "ǅ",
	strings.Repeat("a", 65), strings.Repeat("a", 257), strings.Repeat("a", 9000), strings.Repeat("a@", 4000),
	strings.Repeat("\u0301", 5000), strings.Repeat("a ", 6000), strings.Repeat(".", 12000), strings.Repeat("(", 9000),
	"eyJhbGciOiJub25lIn0.e30.", "Bearer x", "a.b.c",
}

// mistyped are values that are no text, and texts that JSON cannot hold.
var mistyped = []string{
	"null", "true", "0", "-1", "1e400", "0.1", "[]", "{}", `["a"]`, `{"a":"b"}`, `{"$ne":""}`, strings.Repeat("[",
		9000) + strings.Repeat("]", 9000),
	`"\ud800"`, "\"\xff\xfe\"", "\"\xc0\xaf\"", "\"\x01\"", `"\x"`, `"unfinished`, "NaN", "nothing", "'single'",
	`"a" "b"`, `""""`, "", "\ufeff\"a\"",
}

func TestHostileValuesInEveryParameterOfEveryRouteAreAnsweredInShape(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	n := c.nodes[0]
	u := n.newUser()
	code := strings.Repeat("A", 43)
	good := map[string]string{
		"username": "somebody.else", "email": "somebody.else@mailbox.example.org", "first_name": "First", "last_name": "Last",
		"password": "some password of theirs", "old_password": "some other password", "scope": "profile email", "code": code,
		"id": "00000000-0000-4000-8000-000000000000", "refresh_token": "a.b.c", "grant_type": "refresh_token",
		"token": u.access, "access_token": u.access,
	}
	routes := []struct {
		method, path string
		authorized   bool
		parameters   []string
	}{
		{"POST", "/users", false, []string{"username", "email", "first_name", "last_name", "password", "scope"}},
		{"POST", "/users/verify-user", false, []string{"code"}},
		{"POST", "/users/verification-code", false, []string{"email"}},
		{"GET", "/users", false, []string{"access_token"}},
		{"PUT", "/users", true, []string{"username", "first_name", "last_name"}},
		{"DELETE", "/users", false, []string{"access_token"}},
		{"POST", "/users/forgot-password", false, []string{"email"}},
		{"POST", "/users/change-password", false, []string{"code", "id", "password"}},
		{"POST", "/users/change-password", true, []string{"old_password", "password"}},
		{"POST", "/users/change-email-request", true, []string{"email"}},
		{"POST", "/users/change-email", true, []string{"code", "email"}},
		{"POST", "/tokens/signin", false, []string{"username", "password"}},
		{"POST", "/tokens", false, []string{"refresh_token", "grant_type"}},
		{"DELETE", "/tokens", false, []string{"refresh_token"}},
		{"POST", "/tokens/introspect", false, []string{"token"}},
		{"POST", "/tokens/revoke", false, []string{"token"}},
	}
	check := func(about, value string, r *apitest.Reply) {
		t.Helper()
		if r.Status < 200 || r.Status >= 500 {
			t.Errorf("%s = %.60q: %v", about, value, r)
		}
	}
	for _, route := range routes {
		header := http.Header{}
		if route.authorized {
			header = apitest.Bearer(u.access)
		}
		send := func(body any) *apitest.Reply {
			r, err := n.Try(route.method, route.path, header, body)
			if err != nil {
				return &apitest.Reply{Body: []byte(err.Error())}
			}
			return r
		}
		for _, parameter := range route.parameters {
			members := map[string]string{}
			for _, p := range route.parameters {
				members[p] = good[p]
			}
			about := route.method + " " + route.path + " " + parameter
			for _, value := range hostile {
				members[parameter] = value
				check(about, value, send(members))
				if strings.HasPrefix(route.path, "/tokens") && route.path != "/tokens/signin" {
					check(about+" in a form", value, send(url.Values{parameter: {value}}))
				}
			}
			delete(members, parameter)
			rest, err := json.Marshal(members)
			testenv.NoError(t, err)
			for _, value := range mistyped {
				text := fmt.Sprintf(`{%q:%s,%s`, parameter, value, rest[1:])
				if len(members) == 0 {
					text = fmt.Sprintf(`{%q:%s}`, parameter, value)
				}
				r := send(text)
				if r.Status < 400 || r.Status >= 500 {
					// null may stand for an optional parameter that is left out.
					t.Errorf("%s = %.60q: %v", about, value, r)
				}
			}
			check(about+" twice", "", send(fmt.Sprintf(`{%q:"a",%q:"b"}`, parameter, parameter)))
		}
		for _, whole := range []string{"", "null", "[]", `"text"`, "{", "{}{}", "{} x", "\ufeff{}", "\xff",
			strings.Repeat(`{"a":`, 5000), `{"` + strings.Repeat("k", 60000) + `":1}`, `{"a":"` + strings.Repeat("v", 65<<10) + `"}`} {
			check(route.method+" "+route.path+" body", whole, send(whole))
		}
	}
	for name, values := range map[string][]string{
		"Authorization": {"", "Bearer", "Bearer ", "bearer x", "Bearer " + strings.Repeat("a", 9000), "Basic Og==",
			"Bearer \xff", "Bearer ' OR 1=1 --"},
		"X-Request-Id": {"", "a b", strings.Repeat("a", 65), "{\"a\":1}", "\xff", "../x", "<script>"},
		"X-Caller-Key": {"", "x", strings.Repeat("k", 5000)},
		"Content-Type": {"", "text/plain", "application/json; charset=utf-16", "multipart/form-data", "application/xml",
			"application/json, text/plain", strings.Repeat("a", 3000), ";", "application/x-www-form-urlencoded"},
		"If-None-Match": {"*", `"`, strings.Repeat(`"a",`, 2000)},
	} {
		for _, value := range values {
			for _, target := range []string{"GET /users", "POST /users", "GET /tokens/keys", "POST /tokens"} {
				method, path, _ := strings.Cut(target, " ")
				r, err := n.Try(method, path, http.Header{name: {value}}, "{}")
				if err != nil {
					t.Errorf("%s with %s: %.60q: %v", target, name, value, err)
					continue
				}
				check(target+" with "+name, value, r)
			}
		}
	}
	want(t, http.StatusOK, n.profile(u.access), "the user is as they were")
	names := column(t, c.db, "SELECT canonical_username FROM users")
	if slices.ContainsFunc(names, func(name string) bool { return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" }) {
		t.Errorf("got in: %q", names)
	}
}

// Paths have one spelling, and the reply to an unknown path reveals nothing of what was
// sent.
func TestPathsHaveOneSpelling(t *testing.T) {
	t.Parallel()
	n := start(t, 1).nodes[0]
	u := n.newUser()
	for _, path := range []string{
		"/USERS", "/users/", "//users", "/%75sers", "/./users", "/users%2f", "/users;x", "/users%00", "/users/../users", "/users/x",
		"/tokens/", "/Tokens/keys", "/.well-known/", "/.well-known/JWKS.json", "/docs/../openapi.json",
		"/docs/%2e%2e/openapi.json", "/secret-path-" + strings.Repeat("x", 2000),
	} {
		r := want(t, http.StatusNotFound, n.as(u.access, http.MethodGet, path, nil), path)
		if strings.Contains(string(r.Body), "secret-path") || strings.Contains(string(r.Body), "Bearer") {
			t.Errorf("%s is echoed: %v", path, r)
		}
	}
	for _, method := range []string{"OPTIONS", "TRACE", "PATCH", "FOO", "get", "PROPFIND"} {
		r := want(t, http.StatusMethodNotAllowed, n.as(u.access, method, "/users", nil), method)
		if r.Header.Get("Allow") == "" {
			t.Errorf("%s: no field Allow", method)
		}
	}
	r := n.try(http.MethodPost, "/tokens/keys", http.Header{"X-Http-Method-Override": {"GET"}, "Origin": {"https://evil.example"}}, nil)
	want(t, http.StatusMethodNotAllowed, r, "an override")
	if r.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("another origin is allowed")
	}
}
