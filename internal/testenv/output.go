package testenv

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// Output collects the output of programs or loggers, and can be read at any time.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// String returns the whole output.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Contains reports whether a text was written.
func (o *Output) Contains(text string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Contains(o.text.Bytes(), []byte(text))
}

// Lines returns the lines that were written, without their line ends.
func (o *Output) Lines() []string {
	var lines []string
	for line := range strings.Lines(o.String()) {
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	return lines
}

// WaitFor waits until a text has been written.
func (o *Output) WaitFor(t testing.TB, limit time.Duration, text string) {
	t.Helper()
	Eventually(t, limit, fmt.Sprintf("%q is written", text), func() error {
		if o.Contains(text) {
			return nil
		}
		return fmt.Errorf("the output so far:\n%s", o)
	})
}
