package localpostgres

import (
	"bytes"
	"io"
	"sync"
)

// tail passes a log on, and keeps its end for error messages.
type tail struct {
	next io.Writer // may be nil

	mu  sync.Mutex
	end []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const enough = 4096
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, p...)
	if excess := len(t.end) - enough; excess > 0 {
		t.end = append(t.end[:0], t.end[excess:]...)
	}
	if t.next == nil {
		return len(p), nil
	}
	return t.next.Write(p)
}

// Bytes returns the end of the log.
func (t *tail) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.end)
}

// Reset discards the kept end.
func (t *tail) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = nil
}
