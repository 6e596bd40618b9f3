package httpapi_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/keys"
)

const (
	openIDPath   = "/.well-known/openid-configuration"
	metadataPath = "/.well-known/oauth-authorization-server"
)

func issuedBy(issuer string) func(*httpapi.Options) {
	return func(o *httpapi.Options) {
		o.Issuer, o.Metadata = issuer, config.Config{Issuer: issuer}.Metadata()
	}
}

func form(pairs ...string) url.Values {
	values := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		values.Set(pairs[i], pairs[i+1])
	}
	return values
}

// get reads a path that the OpenAPI document does not have.
func get(t *testing.T, s *running, path string) *testenv.Reply {
	t.Helper()
	resp := testenv.Must(http.Get("http://" + s.address + path))(t)
	defer resp.Body.Close()
	body := testenv.Must(io.ReadAll(resp.Body))(t)
	return &testenv.Reply{Status: resp.StatusCode, Header: resp.Header, Body: body}
}

func TestMetadataIsServedLikeTheKeys(t *testing.T) {
	t.Parallel()
	s := start(t, issuedBy("https://auth.example"), withPages, func(o *httpapi.Options) {
		o.Keys = newSource(keys.Ring{}) // not loaded
		o.TrustedCallerKey = "a key of the trusted caller"
	})
	var bodies []string
	for _, path := range []string{openIDPath, metadataPath} {
		reply := s.Do("GET", path, header("Origin", pageOrigin), nil)
		tag := reply.Header.Get("ETag")
		if reply.Status != 200 || tag == "" || reply.Header.Get("Cache-Control") != "public, max-age=60" ||
			reply.Header.Get("Content-Type") != "application/json" || reply.Header.Get("Access-Control-Allow-Origin") != pageOrigin {
			t.Errorf("%s got %v %v", path, reply, reply.Header)
		}
		testenv.Expect(t, s.Do("GET", path, header("If-None-Match", tag), nil), 304)
		if head := s.Do("HEAD", path, nil, nil); head.Status != 200 || head.Header.Get("ETag") != tag || len(head.Body) > 0 {
			t.Errorf("HEAD %s got %v %v", path, head, head.Header)
		}
		testenv.Expect(t, s.Do("POST", path, nil, nil), 405)
		bodies = append(bodies, string(reply.Body))
	}
	if bodies[0] != bodies[1] {
		t.Errorf("the two documents differ:\n%s\n%s", bodies[0], bodies[1])
	}
	s.wantCall(t, "")
}

func TestMetadataIsAlsoAtThePathsOfAnIssuerWithAPath(t *testing.T) {
	t.Parallel()
	for issuer, prefix := range map[string]string{
		"https://example.com/auth":                                      "/auth",
		"https://example.com/auth/":                                     "/auth",
		"https://example.com/a:b/c*d+e/x%20y":                           "/a:b/c*d+e/x%20y",
		"https://example.com/0190c5d2-6f3a-7c11-9d4e-2b7a5f0c1d22":      "/0190c5d2-6f3a-7c11-9d4e-2b7a5f0c1d22",
		"https://example.com/auth/0190c5d2-6f3a-7c11-9d4e-2b7a5f0c1d22": "/auth/0190c5d2-6f3a-7c11-9d4e-2b7a5f0c1d22",
	} {
		s := start(t, issuedBy(issuer))
		for _, path := range []string{
			openIDPath, prefix + openIDPath, openIDPath + prefix, metadataPath, prefix + metadataPath, metadataPath + prefix,
		} {
			reply := get(t, s, path)
			var document struct {
				Issuer  string
				KeysURI string `json:"jwks_uri"`
			}
			if err := json.Unmarshal(reply.Body, &document); err != nil || reply.Status != 200 || document.Issuer != issuer ||
				document.KeysURI != strings.TrimSuffix(issuer, "/")+"/.well-known/jwks.json" {
				t.Errorf("issuer %s: %s got %v, %v", issuer, path, reply, err)
			}
		}
		if reply := get(t, s, prefix+"/.well-known/jwks.json"); reply.Status != 200 {
			t.Errorf("issuer %s: the keys got %v", issuer, reply)
		}
		for _, path := range []string{prefix, prefix + "x" + openIDPath, metadataPath + prefix + "x", prefix + "/tokens/keys"} {
			if reply := get(t, s, path); reply.Status != 404 {
				t.Errorf("issuer %s: %s got %v, want 404", issuer, path, reply)
			}
		}
	}
}

func TestRevocationAnswersLikeRFC7009(t *testing.T) {
	t.Parallel()
	s := start(t, withPages, func(o *httpapi.Options) { o.TrustedCallerKey = "a key of the trusted caller" })
	for name, body := range map[string]any{
		"a form":             form("token", "a.b.c"),
		"JSON":               object("token", "a.b.c"),
		"a wrong hint":       form("token", "a.b.c", "token_type_hint", "refresh_token"),
		"an unknown hint":    form("token", "a.b.c", "token_type_hint", "saml"),
		"a client's own ID":  form("token", "a.b.c", "client_id", "shop"),
		"other OAuth fields": form("token", "a.b.c", "client_secret", "", "x", "y"),
	} {
		reply := s.Do("POST", "/tokens/revoke", header("Origin", pageOrigin), body)
		if reply.Status != 200 || string(reply.Body) != "{}" || reply.Header.Get("Access-Control-Allow-Origin") != pageOrigin {
			t.Errorf("%s got %v %v", name, reply, reply.Header)
		}
		if call := s.accounts.last(); call != "Revoke(a.b.c)" {
			t.Errorf("%s: the domain was asked for %s", name, call)
		}
	}
	for name, body := range map[string]any{"no token": form("token_type_hint", "access_token"), "an empty token": form("token", "")} {
		reply := s.Do("POST", "/tokens/revoke", nil, body)
		if testenv.Expect(t, reply, 400); reply.Text("error") != "invalid_request" || reply.Text("error_description") == "" {
			t.Errorf("%s got %v", name, reply)
		}
	}
	testenv.Expect(t, s.Do("POST", "/tokens/revoke?token=a.b.c", nil, form("token", "a.b.c")), 400, "in_query")
}

func TestEveryErrorBelowTokensIsOneOfOAuth(t *testing.T) {
	t.Parallel()
	s := start(t)
	for wire, status := range map[string]int{
		"GET /tokens/nowhere HTTP/1.1\r\nHost: x\r\n\r\n":                                                    404,
		"GET /tokens/ HTTP/1.1\r\nHost: x\r\n\r\n":                                                           404,
		"PUT /tokens/revoke HTTP/1.1\r\nHost: x\r\n\r\n":                                                     405,
		"GET /tokens/keys?token=t HTTP/1.1\r\nHost: x\r\n\r\n":                                               400,
		"POST /tokens/revoke HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n":                         413,
		"POST /tokens/revoke HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}": 415,
	} {
		replies, _ := exchange(t, s, wire, 1)
		reply := replies[0]
		if reply.Status != status || reply.Text("error") != "invalid_request" || reply.Text("error_description") == "" {
			t.Errorf("%.40q got %v, want %d with an error of RFC 6749", wire, reply, status)
		}
	}
	if reply := s.Do("GET", "/nowhere", nil, nil); reply.Text("error") != "" {
		t.Errorf("another path got %v", reply)
	}
}
