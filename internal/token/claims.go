package token

import (
	"time"

	"github.com/go-json-experiment/json"
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
	access, err := s.VerifyAccess(text)
	if err != nil {
		return Claims{}, err
	}
	first, last, err := split(text)
	if err != nil {
		return Claims{}, err
	}
	payload, err := strict.DecodeString(text[first+1 : last])
	if err != nil {
		return Claims{}, invalid("the payload is not base64url")
	}
	p, err := parsePayload(payload)
	if err != nil {
		return Claims{}, invalid("the claims are malformed")
	}
	var shown struct {
		Username string `json:"username"`
		Email    string `json:"email"`
		Name     string `json:"name"`
		AuthTime int64  `json:"auth_time"`
	}
	if err := json.Unmarshal(payload, &shown); err != nil {
		return Claims{}, invalid("the claims are malformed")
	}
	return Claims{
		Subject: access.Subject, SessionID: access.SessionID, Scope: access.Scope,
		Username: shown.Username, Email: shown.Email, Name: shown.Name,
		Audience: p.audience, AuthTime: date(shown.AuthTime),
	}, nil
}
