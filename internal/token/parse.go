package token

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// encoding/json uses the last of two duplicate members and accepts "SUB" for "sub". A reader with other rules would
// then see another token. jsontext refuses duplicate members, invalid UTF-8 and trailing bytes, and names are compared
// exactly (RFC 7515, section 4; RFC 7519, section 4).

var errForm = errors.New("not the JSON of a token")

type header struct {
	algorithm string
	keyID     string
	mediaType string
}

// parseHeader accepts only the three members that we write. Others (jwk, jku, x5c, x5u, crit,
// b64, zip, ...) are refused, because we have no use for them.
func parseHeader(text []byte) (header, error) {
	var h header
	return h, members(text, func(d *jsontext.Decoder, name string) (err error) {
		switch name {
		case "alg":
			h.algorithm, err = readText(d)
		case "kid":
			h.keyID, err = readText(d)
		case "typ":
			h.mediaType, err = readText(d)
		default:
			return errForm
		}
		return err
	})
}

// claims is the set of claims in a payload.
type claims uint16

const (
	hasIssuer claims = 1 << iota
	hasSubject
	hasAudience
	hasExpiry
	hasIssuedAt
	hasID
	hasSessionID
	hasScope
	hasGeneration

	claimsOfBoth = hasIssuer | hasSubject | hasAudience | hasExpiry | hasIssuedAt | hasID | hasSessionID
)

// payload holds the claims that the gateway uses, of both kinds of tokens.
type payload struct {
	has                            claims
	issuer, subject, id, sessionID string
	clientID                       string // "" in tokens of versions that did not write it
	audience                       []string
	expiresAt, issuedAt, notBefore int64
	scope                          string
	generation                     int64

	// What consumers use, and the gateway does not.
	username, email, name string
	authTime              int64
}

// names are claims that other claims must not resemble.
var names = []string{
	"iss", "client_id", "sub", "aud", "exp", "iat", "nbf", "jti", "sid", "scope", "gen",
	"username", "email", "email_verified", "name", "auth_time", "roles",
}

// parsePayload ignores unknown claims, so that a newer version can add some. It refuses names
// that differ from a known one only in case, because another reader may confuse them.
func parsePayload(text []byte) (payload, error) {
	var p payload
	return p, members(text, func(d *jsontext.Decoder, name string) (err error) {
		switch name {
		case "iss":
			p.has |= hasIssuer
			p.issuer, err = readText(d)
		case "client_id":
			p.clientID, err = readText(d)
		case "sub":
			p.has |= hasSubject
			p.subject, err = readText(d)
		case "aud":
			p.has |= hasAudience
			p.audience, err = readTexts(d)
		case "exp":
			p.has |= hasExpiry
			p.expiresAt, err = readDate(d)
		case "iat":
			p.has |= hasIssuedAt
			p.issuedAt, err = readDate(d)
		case "nbf":
			p.notBefore, err = readDate(d)
		case "jti":
			p.has |= hasID
			p.id, err = readText(d)
		case "sid":
			p.has |= hasSessionID
			p.sessionID, err = readText(d)
		case "scope":
			p.has |= hasScope
			p.scope, err = readText(d)
		case "gen":
			p.has |= hasGeneration
			p.generation, err = readInteger(d)
		case "username":
			p.username, err = readText(d)
		case "email":
			p.email, err = readText(d)
		case "name":
			p.name, err = readText(d)
		case "email_verified":
			err = readFlag(d)
		case "auth_time":
			p.authTime, err = readDate(d)
		case "roles":
			_, err = readTexts(d)
		default:
			for _, known := range names {
				if strings.EqualFold(name, known) {
					return errForm
				}
			}
			err = d.SkipValue()
		}
		return err
	})
}

// members reads one object, and refuses any data after it.
func members(text []byte, read func(d *jsontext.Decoder, name string) error) error {
	d := jsontext.NewDecoder(bytes.NewBuffer(text)) // a Buffer is read without a copy
	start, err := d.ReadToken()
	if err != nil || start.Kind() != '{' {
		return errForm
	}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return err
		}
		if err := read(d, name.String()); err != nil {
			return err
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return errForm
	}
	return nil
}

func readText(d *jsontext.Decoder) (string, error) {
	t, err := d.ReadToken()
	if err != nil {
		return "", err
	}
	if t.Kind() != '"' {
		return "", errForm
	}
	return t.String(), nil
}

// readTexts reads a string or an array of strings.
func readTexts(d *jsontext.Decoder) ([]string, error) {
	if d.PeekKind() != '[' {
		text, err := readText(d)
		return []string{text}, err
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	var texts []string
	for d.PeekKind() != ']' {
		text, err := readText(d)
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	_, err := d.ReadToken()
	return texts, err
}

func readFlag(d *jsontext.Decoder) error {
	t, err := d.ReadToken()
	if err == nil && t.Kind() != 't' && t.Kind() != 'f' {
		err = errForm
	}
	return err
}

// readInteger accepts only digits. We write no sign, fraction or exponent.
func readInteger(d *jsontext.Decoder) (int64, error) {
	t, err := d.ReadToken()
	if err != nil {
		return 0, err
	}
	if t.Kind() != '0' {
		return 0, errForm
	}
	n, err := strconv.ParseUint(t.String(), 10, 63)
	return int64(n), err
}

// latest is the end of the year 9999. Later times cannot be formatted.
const latest = 253402300799

func readDate(d *jsontext.Decoder) (int64, error) {
	n, err := readInteger(d)
	if err == nil && n > latest {
		err = errForm
	}
	return n, err
}
