package apitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"

	"github.com/auth-gateway/auth-gateway/internal/httpapi"
)

// Transport wraps another one, and reports each reply that breaks the contract as an error of the test.
func Transport(t testing.TB, next http.RoundTripper) http.RoundTripper {
	return checking{t, next}
}

type checking struct {
	t    testing.TB
	next http.RoundTripper
}

func (c checking) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	for _, broken := range Check(req, resp, body) {
		c.t.Errorf("%s %s got %d, which breaks the contract: %s\n%s", req.Method, req.URL.Path, resp.StatusCode, broken, body)
	}
	return resp, nil
}

// Check returns the ways in which a reply breaks the contract. It is for replies that a test reads from a socket.
func Check(req *http.Request, resp *http.Response, body []byte) (broken []string) {
	broken = groundRules(req, resp, body)
	doc, err := document()
	if err != nil {
		return append(broken, err.Error())
	}
	method := req.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if !doc.operations[method+" "+lastID.ReplaceAllString(req.URL.EscapedPath(), "/{id}")] {
		preflight := req.Method == http.MethodOptions && resp.StatusCode == 204
		toDocs := resp.StatusCode == http.StatusFound && req.URL.Path == "/"
		if !preflight && !toDocs && !slices.Contains(undocumented, resp.StatusCode) && !strings.HasPrefix(req.URL.Path, "/docs/") &&
			!strings.HasPrefix(req.URL.Path, "/authz/") { // described in words: a proxy appends any path
			broken = append(broken, "a path or method that is not documented gets this status")
		}
		return broken
	}
	if req.Method == http.MethodHead {
		if len(body) != 0 {
			broken = append(broken, "the reply to HEAD has a body")
		}
		return broken // the document describes only GET
	}
	return append(broken, doc.check(req, resp, body)...)
}

// check returns the ways in which the reply to a documented request differs from the document.
func (doc *openAPI) check(req *http.Request, resp *http.Response, body []byte) (broken []string) {
	copied := *resp
	copied.Body = io.NopCloser(bytes.NewReader(body))
	if ok, problems := doc.validator.ValidateHttpResponse(req, &copied); !ok {
		for _, p := range problems {
			broken = append(broken, p.Error())
			for _, s := range p.SchemaValidationErrors {
				broken = append(broken, s.Error())
			}
		}
	}
	return broken
}

// CheckAdmin is Check for a reply of the port of administrators to a request that it accepted.
func CheckAdmin(req *http.Request, resp *http.Response, body []byte) []string {
	doc, err := adminDocument()
	if err != nil {
		return []string{err.Error()}
	}
	return doc.check(req, resp, body)
}

// undocumented are the statuses of paths and methods that the document does not have.
var undocumented = []int{400, 404, 405, 408, 413, 431, 503}

// statusCodes maps each status to its error_code.
var statusCodes = map[int]string{
	400: "invalid_arguments", 409: "invalid_arguments", 413: "invalid_arguments", 415: "invalid_arguments",
	408: "invalid_arguments", 431: "invalid_arguments",
	401: "unauthenticated", 403: "forbidden", 404: "not_found", 405: "not_found", 429: "rate_limited",
	500: "internal_error", 503: "internal_error",
}

