package verify

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"
)

const (
	// maxToken is the length of the longest token; those of the gateway have less than 1 KiB. It is checked before
	// anything is decoded (CVE-2025-30204).
	maxToken = 8 << 10

	// maxHeader is the length of the longest encoded header; those of the gateway have about 130 bytes.
	maxHeader = 1 << 10

	// usual is the length up to which a token is copied to the stack.
	usual = 2 << 10
)

// Verifier verifies access tokens. It is safe for concurrent use.
type Verifier struct {
	*config

	keeper  *keeper
	watcher *watcher // of ended sessions; nil without WithRevocations
}

// New returns a Verifier for the tokens of one gateway that are for one audience.
//
// It reads the source once, and ctx limits only that. A mistake that time does not repair is an error: a wrong URL or
// directory, another issuer, a file that is no key set. A source that does not answer yet is not an error, because a
// service may start before the gateway: New returns and reads again in the background. Until it has keys, Verify and
// Ready return ErrUnavailable, and the middleware answers 503. Use Ready in a readiness probe, or Wait.
//
// Background work runs until Close, whatever becomes of ctx.
func New(ctx context.Context, source Source, audience Audiences, options ...Option) (*Verifier, error) {
	c := &config{
		audiences: audience.names, types: []string{defaultType}, leeway: defaultLeeway, now: time.Now,
		log: slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.Level(1 << 10)})),
	}
	for _, o := range options {
		if o != nil {
			o.configure(c)
		}
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if source.open == nil {
		return nil, refuse(ErrOptions, ReasonOptions, "the source is empty; use FromDir, FromURL or FromFunc")
	}
	c.client = restrict(c.client)
	v := &Verifier{config: c, keeper: newKeeper(source, c)}
	err := v.keeper.refresh(ctx)
	var known *Error
	if errors.As(err, &known) && known.mistake || errors.Is(err, context.Canceled) {
		v.keeper.close()
		return nil, err
	}
	v.keeper.workers.Add(1)
	go v.keeper.run()
	if c.feed != nil {
		v.watcher = newWatcher(*c.feed, c)
		v.watcher.start() //nolint:contextcheck // it runs until Close
	}
	return v, nil
}

// With returns a Verifier with further requirements, which shares the keys and everything else. Close only the first.
func (v *Verifier) With(more ...Requirement) *Verifier {
	c := *v.config
	for _, r := range more {
		r(&c.requirements)
	}
	return &Verifier{config: &c, keeper: v.keeper, watcher: v.watcher}
}

// Close ends the background work. The last keys stay in use, and are never read again.
func (v *Verifier) Close() {
	v.keeper.close()
	if v.watcher != nil {
		v.watcher.close()
	}
}

// Refresh reads the source now. Nothing has to call it; it is for tests, and for programs that learn of a change.
func (v *Verifier) Refresh(ctx context.Context) error { return v.keeper.refresh(ctx) }

