package webhook

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// The tests of package mail judge signatures and statuses.

func post(t *testing.T, url string, data any) error {
	t.Helper()
	c := testenv.Must(New(Options{
		URL: url + "/sesame", Secret: func() string { return "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" }, Timeout: time.Second,
	}))(t)
	defer c.Close()
	return c.Post(t.Context(), Message{ID: "1", Type: "user.updated", Data: data})
}

func TestPostIsBoundedInBytesAndTime(t *testing.T) {
	for name, tc := range map[string]struct {
		reply http.HandlerFunc
		want  error
	}{
		"a reply without an end": {func(w http.ResponseWriter, _ *http.Request) {
			for err := error(nil); err == nil; {
				_, err = w.Write(make([]byte, 64<<10))
			}
		}, nil},
		"no reply": {func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // the server notices the end of a connection only afterwards
			<-r.Context().Done()
		}, ErrTooSlow},
	} {
		server := httptest.NewServer(tc.reply)
		begin := time.Now()
		if err := post(t, server.URL, "data"); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("%s: it takes %v", name, took)
		}
		server.CloseClientConnections()
		server.Close()
	}
}

func TestErrorsContainNeitherTheURLNorTheData(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	refusing := server.URL
	for name, err := range map[string]error{
		"a status":               post(t, refusing, "secret data"),
		"data that are not JSON": post(t, refusing, map[string]any{"secret data": func() {}}),
	} {
		if err == nil || strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), "secret data") {
			t.Errorf("%s: %v", name, err)
		}
	}
	server.Close()
	if err := post(t, refusing, "secret data"); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("no connection: %v", err)
	}
	for _, o := range []Options{
		{URL: "/sesame", Secret: func() string { return "" }}, {URL: "https://example.com", Secret: func() string { return "not base64" }},
	} {
		if _, err := New(o); err == nil || strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), "not base64,") {
			t.Errorf("%s: %v", o.URL, err)
		}
	}
}

func TestRetryAfterIsBounded(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for field, want := range map[string]time.Duration{
		"": 0, "5": 5 * time.Second, "-5": 0, "99999999": maxRetryAfter, "9999999999999999999999": 0, "soon": 0,
		"Thu, 01 Jan 2026 00:01:00 GMT": time.Minute, "Thu, 01 Jan 2025 00:01:00 GMT": 0, "Fri, 01 Jan 2027 00:01:00 GMT": maxRetryAfter,
	} {
		if got := retryAfter(field, now); got != want {
			t.Errorf("%q: %v; want %v", field, got, want)
		}
	}
}
