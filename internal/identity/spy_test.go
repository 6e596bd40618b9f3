package identity_test

import (
	"strings"
	"sync"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// spy is a Store that records its calls, and can run a function before a call.
type spy struct {
	identity.Store
	before map[string]func() // by method; called once

	mu    sync.Mutex
	calls []string
}

// note is called at the start of each method of the Store in memory.
func (s *spy) note(method string) {
	s.mu.Lock()
	s.calls = append(s.calls, method)
	do := s.before[method]
	delete(s.before, method)
	s.mu.Unlock()
	if do != nil {
		do()
	}
}

// take returns the methods called since the last take.
func (s *spy) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.calls = nil }()
	return strings.Join(s.calls, " ")
}
