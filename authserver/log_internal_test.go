package authserver

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// sink counts writes, and fails while it has an error.
type sink struct {
	mu     sync.Mutex
	text   bytes.Buffer
	writes int
	err    error
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.err != nil {
		return 0, s.err
	}
	return s.text.Write(p)
}

func (s *sink) state() (text string, writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String(), s.writes
}

func (s *sink) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Reset()
}

func (s *sink) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func TestLogWritesInformationTogetherAndWarningsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		out := &sink{}
		log, flush := newLog(out, config.Config{LogLevel: slog.LevelInfo})
		for n := range 10 {
			log.Info("request", "n", n)
		}
		if _, writes := out.state(); writes != 0 {
			t.Errorf("%d writes before the delay", writes)
		}
		time.Sleep(logDelay)
		synctest.Wait()
		if text, writes := out.state(); writes != 1 || strings.Count(text, "\n") != 10 {
			t.Errorf("after the delay: %d writes of\n%s", writes, text)
		}
		log.With("a", 1).WithGroup("g").Info("before")
		log.With("a", 1).WithGroup("g").Warn("at once")
		if text, writes := out.state(); writes != 2 || !strings.HasSuffix(text, "\n") ||
			strings.Index(text, "before") > strings.Index(text, "at once") {
			t.Errorf("after a warning: %d writes of\n%s", writes, text)
		}
		log.With(auditMark).Info("signed in")
		if text, writes := out.state(); writes != 3 || !strings.Contains(text, "signed in") {
			t.Errorf("after a line of the audit trail: %d writes of\n%s", writes, text)
		}
		log.Info("the last")
		flush()
		if text, writes := out.state(); writes != 4 || !strings.Contains(text, "the last") {
			t.Errorf("at the end: %d writes of\n%s", writes, text)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if _, writes := out.state(); writes != 4 {
			t.Errorf("%d writes without a line", writes-4)
		}
	})
}

func TestLogRecoversFromAFullDisk(t *testing.T) {
	t.Parallel()
	out := &sink{}
	log, flush := newLog(out, config.Config{})
	out.fail(errors.New("no space left on device"))
	log.Error("lost")
	out.fail(nil)
	log.Error("written")
	flush()
	if text, _ := out.state(); strings.Contains(text, "lost") || !strings.Contains(text, "written") {
		t.Errorf("the log is\n%s", text)
	}
}

