package authserver

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
	h := newHandler(delayed, settings)
	if settings.LogFormat != "text" {
		h = similarHandler{Handler: h, out: delayed}
	}
	return slog.New(promptHandler{h, delayed, slog.LevelWarn}), func() { _ = delayed.flush() }
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

// similarHandler writes the same lines as the JSON handler that it contains. Lines with the level and the message of the
// first one after WithAttrs take less time: it keeps what the JSON handler writes of them, and adds only the time and
// plain attributes. See docs/decisions/0063-lines-of-requests-have-a-common-part.md.
type similarHandler struct {
	slog.Handler
	out    *delayedWriter
	attrs  string                      // of WithAttrs, as in a line
	common *atomic.Pointer[commonPart] // nil: there are no attributes
}

// commonPart is what is equal in lines with the same level, message and attributes of WithAttrs.
type commonPart struct {
	level   slog.Level
	message string
	text    string // from the comma after the time to the comma before the next attribute
}

func (h similarHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	ctx, level := context.Background(), slog.LevelInfo // any level has the same attributes
	added := strings.TrimPrefix(membersOf(ctx, level, "", attrs), membersOf(ctx, level, "", nil))
	return similarHandler{h.Handler.WithAttrs(attrs), h.out, h.attrs + added, new(atomic.Pointer[commonPart])}
}

func (h similarHandler) WithGroup(name string) slog.Handler { return h.Handler.WithGroup(name) }

// membersOf returns what the JSON handler writes after the time: ,"level":"INFO" and so on.
func membersOf(ctx context.Context, level slog.Level, message string, attrs []slog.Attr) string {
	var line strings.Builder
	h := slog.NewJSONHandler(&line, &slog.HandlerOptions{Level: level}).WithAttrs(attrs)
	_ = h.Handle(ctx, slog.NewRecord(time.Time{}, level, message, 0))
	return "," + line.String()[len("{"):line.Len()-len("}\n")]
}

func (h similarHandler) Handle(ctx context.Context, r slog.Record) error {
	var space [512]byte
	if line, ok := h.line(ctx, space[:0], r); ok {
		_, err := h.out.Write(line)
		return err
	}
	return h.Handler.Handle(ctx, r)
}

// line appends the line of a record, if it is similar to the first one.
func (h similarHandler) line(ctx context.Context, line []byte, r slog.Record) (_ []byte, similar bool) {
	if second := r.Time.Unix(); h.common == nil || second < 0 || second > lastUsualSecond {
		return nil, false
	}
	common := h.common.Load()
	if common == nil {
		common = &commonPart{r.Level, r.Message, membersOf(ctx, r.Level, r.Message, nil) + h.attrs}
		h.common.Store(common)
	}
	if r.Level != common.level || r.Message != common.message {
		return nil, false
	}
	line = append(line, `{"time":"`...)
	line = append(r.Time.AppendFormat(line, time.RFC3339Nano), '"')
	line = append(line, common.text...)
	similar = true
	r.Attrs(func(a slog.Attr) bool {
		line, similar = appendPlain(line, a)
		return similar
	})
	return append(line, "}\n"...), similar
}

// lastUsualSecond is in the year 9998. The JSON handler writes years of more than four digits differently.
const lastUsualSecond = 253370764800

// appendPlain appends an attribute that JSON contains as it is. It reports false for others.
func appendPlain(line []byte, a slog.Attr) (_ []byte, ok bool) {
	if !isPlain(a.Key) {
		return line, false
	}
	line = append(line, ',', '"')
	line = append(line, a.Key...)
	line = append(line, '"', ':')
	switch a.Value.Kind() {
	case slog.KindString:
		text := a.Value.String()
		if !isPlain(text) {
			return line, false
		}
		line = append(line, '"')
		line = append(line, text...)
		line = append(line, '"')
	case slog.KindInt64:
		line = strconv.AppendInt(line, a.Value.Int64(), 10)
	case slog.KindDuration:
		line = strconv.AppendInt(line, int64(a.Value.Duration()), 10)
	default:
		return line, false
	}
	return line, true
}

func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return true
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