// lastID matches a UUID at the end of a path, the only kind of parameter in paths.
var lastID = regexp.MustCompile(`/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

var saneID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// everywhere are the fields that every reply may have. The document has them only in its description: with each reply,
// they would be most of the code that generators write.
var everywhere = []string{
	"X-Content-Type-Options", "Referrer-Policy", "Cross-Origin-Resource-Policy", "Content-Security-Policy",
	"Access-Control-Allow-Origin", "Access-Control-Expose-Headers",
}

// groundRules checks the rules of every reply, documented or not.
func groundRules(req *http.Request, resp *http.Response, body []byte) (broken []string) {
	rule := func(ok bool, format string, args ...any) {
		if !ok {
			broken = append(broken, fmt.Sprintf(format, args...))
		}
	}
	h := resp.Header
	rule(saneID.MatchString(h.Get("X-Request-Id")), "X-Request-Id is %q", h.Get("X-Request-Id"))
	if sent := req.Header.Get("X-Request-Id"); saneID.MatchString(sent) && resp.StatusCode != 408 &&
		resp.StatusCode != 431 && resp.StatusCode != 413 {
		rule(h.Get("X-Request-Id") == sent, "X-Request-Id is %q, not the %q that was sent", h.Get("X-Request-Id"), sent)
	}
	rule(h.Get("X-Content-Type-Options") == "nosniff", "X-Content-Type-Options is missing")
	rule(h.Get("Referrer-Policy") == "no-referrer", "Referrer-Policy is %q", h.Get("Referrer-Policy"))
	rule(h.Get("Cross-Origin-Resource-Policy") == "same-origin", "Cross-Origin-Resource-Policy is %q", h.Get("Cross-Origin-Resource-Policy"))
	policy := h.Get("Content-Security-Policy")
	if req.URL.Path == "/docs" && resp.StatusCode == 200 {
		rule(strings.HasPrefix(policy, "default-src 'none'; script-src 'self'; ") && strings.HasSuffix(policy,
			"frame-ancestors 'none'"), "Content-Security-Policy is %q", policy)
	} else {
		rule(policy == "default-src 'none'; frame-ancestors 'none'", "Content-Security-Policy is %q", policy)
	}
	rule(h.Get("Access-Control-Allow-Credentials") == "" && h.Get("Access-Control-Allow-Origin") != "*",
		"every origin, or credentials, are allowed")
	rule(h.Get("Server") == "", "Server is %q", h.Get("Server"))
	rule(h.Get("Cache-Control") == "no-store" || resp.StatusCode < 400 && mayBeCached(req.URL.Path), "Cache-Control is %q",
		h.Get("Cache-Control"))

	switch status := resp.StatusCode; {
	case status == 204 || status == 304:
		rule(len(body) == 0, "the body is not empty")
		return broken
	case status < 400:
		if status == 200 && req.URL.Path == "/tokens/introspect" {
			rule(completeIntrospection(body), "the introspection has too few members, or too many")
		}
		return broken
	}
	code, known := statusCodes[resp.StatusCode]
	rule(known, "the status is not documented")
	switch resp.StatusCode {
	case 401:
		rule(strings.HasPrefix(h.Get("WWW-Authenticate"), "Bearer "), "WWW-Authenticate is %q", h.Get("WWW-Authenticate"))
	case 405:
		rule(h.Get("Allow") != "", "Allow is missing")
	case 429, 503:
		seconds, err := strconv.Atoi(h.Get("Retry-After"))
		rule(err == nil && seconds >= 1, "Retry-After is %q", h.Get("Retry-After"))
	}
	if req.Method == http.MethodHead {
		return broken
	}
	rule(h.Get("Content-Type") == "application/json", "Content-Type is %q", h.Get("Content-Type"))
	var shape struct {
		Code        string            `json:"error_code"`
		Description string            `json:"error_description"`
		Reason      string            `json:"reason"`
		OAuth       string            `json:"error"`
		Fields      map[string]string `json:"fields"`
	}
	strict := json.NewDecoder(bytes.NewReader(body))
	strict.DisallowUnknownFields()
	rule(strict.Decode(&shape) == nil, "the body does not have the shape of errors")
	rule(shape.Code == code, "error_code is %q, not %q", shape.Code, code)
	rule(shape.Description != "", "error_description is empty")
	rule(shape.OAuth == "" || strings.HasPrefix(req.URL.Path, "/tokens"), "error is %q, which is only for /tokens", shape.OAuth)
	reasons, err := Reasons()
	rule(err == nil && slices.Contains(reasons, shape.Reason), "reason is %q, which is not documented", shape.Reason)
	for parameter := range shape.Fields {
		rule(strings.Contains(shape.Description, parameter), "the description does not name the field %q", parameter)
	}
	return broken
}

// completeIntrospection reports whether the introspection of an active token has all documented members, and that of
// another token no other member. In a schema, this would need if and then, which most generators do not support.
func completeIntrospection(body []byte) bool {
	var members map[string]any
	if json.Unmarshal(body, &members) != nil {
		return false
	}
	if members["active"] != true {
		return len(members) == 1
	}
	for _, name := range []string{"client_id", "token_use", "exp", "iat", "sub", "aud", "iss", "jti", "sid"} {
		if members[name] == nil {
			return false
		}
	}
	return true
}

func mayBeCached(path string) bool {
	return path == "/tokens/keys" || strings.HasPrefix(path, "/.well-known/") || strings.HasPrefix(path, "/docs/")
}

type openAPI struct {
	validator  validator.Validator
	operations map[string]bool // "GET /users"
	reasons    []string
}

// document and adminDocument read an OpenAPI document once, because that takes longer than most tests.
var (
	document      = sync.OnceValues(func() (*openAPI, error) { return parse(httpapi.OpenAPI(), strictly...) })
	adminDocument = sync.OnceValues(func() (*openAPI, error) { return parse(httpapi.AdminOpenAPI()) })
)

// strictly refuses members and fields that the document does not have.
var strictly = []config.Option{
	config.WithStrictMode(), config.WithStrictIgnoredHeadersExtra(everywhere...),
	// The document has another schema, and the names in fields, metadata and details are not in it.
	config.WithStrictIgnorePaths("$.body.fields.*", "$.body.openapi", "$.body.info", "$.body.tags", "$.body.security",
		"$.body.servers", "$.body.paths", "$.body.components", "$.body.user.metadata**", "$.body.events**.details**"),
}

func parse(text []byte, options ...config.Option) (*openAPI, error) {
	parsed, err := libopenapi.NewDocument(text)
	if err != nil {
		return nil, fmt.Errorf("the OpenAPI document: %w", err)
	}
	model, err := parsed.BuildV3Model()
	if err != nil {
		return nil, fmt.Errorf("the OpenAPI document: %w", err)
	}
	doc := &openAPI{
		validator:  validator.NewValidatorFromV3Model(&model.Model, append(options, config.WithFormatAssertions())...),
		operations: map[string]bool{},
	}
	for _, reason := range model.Model.Components.Schemas.GetOrZero("Reason").Schema().Enum { // administrators get the same
		doc.reasons = append(doc.reasons, reason.Value)
	}
	for path, item := range model.Model.Paths.PathItems.FromOldest() {
		for method := range item.GetOperations().FromOldest() {
			doc.operations[strings.ToUpper(method)+" "+path] = true
		}
	}
	return doc, nil
}

// Reasons returns the documented reasons.
func Reasons() ([]string, error) {
	doc, err := document()
	if err != nil {
		return nil, err
	}
	return doc.reasons, nil
}

// Operations returns the documented operations, such as "GET /users".
func Operations() ([]string, error) { return operationsOf(document()) }

// AdminOperations does the same for the port of administrators.
func AdminOperations() ([]string, error) { return operationsOf(adminDocument()) }

func operationsOf(doc *openAPI, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	var list []string
	for operation := range doc.operations {
		list = append(list, operation)
	}
	slices.Sort(list)
	return list, nil
}
