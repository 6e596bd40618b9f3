package clients

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/keystest"
)

var algorithms = []keys.Algorithm{keys.ES256, keys.RS256, keys.EdDSA}

// issuer is what consumers see of a gateway: its metadata, its keys and its access tokens.
type issuer struct {
	url    string
	tokens *token.Service
	ring   atomic.Pointer[keys.Ring]
}

func (i *issuer) Ring() *keys.Ring { return i.ring.Load() }

// use replaces the keys by one key of an algorithm.
func (i *issuer) use(t *testing.T, algorithm keys.Algorithm) {
	t.Helper()
	policy := keystest.Policy()
	policy.Algorithm = algorithm
	ring := keystest.New(t, policy, keystest.Passphrases(), time.Now().Add(-time.Minute))
	i.tokens.Use(keystest.Open(t, ring, keystest.Passphrases()))
	i.ring.Store(&ring)
}

func (i *issuer) access(t *testing.T) string {
	t.Helper()
	text := testenv.Must(i.tokens.SignAccess(token.Access{
		Subject: "0190c5d2-6f3a-7c11-9d4e-2b7a5f0c1d22", SessionID: "0190c5d2-7001-7a55-8e0f-99aabbccddee",
		Scope: "profile", Username: "ada", Email: "ada@example.com", EmailVerified: true,
	}))(t)
	return text
}

func newIssuer(t *testing.T, algorithm keys.Algorithm) *issuer {
	t.Helper()
	l := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	i := &issuer{url: "http://" + l.Addr().String()}
	i.tokens = token.New(token.Config{Issuer: i.url, ClientID: "shop", Now: time.Now})
	i.use(t, algorithm)
	server := httpapi.New(httpapi.Options{
		Accounts: struct{ httpapi.Accounts }{}, Keys: i, Exposure: identity.ExposureInternal,
		Issuer: i.url, Metadata: config.Config{Issuer: i.url}.Metadata(),
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.Shutdown(ctx) // a client may keep its connection open
		<-served
	})
	return i
}

// go-oidc reads the metadata once, and must verify tokens of an algorithm that is chosen later.
func TestGoOIDCVerifiesEveryAlgorithm(t *testing.T) {
	for _, first := range algorithms {
		i := newIssuer(t, first)
		provider := testenv.Must(oidc.NewProvider(t.Context(), i.url))(t)
		verifier := provider.Verifier(&oidc.Config{ClientID: i.url})
		for _, algorithm := range append([]keys.Algorithm{first}, algorithms...) {
			i.use(t, algorithm)
			verified, err := verifier.Verify(t.Context(), i.access(t))
			if err != nil {
				t.Fatalf("%s, discovered with %s: %v", algorithm, first, err)
			}
			var claims struct {
				ClientID string `json:"client_id"`
			}
			if err := verified.Claims(&claims); err != nil || claims.ClientID != "shop" || verified.Issuer != i.url ||
				len(verified.Audience) != 1 {
				t.Errorf("%s: %+v, %+v, %v", algorithm, verified, claims, err)
			}
		}
		if _, err := provider.Verifier(&oidc.Config{ClientID: "another"}).Verify(t.Context(), i.access(t)); err == nil {
			t.Error("go-oidc accepts a token for another audience")
		}
	}
}

// oauth4webapi's validateJwtAccessToken checks everything that RFC 9068 requires.
func TestJoseAndOAuth4WebAPIVerifyEveryAlgorithm(t *testing.T) {
	for _, algorithm := range algorithms {
		i := newIssuer(t, algorithm)
		run(t, []string{"verify", i.url, i.access(t)})
	}
}
