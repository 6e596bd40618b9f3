package authserver

import (
	"context"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/console"
)

// describeTimeout bounds what the page about the state asks the database.
const describeTimeout = 4 * time.Second

// describe returns what this server knows, for the console.
func (s *Server) describe(ctx context.Context, ring admin.Keyring) console.State {
	reason, problem := s.readiness()
	state := console.State{
		Version: s.version, Started: s.started, ServesAPI: s.api != nil, Reason: reason, SendsMail: s.mail != nil,
		Database: console.Database{Problem: problem},
	}
	if s.keyring != nil {
		state.KeysInUse = s.keyring.Ring().Generation
	}
	if s.endings != nil {
		if stats := s.endings.Stats(); stats.Awake {
			state.Endings = &console.Endings{Held: stats.Held, Age: stats.Age}
		}
	}
	if s.mail != nil {
		stats := s.mail.Stats()
		state.Paused, state.LastError, state.FailedAt = stats.Paused, stats.LastError, stats.FailedAt
	}
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	if err := s.describeDatabase(ctx, ring, &state.Database); err != nil {
		state.Database = console.Database{Problem: because(err)}
	}
	return state
}

func (s *Server) describeDatabase(ctx context.Context, ring admin.Keyring, d *console.Database) (err error) {
	if d.Outbox, err = s.store.WaitingMails(ctx); err != nil {
		return err
	}
	if d.Connections, err = s.store.Connections(ctx); err != nil {
		return err
	}
	stored, err := ring.Ring(ctx)
	if err != nil {
		return err
	}
	d.Ring = stored.Generation
	before := s.now() // there is a connection by now, so the answer takes one round trip
	now, version, err := s.store.Clock(ctx)
	if err != nil {
		return err
	}
	d.Server, d.Uncertain = version, s.now().Sub(before)/2
	d.Ahead = now.Sub(before.Add(d.Uncertain))
	return nil
}
