package httpapi_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

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
