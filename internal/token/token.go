package token

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
	"unique"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/auth-gateway/auth-gateway/keys"
)

// Access is what an access token says.
type Access struct {
	ID            string // jti; made by SignAccess when empty
	Subject       string // sub: the user's ID, a UUID
	SessionID     string // sid: a UUID
	Scope         string // space separated (RFC 6749, section 3.3)
	Username      string
	Email         string
	Name          string
	EmailVerified bool
	AuthTime      time.Time // when the user gave credentials; IssuedAt when zero
	IssuedAt      time.Time // now when zero
	ExpiresAt     time.Time // IssuedAt and Config.AccessTTL when zero
}

// Refresh is what a refresh token says. Its jti follows from the session and
// the generation.
type Refresh struct {
	Subject    string // sub: the user's ID, a UUID
	SessionID  string // sid: a UUID
	Generation int64  // how often the session was renewed before
	IssuedAt   time.Time
	ExpiresAt  time.Time
}

var (
	// ErrInvalid is in the chain for every token that is not to be believed. The
	// text of the error is for logs; it never repeats what the token says.
	ErrInvalid = errors.New("invalid token")

	// ErrExpired is for a token that is genuine but too old. It is an ErrInvalid
	// too, and is told only of tokens whose signature was found good.
	ErrExpired = fmt.Errorf("%w: expired", ErrInvalid)

	// ErrWrongKind is for a token that is genuine but of the other kind: a refresh
	// token where an access token is needed, or the reverse. It is an ErrInvalid too,
	// and is returned only for tokens whose signature and claims were found good.
	ErrWrongKind = fmt.Errorf("%w: of the other kind", ErrInvalid)

	// ErrNoKeys means that Use has not been called yet. The token may be good.
	ErrNoKeys = errors.New("no keys to sign or verify tokens with yet")
)

// Config of a Service.
type Config struct {
	Issuer   string   // iss, compared byte by byte
	Audience []string // aud of access tokens; a token must name one of them. The issuer when empty

	AccessTTL time.Duration // lifetime of access tokens; 15 minutes when zero
	Leeway    time.Duration // allowed for clocks that differ; at most 30 seconds
	CacheSize int           // tokens remembered whose signature was checked; 16384 when zero

	Now func() time.Time // the clock; required
}

const (
	defaultAccessTTL = 15 * time.Minute
	defaultCacheSize = 16384
	maxLeeway        = 30 * time.Second
)

// Service signs and verifies. It is safe for concurrent use.
type Service struct {
	config Config
	set    atomic.Pointer[keySet]
}

// New makes a service, which has no keys until Use. It panics without a clock
// or an issuer: that is a mistake in the program, not in its settings.
func New(c Config) *Service {
	if c.Now == nil || c.Issuer == "" {
		panic("token: Config needs Now and Issuer")
	}
	if len(c.Audience) == 0 {
		c.Audience = []string{c.Issuer}
	}
	c.Audience = slices.Clone(c.Audience)
	if c.AccessTTL <= 0 {
		c.AccessTTL = defaultAccessTTL
	}
	if c.CacheSize <= 0 {
		c.CacheSize = defaultCacheSize
	}
	c.Leeway = min(max(c.Leeway, 0), maxLeeway)
	return &Service{config: c}
}

// Use replaces all keys at once. What was remembered of tokens checked with the
// former ones is forgotten.
func (s *Service) Use(o *keys.Opened) {
	set := &keySet{
		signers:   map[keys.Use]signer{},
		verifiers: map[keys.Use]map[string]verifier{},
	}
	for _, use := range keys.Uses() {
		set.signers[use] = newSigner(use, o.Signer(use))
		set.verifiers[use] = map[string]verifier{}
		for _, k := range o.PublicKeys(use) {
			set.verifiers[use][k.ID] = verifier{algorithm: string(k.Algorithm), method: methodOf(k.Algorithm), key: k.Public, longest: k.MaxTokenLifetime}
		}
	}
	var err error
	if set.checked, err = lru.New[[sha256.Size]byte, checked](s.config.CacheSize); err != nil {
		panic("token: " + err.Error()) // only for a size below one, which New excludes
	}
	s.set.Store(set)
}

// Ready says whether there are keys.
func (s *Service) Ready() bool { return s.set.Load() != nil }

// keySet is all that depends on the ring.
type keySet struct {
	signers   map[keys.Use]signer
	verifiers map[keys.Use]map[string]verifier // by kid

	// checked are tokens whose signature and claims were found good, by SHA-256
	// of their text. A hash, so that a dump of memory holds no tokens; the text
	// as a whole, so that what was checked and what is believed are the same.
	checked *lru.Cache[[sha256.Size]byte, checked]
}

// checked is what is remembered of a token: what the gateway acts on, and what
// the clock decides each time. There are thousands, so it is small: no strings
// of its own (there are few scopes, and many tokens have each).
type checked struct {
	kind             keys.Use
	subject, session uuid.UUID
	scope            unique.Handle[string] // of access tokens
	generation       int64                 // of refresh tokens
	issuedAt         int64                 // NumericDate, as are the others (RFC 7519, section 2)
	notBefore        int64
	expiresAt        int64
}

func (c checked) access() Access {
	return Access{
		Subject: c.subject.String(), SessionID: c.session.String(), Scope: c.scope.Value(),
		IssuedAt: date(c.issuedAt), ExpiresAt: date(c.expiresAt),
	}
}

func (c checked) refresh() Refresh {
	return Refresh{
		Subject: c.subject.String(), SessionID: c.session.String(), Generation: c.generation,
		IssuedAt: date(c.issuedAt), ExpiresAt: date(c.expiresAt),
	}
}

func date(numeric int64) time.Time { return time.Unix(numeric, 0).UTC() }

type verifier struct {
	algorithm string
	method    jwt.SigningMethod
	key       any
	longest   time.Duration
}

// typ is the media type of the tokens of a kind, without "application/".
func typ(use keys.Use) string {
	if use == keys.Access {
		return "at+jwt"
	}
	return "rt+jwt"
}
