package token

import (
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
	// maxLength of a token in bytes; ours have a few hundred. It is checked
	// before anything is decoded (CVE-2025-30204).
	maxLength = 8 << 10

	// maxHeader is the length of an encoded header; ours have about 130.
	maxHeader = 1 << 10

	// maxRefreshLifetime is a bound on what a refresh token can claim; how long
	// it really lives is the session's matter.
	maxRefreshLifetime = 10 * 365 * 24 * time.Hour
)

// strict refuses trailing bits that are not zero, of which base64 has several
// spellings otherwise (RFC 4648, section 3.5).
var strict = base64.RawURLEncoding.Strict()

// invalid makes an ErrInvalid with a reason for logs. The reason is always a
// literal: nothing of a token that was not verified gets into a log.
func invalid(reason string) error { return fmt.Errorf("%w: %s", ErrInvalid, reason) }

// VerifyAccess says what the gateway acts on of an access token, if it is to be
// believed: Subject, SessionID, Scope, IssuedAt and ExpiresAt. The other claims
// are for those who consume it, and are empty here. Its errors are ErrNoKeys,
// ErrExpired, ErrWrongKind and others that are ErrInvalid. Whether the session is alive is for the caller to find out.
func (s *Service) VerifyAccess(text string) (Access, error) {
	c, err := s.verify(keys.Access, text)
	if err != nil {
		return Access{}, err
	}
	return c.access(), nil
}

// VerifyRefresh is VerifyAccess for refresh tokens. With ErrExpired it returns
// the claims as well: to sign out, a token that is genuine will do.
func (s *Service) VerifyRefresh(text string) (Refresh, error) {
	c, err := s.verify(keys.Refresh, text)
	if err != nil && !errors.Is(err, ErrExpired) {
		return Refresh{}, err
	}
	return c.refresh(), err
}

// Details returns the jti and the aud of a token that VerifyAccess or VerifyRefresh has
// accepted. They are read from its text, because only introspection asks for them: they
// are not remembered with tokens that were checked.
func (s *Service) Details(text string) (id string, audience []string, err error) {
	first, last, err := split(text)
	if err != nil {
		return "", nil, err
	}
	encoded, err := strict.DecodeString(text[first+1 : last])
	if err != nil {
		return "", nil, invalid("a payload that is not base64url")
	}
	p, err := parsePayload(encoded)
	if err != nil {
		return "", nil, invalid("claims that do not parse")
	}
	return p.id, p.audience, nil
}

func (s *Service) verify(use keys.Use, text string) (checked, error) {
	set := s.set.Load()
	if set == nil {
		return checked{}, ErrNoKeys
	}
	first, last, err := split(text)
	if err != nil {
		return checked{}, err
	}
	sum := digest(text)
	c, ok := set.checked.Get(sum)
	if !ok {
		if c, err = s.check(set, text, first, last); err != nil {
			return checked{}, err
		}
		set.checked.Add(sum, c)
	}
	if c.kind != use {
		return checked{}, ErrWrongKind
	}
	return c, s.checkTimes(c)
}

// digest is the name under which a token is remembered. Tokens of the usual
// size are hashed without an allocation.
func digest(text string) [sha256.Size]byte {
	var buffer [2 << 10]byte
	return sha256.Sum256(append(buffer[:0], text...))
}

// split finds the two dots. It lets nothing pass but the alphabet of the JWS
// compact serialization: decoders skip line breaks, even strict ones.
func split(text string) (first, last int, err error) {
	if len(text) > maxLength {
		return 0, 0, invalid("too long")
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
			return 0, 0, invalid("a character that no token has, or too many parts")
		}
	}
	if dots != 2 {
		return 0, 0, invalid("not three parts")
	}
	return first, last, nil
}

// check does all that does not depend on the time of day, whichever kind the token
// is of: a key has one kind, so the key decides. It needs the text in its three
// parts, which the dots at first and last divide.
func (s *Service) check(set *keySet, text string, first, last int) (checked, error) {
	if first > maxHeader {
		return checked{}, invalid("a header that is too long")
	}
	encoded, err := strict.DecodeString(text[:first])
	if err != nil {
		return checked{}, invalid("a header that is not base64url")
	}
	h, err := parseHeader(encoded)
	if err != nil {
		return checked{}, invalid("a header that is not just alg, kid and typ, once each")
	}
	use, v, ok := set.verifier(h.keyID)
	if !ok {
		return checked{}, invalid("not a key of ours")
	}
	if !isType(h.mediaType, typ(use)) {
		return checked{}, invalid("not this type of token")
	}
	if err := v.verify(h, text, last); err != nil {
		return checked{}, err
	}
	// From here on it is a token that we signed.
	payload, err := strict.DecodeString(text[first+1 : last])
	if err != nil {
		return checked{}, invalid("a payload that is not base64url")
	}
	p, err := parsePayload(payload)
	if err != nil {
		return checked{}, invalid("claims that do not parse")
	}
	return s.believe(use, p, v)
}

// verifier finds a key by its kid, and the kind of tokens that it signs.
func (set *keySet) verifier(keyID string) (keys.Use, verifier, bool) {
	for _, use := range keys.Uses() {
		if v, ok := set.verifiers[use][keyID]; ok {
			return use, v, true
		}
	}
	return "", verifier{}, false
}

// verify checks the signature, which is what follows the dot at last.
func (v verifier) verify(h header, text string, last int) error {
	if h.algorithm != v.algorithm {
		return invalid("not the algorithm of the key")
	}
	signature, err := strict.DecodeString(text[last+1:])
	if err != nil {
		return invalid("a signature that is not base64url")
	}
	if err := v.method.Verify(text[:last], signature, v.key); err != nil {
		return invalid("the signature")
	}
	return nil
}

// isType compares media types: case does not matter, and "application/" may be
// left out (RFC 7515, section 4.1.9).
func isType(got, want string) bool {
	const prefix = "application/"
	if len(got) > len(prefix) && strings.EqualFold(got[:len(prefix)], prefix) {
		got = got[len(prefix):]
	}
	return strings.EqualFold(got, want)
}

// believe checks the claims. A key alone does not make a token ours: another
// service could have been given it, or another route have signed with it.
func (s *Service) believe(use keys.Use, p payload, v verifier) (checked, error) {
	audience := s.config.Audience
	required := claimsOfBoth | hasScope
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
		return checked{}, invalid("another issuer")
	case !slices.ContainsFunc(p.audience, func(a string) bool { return slices.Contains(audience, a) }):
		return checked{}, invalid("another audience")
	case p.id == "":
		return checked{}, invalid("an empty jti")
	case p.expiresAt < p.issuedAt || p.expiresAt-p.issuedAt > int64(bound/time.Second):
		return checked{}, invalid("a lifetime that we never give")
	}
	if err := checkIDs(p.subject, p.sessionID); err != nil {
		return checked{}, invalid("ids that we never give")
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

// checkTimes is done each time, whether the signature was checked before or not
// (RFC 7519, sections 4.1.4 to 4.1.6). The leeway goes both ways. Seconds are
// compared as numbers, for which no claim is too large.
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

// checkIDs lets only canonical UUIDs pass, of which each has one spelling (RFC
// 9562, section 4): they are compared as text and end in queries.
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