// Verify verifies an access token and returns its claims. The error is an *Error, which matches a Check and a Reason.
//
// A token whose key is known is verified without waiting for anything. For an unknown key the source is read, at most
// once a minute, and ctx limits the wait for it.
func (v *Verifier) Verify(ctx context.Context, token string) (*Claims, error) {
	c, err := v.verify(ctx, token)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (v *Verifier) verify(ctx context.Context, token string) (*Claims, *Error) {
	now := v.now()
	set, err := v.current(now)
	if err != nil {
		return nil, err
	}
	if len(token) > maxToken {
		return nil, refuse(ErrForm, ReasonTooLong, "the token is longer than 8 KiB")
	}
	var buffer [usual]byte
	text := append(buffer[:0], token...)
	var id [sha256.Size]byte
	var c *Claims
	if set.checked != nil {
		id = sha256.Sum256(text)
		c = set.checked.get(id)
	}
	hit := c != nil
	if !hit {
		if c, set, err = v.check(ctx, set, token, text); err != nil {
			return nil, err
		}
	}
	if err := v.checkTimes(c, now); err != nil {
		return nil, err
	}
	if set.checked != nil && !hit {
		set.checked.add(id, c)
	}
	if v.watcher != nil {
		if err := v.watcher.check(c, now); err != nil {
			return nil, err
		}
	}
	if err := v.require(c, now); err != nil {
		return nil, err
	}
	return c, nil
}

// current returns the keys, unless there are none or they are too old.
func (v *Verifier) current(now time.Time) (*keySet, *Error) {
	set := v.keeper.set.Load()
	if set == nil {
		return nil, v.keeper.unavailable(ReasonNoKeys, "there are no keys yet")
	}
	if v.maxStale > 0 {
		if age := v.keeper.age(now); age > v.maxStale {
			return nil, v.keeper.unavailable(ReasonStaleKeys,
				"the keys were last confirmed "+about(age)+" ago, longer than MaxStale ("+v.maxStale.String()+")")
		}
	}
	return set, nil
}

// check verifies everything except times, revocations and requirements. text is the token, as bytes.
func (v *Verifier) check(ctx context.Context, set *keySet, token string, text []byte) (*Claims, *keySet, *Error) {
	first, last, err := split(token)
	if err != nil {
		return nil, set, err
	}
	k := set.known(token[:first])
	remembered := k != nil
	if !remembered {
		if k, set, err = v.keyOf(ctx, set, token, first, last); err != nil {
			return nil, set, err
		}
	}
	var buffer [maxSignature]byte
	if len(text)-last-1 > strict.EncodedLen(len(buffer)) {
		return nil, set, refuse(ErrSignature, ReasonSignature, "the signature is longer than that of any key")
	}
	n, failure := strict.Decode(buffer[:], text[last+1:])
	if failure != nil {
		return nil, set, notBase64URL("the signature", token[last+1:])
	}
	if !k.verify(text[:last], buffer[:n]) {
		return nil, set, k.wrongSignature(buffer[:n])
	}
	if !remembered {
		set.remember(token[:first], k)
	}
	payload, err := decodePart("the payload", token[first+1:last], text[first+1:last])
	if err != nil {
		return nil, set, err
	}
	c, err := parseClaims(payload)
	if err != nil {
		return nil, set, err
	}
	c.KeyID = k.id
	if c.Issuer != set.issuer {
		return nil, set, wrongIssuer(c.Issuer, set.issuer)
	}
	if !slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(v.audiences, a) }) {
		return nil, set, v.wrongAudience(c.Audience)
	}
	return c, set, nil
}

// split finds the two dots. Even strict decoders skip line breaks, so these are refused here.
func split(token string) (first, last int, err *Error) {
	first = strings.IndexByte(token, '.')
	last = first + 1 + strings.IndexByte(token[first+1:], '.')
	if first < 1 || last <= first || strings.IndexByte(token[last+1:], '.') >= 0 ||
		strings.IndexByte(token, '\n') >= 0 || strings.IndexByte(token, '\r') >= 0 {
		return 0, 0, wrongForm(token)
	}
	return first, last, nil
}

// decodePart decodes base64url. text is the part, as bytes.
func decodePart(what, part string, text []byte) (string, *Error) {
	var buffer [usual]byte
	decoded := buffer[:]
	if n := strict.DecodedLen(len(text)); n > len(decoded) {
		decoded = make([]byte, n)
	}
	n, err := strict.Decode(decoded, text)
	if err != nil {
		return "", notBase64URL(what, part)
	}
	return string(decoded[:n]), nil
}

// known returns the key of a header that a verified token had.
func (s *keySet) known(header string) *key {
	if all := s.headers.Load(); all != nil {
		return (*all)[header]
	}
	return nil
}

// header holds the members of a header that matter here.
type header struct {
	algorithm, keyID, typ string
	critical, malformed   bool
}

// parseHeader ignores unknown members, which must not change the meaning of a token unless crit names them (RFC 7515,
// section 4.1.11).
func parseHeader(text string) header {
	var h header
	s := scanner{data: text}
	seen := make([]string, 0, 8)
	s.expect('{')
	for n := 0; s.next(n, '}'); n++ {
		name := s.name()
		if slices.Contains(seen, name) {
			s.fail()
		}
		seen = append(seen, name)
		switch name {
		case "alg":
			h.algorithm = s.text()
		case "kid":
			h.keyID = s.text()
		case "typ":
			h.typ = s.text()
		case "crit":
			h.critical = true
			s.skip(0)
		default:
			s.skip(0)
		}
	}
	s.end()
	h.malformed = s.bad
	return h
}

