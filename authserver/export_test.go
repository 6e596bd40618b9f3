package authserver

import "context"

// CleanUp does now what housekeeping does every minute.
func (s *Server) CleanUp(ctx context.Context) { s.cleanUp(ctx) }

// ReadFiles reads a folder of keys.
var ReadFiles = readFiles

// OpenKeys does with the keys what a server does at its start, and what it goes on
// with in the background. It is for one that does not run, as are those below.
func (s *Server) OpenKeys(ctx context.Context) error {
	err := s.keyring.start(ctx)
	s.keyring.preparing.Wait()
	return err
}

// RefreshKeys does what a server does every two seconds.
func (s *Server) RefreshKeys(ctx context.Context) error { return s.keyring.refresh(ctx) }

// Close gives back what New has taken.
func (s *Server) Close() { s.close() }
