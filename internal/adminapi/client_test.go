package adminapi_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/adminapi"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// A redirect is an error, even for a change without a reply, and the credential is not sent elsewhere.
func TestARedirectIsNoSuccess(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the redirect was followed")
	}))
	defer elsewhere.Close()
	server := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer server.Close()
	client := testenv.Must(adminapi.NewClient(server.URL, "key"))(t)
	err := client.EndSession(t.Context(), "user", "session", adminapi.Change{})
	if refused, ok := errors.AsType[*adminapi.Error](err); !ok || refused.Status != http.StatusTemporaryRedirect {
		t.Errorf("end a session: %v", err)
	}
}
