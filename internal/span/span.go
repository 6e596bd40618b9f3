// Package span is how the parts of the server report what takes time in a request. It knows no library of traces: a
// part asks the context whether the request is recorded, which it is not while traces are off, and reports a span when
// it has ended. Package tracing records them.
//
// A span leaves the server, and people read it who may not see accounts. So it contains no address, name, id of an
// account or session, token, query, header field or message of an error: only texts that this program has chosen.
package span

import (
	"context"
	"log/slog"
	"time"
)

// A Tracer begins traces. Parts of the server have a nil Tracer while traces are off.
type Tracer interface {
	// Begin begins a trace, or continues that of a caller. It returns nil if the trace is not to be recorded.
	Begin(o Origin) Recording
}

// An Origin says how a trace begins.
type Origin struct {
	Name  string
	Kind  Kind
	Start time.Time

	// Parent and State are the fields traceparent and tracestate of a request, if it has them.
	Parent, State string
	// Trusted reports whether the caller may decide what is recorded. If it may not, its trace is only linked to.
	Trusted bool
}

// A Recording is a trace that is recorded. It may be used by several goroutines until End.
type Recording interface {
	// ID is the trace id, for the log.
	ID() string
	// Add adds something that has ended.
	Add(s Span)
	// End ends the whole. The name replaces that of the Origin.
	End(s Span)
}

// Kind is the kind of a span.
type Kind int

// The kinds.
const (
	Internal Kind = iota
	Server        // the answer to a request
	Client        // a request to another service
)

// Span is something that took time.
type Span struct {
	Name       string
	Kind       Kind
	Start, End time.Time
	Error      string // one of few, such as the code of PostgreSQL; empty: it succeeded
	Attributes []slog.Attr
}

type key struct{}

// With returns a context that carries a recording.
func With(ctx context.Context, r Recording) context.Context { return context.WithValue(ctx, key{}, r) }

// From returns the recording that a context carries, or nil.
func From(ctx context.Context) Recording {
	r, _ := ctx.Value(key{}).(Recording)
	return r
}

// Begin begins a trace of work that no request waits for, and returns a context that carries it. The returned function
// ends it with an error, as in Span. t may be nil.
func Begin(ctx context.Context, t Tracer, name string, attributes ...slog.Attr) (context.Context, func(err string)) {
	if t == nil {
		return ctx, func(string) {}
	}
	start := time.Now()
	r := t.Begin(Origin{Name: name, Start: start})
	if r == nil {
		return ctx, func(string) {}
	}
	return With(ctx, r), func(err string) {
		r.End(Span{Name: name, Start: start, End: time.Now(), Error: err, Attributes: attributes})
	}
}

// Logger returns a logger that adds trace_id to the lines whose context carries a recording.
func Logger(log *slog.Logger) *slog.Logger { return slog.New(handler{log.Handler()}) }

type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, line slog.Record) error {
	if r := From(ctx); r != nil {
		line.AddAttrs(slog.String("trace_id", r.ID()))
	}
	return h.Handler.Handle(ctx, line)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs)}
}
func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }
