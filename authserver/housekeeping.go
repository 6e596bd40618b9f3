package authserver

import (
	"context"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/endings"
	"github.com/auth-gateway/auth-gateway/internal/hashes"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
)

const (
	cleanUpInterval = time.Minute
	cleanUpBatch    = 200 // rows per table and transaction
	cleanUpRest     = 9   // a batch is followed by a rest of so many times its duration
	schemesInterval = time.Minute
)

// housekeeping removes expired rows, in small batches, until ctx ends. The store lets only one replica do it at a time.
//
// Rests after full batches leave nine tenths of the time to requests. The busier the database is, the longer are the
// batches, and the rests with them.
func (s *Server) housekeeping(ctx context.Context) {
	for pause(ctx, cleanUpInterval) {
		s.cleanUp(ctx)
	}
}

// watchSchemes looks up each minute which kinds of hashes the accounts have. An error leaves those that were found last.
func (s *Server) watchSchemes(ctx context.Context) {
	for pause(ctx, schemesInterval) {
		if err := s.readSchemes(ctx); err != nil {
			s.log.Warn("the kinds of password hashes could not be read; retrying later", "error", err)
		}
	}
}

// readSchemes gives the hasher the kinds of hashes that the accounts have.
func (s *Server) readSchemes(ctx context.Context) error {
	texts, err := s.store.PasswordSchemes(ctx)
	if err != nil {
		return err
	}
	var schemes []hashes.Scheme
	migrating := slices.Contains(texts, hashes.MigratingScheme)
	if migrating && s.config.PasswordMigrationURL == "" {
		s.log.Warn("accounts wait for their passwords from another system and cannot sign in: set PASSWORD_MIGRATION_URL, " +
			"or have these people set new passwords")
	}
	s.accounts.SetMigrating(migrating)
	for _, text := range texts {
		scheme, err := hashes.ParseScheme(text)
		if err != nil {
			continue // its accounts cannot sign in; the log has an error for each attempt
		}
		schemes = append(schemes, scheme)
	}
	for _, tooLarge := range s.hasher.SetSchemes(schemes) {
		s.log.Warn("accounts with imported passwords cannot sign in here: a check takes more memory than hashing may use; "+
			"raise the memory limit of the container", "scheme", tooLarge.String(), "bytes", tooLarge.Memory())
	}
	return nil
}

// pause waits for d or the end of ctx, and reports whether ctx is still active.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func (s *Server) cleanUp(ctx context.Context) {
	if s.events != nil { // a restored database may say that there has been no receiver for days
		if err := s.events.Begin(ctx); err != nil {
			s.log.Warn("expired rows could not be removed; retrying later", "error", err)
			return
		}
	}
	for ctx.Err() == nil {
		began := time.Now()
		keep := postgres.Retention{
			Unverified: s.config.UnverifiedAccountExpiry, Events: s.config.AuditRetention,
			Tokens: s.tokenLifetime() + endings.Grace,
		}
		if s.config.KeepsEvents() {
			keep.Invitation.Name = identity.EventInvitationExpired
		}
		deleted, err := s.store.DeleteExpired(ctx, s.now(), keep, cleanUpBatch)
		if err != nil {
			s.log.Warn("expired rows could not be removed; retrying later", "error", err)
			return
		}
		s.log.Debug("removed expired rows", "sessions", deleted.Sessions, "codes", deleted.Codes,
			"sign_ups", deleted.SignUps, "accounts", deleted.Users, "throttles", deleted.Throttles,
			"limits", deleted.Limits, "events", deleted.Events,
			"places", deleted.Networks, "endings", deleted.Endings, "queued_events", deleted.Queued)
		if max(deleted.Sessions, deleted.Codes, deleted.SignUps, deleted.Users, deleted.Throttles, deleted.Limits,
			deleted.Events, deleted.Networks, deleted.Endings, deleted.Queued) < cleanUpBatch ||
			!pause(ctx, cleanUpRest*time.Since(began)) {
			return
		}
	}
}
