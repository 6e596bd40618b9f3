package token

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unique"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/auth-gateway/auth-gateway/keys"
)

// signer is a private key and the parts that all of its tokens share.
type signer struct {
	method jwt.SigningMethod
	key    any
	header string // the first segment and its dot
}

func newSigner(typ string, k keys.Signer) signer {
	header := `{"alg":"` + string(k.Algorithm) + `","kid":"` + k.ID + `","typ":"` + typ + `"}`
	return signer{
		method: methodOf(k.Algorithm),
		key:    k.Private,
		header: base64.RawURLEncoding.EncodeToString([]byte(header)) + ".",
	}
}

// sign returns the JWS compact serialization (RFC 7515, section 7.1).
func (s signer) sign(payload []byte) (string, error) {
	encoding := base64.RawURLEncoding
	text := make([]byte, 0, len(s.header)+encoding.EncodedLen(len(payload)))
	text = append(text, s.header...)
	text = encoding.AppendEncode(text, payload)
	signature, err := s.method.Sign(string(text), s.key)
	if err != nil {
		return "", fmt.Errorf("token: signing: %w", err)
	}
	text = append(text, '.')
	text = encoding.AppendEncode(text, signature)
	if len(text) > maxLength {
		return "", fmt.Errorf("token: the token has %d bytes, more than the limit of %d bytes for verification", len(text), maxLength)
	}
	return string(text), nil
}

// SignAccess issues an access token. It sets ID, AuthTime, IssuedAt and ExpiresAt if they are
// zero. Names of claims are fixed or come from the settings; users cannot choose any.
func (s *Service) SignAccess(a Access) (string, error) {
	set := s.set.Load()
	if set == nil {
		return "", ErrNoKeys
	}
	if a.ID == "" {
		a.ID = rand.Text()
	}
	if a.IssuedAt.IsZero() {
		a.IssuedAt = s.config.Now()
	}
	if a.ExpiresAt.IsZero() {
		a.ExpiresAt = a.IssuedAt.Add(s.config.AccessTTL)
	}
	if a.AuthTime.IsZero() {
		a.AuthTime = a.IssuedAt
	}
	a.AuthTime, a.IssuedAt, a.ExpiresAt = numericDate(a.AuthTime), numericDate(a.IssuedAt), numericDate(a.ExpiresAt)
	if err := checkIDs(a.Subject, a.SessionID); err != nil {
		return "", fmt.Errorf("token: an access token cannot be issued: %w", err)
	}

	if d := a.ExpiresAt.Sub(a.IssuedAt); d < 0 || d > s.config.AccessTTL {
		return "", errors.New("token: the lifetime of an access token must not exceed AccessTTL")
	}

	w := writer{buffer: make([]byte, 0, 512)}
	w.text("iss", s.config.Issuer)
	w.text("client_id", s.config.ClientID)
	w.text("sub", a.Subject)
	w.texts("aud", s.config.Audience)
	w.number("exp", a.ExpiresAt.Unix())
	w.number("iat", a.IssuedAt.Unix())
	w.text("jti", a.ID)
	w.text("scope", a.Scope)
	w.text("sid", a.SessionID)
	if a.Username != "" {
		w.text("username", a.Username)
	}
	w.text("email", a.Email)
	w.flag("email_verified", a.EmailVerified)
	if a.Name != "" {
		w.text("name", a.Name)
	}
	w.number("auth_time", a.AuthTime.Unix())
	w.chosen(a.Roles, a.More)
	text, err := w.sign(set.signers[keys.Access])
	if err != nil {
		return "", err
	}
	set.checked.Add(digest(text), checked{ // saves its first verification
		kind: keys.Access, subject: uuid.MustParse(a.Subject), session: uuid.MustParse(a.SessionID), scope: unique.Make(a.Scope),
		issuedAt: a.IssuedAt.Unix(), expiresAt: a.ExpiresAt.Unix(),
	})
	return text, nil
}

// The parts of the longest access token, in bytes: the encoded header and signature (RSA with 4096 bits), and the claims
// whose length the settings do not change.
const (
	maxEnvelope = 160 + 684 + 2
	maxFixed    = len(`"sub":"","jti":"","sid":"",`) + 36 + 26 + 36 +
		len(`"exp":0,"iat":0,"auth_time":0,`) + 3*12 +
		len(`"scope":"","username":"","email":"","name":"","email_verified":false,`) + 1000 + 64 + 2*254 + 4*201
)

