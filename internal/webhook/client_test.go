package webhook

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// The tests of package mail judge statuses.

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func post(t *testing.T, url string, data any) error {
	t.Helper()
	c := testenv.Must(New(Options{URL: url + "/sesame", Secret: func() string { return secret }, Timeout: time.Second}))(t)
	defer c.Close()
	return c.Post(t.Context(), Message{ID: "1", Type: "user.updated", Timestamp: time.Now().Add(-72 * time.Hour), Data: data})
}

// A message is signed with its ID, its body and the time of the attempt. A receiver rejects what is older than five
// minutes, so the time of an event that has waited would not do.
func TestPostSignsWhatItSendsAtTheTimeOfTheAttempt(t *testing.T) {
	type request struct {
		header http.Header
		body   []byte
	}
	requests := make(chan request, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- request{r.Header, body}
	}))
	defer server.Close()
	testenv.NoError(t, post(t, server.URL, "data"))
	got := <-requests
	judge := testenv.Must(standardwebhooks.NewWebhook(secret))(t)
	testenv.NoError(t, judge.Verify(got.body, got.header))
	for name, change := range map[string]func(*request){
		"body": func(r *request) { r.body = append(r.body, ' ') },
		"id":   func(r *request) { r.header.Set("webhook-id", "2") },
		"time": func(r *request) { r.header.Set("webhook-timestamp", strconv.FormatInt(time.Now().Unix()-60, 10)) },
	} {
		other := request{got.header.Clone(), slices.Clone(got.body)}
		change(&other)
		if judge.Verify(other.body, other.header) == nil {
			t.Errorf("another %s has the same signature", name)
		}
	}
}

// A redirect is a refusal: neither the message nor its signature goes elsewhere.
func TestPostFollowsNoRedirect(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		server := httptest.NewServer(http.RedirectHandler(other.URL, status))
		var refused *Error
		if err := post(t, server.URL, "data"); !errors.As(err, &refused) || refused.Status != status {
			t.Errorf("%d: %v", status, err)
		}
		server.Close()
	}
	if elsewhere.Load() > 0 {
		t.Errorf("%d redirects were followed", elsewhere.Load())
	}
}

func TestPostIsBoundedInBytesAndTime(t *testing.T) {
	var written atomic.Int64
	for name, tc := range map[string]struct {
		reply http.HandlerFunc
		want  error
	}{
		"a reply without an end": {func(w http.ResponseWriter, _ *http.Request) {
			for err := error(nil); err == nil; {
				var n int
				n, err = w.Write(make([]byte, 64<<10))
				written.Add(int64(n))
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
	if n := written.Load(); n > 32<<20 { // the buffers of the system have a few MiB
		t.Errorf("%d bytes of the reply were read", n)
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

func TestBackoffDoublesUpToTheLongest(t *testing.T) {
	for n, want := range map[int]time.Duration{
		0: time.Second, 1: time.Second, 2: 2 * time.Second, 6: 32 * time.Second, 7: time.Minute, 1000: time.Minute,
	} {
		if got := Backoff(time.Second, time.Minute, n); got != want {
			t.Errorf("the wait %d is %v; want %v", n, got, want)
		}
	}
}
