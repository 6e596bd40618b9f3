package httpapi

import (
	"log/slog"
	"strings"
	"sync"

	"github.com/valyala/fasthttp"
)

// The CORS protocol (section 3.3 of https://fetch.spec.whatwg.org) decides which pages of other origins may call the
// API and read its replies. Fiber's middleware is not sufficient: it does not see errors before routing, and answers
// preflight requests for any path, existing or not. Credentials are never allowed, because tokens are sent in
// Authorization and not in cookies (CVE-2024-25124 was that middleware allowing them for every origin). The keys and
// the document are public but get no *: only the list decides which pages can read anything.

// corsAllowed are the fields that a page may send: those that this API reads, and those that clients and tracing
// libraries add to every request (Sentry, OpenTelemetry, B3, Datadog, New Relic, Elastic, Application Insights, X-Ray,
// Jaeger). Without the latter, a page with such a library cannot even sign in. The requested fields are not simply
// echoed, because a page must not send X-Caller-Key or the fields of proxies.
var corsAllowed = []string{
	"Authorization", "Content-Type", "X-Request-Id",
	"Accept", "Accept-Language", "Cache-Control", "If-None-Match", "Pragma", "X-Requested-With",
	"baggage", "traceparent", "tracestate", "sentry-trace",
	"b3", "X-B3-TraceId", "X-B3-SpanId", "X-B3-ParentSpanId", "X-B3-Sampled", "X-B3-Flags",
	"X-Datadog-Trace-Id", "X-Datadog-Parent-Id", "X-Datadog-Origin", "X-Datadog-Sampling-Priority", "X-Datadog-Tags",
	"newrelic", "elastic-apm-traceparent", "Request-Id", "Request-Context", "X-Amzn-Trace-Id", "uber-trace-id",
}

const (
	corsExposed = "X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate"

	// corsMaxAge is the maximum for which Chromium caches a preflight. A removed origin cannot
	// read replies, whether or not its preflight is cached.
	corsMaxAge = "7200"
)

// allowedOrigin returns the origin of the page that sent the request if it is on the list, or "".
func (s *Server) allowedOrigin(h *fasthttp.RequestHeader) string {
	if len(h.PeekCanonical(fieldOrigin)) == 0 {
		return ""
	}
	sent := ""
	for value := range headValues(h, "Origin") {
		if sent != "" { // no browser sends two
			return ""
		}
		sent = string(value)
	}
	if s.origins[sent] {
		return sent
	}
	if !isSameOrigin(h, sent) {
		s.refused.log(s.log, sent)
	}
	return ""
}

// isSameOrigin reports whether the page is from this server, which needs no permission.
func isSameOrigin(h *fasthttp.RequestHeader, origin string) bool {
	_, host, _ := strings.Cut(origin, "://")
	return string(h.Peek("Sec-Fetch-Site")) == "same-origin" || host == string(h.Host())
}

// refusedOrigins logs the origins of pages that may not read replies, because the browser's error message does not name
// the setting. Each origin is logged once, and their number is limited, because a client can invent origins.
type refusedOrigins struct {
	mu     sync.Mutex
	logged map[string]bool
}

const maxRefusedOrigins = 50

func (r *refusedOrigins) log(log *slog.Logger, origin string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.logged[origin] || len(r.logged) == maxRefusedOrigins || len(origin) > 200 ||
		strings.ContainsFunc(origin, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return
	}
	if r.logged == nil {
		r.logged = map[string]bool{}
	}
	r.logged[origin] = true
	log.Warn("a page of an origin that is not in CORS_ALLOWED_ORIGINS sent a request; its browser blocks the reply",
		"origin", origin)
	if len(r.logged) == maxRefusedOrigins {
		log.Warn("further origins that are not in CORS_ALLOWED_ORIGINS are not logged")
	}
}

// isPreflight reports whether the request is a preflight for a page of an allowed origin. For other
// origins, OPTIONS is just an unsupported method.
func (x *exchange) isPreflight() bool {
	h := &x.http.Request.Header
	return x.origin != "" && string(h.Method()) == fasthttp.MethodOptions && len(h.Peek("Access-Control-Request-Method")) > 0
}

// allowMethods answers a preflight. The browser does the comparison.
func (x *exchange) allowMethods(t endpoint) {
	h := &x.http.Response.Header
	h.Set("Access-Control-Allow-Methods", t.allow)
	h.Set("Access-Control-Allow-Headers", x.server.fields)
	h.Set("Access-Control-Max-Age", corsMaxAge)
	x.http.Response.SetStatusCode(fasthttp.StatusNoContent)
}

// shareReply lets the page read the reply, including errors. It sets Vary: Origin also for requests
// without Origin, because a cache must not use their replies for a page.
func (x *exchange) shareReply() {
	if x.server.origins == nil {
		return
	}
	h := &x.http.Response.Header
	h.Add("Vary", "Origin")
	if x.origin != "" {
		h.Set("Access-Control-Allow-Origin", x.origin)
		h.Set("Access-Control-Expose-Headers", corsExposed)
	}
}