// keyOf returns the key that a header names, and the set that has it. The header does not choose an algorithm: it must
// be that of the key (RFC 8725, section 3.1).
func (v *Verifier) keyOf(ctx context.Context, set *keySet, token string, first, last int) (*key, *keySet, *Error) {
	if first > maxHeader {
		return nil, set, refuse(ErrHeader, ReasonMalformedHeader, "the header is longer than 1 KiB")
	}
	text, err := decodePart("the header", token[:first], []byte(token[:first]))
	if err != nil {
		return nil, set, err
	}
	h := parseHeader(text)
	unverified := func() *Claims { // nil if malformed
		payload, err := decodePart("", token[first+1:last], []byte(token[first+1:last]))
		if err != nil {
			return nil
		}
		c, _ := parseClaims(payload)
		return c
	}
	switch {
	case h.malformed:
		return nil, set, refuse(ErrHeader, ReasonMalformedHeader, "the header is not one strict JSON object")
	case h.critical:
		return nil, set, refuse(ErrHeader, ReasonCritical, "the header has crit, an extension that no access token uses")
	}
	if err := wrongAlgorithm(h.algorithm); err != nil {
		return nil, set, err
	}
	if !slices.Contains(v.types, h.typ) {
		return nil, set, v.wrongType(h.typ, unverified())
	}
	if h.keyID == "" {
		return nil, set, refuse(ErrKey, ReasonNoKeyID, "the header has no kid, so it does not name a key")
	}
	k := set.keys[h.keyID]
	if k == nil {
		claims := unverified()
		if v.worthReading(set, claims) && v.keeper.refreshForUnknown(ctx, set) {
			set = v.keeper.set.Load()
			k = set.keys[h.keyID]
		}
		if k == nil {
			return nil, set, v.unknownKey(set, h.keyID, claims)
		}
	}
	if h.algorithm != k.algorithm {
		return nil, set, refuse(ErrAlgorithm, ReasonOtherAlgorithm,
			"the token says "+quote(h.algorithm)+", and its key is for "+k.algorithm)
	}
	return k, set, nil
}

// worthReading reports whether another read of the source could find the key of a token: not if the token is for
// another issuer or audience, or has expired. Anyone can write such a token, so this saves reads and protects nothing.
func (v *Verifier) worthReading(set *keySet, c *Claims) bool {
	return c != nil && c.Issuer == set.issuer && v.now().Unix() < c.exp &&
		slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(v.audiences, a) })
}

// checkTimes compares the times of a token with the clock, with the leeway in both directions.
func (v *Verifier) checkTimes(c *Claims, now time.Time) *Error {
	seconds, leeway := now.Unix(), int64(v.leeway/time.Second)
	switch {
	case c.iat > seconds+leeway:
		return v.issuedInTheFuture(c, now)
	case c.nbf > seconds+leeway:
		return refuse(ErrNotYet, ReasonNotYet, "the token becomes valid in "+about(c.NotBefore.Sub(now))+v.keeper.clockHint())
	case seconds >= c.exp+leeway: // "on or after", RFC 7519, section 4.1.4
		return v.expired(c, now)
	}
	return nil
}

// require checks the requirements.
func (v *Verifier) require(c *Claims, now time.Time) *Error {
	r := &v.requirements
	if r.maxAge > 0 {
		switch {
		case c.has&hasAuthTime == 0:
			return r.unmet(ErrAuthTime, ReasonSignInTooOld, "the token has no auth_time, and MaxAge needs it")
		case now.Sub(c.AuthTime) > r.maxAge+v.leeway:
			return r.unmet(ErrAuthTime, ReasonSignInTooOld,
				"the user signed in "+about(now.Sub(c.AuthTime))+" ago, longer than MaxAge ("+r.maxAge.String()+")")
		}
	}
	if len(r.acr) > 0 && !slices.Contains(r.acr, c.ACR) {
		return r.unmet(ErrACR, ReasonOtherACR, "acr is "+quote(c.ACR)+", and one of "+quote(strings.Join(r.acr, " "))+" is required")
	}
	for _, scope := range r.scopes {
		if !c.HasScope(scope) {
			return r.unmet(ErrScope, ReasonMissingScope, "the token lacks the scope "+quote(scope)+"; it has "+quote(c.Scope))
		}
	}
	return nil
}

func (r *requirements) unmet(check Check, reason Reason, message string) *Error {
	e := refuse(check, reason, message)
	e.wanted = *r
	return e
}
