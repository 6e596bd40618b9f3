package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/span"
)

// exchange is one request and its reply.
type exchange struct {
	server *Server
	http   *fasthttp.RequestCtx
	start  time.Time
	id     string // for X-Request-Id, the log and the audit trail
	origin string // of the calling page, if it is allowed; see cors.go
	path   string // of the route; empty until it is found
	result result // of a decision for a proxy; see authz.go
	policy *policyState
	pathID string // the value of "{id}" in that path
	params parameters
	trace  span.Recording // nil: the request is not recorded

	tokenSent bool     // the request has an access token, valid or not
	denied    *failure // why the access token cannot be verified
	failed    *failure
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

type exchangeKey struct{}

func exchangeOf(ctx *fasthttp.RequestCtx) *exchange { return ctx.UserValue(exchangeKey{}).(*exchange) }

func (s *Server) begin(ctx *fasthttp.RequestCtx, id string, start time.Time) *exchange {
	x := exchanges.Get().(*exchange)
	*x = exchange{server: s, http: ctx, start: start, id: id}
	ctx.SetUserValue(exchangeKey{}, x)
	return x
}

// beginAPI also notes what only the API has.
func (s *Server) beginAPI(ctx *fasthttp.RequestCtx, id string, start time.Time) *exchange {
	x := s.begin(ctx, id, start)
	x.origin = s.allowedOrigin(&ctx.Request.Header)
	s.metrics.inFlight.Inc()
	return x
}

// serve handles a request that fasthttp has read.
func (s *Server) serve(ctx *fasthttp.RequestCtx) {
	if s.authz != nil && s.authz.conns == nil {
		if policy, ok := policyIn(ctx.Request.Header.RequestURI()); ok {
			s.decide(ctx, policy)
			return
		}
	}
	x := s.beginAPI(ctx, requestID(ctx.Request.Header.PeekCanonical(fieldRequestID)), ctx.Time())
	defer x.finish()
	x.beginTrace()
	switch t, f := x.route(); {
	case f != nil:
		x.fail(f)
	case x.isPreflight():
		x.allowMethods(t)
	case t.document != nil && (ctx.IsGet() || ctx.IsHead()):
		if err := t.document(s.work, x); err != nil {
			x.fail(err)
		}
	default:
		s.router(ctx)
	}
}

// route returns the endpoint of a request, or why it must not be served. Fiber would accept other spellings of a path
// and answers unknown methods in plain text, so only requests that match a route reach it.
func (x *exchange) route() (endpoint, *failure) {
	h := &x.http.Request.Header
	if f := validateFraming(h); f != nil {
		return endpoint{}, f
	}
	uri, ok := originForm(h.RequestURI())
	if !ok {
		return endpoint{}, invalid(fasthttp.StatusBadRequest, reasonRequestMalformed,
			"the request target must be a path or an http URL")
	}
	// The path is neither decoded nor cleaned: it has only one spelling, so a proxy cannot interpret another one differently.
	path, query, _ := bytes.Cut(uri, []byte("?"))
	pathID := ""
	t, known := x.server.endpoints[string(path)] // first, because the issuer's path may end in a UUID
	if !known {
		var pattern string
		pattern, pathID = splitID(string(path))
		t, known = x.server.endpoints[pattern]
	}
	if !known && x.server.endpoints[withoutID(string(path))].methods[string(h.Method())] {
		return endpoint{}, errNoID()
	}
	if !known || t.takesID != (pathID != "") {
		if without, _ := splitID(strings.TrimSuffix(string(path), "/")); x.server.endpoints[without].path != "" {
			return endpoint{}, errTrailingSlash()
		}
		return endpoint{}, errNoRoute()
	}
	x.path, x.pathID = t.path, pathID
	if !t.methods[string(h.Method())] && !x.isPreflight() {
		return endpoint{}, errMethod(t.allow)
	}
	return t, validateQuery(query, queryParameters[t.path], x.server.strict)
}

// unreadable answers a request that fasthttp could not read, and closes the connection. Nothing in
// the request can be trusted, including its id.
func (s *Server) unreadable(ctx *fasthttp.RequestCtx, err error) {
	x := s.beginAPI(ctx, newRequestID(), time.Now())
	defer x.finish()
	x.failToRead(err, headLimit)
}

// failToRead fails a request that could not be read.
func (x *exchange) failToRead(err error, headLimit int) {
	if conn, ok := x.http.Conn().(*conn); ok && conn.refusal != nil {
		x.fail(conn.refusal)
	} else {
		x.fail(readFailure(err, headLimit))
	}
	// The current deadline is that of the previous reply, and may have passed.
	_ = x.http.Conn().SetWriteDeadline(time.Now().Add(x.server.timeout))
}

// finish adds the common header fields, and counts and logs the reply. It is deferred, so it also
// turns a panic into a reply: a panic ends only its own request.
func (x *exchange) finish() {
	if p := recover(); p != nil {
		x.http.Response.Reset()
		x.fail(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
	}
	h := &x.http.Response.Header
	h.SetCanonical(fieldRequestID, []byte(x.id))
	for _, field := range alwaysSent {
		h.SetCanonical(field[0], field[1])
	}
	for _, field := range sentByDefault {
		if len(h.PeekCanonical(field[0])) == 0 {
			h.SetCanonical(field[0], field[1])
		}
	}
	if x.result == none {
		x.shareReply()
	}
	if x.server.draining.Load() {
		h.SetConnectionClose()
	}
	if now := time.Now(); x.result != none {
		x.recordDecision(now.Sub(x.start))
	} else {
		x.record(now)
		x.server.metrics.inFlight.Dec()
	}
	if x.trace != nil {
		x.endTrace()
	}
	x.http.RemoveUserValue(exchangeKey{})
	exchanges.Put(x)
}

// The names and values of fields are bytes and in their canonical form, because fasthttp copies and normalizes others.
var (
	fieldRequestID    = []byte("X-Request-Id")
	fieldCacheControl = []byte("Cache-Control")
	fieldETag         = []byte("Etag") // fasthttp writes all names like this
	fieldIfNoneMatch  = []byte("If-None-Match")
	fieldOrigin       = []byte("Origin")
)

var alwaysSent = [...][2][]byte{
	{[]byte("X-Content-Type-Options"), []byte("nosniff")},
	{[]byte("Referrer-Policy"), []byte("no-referrer")},
	{[]byte("Cross-Origin-Resource-Policy"), []byte("same-origin")},
}

// replyPolicy is for replies that are not pages. A browser that displays one, in a frame or through
// a link, runs nothing. It makes X-Frame-Options unnecessary. We send no Strict-Transport-Security:
// a proxy terminates TLS, and the field must not be sent over plain HTTP (RFC 6797 section 7.2).
const replyPolicy = "default-src 'none'; frame-ancestors 'none'"

// sentByDefault are fields that a route may set to another value.
var sentByDefault = [...][2][]byte{
	{[]byte("Content-Security-Policy"), []byte(replyPolicy)},
	{fieldCacheControl, []byte("no-store")},
}

// record counts the exchange and writes its log line. The log contains no query, no body and no header fields. It
// contains the path of the route, not the requested path, which may contain anything.
func (x *exchange) record(now time.Time) {
	ctx, status, took := x.context(context.Background()), x.http.Response.StatusCode(), now.Sub(x.start)
	one := x.server.series(seriesKey{x.method(), x.path, status})
	one.requests.Inc()
	one.duration.Observe(took.Seconds())
	x.logFailure(status)
	if one.log.Enabled(ctx, slog.LevelInfo) {
		line := slog.NewRecord(now, slog.LevelInfo, "request", 0) // no program counter, which takes time to find
		line.AddAttrs(slog.String("request_id", x.id), slog.Duration("duration", took),
			slog.Int("bytes", len(x.http.Response.Body())))
		_ = one.log.Handle(ctx, line)
	}
}

// logFailure logs the cause of a failure, if there is one.
func (x *exchange) logFailure(status int) {
	if f := x.failed; f != nil && f.cause != nil {
		level := slog.LevelDebug
		if status >= 500 {
			level = slog.LevelError
		}
		x.server.log.LogAttrs(x.context(context.Background()), level, "request failed",
			slog.String("request_id", x.id), slog.Int("status", status), slog.Any("cause", f.cause))
	}
}

// method returns the method as a label. All unknown methods share one label.
func (x *exchange) method() string { return cmp.Or(methodLabels[string(x.http.Method())], "other") }

var methodLabels = map[string]string{
	"GET": "GET", "HEAD": "HEAD", "POST": "POST", "PUT": "PUT", "PATCH": "PATCH", "DELETE": "DELETE", "OPTIONS": "OPTIONS",
}

// fail writes an error reply for any error. An internal cause is only logged; the caller gets the request id.
func (x *exchange) fail(err error) {
	f := failureOf(err)
	x.failed = f
	oauth := x.oauthError(f)
	resp := &x.http.Response
	switch {
	case f.status == fasthttp.StatusUnauthorized:
		resp.Header.Set("WWW-Authenticate", challenge(x.tokenSent, "invalid_token"))
	case f.status == fasthttp.StatusForbidden && x.tokenSent:
		resp.Header.Set("WWW-Authenticate", challenge(true, "insufficient_scope"))
	}
	if f.allow != "" {
		resp.Header.Set("Allow", f.allow)
	}
	if f.retryAfter > 0 {
		resp.Header.Set("Retry-After", strconv.FormatInt(wholeSeconds(f.retryAfter), 10))
	}
	if f.close {
		closeGently(x.http)
	}
	// This cannot fail: the reply always marshals.
	_ = x.reply(f.status, errorReply{
		Code: f.code, Description: f.description, Reason: f.reason, OAuth: oauth, Fields: f.fields,
	})
}

// reply writes a JSON reply.
func (x *exchange) reply(status int, body any) error {
	resp := &x.http.Response
	resp.ResetBody()
	resp.SetStatusCode(status)
	resp.Header.SetContentType("application/json")
	return json.MarshalWrite(resp.BodyWriter(), body)
}

// done replies 204, or returns the error.
func (x *exchange) done(err error) error {
	if err != nil {
		return err
	}
	x.http.Response.SetStatusCode(fasthttp.StatusNoContent)
	return nil
}

// requestID returns the caller's request id if it is well-formed, or a new one. Other ids could forge log lines.
func requestID(sent []byte) string {
	if len(sent) == 0 || len(sent) > 64 {
		return newRequestID()
	}
	for _, b := range sent {
		if !isAlphanumeric(b) && b != '.' && b != '_' && b != '-' {
			return newRequestID()
		}
	}
	return string(sent)
}

// newRequestID returns an id that occurs once. It is not secret, so it comes from math/rand, which is faster than
// crypto/rand.
func newRequestID() string {
	var id [16]byte
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64()) //nolint:gosec // see above
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64()) //nolint:gosec // see above
	var text [26]byte
	requestIDs.Encode(text[:], id[:])
	return string(text[:])
}

var requestIDs = base32.StdEncoding.WithPadding(base32.NoPadding)

func isAlphanumeric(b byte) bool {
	return 'a' <= b|0x20 && b|0x20 <= 'z' || '0' <= b && b <= '9'
}

// needsTrust reports whether only the trusted caller may use a route.
func (s *Server) needsTrust(t trust) bool {
	switch t {
	case trustedOnly, keyHolders:
		return true
	case revealsCode:
		return s.exposure != identity.ExposurePublic
	default:
		return false
	}
}

// trusts reports whether the request is from the trusted caller. It compares digests, so that the
// time reveals nothing, including the length.
func (s *Server) trusts(ctx *fasthttp.RequestCtx) bool {
	if s.callerKey == nil {
		return true
	}
	sent := sha256.Sum256(ctx.Request.Header.Peek("X-Caller-Key"))
	return subtle.ConstantTimeCompare(sent[:], s.callerKey[:]) == 1
}
