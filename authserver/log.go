package authserver

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
)

const (
	logDelay  = 100 * time.Millisecond
	logBuffer = 64 << 10
)

// auditMark distinguishes the lines of the audit trail.
var auditMark = slog.String("log", "audit")

// newLog returns the log of a server, and a function that writes what it has not written yet. Lines of information are
// written after logDelay at the latest, because a write for each of them takes a tenth of the work for a short request.
// Warnings, errors and the audit trail, which may be in the log only, are written at once, after all lines before them.
func newLog(w io.Writer, settings config.Config) (log *slog.Logger, flush func()) {
	delayed := newDelayedWriter(w, logDelay)
	return slog.New(promptHandler{newHandler(delayed, settings), delayed, slog.LevelWarn}), func() { _ = delayed.flush() }
}

func newHandler(w io.Writer, settings config.Config) slog.Handler {
	options := &slog.HandlerOptions{Level: settings.LogLevel}
	if settings.LogFormat == "text" {
		return slog.NewTextHandler(w, options)
	}
	return slog.NewJSONHandler(w, options)
}

// promptHandler writes lines from a level on at once.
type promptHandler struct {
	slog.Handler
	delayed *delayedWriter
	from    slog.Level
}

func (h promptHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Level >= h.from && err == nil {
		err = h.delayed.flush()
	}
	return err
}

func (h promptHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if slices.ContainsFunc(attrs, auditMark.Equal) {
		h.from = slog.LevelDebug
	}
	h.Handler = h.Handler.WithAttrs(attrs)
	return h
}

func (h promptHandler) WithGroup(name string) slog.Handler {
	h.Handler = h.Handler.WithGroup(name)
	return h
}

// delayedWriter collects lines and writes them together. If a write fails, the lines are lost and the next ones are
// written again: zap's BufferedWriteSyncer, and any other user of a bufio.Writer, keeps the first error forever.
type delayedWriter struct {
	w     io.Writer
	delay time.Duration

	mu    sync.Mutex
	lines []byte
	timer *time.Timer // runs while there are lines
}

func newDelayedWriter(w io.Writer, delay time.Duration) *delayedWriter {
	d := &delayedWriter{w: w, delay: delay, lines: make([]byte, 0, logBuffer)}
	d.timer = time.AfterFunc(time.Hour, func() { _ = d.flush() })
	d.timer.Stop()
	return d
}

// Write never splits a line. Its error is that of an earlier line.
func (d *delayedWriter) Write(line []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if len(d.lines)+len(line) > logBuffer {
		err = d.write()
	}
	if len(d.lines) == 0 {
		d.timer.Reset(d.delay)
	}
	d.lines = append(d.lines, line...)
	return len(line), err
}

func (d *delayedWriter) flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.write()
}

// write is called with the lock, which keeps the lines in order.
func (d *delayedWriter) write() error {
	d.timer.Stop()
	if len(d.lines) == 0 {
		return nil
	}
	_, err := d.w.Write(d.lines)
	d.lines = d.lines[:0]
	return err
}
