package search

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// route is a route with its parameters, and how often a stranger and the owner use it.
type route struct {
	method, path string
	parameters   string // with "?": sent sometimes; "a=b": a is filled like b
	stranger     int
	owner        int
}

// routes are all routes with an effect. A route in two rows is used in two ways.
var routes = []route{
	{"POST", "/users", "username email first_name last_name password scope?", 8, 6},
	{"POST", "/users/verify-user", "code password? username?", 6, 8},
	{"POST", "/users/verification-code", "email", 6, 4},
	{"POST", "/users/forgot-password", "email", 5, 4},
	{"POST", "/users/change-password", "code password id?", 4, 4},
	{"POST", "/users/change-password", "access_token old_password=password password", 3, 2},
	{"POST", "/users/change-email-request", "access_token email?", 8, 2},
	{"POST", "/users/change-email", "access_token code email", 8, 2},
	{"POST", "/tokens/signin", "username=login password", 6, 5},
	{"POST", "/tokens", "refresh_token grant_type?", 3, 1},
	{"DELETE", "/tokens", "refresh_token", 1, 1},
	{"POST", "/tokens/introspect", "token", 2, 1},
	{"POST", "/tokens/revoke", "token", 1, 1},
	{"GET", "/users", "access_token", 2, 1},
	{"PUT", "/users", "access_token username? first_name? last_name?", 3, 1},
	{"DELETE", "/users", "access_token", 1, 1},
	{"GET", "/users/data", "access_token", 2, 1},
	{"GET", "/users/sessions", "access_token", 2, 1},
	{"DELETE", "/users/sessions/{id}", "access_token", 2, 1},
}

// constant are routes without parameters that reply the same to every client.
var constant = []string{
	"GET /tokens/keys", "GET /.well-known/jwks.json", "GET /openapi.json", "GET /docs",
	"GET /docs/init.js", "GET /docs/swagger-ui.css", "GET /docs/swagger-ui-bundle.js", "GET /docs/favicon-32x32.png",
	"GET /.well-known/openid-configuration", "GET /.well-known/oauth-authorization-server",
}

// consumers are routes for services that verify tokens. test/consumers drives them.
var consumers = []string{"GET /sessions/ended"}

// A new route or parameter of the API must be added to the searches.
func TestSearchesKnowEveryRoute(t *testing.T) {
	known := map[string][]string{}
	for _, r := range routes {
		key := r.method + " " + r.path
		known[key] = append(known[key], r.names()...)
	}
	for key, parameters := range documented(t) {
		if slices.Contains(constant, key) || slices.Contains(consumers, key) {
			continue
		}
		for _, parameter := range parameters {
			if parameter != "access_token" && !slices.Contains(known[key], parameter) {
				t.Errorf("no search sends %s with the parameter %s: add it to routes", key, parameter)
			}
		}
		if known[key] == nil {
			t.Errorf("no search sends %s: add it to routes", key)
		}
	}
}

func (r route) names() (names []string) {
	for field := range strings.FieldsSeq(r.parameters) {
		name, _, _ := strings.Cut(strings.TrimSuffix(field, "?"), "=")
		names = append(names, name)
	}
	return names
}

// documented returns every operation of the OpenAPI document with the parameters of its body. The tests of httpapi
// compare the document with the routes.
func documented(t *testing.T) map[string][]string {
	type body struct {
		Ref     string `json:"$ref"`
		Content map[string]struct {
			Schema struct {
				Properties map[string]any `json:"properties"`
			} `json:"schema"`
		} `json:"content"`
	}
	var document struct {
		Paths      map[string]map[string]json.RawMessage `json:"paths"`
		Components struct {
			RequestBodies map[string]body `json:"requestBodies"`
		} `json:"components"`
	}
	testenv.NoError(t, json.Unmarshal(httpapi.OpenAPI(), &document))
	all := map[string][]string{}
	for path, operations := range document.Paths {
		for method, raw := range operations {
			if method == "parameters" {
				continue
			}
			var operation struct {
				RequestBody body `json:"requestBody"`
			}
			testenv.NoError(t, json.Unmarshal(raw, &operation))
			b := operation.RequestBody
			if b.Ref != "" {
				b = document.Components.RequestBodies[b.Ref[strings.LastIndex(b.Ref, "/")+1:]]
			}
			all[strings.ToUpper(method)+" "+path] = slices.Sorted(maps.Keys(b.Content["application/json"].Schema.Properties))
		}
	}
	return all
}
