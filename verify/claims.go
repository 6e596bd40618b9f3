package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Claims are the claims of a verified token. Do not change them: a cache may hold them.
type Claims struct {
	Issuer    string   // iss
	Subject   string   // sub: the user's id, a UUID that is never reused. Identify users by it
	Audience  []string // aud
	ClientID  string   // client_id; empty in tokens of older gateways
	ID        string   // jti
	SessionID string   // sid
	Scope     string   // scope, separated by spaces; see Scopes

	Username      string // as of when the token was issued; empty if the account has none
	Name          string
	Email         string // trust it only if EmailVerified is set
	EmailVerified bool
	ACR           string // acr: how the user signed in; empty if the gateway does not say

	IssuedAt  time.Time // iat
	ExpiresAt time.Time // exp
	NotBefore time.Time // nbf; zero if the token has none
	AuthTime  time.Time // auth_time: when the user last signed in; zero if the token has none

	KeyID string // kid of the key that signed the token

	iat, exp, nbf, authTime int64
	has                     claimSet
	oneAudience             [1]string
	payload                 string
}

// Scopes returns the scopes of the token.
func (c *Claims) Scopes() []string { return strings.Fields(c.Scope) }

// HasScope reports whether the token has a scope.
func (c *Claims) HasScope(scope string) bool {
	if scope == "" {
		return false
	}
	for rest := c.Scope; rest != ""; {
		var first string
		if first, rest, _ = strings.Cut(rest, " "); first == scope {
			return true
		}
	}
	return false
}

// Raw returns the JSON of a claim, or nil if the token does not have it.
func (c *Claims) Raw(name string) json.RawMessage {
	s := scanner{data: c.payload}
	s.expect('{')
	for n := 0; s.next(n, '}'); n++ {
		found := s.name()
		s.peek()
		start := s.at
		s.skip(0)
		if found == name && !s.bad {
			return json.RawMessage(c.payload[start:s.at])
		}
	}
	return nil
}

// Decode decodes a claim into a value, as json.Unmarshal does. It returns an error if the token does not have it.
func (c *Claims) Decode(name string, value any) error {
	raw := c.Raw(name)
	if raw == nil {
		return fmt.Errorf("verify: the token has no claim %s", name)
	}
	if err := json.Unmarshal(raw, value); err != nil {
		return fmt.Errorf("verify: the claim %s: %w", name, err)
	}
	return nil
}

type contextKey struct{}

// NewContext returns a context with claims, for middleware and for tests of handlers.
func NewContext(ctx context.Context, c *Claims) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// FromContext returns the claims of the token that Require accepted. It returns nil if the request did not pass
// Require, so a handler that was left unprotected panics and does not serve an empty user.
func FromContext(ctx context.Context) *Claims {
	c, _ := ctx.Value(contextKey{}).(*Claims)
	return c
}

// claimSet is the set of claims that a payload has.
type claimSet uint32

const (
	hasIssuer claimSet = 1 << iota
	hasSubject
	hasAudience
	hasExpiry
	hasIssuedAt
	hasNotBefore
	hasID
	hasSessionID
	hasScope
	hasClientID
	hasUsername
	hasName
	hasEmail
	hasEmailVerified
	hasAuthTime
	hasACR

	required = hasIssuer | hasSubject | hasAudience | hasExpiry | hasIssuedAt
)

// claimNames are the known claims, in the order of the set. Other claims must not resemble them.
var claimNames = [...]string{
	"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid", "scope", "client_id",
	"username", "name", "email", "email_verified", "auth_time", "acr",
}

