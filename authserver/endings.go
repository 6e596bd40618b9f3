package authserver

import (
	"context"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/endings"
	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
)

// tokenLifetime returns the longest lifetime of an access token that may still be alive. If
// the setting was lowered, the keys of the ring remember longer ones.
func (s *Server) tokenLifetime() time.Duration {
	longest := s.config.AccessTokenExpiry
	for _, k := range s.keyring.Ring().Keys {
		if k.Use == keys.Access {
			longest = max(longest, k.MaxTokenLifetime)
		}
	}
	return longest
}

// keyLook is how often a server checks whether its ring has changed.
const keyLook = time.Second

// keyRepeat is after how many looks the revoked keys are recorded again.
const keyRepeat = 10

// recordRevokedKeys records, until ctx ends, the revoked keys of each ring that comes into use. Every replica does so,
// because the ring may come from a directory. It repeats that, because the database can lose the records in a failover.
func (s *Server) recordRevokedKeys(ctx context.Context) {
	done := int64(-1) // the generation whose keys are recorded
	for look := 0; ; look++ {
		if ring := s.keyring.Ring(); (ring.Generation != done || look%keyRepeat == 0) && s.recordRevoked(ctx, *ring) {
			done = ring.Generation
		}
		if !pause(ctx, keyLook) {
			return
		}
	}
}

// recordRevoked records the revoked keys of a ring whose tokens may be alive, and reports
// whether it could.
func (s *Server) recordRevoked(ctx context.Context, ring keys.Ring) bool {
	for _, k := range ring.Keys {
		past := s.now().Sub(k.PhaseSince)
		if k.Use != keys.Access || k.Phase != keys.Revoked || past > s.tokenLifetime()+endings.Grace {
			continue
		}
		if err := s.store.EndKey(ctx, k.ID, k.PhaseSince); err != nil {
			return false // the watch of the database logs it
		}
	}
	return true
}

// authz returns what decides requests for proxies.
func (s *Server) authz(tokens *token.Service) *httpapi.Authz {
	a := &httpapi.Authz{Tokens: tokens, Ended: s.endings, Now: s.now, OwnPort: s.config.AuthzPort != 0}
	for _, p := range s.config.AuthzPolicies {
		a.Policies = append(a.Policies, httpapi.Policy(p))
	}
	return a
}
