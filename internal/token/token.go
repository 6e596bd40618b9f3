package token

import (
	"cmp"
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

// Access holds the claims of an access token.
type Access struct {
	ID            string // jti; SignAccess sets it if it is empty
	Subject       string // sub: the user's ID, a UUID
	SessionID     string // sid: a UUID
	Scope         string // separated by spaces (RFC 6749, section 3.3)
	Username      string
	Email         string
	Name          string
	EmailVerified bool
	Roles         string    // separated by spaces, an array in the token (RFC 9068, section 2.2.3.1); empty: no such claim
	More          string    // more members, such as "plan":"gold","seats":3; see Members
	AuthTime      time.Time // when the user authenticated; IssuedAt if zero
	IssuedAt      time.Time // now if zero
	ExpiresAt     time.Time // IssuedAt plus Config.AccessTTL if zero
}

// Refresh holds the claims of a refresh token. Its jti consists of the session and the generation.
type Refresh struct {
	Subject    string // sub: the user's ID, a UUID
	SessionID  string // sid: a UUID
	Generation int64  // the number of previous rotations of the session
	IssuedAt   time.Time
	ExpiresAt  time.Time
}

var (
	// ErrInvalid is in the chain of the error for every token that is not valid. The text
	// of the error is for logs, and never contains content of the token.
	ErrInvalid = errors.New("invalid token")

	// ErrExpired means that the token is genuine but has expired. It is also an
	// ErrInvalid, and is returned only after the signature was verified.
	ErrExpired = fmt.Errorf("%w: expired", ErrInvalid)

	// ErrWrongKind means that the token is genuine but of the other kind: a refresh token instead of an access token,
	// or the reverse. It is also an ErrInvalid, and is returned only after the signature and the claims were verified.
	ErrWrongKind = fmt.Errorf("%w: of the other kind", ErrInvalid)

	// ErrNoKeys means that Use has not been called yet. The token may be valid.
	ErrNoKeys = errors.New("no keys to sign or verify tokens with yet")
)

// Config configures a Service.
type Config struct {
	Issuer   string   // iss, compared byte by byte
	Audience []string // aud of access tokens; a token must contain one of them. The issuer if empty
	ClientID string   // client_id of access tokens; the issuer if empty

	// AccessType is the typ of new access tokens: TypeAccess if empty, or TypeJWT. Both are
	// accepted, so that it can be changed while tokens are in use.
	AccessType string

	AccessTTL time.Duration // lifetime of access tokens; 15 minutes if zero
	Leeway    time.Duration // tolerance for clock differences; at most 30 seconds
	CacheSize int           // cached verified tokens; 16384 if zero

	Now func() time.Time // the clock; required
}

const (
	defaultAccessTTL = 15 * time.Minute
	defaultCacheSize = 16384
	maxLeeway        = 30 * time.Second
)

// Service signs and verifies tokens. It is safe for concurrent use.
type Service struct {
	config Config
	set    atomic.Pointer[keySet]
}

// New returns a service, which has no keys until Use. It panics if the clock or the issuer is
// missing, which is a mistake in the program, not in its settings.
func New(c Config) *Service {
	if c.Now == nil || c.Issuer == "" {
		panic("token: Config needs Now and Issuer")
	}
	if len(c.Audience) == 0 {
		c.Audience = []string{c.Issuer}
	}
	c.Audience = slices.Clone(c.Audience)
	c.ClientID = cmp.Or(c.ClientID, c.Issuer)
	c.AccessType = cmp.Or(c.AccessType, TypeAccess)
	if c.AccessTTL <= 0 {
		c.AccessTTL = defaultAccessTTL
	}
	if c.CacheSize <= 0 {
		c.CacheSize = defaultCacheSize
	}
	c.Leeway = min(max(c.Leeway, 0), maxLeeway)
	return &Service{config: c}
}

// Use replaces all keys at once, and drops the cache of tokens verified with the previous ones.
func (s *Service) Use(o *keys.Opened) {
	set := &keySet{
		signers:   map[keys.Use]signer{},
		verifiers: map[keys.Use]map[string]verifier{},
	}
	for _, use := range keys.Uses() {
		set.signers[use] = newSigner(s.types(use)[0], o.Signer(use))
		set.verifiers[use] = map[string]verifier{}
		for _, k := range o.PublicKeys(use) {
			set.verifiers[use][k.ID] = verifier{
				algorithm: string(k.Algorithm), method: methodOf(k.Algorithm), key: k.Public, longest: k.MaxTokenLifetime,
			}
		}
	}
	var err error
	if set.checked, err = lru.New[[sha256.Size]byte, checked](s.config.CacheSize); err != nil {
		panic("token: " + err.Error()) // only if the size is below 1, which New excludes
	}
	s.set.Store(set)
}

// Ready reports whether the service has keys.
func (s *Service) Ready() bool { return s.set.Load() != nil }

// keySet is everything that depends on the key ring.
type keySet struct {
	signers   map[keys.Use]signer
	verifiers map[keys.Use]map[string]verifier // by kid

	// checked caches tokens whose signature and claims were verified, by the SHA-256 of their whole text. With a hash,
	// a memory dump contains no tokens; with the whole text, a hit is exactly the token that was verified.
	checked *lru.Cache[[sha256.Size]byte, checked]
}

// checked is the cached content of a token: the claims that the gateway uses, and the times that are compared with the
// clock at every use. There are thousands, so it is small and contains no strings: many tokens share a scope.
type checked struct {
	kind             keys.Use
	subject, session uuid.UUID
	scope            unique.Handle[string] // access tokens only
	generation       int64                 // refresh tokens only
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

// The types of tokens: media types without "application/".
const (
	TypeAccess  = "at+jwt" // RFC 9068, section 2.1
	TypeJWT     = "JWT"    // for consumers that refuse at+jwt
	TypeRefresh = "rt+jwt"
)

// types returns the types that are accepted for a use. New tokens have the first. A consumer
// distinguishes an access token of type JWT from a refresh token by the key, which has one use.
func (s *Service) types(use keys.Use) []string {
	if use == keys.Refresh {
		return []string{TypeRefresh}
	}
	return []string{s.config.AccessType, TypeAccess, TypeJWT}
}
