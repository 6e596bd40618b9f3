package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/httpapi/apitest"
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
		handler := httpapi.NewAdmin(nil, noAnswer{err}, nil, slog.New(slog.DiscardHandler), nil)
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/admin/users", nil)
		r.Header = testenv.Bearer("credential")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("%v: %d %s", err, w.Code, w.Body)
		}
	}
}

func TestAdminRoutesAreThoseOfTheirDocument(t *testing.T) {
	t.Parallel()
	served := httpapi.NewAdmin(nil, noAnswer{}, nil, slog.New(slog.DiscardHandler), nil).Routes()
	documented := testenv.Must(apitest.AdminOperations())(t)
	slices.Sort(served)
	if !slices.Equal(served, documented) {
		t.Errorf("served     %q\ndocumented %q", served, documented)
	}
	for _, operation := range testenv.Must(apitest.Operations())(t) {
		if strings.Contains(operation, "/admin") {
			t.Errorf("the document of the API has %s", operation)
		}
	}
	made := filepath.Join(t.TempDir(), "openapi-admin.json")
	if out, err := exec.Command("go", "run", "./internal/openapigen", "openapi-admin.yaml", made).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if string(testenv.Must(os.ReadFile(made))(t)) != string(httpapi.AdminOpenAPI()) {
		t.Error("openapi-admin.json is out of date: run go generate")
	}
}

// An Authorizer chooses what the caller learns. The cause is for the log.
func TestAdminRefusalsSayWhy(t *testing.T) {
	t.Parallel()
	for err, status := range map[error]int{admin.ErrUnauthenticated: 401, admin.ErrForbidden: 403, admin.ErrUndecided: 503} {
		refusal := &admin.Refusal{Err: err, Message: "because of this", Cause: errors.New("a secret cause")}
		var out strings.Builder
		handler := httpapi.NewAdmin(nil, noAnswer{refusal}, nil, slog.New(slog.NewTextHandler(&out, nil)), nil)
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/admin/users", nil)
		r.Header = testenv.Bearer("credential")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != status || !strings.Contains(w.Body.String(), "because of this") || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%v: %d %s", err, w.Code, w.Body)
		}
		if !strings.Contains(out.String(), "a secret cause") || strings.Contains(out.String(), "credential\"") {
			t.Errorf("%v: the log is %s", err, out.String())
		}
	}
}

// The log says who has asked, and not what about.
func TestAdminLogNamesTheActorAndNoQuery(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	handler := httpapi.NewAdmin(nil, noAnswer{}, func() error { return nil }, log, nil)
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/admin/users?email=ada@example.com&limit=0", nil)
	r.Header = testenv.Bearer("credential")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code != 422 && w.Code != 400 || strings.Contains(w.Body.String(), "ada@") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if text := out.String(); !strings.Contains(text, `msg="admin request"`) || !strings.Contains(text, "actor=someone") ||
		!strings.Contains(text, "route=/admin/users ") || strings.Contains(text, "ada") {
		t.Errorf("the log is %s", text)
	}
}
