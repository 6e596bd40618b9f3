package rbac

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// claims are what a token says about itself. They are not verified: they only explain a refusal, and can only
// shorten how long a decision is remembered.
type claims struct {
	Audience audience `json:"aud"`
	Expiry   float64  `json:"exp"`
}

// audience is one string or a list (RFC 7519 section 4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(a))
}

// claimsOf returns the claims of a token, or none if it is not a JWT.
func claimsOf(token string) (c claims) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &c) != nil {
		return claims{}
	}
	return c
}

// expiry returns when a token expires, or zero if it does not say.
func (c claims) expiry() time.Time {
	const last = 1 << 40 // seconds; beyond it, a time.Time overflows sooner or later
	if c.Expiry <= 0 || c.Expiry > last {
		return time.Time{}
	}
	return time.Unix(int64(c.Expiry), 0)
}

// whyNot returns what is probably wrong with a token that the cluster does not accept.
func (c claims) whyNot(now time.Time, wanted string) string {
	switch expiry := c.expiry(); {
	case len(c.Audience) > 0 && !slices.Contains(c.Audience, wanted):
		return fmt.Sprintf("the token is for another audience: create one with kubectl create token NAME --audience=%s", wanted)
	case !expiry.IsZero() && !now.Before(expiry):
		return "the token has expired: create another one"
	}
	return "the cluster does not know this token"
}
