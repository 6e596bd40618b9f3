package authserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
)

const (
	// databaseLook is the interval of database checks.
	databaseLook = 2 * time.Second
	// databaseSearch is the interval at which a server whose database answers looks for a newer primary. Until then it
	// may be served by a former one that does not know yet that it was replaced.
	databaseSearch = 5 * time.Second
)

// readiness returns why the server should not receive requests, or "" if it should, and the
// problem of its database, if any. It does not wait for anything.
//
// A server that was once ready stays ready when its database is down: it can still serve the keys, which every verifier
// needs, and answers other requests with 503 and Retry-After. All replicas lose the database at the same time. If none
// of them were ready, the keys would be unavailable too. See docs/decisions/0028-ready-without-a-database.md.
func (s *Server) readiness() (reason, database string) {
	if away := s.away.Load(); away != nil {
		database = *away
	}
	switch {
	case s.stopping.Load():
		return "shutting down", database
	case !s.prepared.Load():
		return *s.waiting.Load(), database
	case s.api == nil && s.reviewer != nil: // a server that has other routes serves those
		return s.reviewer.Problem(), database
	}
	return "", database
}

// databaseReadiness queries the database and returns why a request that needs it would fail, or "" if it would not.
func (s *Server) databaseReadiness(ctx context.Context) string {
	if reason, _ := s.readiness(); reason != "" {
		return reason
	}
	if err := s.databaseProblem(ctx); err != nil {
		return because(err)
	}
	return ""
}

// databaseProblem returns an error if the database does not answer, is read-only, or belongs to another issuer.
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

// watchDatabase checks the database until ctx ends. A change is then noticed, and broken
// connections are replaced, even if there are no requests.
func (s *Server) watchDatabase(ctx context.Context) {
	for again := true; again; again = pause(ctx, databaseLook) {
		s.checkDatabase(ctx)
	}
}

// watchPrimary looks for a newer primary until ctx ends.
func (s *Server) watchPrimary(ctx context.Context) {
	for pause(ctx, databaseSearch) {
		s.store.Look(ctx)
	}
}

func (s *Server) checkDatabase(ctx context.Context) {
	err := s.databaseProblem(ctx)
	last := s.away.Load()
	switch {
	case ctx.Err() != nil:
	case err != nil:
		why := because(err)
		if last == nil || *last != why { // once, not at each check: the metric shows the duration
			s.log.Error("requests that need the database fail", "reason", why)
		}
		s.away.Store(&why)
	case last != nil:
		s.away.Store(nil)
		s.log.Info("the database is available again")
	}
}

// hasDatabase reports whether the database was available at the last check.
func (s *Server) hasDatabase() bool { return s.prepared.Load() && s.away.Load() == nil }

// state returns the content of /state.
func (s *Server) state(ctx context.Context) config.State {
	reason, _ := s.readiness()
	problem := ""
	if reason == "" {
		problem = s.databaseReadiness(ctx)
	}
	state := config.State{
		Version: s.version, Ready: reason == "", Reason: reason,
		Database: config.DatabaseState{MaxConnections: int(s.maxConns.Load()), Problem: problem},
	}
	if s.keyring != nil {
		state.Keys = s.keyring.State()
	}
	if s.reviewer != nil {
		state.MayNotReview = s.reviewer.MayNotReview()
	}
	return state
}

// issuerError means that the issuer differs from the one stored in the database. The server
// and the other replicas would refuse each other's tokens.
type issuerError struct {
	own, remembered string
	derived         bool // from HOST and PORT
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

// agreeOnIssuer compares the issuer with the one stored in the database, and stores it if
// there is none. An issuer that is set explicitly replaces the stored one, which is how it is
// changed. An issuer that is derived from HOST and PORT does not.
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
