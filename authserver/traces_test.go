package authserver_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/otlpsink"
)

// traced are the settings of a server that exports all traces soon.
func traced(sink *otlpsink.Sink) env {
	return env{"OTEL_EXPORTER_OTLP_ENDPOINT": sink.URL, "OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_BSP_EXPORT_TIMEOUT": "500"}
}

// spanOf waits for the span of a request or mail, by its name and a condition.
func spanOf(t *testing.T, sink *otlpsink.Sink, name string, fits func(*tracepb.Span) bool) (found *tracepb.Span) {
	t.Helper()
	testenv.Until(t, 10*time.Second, "the span "+name+" is exported", func() bool {
		for _, s := range sink.Spans() {
			if s.Name == name && (fits == nil || fits(s)) {
				found = s
			}
		}
		return found != nil
	})
	return found
}

func withStatus(status string) func(*tracepb.Span) bool {
	return func(s *tracepb.Span) bool {
		return strings.Contains(otlpsink.Attribute(s, "http.response.status_code"), status)
	}
}

// No request, however it is made, puts personal data or a secret into a span.
func TestTracesContainNoPersonalData(t *testing.T) {
	t.Parallel()
	sink := otlpsink.Start(t)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(hook.Close)
	const secret = "d2ViaG9vayBzZWNyZXQgb2YgdGhlIHRlc3Qgb2YgdHJhY2Vz"
	c, n := single(t, traced(sink), env{
		"TRUSTED_PROXY_HOPS": "1", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20credential-of-the-collector",
		"MAIL_WEBHOOK_URL": hook.URL + "/mail-hook-path", "MAIL_WEBHOOK_SECRET": secret,
		"EVENT_WEBHOOK_URL": hook.URL + "/event-hook-path", "EVENT_WEBHOOK_SECRET": secret,
		"AUTHZ_POLICIES": `[{"name": "orders"}]`,
	})
	// Each request has these, and the secrets of its parameters and reply.
	marked := http.Header{
		"User-Agent": {"marker-user-agent"}, "X-Forwarded-For": {"203.0.113.77"}, "Accept-Language": {"x-marker-language"},
		"Referer": {"https://marker-referer.example"}, "Cookie": {"marker=cookie"}, "X-Request-Id": {"marker-request-id"},
		"Baggage": {"marker=baggage"}, "Forwarded": {"for=203.0.113.77"}, "X-Marker": {"marker-header"},
	}
	send := func(access, method, path string, b body) *testenv.Reply {
		header := marked.Clone()
		if access != "" {
			header.Set("Authorization", "Bearer "+access)
		}
		if b == nil {
			return n.try(method, path, header, nil)
		}
		return n.try(method, path, header, b)
	}
	u := newPerson()
	created := want(t, http.StatusCreated, send("", "POST", "/users", u.signUpBody()))
	u.tokens = tokensOf(want(t, http.StatusOK, send("", "POST", "/users/verify-user", body{"code": created.Text("code")})))
	want(t, http.StatusUnauthorized, send("", "POST", "/tokens/signin", body{"username": u.username, "password": "a wrong password"}))
	want(t, http.StatusOK, send("", "POST", "/tokens/signin", body{"username": u.email, "password": u.password}))
	want(t, http.StatusOK, send(u.access, "GET", "/users", nil))
	want(t, http.StatusOK, send("", "POST", "/tokens", body{"refresh_token": u.refresh}))
	want(t, http.StatusOK, send(u.access, "GET", "/users/sessions", nil))
	session := n.sessionID(u.tokens)
	want(t, http.StatusOK, send("", "POST", "/users/forgot-password", body{"email": u.email}))
	change := body{"old_password": u.password, "password": "the marker password"}
	want(t, http.StatusNoContent, send(u.access, "POST", "/users/change-password", change))
	want(t, http.StatusOK, send(u.access, "POST", "/users/change-email-request", body{"email": "another." + u.email}))
	want(t, http.StatusNotFound, send("", "GET", "/marker-path/"+u.email+"?email="+u.email, nil))
	want(t, http.StatusBadRequest, send("", "GET", "/users?marker=marker-query%zz", nil))
	want(t, http.StatusOK, send(u.access, "GET", "/authz/orders/marker-path-of-a-proxy?marker-query", nil))
	want(t, http.StatusNoContent, send(u.access, "DELETE", "/users/sessions/"+session, nil))
	want(t, http.StatusMethodNotAllowed, send("", "MARKER", "/users", nil))

	// The tree of a sign-in.
	root := spanOf(t, sink, "POST /tokens/signin", withStatus("200"))
	wanted := []string{"FindCredentialsByEmail", "hashing wait", "hashing", "OpenSession"}
	if got := sink.Children(root); !slices.Equal(got, wanted) {
		t.Errorf("the spans of a sign-in are %q, want %q", got, wanted)
	}
	if root.Kind != tracepb.Span_SPAN_KIND_SERVER || len(root.ParentSpanId) != 0 ||
		otlpsink.Attribute(root, "http.route") != "/tokens/signin" ||
		otlpsink.Attribute(root, "http.request.method") != "POST" {
		t.Errorf("the span of a sign-in is %v", root)
	}
	for name, status := range map[string]string{
		"DELETE /users/sessions/{id}": "204", "GET": "404", "GET /users": "200", "GET /authz/{policy}": "200", "HTTP /users": "405",
		"mail password_changed": "", "event user.password_changed": "",
	} {
		spanOf(t, sink, name, withStatus(status))
	}
	mail := spanOf(t, sink, "mail password_changed", nil)
	if got := sink.Children(mail); len(got) < 2 || got[0] != "send" {
		t.Errorf("the spans of a mail are %q", got)
	}

	// The log leads from a request to its trace.
	id := otlpsink.TraceID(root)
	for _, text := range []string{`"msg":"request"`, `"msg":"signed in"`} {
		if !slices.ContainsFunc(c.logs.Lines(), func(line string) bool {
			return strings.Contains(line, text) && strings.Contains(line, `"trace_id":"`+id+`"`)
		}) {
			t.Errorf("no line %s has the trace_id %s", text, id)
		}
	}

	n.end() // exports the rest
	c.nodes = nil
	bodies, header := sink.Received()
	if header[0].Get("Authorization") != "Bearer credential-of-the-collector" {
		t.Errorf("the header fields of an export are %v", header[0])
	}
	if len(sink.Spans()) < 40 {
		t.Errorf("only %d spans were exported", len(sink.Spans()))
	}
	c.logs.hasNone(t, "an export", string(bodies))
	lower := bytes.ToLower(bodies)
	markers := []string{
		"marker", "203.0.113.77", "127.0.0.1", session, created.Text("id"), "credential-of", c.db.Database, secret, "hook-path",
	}
	for _, text := range append(markers, u.email, u.username, u.password) {
		if bytes.Contains(lower, []byte(strings.ToLower(text))) {
			t.Errorf("an export contains %q", text)
		}
	}
	// service.instance.id is the only UUID.
	instance := sink.Resource("service.instance.id")
	uuids := regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	for _, id := range uuids.FindAllString(string(lower), -1) {
		if id != instance {
			t.Errorf("an export contains the id %s", id)
		}
	}
	if strings.Contains(c.logs.String(), "credential-of-the-collector") {
		t.Error("the log contains a header field of the exporter")
	}
}

