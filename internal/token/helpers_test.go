package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/keystest"
)

const (
	issuer    = "https://auth.example"
	audience  = "https://api.example"
	subject   = "0190c5d2-6f3a-7c11-9d4e-2b7a5f0c1d22"
	sessionID = "0190c5d2-7001-7a55-8e0f-99aabbccddee"
	keyID     = "kid"
	accessTTL = 15 * time.Minute
	leeway    = 30 * time.Second
)

var (
	start = time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)

	passphrases = keystest.Passphrases()
)

func policy(a keys.Algorithm) keys.Policy {
	return keys.Policy{
		Algorithm:   a,
		PublishLead: 10 * time.Minute,
		ClockSkew:   30 * time.Second,
		Lifetimes:   map[keys.Use]time.Duration{keys.Access: accessTTL, keys.Refresh: 7 * 24 * time.Hour},
	}
}

// opened creates a new ring and opens it.
func opened(tb testing.TB, a keys.Algorithm) *keys.Opened {
	tb.Helper()
	return keystest.Open(tb, keystest.New(tb, policy(a), passphrases, start), passphrases)
}

// shared has one ring for each algorithm. Tests must not change them.
var shared sync.Map

func ring(tb testing.TB, a keys.Algorithm) *keys.Opened {
	tb.Helper()
	if o, ok := shared.Load(a); ok {
		return o.(*keys.Opened)
	}
	o, _ := shared.LoadOrStore(a, opened(tb, a))
	return o.(*keys.Opened)
}

func service(o *keys.Opened, c *testenv.Clock) *token.Service {
	s := token.New(token.Config{
		Issuer: issuer, Audience: []string{audience, "https://other.example"},
		AccessTTL: accessTTL, Leeway: leeway, Now: c.Now,
	})
	if o != nil {
		s.Use(o)
	}
	return s
}

func access() token.Access {
	return token.Access{
		Subject: subject, SessionID: sessionID, Scope: "profile email",
		Username: "ada", Email: "ada@example.org", EmailVerified: true, Name: "Ada \"L\" <&> ∞",
		AuthTime: start.Add(-time.Hour),
	}
}

func refresh() token.Refresh {
	return token.Refresh{Subject: subject, SessionID: sessionID, Generation: 7, IssuedAt: start, ExpiresAt: start.Add(7 * 24 * time.Hour)}
}

func mustAccess(tb testing.TB, s *token.Service) string {
	tb.Helper()
	text := testenv.Must(s.SignAccess(access()))(tb)
	return text
}

func mustRefresh(tb testing.TB, s *token.Service) string {
	tb.Helper()
	text := testenv.Must(s.SignRefresh(refresh()))(tb)
	return text
}

func ecKey(tb testing.TB, private crypto.Signer) *ecdsa.PrivateKey {
	tb.Helper()
	k, ok := private.(*ecdsa.PrivateKey)
	if !ok {
		tb.Fatalf("the key is a %T, want an ECDSA key", private)
	}
	return k
}
