package fiberauth_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gofiber/fiber/v3"

	"github.com/auth-gateway/auth-gateway/verify"
	"github.com/auth-gateway/auth-gateway/verify/fiberauth"
	"github.com/auth-gateway/auth-gateway/verify/verifytest"
)

// TestRequireAnswersLikeNetHTTP compares the answers with those of the middleware for net/http.
func TestRequireAnswersLikeNetHTTP(t *testing.T) {
	issuer := verifytest.NewIssuer(t)
	v, err := verify.New(t.Context(), issuer.Source(), verify.Audience(verifytest.Audience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	app := fiber.New()
	app.Get("/", fiberauth.Require(v, "orders:read"), func(c fiber.Ctx) error { return c.SendString(fiberauth.Claims(c).Subject) })
	app.Get("/open", func(c fiber.Ctx) error {
		if fiberauth.Claims(c) != nil {
			t.Error("claims without a token")
		}
		return nil
	})
	other := v.Require("orders:read")(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, verify.FromContext(r.Context()).Subject)
	}))
	good := "Bearer " + issuer.Token(verifytest.Claim("scope", "orders:read"))
	seen := map[int]bool{}
	for _, tt := range []struct {
		url     string
		headers []string
	}{
		{"/", []string{good}}, {"/", nil}, {"/", []string{"Bearer x"}}, {"/", []string{"Bearer " + issuer.Token()}},
		{"/", []string{good, good}}, {"/?access_token=x", nil}, {"/", []string{"Basic x"}},
	} {
		r := httptest.NewRequest(http.MethodGet, tt.url, http.NoBody)
		r.Header["Authorization"] = tt.headers
		want := httptest.NewRecorder()
		other.ServeHTTP(want, r)
		got, err := app.Test(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(got.Body)
		if err != nil || got.Body.Close() != nil {
			t.Fatal(err)
		}
		seen[got.StatusCode] = true
		if got.StatusCode != want.Code || string(body) != want.Body.String() ||
			got.Header.Get("WWW-Authenticate") != want.Header().Get("WWW-Authenticate") ||
			got.StatusCode != http.StatusOK && got.Header.Get("Content-Type") != want.Header().Get("Content-Type") {
			t.Errorf("%s %q: %d %v %s, want %d %v %s", tt.url, tt.headers, got.StatusCode, got.Header, body, want.Code, want.Header(), want.Body)
		}
	}
	if len(seen) != 4 {
		t.Errorf("the statuses %v", seen)
	}
	if r, err := app.Test(httptest.NewRequest(http.MethodGet, "/open", http.NoBody)); err != nil || r.StatusCode != http.StatusOK {
		t.Error(err)
	}
}
