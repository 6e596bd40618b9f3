package token

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/auth-gateway/auth-gateway/keys"
)

// Claims are all claims of an access token that say who the user is and how they signed in.
type Claims struct {
	Subject, SessionID, Scope string
	Username, Email, Name     string // empty if the token has none
	Audience                  []string
	AuthTime                  time.Time
}

// VerifyClaims is VerifyAccess, and returns the claims for consumers too. The cache saves the
// verification of the signature, but not the parsing of the claims.
func (s *Service) VerifyClaims(text string) (Claims, error) {
	c, p, err := s.verifyAndRead(keys.Access, text)
	if err != nil {
		return Claims{}, err
	}
	if p.has == 0 {
		first, last, err := split(text)
		if err != nil {
			return Claims{}, err
		}
		if p, err = decodePayload(text[first+1 : last]); err != nil {
			return Claims{}, err
		}
	}
	access := c.access()
	return Claims{
		Subject: access.Subject, SessionID: access.SessionID, Scope: access.Scope,
		Username: p.username, Email: p.email, Name: p.name,
		Audience: p.audience, AuthTime: date(p.authTime),
	}, nil
}

// Verified reports whether the service remembers the token, so that VerifyClaims does not verify its signature again.
func (s *Service) Verified(text string) bool {
	set := s.set.Load()
	return set != nil && len(text) <= maxLength && set.checked.Contains(digest(text))
}

// Members returns the members of a JSON object with these names, as Access.More has them.
func Members(object string, names []string) (string, error) {
	more, _, err := Fitting(object, names, math.MaxInt)
	return more, err
}

// Fitting does the same, but leaves out each member for which no room is left, and returns the names of these. room is a
// part of Room.
func Fitting(object string, names []string, room int) (more string, left []string, err error) {
	if object == "" || object == "{}" || len(names) == 0 {
		return "", nil, nil
	}
	var of map[string]jsontext.Value
	if err := json.Unmarshal([]byte(object), &of); err != nil {
		return "", nil, fmt.Errorf("token: the object with the claims is malformed: %w", err)
	}
	w := writer{buffer: []byte{}}
	for _, name := range names {
		value, ok := of[name]
		if !ok {
			continue
		}
		before := len(w.buffer)
		w.name(name)
		w.buffer = append(w.buffer, value...)
		if len(w.buffer) > room {
			w.buffer, left = w.buffer[:before], append(left, name)
		}
	}
	return strings.TrimPrefix(string(w.buffer), "{"), left, nil
}
