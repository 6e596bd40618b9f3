package authserver

import (
	"context"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// CleanUp does now what housekeeping does every minute.
func (s *Server) CleanUp(ctx context.Context) { s.cleanUp(ctx) }

// OpenKeys does with the keys what a server does at its start, and what it goes on
// with in the background. It is for one that does not run, as are those below.
func (s *Server) OpenKeys(ctx context.Context) error {
	err := s.keyring.Start(ctx)
	s.keyring.Close()
	return err
}

// RefreshKeys does what a server does every two seconds.
func (s *Server) RefreshKeys(ctx context.Context) error { return s.keyring.Refresh(ctx) }

// Close gives back what New has taken.
func (s *Server) Close() { s.close() }

// SendMail does what the sender of mail does, but that it only gives the mail that
// it sends; ok is false where none is due.
func (s *Server) SendMail(ctx context.Context) (m identity.Message, ok bool, err error) {
	if m, ok, err = s.accounts.ClaimMail(ctx, time.Minute); err == nil && ok {
		err = s.accounts.FinishMail(ctx, m.Ref, identity.MailOutcome{Result: identity.MailSent})
	}
	return m, ok, err
}
