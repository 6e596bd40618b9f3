package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// noAnswer is an Authorizer that fails.
type noAnswer struct{ err error }

func (n noAnswer) Authorize(context.Context, string, admin.Right) (admin.Actor, error) {
	return admin.Actor{Name: "someone"}, n.err
}

func TestAdminRightsThatAreUndecidedMeanNo(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		admin.ErrUndecided, fmt.Errorf("%w: no answer", admin.ErrUndecided), errors.New("anything"), context.DeadlineExceeded,
	} {
		// A request that got past the Authorizer would panic: there is no Administration.
		handler := httpapi.NewAdmin(nil, noAnswer{err}, nil, slog.New(slog.DiscardHandler))
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/admin/users", nil)
		r.Header = testenv.Bearer("credential")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("%v: %d %s", err, w.Code, w.Body)
		}
	}
}
