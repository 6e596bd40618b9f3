package tracing

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Stats counts spans. Those that ended and are in none of these numbers wait.
type Stats struct {
	Exported int64 // accepted by the collector
	Failed   int64 // lost, because the collector did not accept them
	Dropped  int64 // lost, because too many waited
}

// queue makes batches and passes them to the exporter. It bounds what waits, as the library does, which does not say
// how much it drops.
type queue struct {
	sdktrace.SpanProcessor

	export *exporter
}

// OnEnd takes a span that has ended, unless too many wait. It never blocks.
func (q queue) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if e := q.export; e.waiting.Add(1) > e.most {
		e.waiting.Add(-1)
		e.dropped.Add(1)
		e.note(1, errDropped)
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// exporter counts what the collector accepts, and logs what it does not. It never returns an error: the library would
// log each.
type exporter struct {
	sdktrace.SpanExporter

	log  *slog.Logger
	most int64

	// work ends the export that is in progress when Close has waited long enough.
	work context.Context //nolint:containedctx // of the exporter
	stop context.CancelFunc

	waiting, exported, failed, dropped atomic.Int64

	mu      sync.Mutex
	warned  limiter
	lost    int64 // spans since the last line
	failing bool  // and the log says so
}

// ExportSpans exports a batch.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.work, cancel)() //nolint:contextcheck // it ends with either
	err := e.SpanExporter.ExportSpans(ctx, spans)
	n := int64(len(spans))
	e.waiting.Add(-n)
	if err != nil {
		e.failed.Add(n)
	} else {
		e.exported.Add(n)
	}
	e.note(n, err)
	return nil
}

// note logs that spans are lost, at most once a minute, and after that that the collector accepts them again.
func (e *exporter) note(n int64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		if e.failing {
			e.log.Info("the collector accepts traces again", "lost_spans", e.lost)
			e.failing, e.lost = false, 0
		}
		return
	}
	e.lost += n
	if e.warned.allows(time.Now()) {
		e.failing = e.failing || !errors.Is(err, errDropped)
		e.log.Warn("traces are lost; requests are not affected", "lost_spans", e.lost, "error", shorten(err))
		e.lost = 0
	}
}

func (e *exporter) stats() Stats {
	return Stats{Exported: e.exported.Load(), Failed: e.failed.Load(), Dropped: e.dropped.Load()}
}

// limiter allows one line a minute.
type limiter struct {
	mu   sync.Mutex
	next time.Time
}

func (l *limiter) allows(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.next) {
		return false
	}
	l.next = now.Add(time.Minute)
	return true
}
