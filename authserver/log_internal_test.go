package authserver

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
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
