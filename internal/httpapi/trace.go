package httpapi

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/span"
)

// otherMethod is the name of unknown methods in traces (OpenTelemetry, HTTP semantic conventions).
const otherMethod = "_OTHER"

// beginTrace begins the trace of a request, if it is to be recorded.
func (x *exchange) beginTrace() {
	tracer := x.server.tracer
	if tracer == nil {
		return
	}
	h := &x.http.Request.Header
	o := span.Origin{Name: "HTTP", Kind: span.Server, Start: x.start}
	if parent := h.Peek("traceparent"); len(parent) > 0 {
		o.Parent, o.State = string(parent), joined(h, "tracestate")
		o.Trusted = x.server.trustsTrace(x)
	}
	x.trace = tracer.Begin(o)
}

// trustsTrace reports whether the caller may decide what is recorded: not at a public port, where it could fill the
// disks of the collector. There it needs the trusted caller's key.
func (s *Server) trustsTrace(x *exchange) bool {
	if s.callerKey == nil {
		return s.exposure != identity.ExposurePublic
	}
	return s.trusts(x.http)
}

// context returns ctx with the recording of the request, if it is recorded.
func (x *exchange) context(ctx context.Context) context.Context {
	if x.trace == nil {
		return ctx
	}
	return span.With(ctx, x.trace)
}

func (x *exchange) endTrace() {
	method := x.method()
	if method == "other" {
		method = otherMethod
	}
	x.trace.End(serverSpan(method, x.path, x.http.Response.StatusCode(), x.start))
}

// serverSpan describes an answered request. The conventions also require url.path, which contains ids and what clients
// invent; the route has its place.
func serverSpan(method, route string, status int, start time.Time) span.Span {
	s := span.Span{Name: method, Start: start, End: time.Now(), Attributes: []slog.Attr{
		slog.String("http.request.method", method), slog.Int("http.response.status_code", status), slog.String("url.scheme", "http"),
	}}
	if method == otherMethod {
		s.Name = "HTTP"
	}
	if route != "" {
		s.Name += " " + route
		s.Attributes = append(s.Attributes, slog.String("http.route", route))
	}
	if status >= 500 {
		s.Error = strconv.Itoa(status)
	}
	return s
}

// beginTrace begins the trace of a request of an administrator, if it is to be recorded. Its caller is trusted only
// after its credential was checked, so its own trace is linked to.
func (a *Admin) beginTrace(x *adminExchange, start time.Time) span.Recording {
	if a.tracer == nil {
		return nil
	}
	trace := a.tracer.Begin(span.Origin{Name: "HTTP", Kind: span.Server, Start: start, Parent: x.r.Header.Get("traceparent")})
	if trace != nil {
		x.r = x.r.WithContext(span.With(x.r.Context(), trace))
	}
	return trace
}
