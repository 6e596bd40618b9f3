package apitest_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
)

// Each of these replies breaks the contract in one way, except the good ones.
func TestCheckFindsEachBreachOfTheContract(t *testing.T) {
	t.Parallel()
	const (
		tokens = `{"access_token":"a","token_type":"Bearer","expires_in":900,"refresh_token":"r","refresh_expires_in":9,"scope":"s"}`
		whole  = `"client_id":"c","token_use":"access_token","exp":2,"iat":1,"sub":"` + apitest.ExampleID + `"` +
			`,"aud":["a"],"iss":"i","jti":"j","sid":"s"`
		problem = `{"error_code":"not_found","error_description":"the path","reason":"path_not_found"}`
	)
	for name, tc := range map[string]struct {
		path   string
		status int
		body   string
		change func(http.Header)
		good   bool
	}{
		"good tokens":          {path: "/tokens", status: 200, body: tokens, good: true},
		"good error":           {path: "/nowhere", status: 404, body: problem, good: true},
		"no request id":        {path: "/tokens", status: 200, body: tokens, change: func(h http.Header) { h.Del("X-Request-Id") }},
		"another request id":   {path: "/tokens", status: 200, body: tokens, change: func(h http.Header) { h.Set("X-Request-Id", "other") }},
		"may be sniffed":       {path: "/tokens", status: 200, body: tokens, change: func(h http.Header) { h.Del("X-Content-Type-Options") }},
		"reveals the referrer": {path: "/tokens", status: 200, body: tokens, change: func(h http.Header) { h.Del("Referrer-Policy") }},
		"may be embedded": {path: "/tokens", status: 200, body: tokens,
			change: func(h http.Header) { h.Set("Cross-Origin-Resource-Policy", "cross-origin") }},
		"may run scripts": {path: "/nowhere", status: 404, body: problem, change: func(h http.Header) {
			h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; frame-ancestors 'none'")
		}},
		"may be framed": {path: "/nowhere", status: 404, body: problem,
			change: func(h http.Header) { h.Set("Content-Security-Policy", "default-src 'none'; form-action 'none'") }},
		"is for every origin": {path: "/tokens", status: 200, body: tokens,
			change: func(h http.Header) { h.Set("Access-Control-Allow-Origin", "*") }},
		"allows credentials": {path: "/tokens", status: 200, body: tokens,
			change: func(h http.Header) { h.Set("Access-Control-Allow-Credentials", "true") }},
		"may be kept":            {path: "/tokens", status: 200, body: tokens, change: func(h http.Header) { h.Set("Cache-Control", "public") }},
		"reveals its software":   {path: "/tokens", status: 200, body: tokens, change: func(h http.Header) { h.Set("Server", "fasthttp") }},
		"a member is missing":    {path: "/tokens", status: 200, body: strings.Replace(tokens, `"scope"`, `"scop"`, 1)},
		"a member of other type": {path: "/tokens", status: 200, body: strings.Replace(tokens, `900`, `"900"`, 1)},
		"a constant changed":     {path: "/tokens", status: 200, body: strings.Replace(tokens, `Bearer`, `bearer`, 1)},
		"an undocumented member": {path: "/tokens", status: 200, body: strings.Replace(tokens, `{`, `{"password_hash":"h",`, 1)},
		"another content type": {path: "/tokens", status: 200, body: tokens,
			change: func(h http.Header) { h.Set("Content-Type", "text/plain") }},
		"an undocumented status":  {path: "/tokens", status: 418, body: problem},
		"a status of other route": {path: "/tokens", status: 201, body: tokens},
		"an undocumented route":   {path: "/nowhere", status: 200, body: tokens},
		"another error code":      {path: "/nowhere", status: 404, body: strings.Replace(problem, "not_found", "internal_error", 1)},
		"another error shape":     {path: "/nowhere", status: 404, body: `{"message":"no"}`},
		"more than the shape":     {path: "/nowhere", status: 404, body: strings.Replace(problem, `{`, `{"stack":"s",`, 1)},
		"no description":          {path: "/nowhere", status: 404, body: strings.Replace(problem, "the path", "", 1)},
		"no reason":               {path: "/nowhere", status: 404, body: `{"error_code":"not_found","error_description":"d"}`},
		"an unknown reason":       {path: "/nowhere", status: 404, body: strings.Replace(problem, "path_not_found", "lost", 1)},
		"an unnamed field":        {path: "/nowhere", status: 404, body: strings.Replace(problem, "}", `,"fields":{"code":"missing"}}`, 1)},
		"plain text":              {path: "/nowhere", status: 404, body: "Not Found"},
		"introspection is whole":  {path: "/tokens/introspect", status: 200, body: `{"active":true,` + whole + `}`, good: true},
		"introspection is empty":  {path: "/tokens/introspect", status: 200, body: `{"active":false}`, good: true},
		"introspection lacks jti": {path: "/tokens/introspect", status: 200,
			body: strings.Replace(`{"active":true,`+whole+`}`, `,"jti":"j"`, "", 1)},
		"a dead token is known":   {path: "/tokens/introspect", status: 200, body: `{"active":false,"token_use":"access_token"}`},
		"401 without a challenge": {path: "/tokens", status: 401, body: strings.Replace(problem, "not_found", "unauthenticated", 1)},
		"503 without Retry-After": {path: "/tokens", status: 503, body: strings.Replace(problem, "not_found", "internal_error", 1)},
		"405 without Allow":       {path: "/nowhere", status: 405, body: problem},
		"204 with a body":         {path: "/nowhere", status: 204, body: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := &http.Request{Method: "POST", URL: &url.URL{Path: tc.path}, Header: http.Header{"X-Request-Id": {"mine"}}}
			resp := &http.Response{StatusCode: tc.status, Header: http.Header{
				"X-Request-Id": {"mine"}, "X-Content-Type-Options": {"nosniff"}, "Cache-Control": {"no-store"}, "Content-Type": {"application/json"},
				"Referrer-Policy": {"no-referrer"}, "Cross-Origin-Resource-Policy": {"same-origin"},
				"Content-Security-Policy": {"default-src 'none'; frame-ancestors 'none'"},
			}}
			if tc.change != nil {
				tc.change(resp.Header)
			}
			broken := apitest.Check(req, resp, []byte(tc.body))
			if tc.good != (len(broken) == 0) {
				t.Errorf("found %q", broken)
			}
		})
	}
}