// parseClaims reads a payload. It ignores unknown claims, because a newer gateway may add some. It refuses duplicates,
// and names that differ from a known one only in case: another reader may confuse them.
func parseClaims(payload string) (*Claims, *Error) {
	c := &Claims{payload: payload}
	s := scanner{data: payload}
	unknown := make([]string, 0, 8)
	s.expect('{')
	for n := 0; s.next(n, '}'); n++ {
		name := s.name()
		bit := c.read(&s, name)
		switch {
		case s.bad && bit != 0:
			return nil, refuse(ErrClaims, ReasonMalformedClaims, "the claim "+name+" has the wrong type")
		case bit != 0 && c.has&bit != 0:
			return nil, refuse(ErrClaims, ReasonDuplicateClaim, "the token has two claims "+name)
		case bit == 0:
			for _, other := range unknown {
				if name == other {
					return nil, refuse(ErrClaims, ReasonDuplicateClaim, "the token has one claim twice")
				}
			}
			for _, known := range claimNames {
				if strings.EqualFold(name, known) {
					return nil, refuse(ErrClaims, ReasonMalformedClaims,
						"a claim differs from "+known+" only in case; another reader may confuse them")
				}
			}
			unknown = append(unknown, name)
			s.skip(0)
		}
		c.has |= bit
	}
	if s.end(); s.bad {
		return nil, refuse(ErrClaims, ReasonMalformedClaims, "the claims are not one strict JSON object")
	}
	for i, name := range claimNames {
		if bit := claimSet(1) << i; required&bit != 0 && c.has&bit == 0 {
			return nil, refuse(ErrClaims, ReasonMissingClaim, "the token has no claim "+name)
		}
	}
	if c.Subject == "" {
		return nil, refuse(ErrClaims, ReasonMissingClaim, "the claim sub is empty")
	}
	if c.exp > latest || c.iat > latest || c.nbf > latest || c.authTime > latest {
		return nil, refuse(ErrClaims, ReasonMilliseconds, "a time is in milliseconds; tokens have seconds")
	}
	if c.exp <= c.iat {
		return nil, refuse(ErrClaims, ReasonMalformedClaims, "the token expires before it was issued")
	}
	c.IssuedAt, c.ExpiresAt = time.Unix(c.iat, 0).UTC(), time.Unix(c.exp, 0).UTC()
	if c.has&hasNotBefore != 0 {
		c.NotBefore = time.Unix(c.nbf, 0).UTC()
	}
	if c.has&hasAuthTime != 0 {
		c.AuthTime = time.Unix(c.authTime, 0).UTC()
	}
	return c, nil
}

// read reads the value of a known claim and returns its bit, or 0 for an unknown claim.
func (c *Claims) read(s *scanner, name string) claimSet {
	switch name {
	case "iss":
		c.Issuer = s.text()
		return hasIssuer
	case "sub":
		c.Subject = s.text()
		return hasSubject
	case "aud":
		c.readAudience(s)
		return hasAudience
	case "exp":
		c.exp = s.date()
		return hasExpiry
	case "iat":
		c.iat = s.date()
		return hasIssuedAt
	case "nbf":
		c.nbf = s.date()
		return hasNotBefore
	case "jti":
		c.ID = s.text()
		return hasID
	case "sid":
		c.SessionID = s.text()
		return hasSessionID
	case "scope":
		c.Scope = s.text()
		return hasScope
	case "client_id":
		c.ClientID = s.text()
		return hasClientID
	case "username":
		c.Username = s.text()
		return hasUsername
	case "name":
		c.Name = s.text()
		return hasName
	case "email":
		c.Email = s.text()
		return hasEmail
	case "email_verified":
		c.EmailVerified = s.flag()
		return hasEmailVerified
	case "auth_time":
		c.authTime = s.date()
		return hasAuthTime
	case "acr":
		c.ACR = s.text()
		return hasACR
	}
	return 0
}

// readAudience reads a string or an array of strings (RFC 7519, section 4.1.3).
func (c *Claims) readAudience(s *scanner) {
	c.Audience = c.oneAudience[:0]
	if s.peek() == '"' {
		c.Audience = append(c.Audience, s.text())
		return
	}
	s.expect('[')
	for n := 0; s.next(n, ']'); n++ {
		c.Audience = append(c.Audience, s.text())
	}
}
