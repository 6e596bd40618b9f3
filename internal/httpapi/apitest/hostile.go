package apitest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// HostileValues has values that parsers, databases and logs may take for more than a text.
var HostileValues = []string{
	"", " ", "\x00", "before\x00after", "\n", "a\r\nSet-Cookie: x=y", "\t", "\x7f", "\x1b[31m", "\ufeffbom",
	"\u202eright to left", "\u200bzero\u200bwidth", "'", `"`,
	"' OR '1'='1", "'; DROP TABLE users; --", `"; --`, "$1", "%", "_", "%s%s%n", "%00", "\\", "\\x00", `\u0000`,
	"${jndi:ldap://127.0.0.1/a}", "{{7*7}}", "<script>alert(1)</script>",
	"../../../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/", "null", "undefined", "NaN", "true", "0", "-1",
	"[]", "{}", "1e400", "99999999999999999999",
	"{00000000-0000-4000-8000-000000000000}", "00000000000040008000000000000000", "00000000-0000-4000-8000-00000000000G",
	"7ZZZZZZZZZZZZZZZZZZZZZZZZZ",
	"a@b", "@", "a@", "@b.c", "a@b@c", "a@b.c (comment)", "Bob <a@b.example>", "<a@b.example>", `"a@evil.example"@b.example`,
	"a@[127.0.0.1]", "=?utf-8?q?a?=@b.example", "a@b.example\r\nBcc: c@d.example",
	"a@xn--0.example", "a@\u0430\u0440\u0440\u04cf\u0435.example", "\u017fomeone", "\u212aelvin", "\uff21dmin",
	"\u0430dmin", "admin\u0301", "\U0001f511", "ı", "İ", "ß", "ǅ",
	strings.Repeat("a", 65), strings.Repeat("a", 257), strings.Repeat("a", 9000), strings.Repeat("a@", 4000),
	strings.Repeat("\u0301", 10000), strings.Repeat("a ", 10000), strings.Repeat(".", 20000), strings.Repeat("(", 9000),
	"eyJhbGciOiJub25lIn0.e30.", "Bearer x", "a.b.c",
}

// mistyped has JSON values that are not texts, texts that JSON cannot contain, and what is not JSON.
var mistyped = []string{
	"null", "true", "false", "0", "-0", "-1", "1e400", "0.1", "[]", "{}", `["a"]`, `{"a":"b"}`, `{"$ne":""}`,
	strings.Repeat("9", 5000), strings.Repeat("[", 500), strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
	`"\u0000"`, `"\ud800"`, "\"\xff\"", "\"\xff\xfe\"", "\"\xc0\xaf\"", "\"\x01\"", `"\x"`, `"unfinished`, "NaN", "nothing", "'single'",
	`"a" "b"`, `""""`, "", "\ufeff\"a\"",
}

// malformed has bodies that are no object, or too large a one.
var malformed = []string{
	"", "null", "[]", `"text"`, "{", "{}{}", "{} x", "\ufeff{}", "\xff",
	strings.Repeat(`{"a":`, 5000), `{"` + strings.Repeat("k", 60000) + `":1}`, `{"a":"` + strings.Repeat("v", 65<<10) + `"}`,
}

var hostileHeaders = map[string][]string{
	"Authorization": {"", "Bearer", "Bearer ", "bearer x", "Bearer " + strings.Repeat("a", 9000), "Basic Og==",
		"Bearer \xff", "Bearer ' OR 1=1 --"},
	"X-Request-Id": {"", "a b", strings.Repeat("a", 65), "{\"a\":1}", "\xff", "../x", "<script>"},
	"X-Caller-Key": {"", "x", strings.Repeat("k", 5000)},
	"Content-Type": {"", "text/plain", "application/json; charset=utf-16", "multipart/form-data", "application/xml",
		"application/json, text/plain", strings.Repeat("a", 3000), ";", "application/x-www-form-urlencoded"},
	"If-None-Match": {"*", `"`, strings.Repeat(`"a",`, 2000)},
}

