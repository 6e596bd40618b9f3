// Package spantest records spans for tests.
package spantest

import (
	"slices"
	"sync"

	"github.com/auth-gateway/auth-gateway/internal/span"
)

// Recording keeps the spans that were added to it.
type Recording struct {
	mu    sync.Mutex
	spans []span.Span
}

var _ span.Recording = (*Recording)(nil)

// ID implements span.Recording.
func (*Recording) ID() string { return "0af7651916cd43dd8448eb211c80319c" }

// Add implements span.Recording.
func (r *Recording) Add(s span.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans = append(r.spans, s)
}

// End implements span.Recording.
func (r *Recording) End(s span.Span) { r.Add(s) }

// Spans returns the spans, in the order in which they ended.
func (r *Recording) Spans() []span.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.spans)
}

// Names returns their names, each with its error.
func (r *Recording) Names() (names []string) {
	for _, s := range r.Spans() {
		if s.Error != "" {
			s.Name += " " + s.Error
		}
		names = append(names, s.Name)
	}
	return names
}