// At a public port only the caller with the key continues its trace.
func TestTracesContinueOnlyThoseOfTrustedCallers(t *testing.T) {
	t.Parallel()
	sink := otlpsink.Start(t)
	const key, theirs = "the key of the trusted caller", "4bf92f3577b34da6a3ce929d0e0e4736"
	_, n := single(t, traced(sink), public, env{"TRUSTED_CALLER_KEY": key})
	parent := http.Header{"Traceparent": {"00-" + theirs + "-00f067aa0ba902b7-01"}}
	want(t, http.StatusOK, n.try("GET", "/tokens/keys", parent, nil))
	parent.Set("X-Caller-Key", key)
	want(t, http.StatusOK, n.try("GET", "/openapi.json", parent, nil))
	if root := spanOf(t, sink, "GET /openapi.json", nil); otlpsink.TraceID(root) != theirs || len(root.Links) != 0 {
		t.Errorf("the span for the trusted caller is %v", root)
	}
	if root := spanOf(t, sink, "GET /tokens/keys", nil); otlpsink.TraceID(root) == theirs || len(root.Links) != 1 {
		t.Errorf("the span for a stranger is %v", root)
	}
}

// Without a collector, requests are answered as before, and the server ends in time.
func TestTracesDoNotDelayRequestsWithoutACollector(t *testing.T) {
	t.Parallel()
	sink := otlpsink.Start(t)
	sink.Reply(otlpsink.Hang)
	c, n := single(t, traced(sink), env{"OTEL_BSP_MAX_QUEUE_SIZE": "32", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "16"})
	u := n.newUser()
	begin := time.Now()
	for range 100 {
		want(t, http.StatusOK, n.profile(u.access))
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("100 requests took %v", took)
	}
	testenv.Until(t, 10*time.Second, "the metric counts lost spans", func() bool {
		dropped := regexp.MustCompile(`authgateway_trace_spans_total\{outcome="dropped"\} ([0-9]+)`).FindStringSubmatch(n.metrics())
		failed := regexp.MustCompile(`authgateway_trace_spans_total\{outcome="failed"\} ([0-9]+)`).FindStringSubmatch(n.metrics())
		return dropped != nil && dropped[1] != "0" && failed != nil && failed[1] != "0"
	})
	begin = time.Now()
	n.end()
	c.nodes = nil
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("the server took %v to end", took)
	}
	if lost := strings.Count(c.logs.String(), "traces are lost"); lost != 1 {
		t.Errorf("the log has %d lines about lost traces, want one", lost)
	}
}

func TestTracesAreOffByDefault(t *testing.T) {
	t.Parallel()
	c, n := single(t)
	n.newUser()
	if strings.Contains(n.metrics(), "trace_spans") {
		t.Error("there is a metric of traces")
	}
	for _, line := range c.logs.Lines() {
		var members map[string]any
		testenv.NoError(t, json.Unmarshal([]byte(line), &members))
		if members["trace_id"] != nil {
			t.Fatalf("a line has a trace_id: %s", line)
		}
	}
}
