package identity

import (
	"strings"
	"time"
)

// User is an account as its owner may see it.
type User struct {
	ID            string // UUID, canonical lower case; never used again once deleted
	Username      string // as given at sign-up; empty: none
	Email         string // as given
	FirstName     string
	LastName      string
	Scope         string // space-separated scope tokens (RFC 6749 section 3.3)
	EmailVerified bool   // the owner has proved that Email is theirs
	Language      string // of their mails: the Accept-Language of their sign-up; empty where it was not said
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// Name is the display name: first and last name joined.
func (u User) Name() string {
	return strings.TrimSpace(u.FirstName + " " + u.LastName)
}

// HasScope tells whether scope (space-separated) contains the token want.
func HasScope(scope, want string) bool {
	for token := range strings.FieldsSeq(scope) {
		if token == want {
			return true
		}
	}
	return false
}

// narrowScope keeps the tokens of scope that allowed still holds, in scope's
// order: a session never gains what its user was granted later, and loses at
// once what they lost (RFC 6749 section 6).
func narrowScope(scope, allowed string) string {
	if scope == allowed {
		return scope
	}
	var kept []string
	for token := range strings.FieldsSeq(scope) {
		if HasScope(allowed, token) {
			kept = append(kept, token)
		}
	}
	return strings.Join(kept, " ")
}
