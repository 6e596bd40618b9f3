package token

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/google/uuid"

	"github.com/auth-gateway/auth-gateway/keys"
)

const (
	// maxLength is the maximum length of a token in bytes; ours have a few hundred. It is
	// checked before anything is decoded (CVE-2025-30204).
	maxLength = 8 << 10

	// maxHeader is the maximum length of an encoded header; ours have about 130 bytes.
	maxHeader = 1 << 10

	// maxRefreshLifetime bounds the lifetime that a refresh token can claim. The session determines its real lifetime.
	maxRefreshLifetime = 10 * 365 * 24 * time.Hour
)

// strict refuses trailing bits that are not zero, which would allow several spellings of the
// same bytes (RFC 4648, section 3.5).
var strict = base64.RawURLEncoding.Strict()

// invalid returns an ErrInvalid with a reason for logs. The reason is always a literal, so that
// no content of an unverified token gets into a log.
func invalid(reason string) error { return fmt.Errorf("%w: %s", ErrInvalid, reason) }

// VerifyAccess verifies an access token and returns the claims that the gateway uses: Subject, SessionID, Scope,
// IssuedAt and ExpiresAt. The other claims are for consumers, and are empty in the result. The error is ErrNoKeys,
// ErrExpired, ErrWrongKind or another ErrInvalid. The caller must check whether the session is still active.
func (s *Service) VerifyAccess(text string) (Access, error) {
	c, err := s.verify(keys.Access, text)
	if err != nil {
		return Access{}, err
	}
	return c.access(), nil
}

// VerifyRefresh is VerifyAccess for refresh tokens. With ErrExpired it also returns the claims,
// because a genuine token is enough to sign out.
func (s *Service) VerifyRefresh(text string) (Refresh, error) {
	c, err := s.verify(keys.Refresh, text)
	if err != nil && !errors.Is(err, ErrExpired) {
		return Refresh{}, err
	}
	return c.refresh(), err
}

// Details holds the claims that only introspection needs.
type Details struct {
	ID       string // jti
	ClientID string // Config.ClientID if the token has no client_id
	Audience []string
}

// Details returns more claims of a token that VerifyAccess or VerifyRefresh has accepted. It
// parses the text, because the cache does not contain them.
func (s *Service) Details(text string) (Details, error) {
	first, last, err := split(text)
	if err != nil {
		return Details{}, err
	}
	p, err := decodePayload(text[first+1 : last])
	if err != nil {
		return Details{}, err
	}
	return Details{ID: p.id, ClientID: cmp.Or(p.clientID, s.config.ClientID), Audience: p.audience}, nil
}

func decodePayload(encoded string) (payload, error) {
	text, err := strict.DecodeString(encoded)
	if err != nil {
		return payload{}, invalid("the payload is not base64url")
	}
	p, err := parsePayload(text)
	if err != nil {
		return payload{}, invalid("the claims are malformed")
	}
	return p, nil
}

func (s *Service) verify(use keys.Use, text string) (checked, error) {
	c, _, err := s.verifyAndRead(use, text)
	return c, err
}

// verifyAndRead also returns the claims, if it had to read them: the cache does not contain them.
func (s *Service) verifyAndRead(use keys.Use, text string) (c checked, p payload, err error) {
	set := s.set.Load()
	if set == nil {
		return checked{}, p, ErrNoKeys
	}
	first, last, err := split(text)
	if err != nil {
		return checked{}, p, err
	}
	sum := digest(text)
	c, ok := set.checked.Get(sum)
	if !ok {
		if c, p, err = s.check(set, text, first, last); err != nil {
			return checked{}, p, err
		}
		set.checked.Add(sum, c)
	}
	if c.kind != use {
		return checked{}, p, ErrWrongKind
	}
	return c, p, s.checkTimes(c)
}

// digest returns the key of a token in the cache. It does not allocate for tokens of the usual size.
func digest(text string) [sha256.Size]byte {
	var buffer [2 << 10]byte
	return sha256.Sum256(append(buffer[:0], text...))
}

// split finds the two dots. It accepts only the alphabet of the JWS compact serialization,
// because even strict decoders skip line breaks.
func split(text string) (first, last int, err error) {
	if len(text) > maxLength {
		return 0, 0, invalid("the token is too long")
	}
	dots := 0
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '.' && dots == 0:
			first, dots = i, 1
		case c == '.' && dots == 1:
			last, dots = i, 2
		default:
			return 0, 0, invalid("an invalid character, or too many parts")
		}
	}
	if dots != 2 {
		return 0, 0, invalid("not three parts")
	}
	return first, last, nil
}

