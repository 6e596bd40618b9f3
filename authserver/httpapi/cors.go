package httpapi

import "github.com/valyala/fasthttp"

// The CORS protocol (section 3.3 of https://fetch.spec.whatwg.org): which pages
// of other origins may call the API and read its replies. Fiber's middleware
// will not do: it sees none of the errors from before the routing, and answers
// a preflight alike for every path, whether there is one or not. Credentials
// are never allowed, for tokens travel in Authorization and not in cookies
// (CVE-2024-25124 was that middleware allowing them to every origin). The keys
// and the document are public, and still get no * of their own: the list is the
// whole answer to which pages can read something here.

const (
	// corsAllowed has no X-Caller-Key: that is a backend's, and no page has one.
	corsAllowed = "Authorization, Content-Type, X-Request-Id"
	corsExposed = "X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate"

	// corsMaxAge is as long as Chromium keeps the answer to a preflight. An
	// origin that is taken off the list cannot read replies from that moment.
	corsMaxAge = "7200"
)

// allowedOrigin gives the origin of the page that sent the request, where it is
// on the list, as the list has it; elsewhere it is empty.
func (s *Server) allowedOrigin(h *fasthttp.RequestHeader) string {
	if s.origins == nil {
		return ""
	}
	sent := ""
	for value := range headValues(h, "Origin") {
		if sent != "" { // no browser sends two
			return ""
		}
		sent = string(value)
	}
	if !s.origins[sent] {
		return ""
	}
	return sent
}

// isPreflight tells whether a browser asks what a page of an allowed origin may
// do. For pages of all others OPTIONS is a method like any that no path takes.
func (c *call) isPreflight() bool {
	h := &c.http.Request.Header
	return c.origin != "" && string(h.Method()) == fasthttp.MethodOptions && len(h.Peek("Access-Control-Request-Method")) > 0
}

// allowMethods answers a preflight. The browser compares.
func (c *call) allowMethods(t target) {
	h := &c.http.Response.Header
	h.Set("Access-Control-Allow-Methods", t.allow)
	h.Set("Access-Control-Allow-Headers", corsAllowed)
	h.Set("Access-Control-Max-Age", corsMaxAge)
	c.http.Response.SetStatusCode(fasthttp.StatusNoContent)
}

// shareReply lets the page read the reply, errors included. That the reply
// depends on Origin is true for those who sent none, too: a cache must not
// give their copy to a page.
func (c *call) shareReply() {
	if c.server.origins == nil {
		return
	}
	h := &c.http.Response.Header
	h.Add("Vary", "Origin")
	if c.origin != "" {
		h.Set("Access-Control-Allow-Origin", c.origin)
		h.Set("Access-Control-Expose-Headers", corsExposed)
	}
}
