package mail

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const hookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func hook(t *testing.T, url string) *Webhook {
	t.Helper()
	w := testenv.Must(NewWebhook(WebhookOptions{URL: url, Secret: func() string { return hookSecret }}))(t)
	t.Cleanup(w.Open().Close)
	return w
}

func TestWebhookReceivesASignedMail(t *testing.T) {
	type request struct {
		header http.Header
		body   []byte
	}
	requests := make(chan request, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- request{r.Header, body}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	m := aMessage(42)
	m.Language = "de-CH,de;q=0.9"
	l := hook(t, server.URL+"/mails?key=sesame").Open()
	for n := range 2 {
		m.Ref.Taken = n + 1
		testenv.NoError(t, sendOne(t, l, m))
	}
	first, second := <-requests, <-requests
	judge := testenv.Must(standardwebhooks.NewWebhook(hookSecret))(t)
	if err := judge.Verify(first.body, first.header); err != nil {
		t.Error(err)
	}
	if judge.Verify(append(first.body, ' '), first.header) == nil {
		t.Error("another body has the same signature")
	}
	if first.header.Get("Content-Type") != "application/json" {
		t.Error(first.header)
	}
	id := first.header.Get("webhook-id")
	if id != "mail_42_1" || second.header.Get("webhook-id") != "mail_42_2" {
		t.Errorf("the id of the first attempt is %q, and of the second %q", id, second.header.Get("webhook-id"))
	}
	var body struct {
		Type      string
		Timestamp time.Time
		Data      map[string]any
	}
	testenv.NoError(t, json.Unmarshal(first.body, &body))
	if body.Type != "mail.verification" || time.Since(body.Timestamp).Abs() > time.Hour {
		t.Errorf("the body is %+v", body)
	}
	letter := render(t, mustTemplates(t, TemplateOptions{}), m)
	for name, want := range map[string]any{
		"purpose": "verification", "to": m.To, "username": "ada", "language": m.Language, "code": m.Code, "expires_in": 900.0,
		"subject": letter.Subject, "text": letter.Text, "html": letter.HTML,
	} {
		if body.Data[name] != want {
			t.Errorf("%s is %v", name, body.Data[name])
		}
	}
	if _, there := body.Data["link"]; there {
		t.Error("the body has a link")
	}
}

func TestWebhookStatusIsATransportErrorOrAMailError(t *testing.T) {
	var status atomic.Int64
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Retry-After", "120")
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, "ada@example.com ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	}))
	defer server.Close()
	l := hook(t, server.URL+"/sesame").Open()
	for code, want := range map[int]string{
		200: "taken", 202: "taken", 204: "taken",
		301: "transport", 307: "transport", 308: "transport", 401: "transport", 403: "transport", 404: "transport", 405: "transport", 408: "transport", 429: "transport",
		500: "transport", 502: "transport", 503: "transport", 504: "transport",
		400: "refused", 410: "refused", 413: "refused", 422: "refused",
		409: "postponed", 425: "postponed",
	} {
		status.Store(int64(code))
		asked.Store(0)
		err := sendOne(t, l, aMessage(1))
		switch want {
		case "taken":
			if err != nil {
				t.Errorf("%d: %v", code, err)
			}
		case "transport":
			mustBeTransportError(t, err, code)
			var e *TransportError
			if errors.As(err, &e) && e.RetryAfter != 2*time.Minute {
				t.Errorf("%d: the retry delay is %v", code, e.RetryAfter)
			}
		default:
			mustBeMailError(t, err, code, want == "refused")
		}
		if asked.Load() != 1 {
			t.Errorf("%d: the receiver got %d requests", code, asked.Load())
		}
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("%d: the error contains the URL: %v", code, err)
		}
	}
}

func TestWebhookThatDoesNotAnswerIsATransportError(t *testing.T) {
	released := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released }))
	w := hook(t, server.URL+"/sesame")
	slow, end := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer end()
	err := w.Open().Send(slow, aMessage(1), Letter{})
	mustBeTransportError(t, err, 0, "took too long")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	mustBeTransportError(t, w.Open().Send(ctx, aMessage(1), Letter{}), 0, "stopping")
	close(released)
	server.Close()
	err = sendOne(t, hook(t, server.URL+"/sesame").Open(), aMessage(1))
	mustBeTransportError(t, err, 0, "refused")
	if strings.Contains(err.Error(), "sesame") {
		t.Errorf("the error contains the URL: %v", err)
	}
}
