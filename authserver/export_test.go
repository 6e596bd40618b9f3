package authserver

import (
	"context"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// CleanUp runs the housekeeping of every minute.
func (s *Server) CleanUp(ctx context.Context) { s.cleanUp(ctx) }

// OpenKeys loads the keys as at the start of a server, and waits for its background work. It is for a server that does not
// run, as the functions below.
func (s *Server) OpenKeys(ctx context.Context) error {
	err := s.keyring.Start(ctx)
	s.keyring.Close()
	return err
}

// RefreshKeys checks the keys as a server does every two seconds.
func (s *Server) RefreshKeys(ctx context.Context) error { return s.keyring.Refresh(ctx) }

// Close frees the resources of New.
func (s *Server) Close() { s.close() }

// SendMail claims the next mail as the sender does, and returns it instead of sending it. ok is false if none is due.
func (s *Server) SendMail(ctx context.Context) (m identity.Message, ok bool, err error) {
	if m, ok, err = s.accounts.ClaimMail(ctx, time.Minute); err == nil && ok {
		err = s.accounts.FinishMail(ctx, m.Ref, identity.MailOutcome{Result: identity.MailSent})
	}
	return m, ok, err
}
