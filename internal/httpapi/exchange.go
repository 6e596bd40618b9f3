package httpapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// call is one request on its way through the server.
type exchange struct {
	server *Server
	http   *fasthttp.RequestCtx
	start  time.Time
	id     string // goes into X-Request-Id, the log, and the audit trail
	origin string // of the page that called, where it may; see cors.go
	path   string // path of the route; empty until it is found
	pathID string // what stands for "{id}" in that path
	params parameters

	tokenSent bool     // an access token was presented, whether or not it holds
	denied    *failure // why the access token cannot even be tried
	failed    *failure
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

type exchangeKey struct{}

func exchangeOf(ctx *fasthttp.RequestCtx) *exchange { return ctx.UserValue(exchangeKey{}).(*exchange) }

func (s *Server) begin(ctx *fasthttp.RequestCtx, id string) *exchange {
	x := exchanges.Get().(*exchange)
	*x = exchange{server: s, http: ctx, start: time.Now(), id: id, origin: s.allowedOrigin(&ctx.Request.Header)}
	ctx.SetUserValue(exchangeKey{}, x)
	s.metrics.inFlight.Inc()
	return x
}

// serve answers a request that fasthttp could read.
func (s *Server) serve(ctx *fasthttp.RequestCtx) {
	x := s.begin(ctx, requestID(ctx.Request.Header.Peek("X-Request-Id")))
	defer x.finish()
	switch t, f := x.route(); {
	case f != nil:
		x.fail(f)
	case x.isPreflight():
		x.allowMethods(t)
	default:
		s.router(ctx)
	}
}

// route finds the target of a request, or why it must not be served. Fiber would
// forgive other spellings of a path, and answers a method that it does not know
// in plain text, so only what a route takes gets there.
func (x *exchange) route() (endpoint, *failure) {
	h := &x.http.Request.Header
	if f := validateFraming(h); f != nil {
		return endpoint{}, f
	}
	uri, ok := originForm(h.RequestURI())
	if !ok {
		return endpoint{}, invalid(fasthttp.StatusBadRequest, reasonRequestMalformed, "the request target must be a path or an http URL")
	}
	path, query := splitTarget(uri)
	pattern, pathID := splitID(string(path))
	t, known := x.server.endpoints[pattern]
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
	return t, validateQuery(query, x.server.strict)
}

// unreadable answers a request that fasthttp could not read. The connection is
// closed afterwards. Nothing of the request may be trusted, its id included.
func (s *Server) unreadable(ctx *fasthttp.RequestCtx, err error) {
	x := s.begin(ctx, rand.Text())
	defer x.finish()
	if conn, ok := ctx.Conn().(*conn); ok && conn.refusal != nil {
		x.fail(conn.refusal)
	} else {
		x.fail(readFailure(err))
	}
	// The deadline that stands is that of the reply before, and may have passed.
	_ = ctx.Conn().SetWriteDeadline(time.Now().Add(s.timeout))
}

// finish adds what every reply has, counts it and logs it. As a deferred call
// it also turns a panic into a reply: it ends this request and no other.
func (x *exchange) finish() {
	if p := recover(); p != nil {
		x.http.Response.Reset()
		x.fail(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
	}
	h := &x.http.Response.Header
	h.Set("X-Request-Id", x.id)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	setDefault(h, "Content-Security-Policy", replyPolicy)
	setDefault(h, "Cache-Control", "no-store")
	x.shareReply()
	if x.server.draining.Load() {
		h.SetConnectionClose()
	}
	x.record(time.Since(x.start))
	x.server.metrics.inFlight.Dec()
	x.http.RemoveUserValue(exchangeKey{})
	exchanges.Put(x)
}

// replyPolicy is for replies that are no pages: whoever gets a browser to show
// one, in a frame or by a link, gets nothing to run. With it X-Frame-Options is
// not needed. There is no Strict-Transport-Security: TLS ends in front of us, and
// over plain HTTP the field must not be sent (RFC 6797 section 7.2), so it is
// for whoever has the certificate.
const replyPolicy = "default-src 'none'; frame-ancestors 'none'"

func setDefault(h *fasthttp.ResponseHeader, name, value string) {
	if len(h.Peek(name)) == 0 {
		h.Set(name, value)
	}
}

// record counts the call and writes its line of the log: no query, no body, no
// fields, and of the path only what is known to be a route's, since a path that
// a caller mistyped may hold anything.
func (x *exchange) record(took time.Duration) {
	ctx, log, status := context.Background(), x.server.log, x.http.Response.StatusCode()
	method := x.method()
	x.server.metrics.observe(method, x.path, status, took)

	if f := x.failed; f != nil && f.cause != nil {
		level := slog.LevelDebug
		if status >= 500 {
			level = slog.LevelError
		}
		log.LogAttrs(ctx, level, "request failed",
			slog.String("request_id", x.id), slog.Int("status", status), slog.Any("cause", f.cause))
	}
	if log.Enabled(ctx, slog.LevelInfo) {
		log.LogAttrs(ctx, slog.LevelInfo, "request",
			slog.String("request_id", x.id), slog.String("method", method), slog.String("route", x.path),
			slog.Int("status", status), slog.Duration("duration", took),
			slog.Int("bytes", len(x.http.Response.Body())))
	}
}

// method gives the method as a label: those that a caller made up are one.
func (x *exchange) method() string {
	switch m := string(x.http.Method()); m {
	case "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH":
		return m
	default:
		return "other"
	}
}

// fail answers with the one error shape. Any error may come here: what is not
// meant for callers is logged, and they are told the id to ask about.
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
	// A failure marshals always.
	_ = x.reply(f.status, errorReply{Code: f.code, Description: f.description, Reason: f.reason, OAuth: oauth, Fields: f.fields})
}

// reply answers with JSON.
func (x *exchange) reply(status int, body any) error {
	resp := &x.http.Response
	resp.ResetBody()
	resp.SetStatusCode(status)
	resp.Header.SetContentType("application/json")
	return json.MarshalWrite(resp.BodyWriter(), body)
}

// done answers that it is done and there is nothing to tell, unless it failed.
func (x *exchange) done(err error) error {
	if err != nil {
		return err
	}
	x.http.Response.SetStatusCode(fasthttp.StatusNoContent)
	return nil
}

// requestID takes the caller's id for the request where it is a sane one, and
// makes one elsewhere. What is not sane could forge a line of a log.
func requestID(sent []byte) string {
	if len(sent) == 0 || len(sent) > 64 {
		return rand.Text()
	}
	for _, b := range sent {
		letter := 'a' <= b|0x20 && b|0x20 <= 'z'
		digit := '0' <= b && b <= '9'
		if !letter && !digit && b != '.' && b != '_' && b != '-' {
			return rand.Text()
		}
	}
	return string(sent)
}

// needsTrust tells whether only the trusted caller may go on.
func (s *Server) needsTrust(t trust) bool {
	switch t {
	case trustedOnly:
		return true
	case revealsCode:
		return s.exposure != identity.ExposurePublic
	default:
		return false
	}
}

func (x *exchange) callerKey() []byte { return x.http.Request.Header.Peek("X-Caller-Key") }

// trusts tells whether the request is from the trusted caller. Digests are
// compared, so that the time tells nothing, not even a length.
func (s *Server) trusts(ctx *fasthttp.RequestCtx) bool {
	if s.callerKey == nil {
		return true
	}
	sent := sha256.Sum256(ctx.Request.Header.Peek("X-Caller-Key"))
	return subtle.ConstantTimeCompare(sent[:], s.callerKey[:]) == 1
}