// maxRoom bounds Room: proxies accept fields of 8 KiB, of which a token is one.
const maxRoom = 2 << 10

// Room returns how many bytes the claims of Roles and More may have, so that a token fits whatever the other claims of its
// user are. It can be negative, with very long settings.
func (s *Service) Room() int {
	w := writer{}
	w.text("iss", s.config.Issuer)
	w.text("client_id", s.config.ClientID)
	w.texts("aud", s.config.Audience)
	return min(maxRoom, (maxLength-maxEnvelope)*3/4-maxFixed-len(w.buffer))
}

// Needs returns how many bytes of Room these claims of an Access take.
func Needs(roles, more string) int {
	w := writer{}
	w.chosen(roles, more)
	return len(w.buffer)
}

// SignRefresh issues a refresh token. The same claims result in the same bytes while the same key signs.
func (s *Service) SignRefresh(r Refresh) (string, error) {
	set := s.set.Load()
	if set == nil {
		return "", ErrNoKeys
	}
	if r.IssuedAt.IsZero() || r.ExpiresAt.IsZero() || r.ExpiresAt.Before(r.IssuedAt) || r.Generation < 0 {
		return "", errors.New("token: a refresh token needs IssuedAt, a later ExpiresAt, and a Generation that is not negative")
	}
	r.IssuedAt, r.ExpiresAt = numericDate(r.IssuedAt), numericDate(r.ExpiresAt)
	if err := checkIDs(r.Subject, r.SessionID); err != nil {
		return "", fmt.Errorf("token: a refresh token cannot be issued: %w", err)
	}

	w := writer{buffer: make([]byte, 0, 384)}
	w.text("iss", s.config.Issuer)
	w.text("sub", r.Subject)
	w.text("aud", s.config.Issuer)
	w.number("exp", r.ExpiresAt.Unix())
	w.number("iat", r.IssuedAt.Unix())
	w.text("jti", r.SessionID+"."+strconv.FormatInt(r.Generation, 10))
	w.text("sid", r.SessionID)
	w.number("gen", r.Generation)
	text, err := w.sign(set.signers[keys.Refresh])
	if err != nil {
		return "", err
	}
	set.checked.Add(digest(text), checked{ // saves its first verification
		kind: keys.Refresh, subject: uuid.MustParse(r.Subject), session: uuid.MustParse(r.SessionID), generation: r.Generation,
		issuedAt: r.IssuedAt.Unix(), expiresAt: r.ExpiresAt.Unix(),
	})
	return text, nil
}

// numericDate returns the time as written in tokens: in UTC and whole seconds.
func numericDate(t time.Time) time.Time { return date(t.Unix()) }

// writer writes a payload. Names are literals in a fixed order, or come from the settings; only values are variable.
type writer struct {
	buffer []byte
	err    error
}

func (w *writer) name(name string) {
	separator := byte(',')
	if len(w.buffer) == 0 {
		separator = '{'
	}
	w.buffer = append(w.buffer, separator, '"')
	w.buffer = append(w.buffer, name...)
	w.buffer = append(w.buffer, '"', ':')
}

func (w *writer) quote(value string) {
	buffer, err := jsontext.AppendQuote(w.buffer, value)
	if err != nil { // not UTF-8
		w.err = err
		return
	}
	w.buffer = buffer
}

func (w *writer) text(name, value string) { w.name(name); w.quote(value) }

// texts always writes an array, also for a single value: some consumers refuse a string.
func (w *writer) texts(name string, values []string) {
	w.name(name)
	separator := byte('[')
	for _, value := range values {
		w.buffer = append(w.buffer, separator)
		w.quote(value)
		separator = ','
	}
	w.buffer = append(w.buffer, ']')
}

func (w *writer) number(name string, value int64) {
	w.name(name)
	w.buffer = strconv.AppendInt(w.buffer, value, 10)
}

func (w *writer) flag(name string, value bool) {
	w.name(name)
	w.buffer = strconv.AppendBool(w.buffer, value)
}

// chosen writes the claims that administrators choose.
func (w *writer) chosen(roles, more string) {
	if roles != "" {
		w.texts("roles", strings.Fields(roles))
	}
	if more != "" {
		w.buffer = append(w.buffer, ',')
		w.buffer = append(w.buffer, more...)
	}
}

func (w *writer) sign(s signer) (string, error) {
	if w.err != nil {
		return "", fmt.Errorf("token: a claim is not valid UTF-8: %w", w.err)
	}
	return s.sign(append(w.buffer, '}'))
}