// Hostile sends hostile values in every parameter, body and header field of every documented operation. None may get a
// reply of 500 or above, and each reply must keep the contract. valid has good values of parameters, such as a token;
// the other parameters are "x".
func Hostile(t *testing.T, client *testenv.Client, valid map[string]string) {
	t.Helper()
	send := func(o Operation, header http.Header, body any, about, value string, least int) {
		t.Helper()
		reply, err := client.Try(o.Method, o.Path, header, body)
		if err != nil || reply.Status < least || reply.Status >= 500 {
			t.Errorf("%s %s %s = %.60q: got %v, %v", o.Method, o.Path, about, value, reply, err)
		}
	}
	for _, o := range Bodies(t) {
		for _, value := range HostileValues {
			if !strings.ContainsAny(value, "\x00\r\n\x1b\x7f") { // no client sends such a field
				// A well-formed id would be in the log, which must not have what is also sent as a username.
				send(o, http.Header{"Authorization": {"Bearer " + value}, "X-Caller-Key": {value}, "X-Request-Id": {value + "!"},
					"Content-Type": {value}}, "x", "with fields", value, 200)
			}
		}
		for name, values := range hostileHeaders {
			for _, value := range values {
				send(o, http.Header{name: {value}}, "{}", "with "+name, value, 200)
			}
		}
		for _, body := range malformed {
			send(o, nil, body, "with the body", body, 200)
		}
		for _, parameters := range o.alternatives() {
			for _, target := range parameters {
				body := map[string]string{}
				for _, name := range parameters {
					body[name] = "x"
					if value, ok := valid[name]; ok {
						body[name] = value
					}
				}
				for _, value := range HostileValues {
					body[target] = value
					send(o, nil, body, target, value, 200)
					if o.Form {
						form := url.Values{}
						for name, v := range body {
							form.Set(name, v)
						}
						send(o, nil, form, target+" in a form", value, 200)
					}
				}
				delete(body, target)
				rest, err := json.Marshal(body)
				testenv.NoError(t, err)
				separator := map[bool]string{true: "", false: ","}[len(body) == 0]
				least := 400
				if target == "token_type_hint" {
					least = 200 // RFC 7009: the server may ignore it
				}
				for _, value := range mistyped {
					send(o, nil, fmt.Sprintf("{%q:%s%s%s", target, value, separator, rest[1:]), target, value, least)
				}
				send(o, nil, fmt.Sprintf(`{%q:"a",%q:"b"}`, target, target), target+" twice", "", 400)
			}
		}
	}
}

// Operation is an operation of the OpenAPI document with the parameters of its body.
type Operation struct {
	Method, Path string
	Parameters   []string
	Form         bool // the body may be a form
}

// alternatives returns the sets of parameters that belong together.
func (o Operation) alternatives() [][]string {
	if o.Path == "/users/change-password" {
		return [][]string{{"code", "id", "password"}, {"access_token", "old_password", "password"}}
	}
	return [][]string{o.Parameters}
}

// ExampleID replaces {id} in the paths of Bodies.
const ExampleID = "6f1c1f0e-3d52-4d0a-9a57-0f6b6f3a9d11"

// Bodies returns all operations with their parameters, from the document, so tests also use parameters that are added
// later.
func Bodies(t testing.TB) (list []Operation) {
	t.Helper()
	type schema struct {
		Ref        string         `json:"$ref"`
		Properties map[string]any `json:"properties"`
	}
	type requestBody struct {
		Ref     string `json:"$ref"`
		Content map[string]struct {
			Schema schema `json:"schema"`
		} `json:"content"`
	}
	var doc struct {
		Paths      map[string]map[string]json.RawMessage `json:"paths"`
		Components struct {
			RequestBodies map[string]requestBody `json:"requestBodies"`
			Schemas       map[string]schema      `json:"schemas"`
		} `json:"components"`
	}
	testenv.NoError(t, json.Unmarshal(httpapi.OpenAPI(), &doc))
	for path, item := range doc.Paths {
		for method, raw := range item {
			if method == "parameters" {
				continue
			}
			var operation struct {
				RequestBody requestBody `json:"requestBody"`
			}
			testenv.NoError(t, json.Unmarshal(raw, &operation))
			body := operation.RequestBody
			if body.Ref != "" {
				body = doc.Components.RequestBodies[body.Ref[strings.LastIndex(body.Ref, "/")+1:]]
			}
			_, form := body.Content["application/x-www-form-urlencoded"]
			o := Operation{Method: strings.ToUpper(method), Path: strings.Replace(path, "{id}", ExampleID, 1), Form: form}
			parameters := body.Content["application/json"].Schema
			if parameters.Ref != "" {
				parameters = doc.Components.Schemas[parameters.Ref[strings.LastIndex(parameters.Ref, "/")+1:]]
			}
			for name := range parameters.Properties {
				o.Parameters = append(o.Parameters, name)
			}
			if o.Method == http.MethodGet && (path == "/users" || path == "/users/data" || path == "/users/sessions") {
				o.Parameters = []string{"access_token"} // described in words: browsers send no body with GET
			}
			slices.Sort(o.Parameters)
			list = append(list, o)
		}
	}
	if len(list) < 20 {
		t.Fatalf("only %d operations were found", len(list))
	}
	return list
}