// check verifies everything except the times. The key determines the use of the token, because
// each key has one use. first and last are the positions of the two dots.
func (s *Service) check(set *keySet, text string, first, last int) (c checked, p payload, err error) {
	if first > maxHeader {
		return c, p, invalid("the header is too long")
	}
	encoded, err := strict.DecodeString(text[:first])
	if err != nil {
		return c, p, invalid("the header is not base64url")
	}
	h, err := parseHeader(encoded)
	if err != nil {
		return c, p, invalid("the header is not exactly alg, kid and typ")
	}
	use, v, ok := set.verifier(h.keyID)
	if !ok {
		return c, p, invalid("unknown key")
	}
	if !slices.ContainsFunc(s.types(use), func(typ string) bool { return isType(h.mediaType, typ) }) {
		return c, p, invalid("wrong typ")
	}
	if err := v.verify(h, text, last); err != nil {
		return c, p, err
	}
	// We signed the token.
	if p, err = decodePayload(text[first+1 : last]); err != nil {
		return c, p, err
	}
	c, err = s.believe(use, p, v)
	return c, p, err
}

// verifier returns the key with a kid, and its use.
func (set *keySet) verifier(keyID string) (keys.Use, verifier, bool) {
	for _, use := range keys.Uses() {
		if v, ok := set.verifiers[use][keyID]; ok {
			return use, v, true
		}
	}
	return "", verifier{}, false
}

// verify verifies the signature, which follows the dot at last.
func (v verifier) verify(h header, text string, last int) error {
	if h.algorithm != v.algorithm {
		return invalid("the algorithm is not that of the key")
	}
	signature, err := strict.DecodeString(text[last+1:])
	if err != nil {
		return invalid("the signature is not base64url")
	}
	if err := v.method.Verify(text[:last], signature, v.key); err != nil {
		return invalid("the signature does not match")
	}
	return nil
}

// isType compares media types. It ignores case and an "application/" prefix (RFC 7515, section
// 4.1.9).
func isType(got, want string) bool {
	const prefix = "application/"
	if len(got) > len(prefix) && strings.EqualFold(got[:len(prefix)], prefix) {
		got = got[len(prefix):]
	}
	return strings.EqualFold(got, want)
}

// believe verifies the claims. A valid signature is not sufficient: another service could hold the same key.
func (s *Service) believe(use keys.Use, p payload, v verifier) (checked, error) {
	audience := s.config.Audience
	required := claimsOfBoth | hasScope // not client_id yet: tokens of earlier versions lack it
	bound := max(s.config.AccessTTL, v.longest)
	if use == keys.Refresh {
		audience = []string{s.config.Issuer}
		required = claimsOfBoth | hasGeneration
		bound = maxRefreshLifetime
	}
	switch {
	case p.has&required != required:
		return checked{}, invalid("a claim is missing")
	case p.issuer != s.config.Issuer:
		return checked{}, invalid("wrong issuer")
	case !slices.ContainsFunc(p.audience, func(a string) bool { return slices.Contains(audience, a) }):
		return checked{}, invalid("wrong audience")
	case p.id == "":
		return checked{}, invalid("empty jti")
	case p.expiresAt < p.issuedAt || p.expiresAt-p.issuedAt > int64(bound/time.Second):
		return checked{}, invalid("impossible lifetime")
	}
	if err := checkIDs(p.subject, p.sessionID); err != nil {
		return checked{}, invalid("sub or sid is not a UUID in lower case")
	}
	c := checked{
		kind: use, subject: uuid.MustParse(p.subject), session: uuid.MustParse(p.sessionID), generation: p.generation,
		issuedAt: p.issuedAt, notBefore: p.notBefore, expiresAt: p.expiresAt,
	}
	if use == keys.Access {
		c.scope = unique.Make(p.scope)
	}
	return c, nil
}

// checkTimes runs at every use of a token, cached or not (RFC 7519, sections 4.1.4 to 4.1.6). The leeway applies in
// both directions. Seconds are compared as numbers, so no claim can overflow.
func (s *Service) checkTimes(c checked) error {
	now, leeway := s.config.Now().Unix(), int64(s.config.Leeway/time.Second)
	switch {
	case c.issuedAt > now+leeway:
		return invalid("issued in the future")
	case c.notBefore > now+leeway:
		return invalid("not valid yet")
	case now >= c.expiresAt+leeway: // "on or after", section 4.1.4
		return ErrExpired
	}
	return nil
}

// checkIDs accepts only UUIDs in lower case (RFC 9562, section 4), because they are compared as
// text and used in queries.
func checkIDs(subject, sessionID string) error {
	if !isUUID(subject) || !isUUID(sessionID) {
		return errors.New("sub and sid must be UUIDs in lower case")
	}
	return nil
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}
