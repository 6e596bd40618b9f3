package httpapi

import (
	"log/slog"
	"strings"
	"sync"

	"github.com/valyala/fasthttp"
)

// The CORS protocol (section 3.3 of https://fetch.spec.whatwg.org): which pages
// of other origins may call the API and read its replies. Fiber's middleware
// will not do: it sees none of the errors from before the routing, and answers
// a preflight alike for every path, whether there is one or not. Credentials
// are never allowed, for tokens travel in Authorization and not in cookies
// (CVE-2024-25124 was that middleware allowing them to every origin). The keys
// and the document are public, and still get no * of their own: the list is the
// whole answer to which pages can read something here.

// corsAllowed are the fields that a page may send. Besides those that this API reads
// there are those that clients and tracing libraries add to every request on their
// own (Sentry, OpenTelemetry, B3, Datadog, New Relic, Elastic, Application Insights,
// X-Ray, Jaeger): nothing here reads them, and without them such a page cannot even
// sign in. What the page asks for is not simply echoed: X-Caller-Key and the fields
// of proxies speak for others than the page, and no page gets to send them.
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

	// corsMaxAge is as long as Chromium keeps the answer to a preflight. An
	// origin that is taken off the list cannot read replies from that moment.
	corsMaxAge = "7200"
)

// allowedOrigin gives the origin of the page that sent the request, where it is
// on the list, as the list has it; elsewhere it is empty.
func (s *Server) allowedOrigin(h *fasthttp.RequestHeader) string {
	if len(h.Peek("Origin")) == 0 {
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

// isSameOrigin reports whether the page is one of this server's own, which needs no
// permission.
func isSameOrigin(h *fasthttp.RequestHeader, origin string) bool {
	_, host, _ := strings.Cut(origin, "://")
	return string(h.Peek("Sec-Fetch-Site")) == "same-origin" || host == string(h.Host())
}

// refusedOrigins logs the origins of pages that may not read replies: what the
// browser tells the page's author does not name the setting. Each is logged once,
// and only so many, since anyone can make them up.
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
	log.Warn("a page of an origin that is not in CORS_ALLOWED_ORIGINS sent a request; its browser blocks the reply", "origin", origin)
	if len(r.logged) == maxRefusedOrigins {
		log.Warn("further origins that are not in CORS_ALLOWED_ORIGINS are not logged")
	}
}

// isPreflight tells whether a browser asks what a page of an allowed origin may
// do. For pages of all others OPTIONS is a method like any that no path takes.
func (x *exchange) isPreflight() bool {
	h := &x.http.Request.Header
	return x.origin != "" && string(h.Method()) == fasthttp.MethodOptions && len(h.Peek("Access-Control-Request-Method")) > 0
}

// allowMethods answers a preflight. The browser compares.
func (x *exchange) allowMethods(t endpoint) {
	h := &x.http.Response.Header
	h.Set("Access-Control-Allow-Methods", t.allow)
	h.Set("Access-Control-Allow-Headers", x.server.fields)
	h.Set("Access-Control-Max-Age", corsMaxAge)
	x.http.Response.SetStatusCode(fasthttp.StatusNoContent)
}

// shareReply lets the page read the reply, errors included. That the reply
// depends on Origin is true for those who sent none, too: a cache must not
// give their copy to a page.
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