// oddStrings need escapes, or look as if they did.
var oddStrings = []string{
	"", "GET", "/tokens/keys", "a b", `"`, `\`, "\n", "\x00", "\x7f", "\xff", "ä", "\u2028", "<&>", "~", "}", `","msg":"`, "msg", "time",
}

func randomAttr(n *rand.Rand, depth int) slog.Attr {
	key := oddStrings[n.IntN(len(oddStrings))]
	switch n.IntN(30) {
	case 0:
		return slog.String(key, oddStrings[n.IntN(len(oddStrings))])
	case 1:
		return slog.Any(key, slog.StringValue("resolved"))
	case 2:
		return slog.Int64(key, n.Int64()-n.Int64())
	case 3:
		return slog.Duration(key, time.Duration(n.Int64()-n.Int64()))
	case 4:
		return slog.Uint64(key, n.Uint64())
	case 5:
		return slog.Float64(key, n.NormFloat64())
	case 6:
		return slog.Bool(key, n.IntN(2) == 0)
	case 7:
		return slog.Time(key, time.Unix(n.Int64N(1<<40), 0).UTC())
	case 8:
		return slog.Any(key, errors.New(oddStrings[n.IntN(len(oddStrings))]))
	case 9:
		return slog.Any(key, nil)
	case 10:
		if depth < 2 {
			return slog.GroupAttrs(key, randomAttrs(n, depth+1)...)
		}
		return slog.Attr{}
	default:
		return slog.String("request_id", "SUYKNBXGDHECPRUO5NCIZAM6II")
	}
}

func randomAttrs(n *rand.Rand, depth int) []slog.Attr {
	attrs := make([]slog.Attr, n.IntN(4))
	for i := range attrs {
		attrs[i] = randomAttr(n, depth)
	}
	return attrs
}

// Every line is that of the JSON handler, whatever the attributes, times and messages are.
func TestLogWritesTheLinesOfTheJSONHandler(t *testing.T) {
	t.Parallel()
	var want bytes.Buffer
	out := &sink{}
	log, flush := newLog(out, config.Config{LogLevel: slog.LevelDebug})
	type pair struct{ ours, theirs slog.Handler }
	handlers := []pair{{log.Handler(), slog.NewJSONHandler(&want, &slog.HandlerOptions{Level: slog.LevelDebug})}}
	zones := []*time.Location{time.UTC, time.FixedZone("east", 5*3600+45*60), time.FixedZone("west", -3600)}
	seed := uint64(time.Now().UnixNano())
	n := rand.New(rand.NewPCG(seed, 0))
	similar := 0
	for i := range 20_000 {
		h := handlers[n.IntN(len(handlers))]
		switch n.IntN(60) {
		case 0, 1, 2:
			base, attrs := handlers[n.IntN(2)%len(handlers)], randomAttrs(n, 0)
			handlers = append(handlers, pair{base.ours.WithAttrs(attrs), base.theirs.WithAttrs(attrs)})
		case 3:
			name := oddStrings[n.IntN(len(oddStrings))]
			handlers = append(handlers, pair{h.ours.WithGroup(name), h.theirs.WithGroup(name)})
		}
		if len(handlers) > 20 {
			handlers = slices.Delete(handlers, 1, 11)
		}
		at := time.Unix(n.Int64N(1<<31), n.Int64N(1e9)).In(zones[n.IntN(len(zones))])
		switch n.IntN(20) {
		case 0:
			at = time.Time{}
		case 1:
			at = time.Unix(n.Int64N(1<<40)-1<<39, 0).UTC()
		case 2:
			at = time.Now()
		}
		message := []string{"request", "request", "request", "", `"a"`}[n.IntN(5)]
		level := []slog.Level{slog.LevelInfo, slog.LevelInfo, slog.LevelDebug, slog.LevelError + 1}[n.IntN(4)]
		r := slog.NewRecord(at, level, message, 0)
		r.AddAttrs(randomAttrs(n, 0)...)
		if h, ok := h.ours.(promptHandler).Handler.(similarHandler); ok {
			if _, ok := h.line(t.Context(), nil, r); ok {
				similar++
			}
		}
		want.Reset()
		out.reset()
		testenv.NoError(t, h.theirs.Handle(t.Context(), r))
		testenv.NoError(t, h.ours.Handle(t.Context(), r))
		flush()
		if text, _ := out.state(); text != want.String() {
			t.Fatalf("seed %d, line %d: got\n%swant\n%s", seed, i, text, want.String())
		}
	}
	if similar < 1000 {
		t.Errorf("only %d of 20000 lines were similar", similar)
	}
}

// Each line is whole and in its place, however long the lines are and however many write at once.
func TestLogNeverSplitsALine(t *testing.T) {
	t.Parallel()
	const writers, each = 8, 200
	out := &sink{}
	d := newDelayedWriter(out, time.Millisecond)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for n := range each {
				line := fmt.Sprintf("%d %d %s\n", w, n, strings.Repeat("x", n*n*3)) // up to 120 KiB
				if _, err := d.Write([]byte(line)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if err := d.flush(); err != nil {
		t.Error(err)
	}
	text, _ := out.state()
	var next [writers]int
	for line := range strings.Lines(text) {
		var w, n int
		var rest string
		_, err := fmt.Sscanf(strings.Replace(line, "\n", ".\n", 1), "%d %d %s\n", &w, &n, &rest)
		if err != nil || len(rest) != n*n*3+1 || n != next[w] {
			t.Fatalf("line %d of writer %d: %v, %d bytes", n, w, err, len(rest))
		}
		next[w]++
	}
	for w, n := range next {
		if n != each {
			t.Errorf("writer %d has %d lines", w, n)
		}
	}
}
