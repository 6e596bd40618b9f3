package httpapi_test

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

func TestParametersThatAreWrongAreAllNamed(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, tc := range []struct {
		name, method, path, body string
		status                   int
		description              string
	}{
		{"malformed and missing", "POST", "/users", `{"username":"ada","email":"e"}`, 400,
			"first_name: is missing; last_name: is missing; password: is missing"},
		{"mistyped and missing", "POST", "/users", `{"username": 5}`, 400,
			"username: must be a string; email: is missing; first_name: is missing; last_name: is missing; password: is missing"},
		{"every type but a string", "POST", "/users",
			`{"username":null,"email":true,"first_name":[],"last_name":{},"password":1.5,"scope":["admin"]}`, 400,
			"username: must be a string; email: must be a string; first_name: must be a string; last_name: must be a string; password: must be a string; scope: must be a string"},
		{"no body", "POST", "/tokens/signin", ``, 400, "username: is missing; password: is missing"},
		{"empty scope", "POST", "/users", `{"username":"a","email":"b","first_name":"c","last_name":"d","password":"e","scope":""}`, 400,
			"scope: is empty; omit it for the default"},
		{"wrong grant", "POST", "/tokens", `{"username":"a","grant_type":"password"}`, 400, "grant_type: must be refresh_token"},
		{"neither way to a new password", "POST", "/users/change-password", `{}`, 400,
			"code: is missing; alternatively, send an access token and old_password; password: is missing"},
		{"both ways", "POST", "/users/change-password", `{"code":"c","old_password":"o","password":"p"}`, 400,
			"code: cannot be combined with old_password; send only one of them"},
		{"old password without a token", "POST", "/users/change-password", `{"old_password":"c","password":"p"}`, 401,
			"an access token is required"},
		{"a token without the old password", "POST", "/users/change-password", `{"access_token":"c","password":"p"}`, 400,
			"old_password: is missing"},
		{"a null code", "POST", "/users/change-password", `{"code":null,"id":7,"password":"p"}`, 400,
			"code: must be a string; id: must be a string"},
		{"a mistyped token", "PUT", "/users", `{"access_token":1,"username":2}`, 400,
			"access_token: must be a string; username: must be a string"},
		{"empty address", "POST", "/users/change-email-request", `{"access_token":"a","email":""}`, 400, "email: is empty"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testenv.Expect(t, s.Do(tc.method, tc.path, nil, tc.body), tc.status, `"`+tc.description)
			s.wantCall(t, "")
		})
	}
}

