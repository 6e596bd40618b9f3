package verify_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/verify"
	"github.com/auth-gateway/auth-gateway/verify/verifytest"
)

func TestRequireAnswersAsRFC6750Says(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v := open(t, issuer.Source())
	handler := v.Require("orders:read", "orders")(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(verify.FromContext(r.Context()).Subject))
	}))
	recent := v.With(verify.MaxAge(time.Minute), verify.ACR("mfa", "x\"\r\nSet-Cookie: a=b")).Require()(handler)
	good := issuer.Token(verifytest.Claim("scope", "orders orders:read"))
	old := verifytest.Claim("auth_time", time.Now().Add(-time.Hour).Unix())
	const realm = `Bearer realm="https://shop.example.com"`
	for _, tt := range []struct {
		name      string
		handler   http.Handler
		headers   []string
		url       string
		status    int
		challenge string
	}{
		{"a good token", handler, []string{"Bearer " + good}, "/", 200, ""},
		{"the scheme in other case", handler, []string{"bEARER   " + good}, "/", 200, ""},
		{"no token", handler, nil, "/", 401, realm + `, scope="orders:read orders"`},
		{"another scheme", handler, []string{"Basic YTpi"}, "/", 401, realm + `, scope="orders:read orders"`},
		{"an empty token", handler, []string{"Bearer "}, "/", 401, realm + `, scope="orders:read orders"`},
		{"a bad token", handler, []string{"Bearer x"}, "/", 401, realm + `, error="invalid_token", error_description="The access token is not valid."`},
		{"a refresh token", handler, []string{"Bearer " + issuer.Token(verifytest.Header("typ", "rt+jwt"))}, "/", 401, realm + `, error="invalid_token", error_description="This is not an access token."`},
		{"a missing scope", handler, []string{"Bearer " + issuer.Token()}, "/", 403, realm + `, error="insufficient_scope", error_description="The access token lacks a scope.", scope="orders:read orders"`},
		{"two headers", handler, []string{"Bearer " + good, "Bearer " + good}, "/", 400, realm + `, error="invalid_request", error_description="Send one access token, in the header Authorization."`},
		{"two values", handler, []string{"Bearer " + good + ", Bearer " + good}, "/", 400, realm + `, error="invalid_request", error_description="Send one access token, in the header Authorization."`},
		{"a token in the query", handler, nil, "/?access_token=" + good, 400, realm + `, error="invalid_request", error_description="Send one access token, in the header Authorization."`},
		{"an old sign-in", recent, []string{"Bearer " + issuer.Token(old)}, "/", 401, realm + `, error="insufficient_user_authentication", error_description="Sign in again.", max_age="60"`},
		{"another acr", recent, []string{"Bearer " + issuer.Token()}, "/", 401, realm + `, error="insufficient_user_authentication", error_description="Sign in again.", acr_values="mfa xSet-Cookie: a=b"`},
	} {
		r := httptest.NewRequest(http.MethodGet, tt.url, http.NoBody)
		r.Header["Authorization"] = tt.headers
		w := httptest.NewRecorder()
		tt.handler.ServeHTTP(w, r)
		if w.Code != tt.status || w.Header().Get("WWW-Authenticate") != tt.challenge {
			t.Errorf("%s: %d %s, want %d %s", tt.name, w.Code, w.Header().Get("WWW-Authenticate"), tt.status, tt.challenge)
		}
		if tt.status == 200 {
			continue
		}
		var body struct {
			Error       string
			Description string `json:"error_description"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Error == "" || body.Description == "" ||
			w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v %v %s", tt.name, err, w.Header(), w.Body)
		}
		if strings.Contains(w.Body.String()+w.Header().Get("WWW-Authenticate"), good[:40]) {
			t.Errorf("%s: the answer contains the token", tt.name)
		}
	}
}

func TestAHandlerWithoutRequireHasNoClaims(t *testing.T) {
	if verify.FromContext(background) != nil {
		t.Error("claims without a token")
	}
}
