package moving_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/auth-gateway/auth-gateway/internal/moving"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const formerSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func former(t *testing.T, url string) *moving.FormerSystem {
	t.Helper()
	f := testenv.Must(moving.NewFormerSystem(url, func() string { return formerSecret }))(t)
	t.Cleanup(f.Close)
	return f
}

func TestFormerSystemIsAskedWithASignature(t *testing.T) {
	judge := testenv.Must(standardwebhooks.NewWebhook(formerSecret))(t)
	ids := make(chan string, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := judge.Verify(body, r.Header); err != nil {
			t.Error(err)
		}
		ids <- r.Header.Get("webhook-id")
		var q struct {
			Type      string
			Timestamp time.Time
			Data      map[string]string
		}
		testenv.NoError(t, json.Unmarshal(body, &q))
		if q.Type != "password.check" || time.Since(q.Timestamp).Abs() > time.Hour || len(q.Data) != 2 || q.Data["email"] != "ada@example.com" {
			t.Errorf("the question is %s", body)
		}
		_ = json.NewEncoder(w).Encode(map[string]bool{"correct": q.Data["password"] == `"right" <é>`})
	}))
	defer server.Close()
	f := former(t, server.URL+"/sesame")
	for password, want := range map[string]bool{`"right" <é>`: true, "wrong": false} {
		if got, err := f.CheckPassword(t.Context(), "ada@example.com", password); err != nil || got != want {
			t.Errorf("%s: %v, %v", password, got, err)
		}
	}
	if first, second := <-ids, <-ids; first == "" || first == second {
		t.Errorf("two questions have the ids %q and %q", first, second)
	}
}

// Only an explicit answer is one. No error shows the password, the login, the URL or the reply.
func TestFormerSystemThatSaysSomethingElseSaysNothing(t *testing.T) {
	reply := make(chan func(http.ResponseWriter), 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		(<-reply)(w)
	}))
	defer server.Close()
	f := former(t, server.URL+"/sesame")
	says := func(status int, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for what, answer := range map[string]func(http.ResponseWriter){
		"a body":      says(200, "<html>welcome hunter2</html>"),
		"no body":     says(204, ""),
		"another one": says(200, `{"right": true}`),
		"null":        says(200, `{"correct": null}`),
		"a text":      says(200, `{"correct": "true"}`),
		"two":         says(200, `{"correct": true}{"correct": true}`),
		"too long":    says(200, `{"correct": true, "x": "`+strings.Repeat("x", 64<<10)+`"}`),
		"cut": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "20")
			_, _ = io.WriteString(w, `{"correct": true`)
		},
		"a redirect":    says(307, `{"correct": true}`),
		"unauthorized":  says(401, `{"correct": true}`),
		"not found":     says(404, `{"correct": false}`),
		"out of order":  says(500, `{"correct": true}`),
		"a closed line": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		reply <- answer
		right, err := f.CheckPassword(t.Context(), "ada@example.com", "hunter2")
		if right || err == nil {
			t.Errorf("%s: %v, %v", what, right, err)
			continue
		}
		for _, secret := range []string{"hunter2", "ada@", "sesame"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error contains %q: %v", what, secret, err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := f.CheckPassword(ctx, "ada@example.com", "hunter2")
	reply <- says(200, "")
	if err == nil || !strings.Contains(err.Error(), "took too long") || strings.Contains(err.Error(), "sesame") {
		t.Errorf("without an answer: %v", err)
	}
}