// Rows I01 to I09, U01 to U03 and C09 of the security notes.
func TestBodyIsExactlyOneJSONObject(t *testing.T) {
	t.Parallel()
	s := start(t)
	nested := func(n int) string {
		return `{"x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `,"code":"c"}`
	}
	for _, tc := range []struct {
		name, body string
		status     int
	}{
		{"good", `{"code":"c"}`, 200},
		{"white space around", " \r\n\t{\"code\":\"c\"}\n", 200},
		{"unknown members", `{"code":"c","x":{"code":[1,null,{"a":"\u0001"}]},"":0}`, 200},
		{"unknown members of other case", `{"code":"c","CODE":5,"Code":6,"cod\u0065d":1}`, 200},
		{"an escaped name", `{"\u0063ode":"c"}`, 200},
		{"a backslash before u0000", `{"code":"c","x":"\\u0000"}`, 200},
		{"nested a little", nested(30), 200},

		{"only of other case", `{"CODE":"c"}`, 400},
		{"long s", `{"ſcode":"c"}`, 400},
		{"empty", "", 400}, {"white space", "  ", 400},
		{"null", "null", 400}, {"array", `[]`, 400}, {"string", `"x"`, 400}, {"number", `1`, 400}, {"true", `true`, 400},
		{"array of the object", `[{"code":"c"}]`, 400},
		{"second object", `{"code":"c"}{"code":"d"}`, 400},
		{"trailing bytes", `{"code":"c"}x`, 400},
		{"trailing NUL", "{\"code\":\"c\"}\x00", 400},
		{"byte order mark", "\xef\xbb\xbf" + `{"code":"c"}`, 400},
		{"UTF-16", "\xff\xfe{\x00}\x00", 400},
		{"cut off", `{"code":"c"`, 400}, {"single quotes", `{'code':'c'}`, 400}, {"comment", `{"code":"c"/**/}`, 400},
		{"trailing comma", `{"code":"c",}`, 400}, {"NaN", `{"code":"c","x":NaN}`, 400},
		{"given twice", `{"code":"c","code":"c"}`, 400},
		{"given twice by escapes", `{"code":"c","\u0063ode":"d"}`, 400},
		{"unknown given twice", `{"code":"c","x":1,"x":1}`, 400},
		{"unknown given twice within", `{"code":"c","x":{"y":1,"y":1}}`, 400},
		{"NUL", `{"code":"c\u0000"}`, 400}, {"NUL in a name", `{"code":"c","\u0000":1}`, 400},
		{"NUL within an unknown member", `{"code":"c","x":[{"y":"\u0000"}]}`, 400}, {"bare NUL", "{\"code\":\"c\x00\"}", 400},
		{"invalid UTF-8", "{\"code\":\"\xff\"}", 400}, {"overlong UTF-8", "{\"code\":\"\xc0\x80\"}", 400},
		{"lone surrogate", `{"code":"\ud800"}`, 400},
		{"nested", nested(40), 400}, {"nested 9,000 deep", nested(9000), 400}, {"nested 20,000 deep", nested(20000), 400},
		{"unclosed arrays", strings.Repeat("[", 60000), 400}, {"open objects", strings.Repeat(`{"x":`, 12000), 400},
		{"code null", `{"code":null}`, 400}, {"code 0", `{"code":0}`, 400}, {"code true", `{"code":true}`, 400},
		{"code []", `{"code":[]}`, 400}, {"code {}", `{"code":{}}`, 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			begin := time.Now()
			reply := s.Do("POST", "/users/verify-user", header("Content-Type", "application/json"), tc.body)
			testenv.Expect(t, reply, tc.status)
			if took := time.Since(begin); took > time.Second {
				t.Errorf("took %v", took)
			}
			if call := s.accounts.last(); (call != "") != (tc.status == 200) {
				t.Errorf("the domain was called with %q", call)
			}
		})
	}
}

func TestParametersOfOtherRoutesAreIgnored(t *testing.T) {
	t.Parallel()
	s := start(t)
	const extra = `"id":"x","verified":true,"is_verified":true,"password_hash":"h","created_at":"1970","role":"admin",` +
		`"SCOPE":"admin","ſcope":"admin","token":5`
	signUp := `{"username":"ada","email":"e","first_name":"f","last_name":"l","password":"p",` + extra + `}`
	testenv.Expect(t, s.Do("POST", "/users", nil, signUp), 201)
	s.wantCall(t, "SignUp(ada, e, f, l, p, )")
	update := `{"username":"ada","email":"e","password":"p","scope":"admin",` + extra + `}`
	testenv.Expect(t, s.Do("PUT", "/users", testenv.Bearer("t"), update), 200)
	s.wantCall(t, "UpdateProfile(t, ada, -, -)")
}

func TestBodyMustHaveADocumentedTypeAndNoEncoding(t *testing.T) {
	t.Parallel()
	s := start(t)
	const good = `{"code":"c","refresh_token":"r","token":"t"}`
	form := "code=c&refresh_token=r&token=t"
	routes := []string{"/users/verify-user", "/tokens", "/tokens/introspect"}
	for _, tc := range []struct {
		contentType, body string
		forJSON, forForms int // the status at a route for JSON only, and at one for forms too
	}{
		{"application/json", good, 200, 200},
		{"APPLICATION/JSON", good, 200, 200},
		{"application/json; charset=utf-8", good, 200, 200},
		{`application/json;charset="UTF-8"`, good, 200, 200},
		{"application/json; charset=utf-16", good, 415, 415},
		{"application/json; charset=latin1", good, 415, 415},
		{"application/json; v=1", good, 415, 415},
		{"application/json, text/plain", good, 415, 415},
		{"application/jsonx", good, 415, 415},
		{"application/vnd.api+json", good, 415, 415},
		{"text/json", good, 415, 415},
		{"text/plain", good, 415, 415},
		{"application/xml", "<code>c</code>", 415, 415},
		{"multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"code\"\r\n\r\nc\r\n--b--\r\n", 415, 415},
		{"multipart/form-data", "", 400, 400},
		{"application/x-www-form-urlencoded", form, 415, 200},
		{"application/x-www-form-urlencoded; charset=UTF-8", form, 415, 200},
		{"", good, 415, 200},
		{"", " \n" + good, 415, 200},
		{"", form, 415, 415},
		{";", good, 415, 415},
	} {
		for i, path := range routes {
			want := tc.forForms
			if i == 0 {
				want = tc.forJSON
			}
			h := header("Content-Type", tc.contentType)
			if tc.contentType == "" {
				h = http.Header{"Content-Type": nil}
			}
			if reply := s.Do("POST", path, h, tc.body); reply.Status != want {
				t.Errorf("%s with %q got %v, want %d", path, tc.contentType, reply, want)
			}
		}
	}

	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(bytes.Repeat([]byte(" "), 16<<20))
	_ = z.Close()
	for _, encoding := range []string{"gzip", "br", "deflate", "zstd", "gzip, gzip", "identity", "x"} {
		testenv.Expect(t, s.Do("POST", "/tokens", header("Content-Encoding", encoding), bomb.Bytes()), 415, "Content-Encoding")
	}
}

func TestBodyOfAFormIsFlat(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, tc := range []struct {
		name, body string
		status     int
	}{
		{"good", "refresh_token=r", 200},
		{"escapes", "refresh%5Ftoken=%72", 200},
		{"unknown fields", "refresh_token=r&scope[999999999]=x&a[-1]=x&b.c=1&=", 200},
		{"an unknown field without a value twice", "refresh_token=r&x&x", 400},
		{"given twice", "refresh_token=r&refresh_token=r", 400},
		{"no value counts as left out", "refresh_token=", 400},
		{"an index is another name", "refresh_token[]=r", 400},
		{"semicolon", "refresh_token=r;a=b", 400},
		{"bad escape", "refresh_token=%zz", 400},
		{"NUL", "refresh_token=r%00", 400}, {"NUL in a name", "refresh_token=r&%00=1", 400},
		{"invalid UTF-8", "refresh_token=%ff", 400},
		{"JSON", `{"refresh_token":"r"}`, 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testenv.Expect(t, s.Do("POST", "/tokens", header("Content-Type", "application/x-www-form-urlencoded"), tc.body), tc.status)
			if call := s.accounts.last(); tc.status == 200 && call != "Renew(r)" {
				t.Errorf("the domain was called with %q", call)
			}
		})
	}
}

// Row J24.
func TestAccessTokenIsReadFromTheFieldOrTheBodyOnly(t *testing.T) {
	t.Parallel()
	s := start(t)
	const (
		none    = `Bearer realm="auth-gateway"`
		invalid = `Bearer realm="auth-gateway", error="invalid_token"`
	)
	for _, tc := range []struct {
		name      string
		header    http.Header
		query     string
		body      any
		status    int
		challenge string
	}{
		{name: "field", header: testenv.Bearer("t"), status: 200},
		{name: "scheme of other case", header: header("Authorization", "bEARER t"), status: 200},
		{name: "body", body: object("access_token", "t"), status: 200},
		{name: "both, the same", header: testenv.Bearer("t"), body: object("access_token", "t"), status: 200},
		{name: "both, different", header: testenv.Bearer("t"), body: object("access_token", "u"), status: 400},
		{name: "both, one mistyped", header: testenv.Bearer("t"), body: `{"access_token":7}`, status: 400},
		{name: "none", status: 401, challenge: none},
		{name: "empty field", header: header("Authorization", ""), status: 401, challenge: none},
		{name: "two fields", header: header("Authorization", "Bearer t", "Authorization", "Bearer u"), status: 400},
		{name: "two equal fields", header: header("Authorization", "Bearer t", "Authorization", "Bearer t"), status: 400},
		{name: "two spaces", header: header("Authorization", "Bearer  t"), status: 401, challenge: invalid},
		{name: "tab", header: header("Authorization", "Bearer\tt"), status: 401, challenge: invalid},
		{name: "no token", header: header("Authorization", "Bearer"), status: 401, challenge: invalid},
		{name: "two tokens", header: header("Authorization", "Bearer t u"), status: 401, challenge: invalid},
		{name: "two tokens by a comma", header: header("Authorization", "Bearer t,Bearer u"), status: 401, challenge: invalid},
		{name: "other scheme", header: header("Authorization", "Basic dTpw"), status: 401, challenge: invalid},
		{name: "bad field beside a good body", header: header("Authorization", "Basic dTpw"), body: object("access_token",
			"t"), status: 401, challenge: invalid},
		{name: "no scheme", header: header("Authorization", "t"), status: 401, challenge: invalid},
		{name: "another field", header: header("X-Access-Token", "t"), status: 401, challenge: none},
		{name: "cookie", header: header("Cookie", "access_token=t"), status: 401, challenge: none},
		{name: "form", header: header("Content-Type", "application/x-www-form-urlencoded"), body: "access_token=t", status: 415},
		{name: "query", query: "?access_token=t", status: 400},
		{name: "query beside a field", header: testenv.Bearer("t"), query: "?access_token=t", status: 400},
		{name: "escaped query", header: testenv.Bearer("t"), query: "?x=1&access%5Ftoken", status: 400},
		{name: "refresh token in the query", header: testenv.Bearer("t"), query: "?refresh_token=t", status: 400},
		{name: "code in the query", header: testenv.Bearer("t"), query: "?code=t", status: 400},
		{name: "password in the query", header: testenv.Bearer("t"), query: "?password=t&old_password=u", status: 400},
		{name: "malformed query", header: testenv.Bearer("t"), query: "?a;b", status: 400},
		{name: "harmless query", header: testenv.Bearer("t"), query: "?a=b&&c", status: 200},
		{name: "empty query", header: testenv.Bearer("t"), query: "?", status: 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reply := s.Do("GET", "/users"+tc.query, tc.header, tc.body)
			testenv.Expect(t, reply, tc.status)
			testenv.ExpectHeader(t, reply, "WWW-Authenticate", tc.challenge)
			s.wantCall(t, map[bool]string{true: "Profile(t)", false: ""}[tc.status == 200])
		})
	}
	testenv.Expect(t, s.Do("POST", "/tokens?refresh_token=a&password=b", nil, object("refresh_token", "r")), 400,
		"refresh_token: must not be in the query string; password: must not be in the query string")
}

func TestTrustedCallerOnlySeesCodesChoosesScopesAndIntrospects(t *testing.T) {
	t.Parallel()
	const key = "a key of the trusted caller"
	s := start(t, func(o *httpapi.Options) { o.TrustedCallerKey = key })
	for _, tc := range []struct {
		method, path string
		body         any
		ok           int
	}{
		{"POST", "/users", signUpBody(), 201},
		{"POST", "/users/verification-code", object("email", "e"), 200},
		{"POST", "/users/forgot-password", object("email", "e"), 200},
		{"POST", "/users/change-email-request", object("access_token", "t"), 200},
		{"POST", "/tokens/introspect", object("token", "t"), 200},
	} {
		for _, h := range []http.Header{
			nil, header("X-Caller-Key", ""), header("X-Caller-Key", "x"), header("X-Caller-Key", key+"x"),
			header("X-Caller-Key", key[1:]), header("X-Caller-Key", strings.ToUpper(key)), header("Authorization", key),
		} {
			testenv.Expect(t, s.Do(tc.method, tc.path, h, tc.body), 403, "X-Caller-Key")
			testenv.Expect(t, s.Do(tc.method, tc.path, h, "no JSON"), 403)
		}
		testenv.Expect(t, s.Do(tc.method, tc.path, header("X-Caller-Key", key, "X-Caller-Key", "x"), tc.body), 400)
		if call := s.accounts.last(); call != "" {
			t.Errorf("%s: a caller that is not trusted was served: %s", tc.path, call)
		}
		testenv.Expect(t, s.Do(tc.method, tc.path, header("X-Caller-Key", key), tc.body), tc.ok)
		s.accounts.last()
	}
	// The other routes need no key.
	testenv.Expect(t, s.Do("POST", "/tokens", nil, object("refresh_token", "r")), 200)
	testenv.Expect(t, s.Do("POST", "/users/change-password", nil, object("code", "c", "password", "p")), 204)
}

func TestPublicExposureRevealsNoCodes(t *testing.T) {
	t.Parallel()
	const key = "a key of the trusted caller"
	s := start(t, func(o *httpapi.Options) { o.Exposure, o.TrustedCallerKey = "public", key })
	s.accounts.mailed = true
	for path, body := range map[string]map[string]string{
		"/users":                      signUpBody(),
		"/users/verification-code":    object("email", "e"),
		"/users/forgot-password":      object("email", "e"),
		"/users/change-email-request": object("access_token", "t"),
	} {
		reply := s.Do("POST", path, nil, body)
		if reply.Status != 202 || string(reply.Body) != "{}" {
			t.Errorf("%s got %v", path, reply)
		}
	}
	testenv.Expect(t, s.Do("POST", "/users", nil, signUpBody("scope", "admin")), 403)
	testenv.Expect(t, s.Do("POST", "/users", header("X-Caller-Key", key), signUpBody("scope", "admin")), 202)
	testenv.Expect(t, s.Do("POST", "/tokens/introspect", nil, object("token", "t")), 403)
}

func TestHostileValuesInEveryParameterAreAnsweredInShape(t *testing.T) {
	t.Parallel()
	stub := &endingsStub{released: make(chan struct{})}
	close(stub.released)
	apitest.Hostile(t, start(t, func(o *httpapi.Options) { o.Endings = stub }).Client, nil)
}

func strict(o *httpapi.Options) { o.StrictParameters = true }

// fieldsOf returns the reason and the fields of an error.
func fieldsOf(t *testing.T, reply *testenv.Reply) (reason string, fields map[string]string) {
	t.Helper()
	var e struct {
		Reason string
		Fields map[string]string
	}
	reply.JSON(t, &e)
	return e.Reason, e.Fields
}

// A route accepts the parameters that the document lists, and refuses all others before it does anything.
func TestStrictParametersAreThoseOfTheDocument(t *testing.T) {
	t.Parallel()
	s, lax := start(t, strict), start(t)
	operations := apitest.Bodies(t)
	all := []string{"scopes", "role", "Username"}
	for _, o := range operations {
		all = append(all, o.Parameters...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	for _, o := range operations {
		if len(o.Parameters) == 0 {
			continue // its body is not read
		}
		for _, name := range all {
			known := slices.Contains(o.Parameters, name)
			h := header("Authorization", "Bearer t")
			body := object(name, "t")
			reply := s.Do(o.Method, o.Path, h, body)
			if reply.Status < 300 {
				if !known {
					t.Errorf("%s %s accepted %q: %v", o.Method, o.Path, name, reply)
				}
				continue
			}
			if _, fields := fieldsOf(t, reply); (fields[name] == "unrecognized") == known {
				t.Errorf("%s %s with %q got %v", o.Method, o.Path, name, reply)
			}
			if reply = lax.Do(o.Method, o.Path, h, body); strings.Contains(string(reply.Body), "unrecognized") {
				t.Errorf("not strictly, %s %s with %q got %v", o.Method, o.Path, name, reply)
			}
		}
	}
}

func TestStrictParametersRefuseOneMore(t *testing.T) {
	t.Parallel()
	s, lax := start(t, strict), start(t)
	for name, tc := range map[string]struct {
		method, path string
		body         map[string]string
	}{
		"sign up":          {"POST", "/users", signUpBody()},
		"verify":           {"POST", "/users/verify-user", object("code", "c")},
		"another code":     {"POST", "/users/verification-code", object("email", "e")},
		"forgot":           {"POST", "/users/forgot-password", object("email", "e")},
		"profile":          {"GET", "/users", object("access_token", "t")},
		"names":            {"PUT", "/users", object("access_token", "t", "first_name", "Ada")},
		"delete":           {"DELETE", "/users", object("access_token", "t")},
		"sessions":         {"GET", "/users/sessions", object("access_token", "t")},
		"data":             {"GET", "/users/data", object("access_token", "t")},
		"end a session":    {"DELETE", "/users/sessions/" + userID, object("access_token", "t")},
		"password by code": {"POST", "/users/change-password", object("code", "c", "password", "p", "id", userID, "access_token", "t")},
		"password by old": {"POST", "/users/change-password", object("access_token", "t", "old_password", "o",
			"password", "p", "id", userID)},
		"ask for another email":  {"POST", "/users/change-email-request", object("access_token", "t", "email", "e")},
		"change the email":       {"POST", "/users/change-email", object("access_token", "t", "code", "c", "email", "e")},
		"sign in":                {"POST", "/tokens/signin", object("username", "u", "password", "p")},
		"renew":                  {"POST", "/tokens", object("refresh_token", "t", "grant_type", "refresh_token")},
		"sign out":               {"DELETE", "/tokens", object("refresh_token", "t")},
		"introspect with a hint": {"POST", "/tokens/introspect", object("token", "t", "token_type_hint", "access_token")},
	} {
		t.Run(name, func(t *testing.T) {
			if reply := s.Do(tc.method, tc.path, nil, tc.body); reply.Status >= 300 {
				t.Fatalf("as documented: %v", reply)
			}
			more := object("scopes", "admin")
			for k, v := range tc.body {
				more[k] = v
			}
			if reply := lax.Do(tc.method, tc.path, nil, more); reply.Status >= 300 {
				t.Errorf("not strictly: %v", reply)
			}
			s.accounts.last()
			reply := s.Do(tc.method, tc.path, nil, more)
			testenv.Expect(t, reply, 400, "scopes: is not a parameter of this route")
			if reason, fields := fieldsOf(t, reply); reason != "parameter_unknown" || len(fields) != 1 || fields["scopes"] != "unrecognized" {
				t.Errorf("got %v", reply)
			}
			s.wantCall(t, "")
		})
	}
}

func TestStrictParametersAreNamedOnce(t *testing.T) {
	t.Parallel()
	s := start(t, strict)
	reply := s.Do("POST", "/users/verify-user", header("Content-Type", "application/json"),
		`{"cod":"c","a b":1,"":{"x":[]},"`+strings.Repeat("x", 65)+`":"s3cret"}`)
	testenv.Expect(t, reply, 400)
	reason, fields := fieldsOf(t, reply)
	if reason != "invalid_fields" || len(fields) != 3 || fields["code"] != "missing" ||
		fields["cod"] != "unrecognized" || fields["parameters"] != "unrecognized" ||
		strings.Contains(string(reply.Body), "s3cret") || strings.Contains(string(reply.Body), "xxx") {
		t.Errorf("got %v", reply)
	}
	many := map[string]string{}
	for i := range 5000 {
		many["x"+strings.Repeat("y", i%30)+string(rune('a'+i%26))] = ""
	}
	reply = s.Do("POST", "/users/verify-user", nil, many)
	testenv.Expect(t, reply, 400)
	if len(reply.Body) > 8<<10 {
		t.Errorf("the reply has %d bytes", len(reply.Body))
	}
	// RFC 6749 section 3.2: unknown parameters of a form must be ignored.
	form := header("Content-Type", "application/x-www-form-urlencoded")
	testenv.Expect(t, s.Do("POST", "/tokens", form, "refresh_token=t&client_id=c&scope=profile"), 200)
	testenv.Expect(t, s.Do("POST", "/tokens", nil, object("grant_type", "password", "username", "u", "password", "p")), 400,
		`"unsupported_grant_type"`)
}

func TestStrictParametersRefuseTheQuery(t *testing.T) {
	t.Parallel()
	s, lax := start(t, strict), start(t)
	for _, o := range apitest.Bodies(t) {
		reply := s.Do(o.Method, o.Path+"?"+url.Values{"verbose": {"1"}, "role": {"x", "y"}}.Encode(), header("Authorization", "Bearer t"), nil)
		testenv.Expect(t, reply, 400)
		if reason, fields := fieldsOf(t, reply); reason != "parameter_unknown" || len(fields) != 2 ||
			fields["role"] != "unrecognized" || fields["verbose"] != "unrecognized" {
			t.Errorf("%s %s: %v", o.Method, o.Path, reply)
		}
		reply = lax.Do(o.Method, o.Path+"?verbose=1", header("Authorization", "Bearer t"), nil)
		if reply.Status >= 400 && strings.Contains(string(reply.Body), "unrecognized") {
			t.Errorf("not strictly: %v", reply)
		}
	}
	reply := s.Do("GET", "/users?code=c&x=1", nil, nil)
	testenv.Expect(t, reply, 400)
	if reason, fields := fieldsOf(t, reply); reason != "invalid_fields" || fields["code"] != "in_query" || fields["x"] != "unrecognized" {
		t.Errorf("got %v", reply)
	}
}
