package authserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
)

// databaseLook is how often the server looks whether its database is there.
const databaseLook = 2 * time.Second

// readiness says why the server should not be sent requests, "" where it should, and
// what is wrong with its database. It asks nobody.
//
// A server that has been ready stays so without its database: it still has the keys,
// which every verifier needs, and says itself, and when to come back, what it cannot
// do. All replicas lose the database at the same moment; were none of them ready, the
// keys would be gone with it. See docs/decisions/0028-ready-without-a-database.md.
func (s *Server) readiness() (reason, database string) {
	if away := s.away.Load(); away != nil {
		database = *away
	}
	switch {
	case s.stopping.Load():
		return "shutting down", database
	case !s.prepared.Load():
		return *s.waiting.Load(), database
	}
	return "", database
}

// databaseReadiness says why a request that needs the database would fail now; ""
// where it would not. It asks the database.
func (s *Server) databaseReadiness(ctx context.Context) string {
	if reason, _ := s.readiness(); reason != "" {
		return reason
	}
	if err := s.databaseProblem(ctx); err != nil {
		return because(err)
	}
	return ""
}

// databaseProblem is an error where the database does not answer, takes no writes, or
// belongs to another issuer.
func (s *Server) databaseProblem(ctx context.Context) error {
	if err := s.store.Ready(ctx); err != nil {
		return err
	}
	issuer, err := s.store.Issuer(ctx)
	if err == nil && issuer != "" && issuer != s.config.Issuer {
		return &issuerError{own: s.config.Issuer, remembered: issuer}
	}
	return err
}

// watchDatabase looks at the database until ctx ends, so that a change is noticed,
// and useless connections are replaced, when no request comes.
func (s *Server) watchDatabase(ctx context.Context) {
	tick := time.NewTicker(databaseLook)
	defer tick.Stop()
	for {
		s.lookAtDatabase(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) lookAtDatabase(ctx context.Context) {
	err := s.databaseProblem(ctx)
	last := s.away.Load()
	switch {
	case ctx.Err() != nil:
	case err != nil:
		why := because(err)
		if last == nil || *last != why { // once, not at each look: the metric tells how long it goes on
			s.log.Error("requests that need the database fail", "reason", why)
		}
		s.away.Store(&why)
	case last != nil:
		s.away.Store(nil)
		s.log.Info("the database is available again")
	}
}

// hasDatabase says whether the database was there when it was last looked at.
func (s *Server) hasDatabase() bool { return s.prepared.Load() && s.away.Load() == nil }

// state is what /state tells.
func (s *Server) state(ctx context.Context) config.State {
	reason, _ := s.readiness()
	problem := ""
	if reason == "" {
		problem = s.databaseReadiness(ctx)
	}
	return config.State{
		Version: s.version, Ready: reason == "", Reason: reason, Keys: s.keyring.State(),
		Database: config.DatabaseState{MaxConnections: int(s.maxConns.Load()), Problem: problem},
	}
}

// issuerError is of a server whose issuer is not the one that its database remembers:
// it would refuse the tokens of the other replicas, and they its own.
type issuerError struct {
	own, remembered string
	derived         bool // of HOST and PORT
}

func (e *issuerError) Error() string {
	if e.derived {
		return fmt.Sprintf("%[1]s is not set and would be %[2]s, derived from %[3]s and %[4]s, but this database belongs to %[5]s, "+
			"and each refuses the tokens of the other: "+
			"set %[1]s=%[5]s, or, to change the issuer, set %[1]s to the new one on every replica",
			config.EnvIssuer, e.own, config.EnvHost, config.EnvPort, e.remembered)
	}
	return fmt.Sprintf("%[1]s is %[2]s here, but another replica of this database was started with %[3]s, "+
		"and each refuses the tokens of the other: set the same %[1]s on every replica, and restart them",
		config.EnvIssuer, e.own, e.remembered)
}

// agreeOnIssuer compares the issuer with the one that the database remembers, and
// remembers it where there is none. One that a person has set replaces it: that is
// how it is changed. One that is derived from HOST and PORT does not.
func (s *Server) agreeOnIssuer(ctx context.Context) error {
	remembered, err := s.store.RememberIssuer(ctx, s.config.Issuer)
	switch {
	case err != nil || remembered == s.config.Issuer:
		return err
	case s.config.DerivedIssuer:
		return &issuerError{own: s.config.Issuer, remembered: remembered, derived: true}
	}
	if err := s.store.ChangeIssuer(ctx, remembered, s.config.Issuer); err != nil {
		return err
	}
	s.log.Warn(config.EnvIssuer+" was changed: tokens of the former issuer are refused, so all users must sign in again, "+
		"and verifiers must be configured with the new one; set it on every replica",
		"issuer", s.config.Issuer, "former", remembered)
	return nil
}

func isIssuerError(err error) bool {
	_, ok := errors.AsType[*issuerError](err)
	return ok
}
