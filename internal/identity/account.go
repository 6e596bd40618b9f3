package identity

import (
	"strings"
	"time"
)

// User is an account as its owner sees it.
type User struct {
	ID            string // UUID, canonical lower case; never reused after deletion
	Username      string // as given at sign-up; empty: none
	Email         string // as given
	FirstName     string
	LastName      string
	Scope         string // space-separated scope tokens (RFC 6749 section 3.3)
	EmailVerified bool   // the owner has proved that the address is theirs
	Language      string // of mails: the Accept-Language of the sign-up; empty: unknown
	CreatedAt     time.Time
	UpdatedAt     time.Time

	// Administrators set these.
	Roles    string // space-separated, in the form of a scope (RFC 9068 section 2.2.3.1)
	Metadata string // a JSON object; {} if it has no members
}

// Name returns the display name: first and last name joined.
func (u User) Name() string {
	return strings.TrimSpace(u.FirstName + " " + u.LastName)
}

// HasScope reports whether scope (space-separated) contains the token want.
func HasScope(scope, want string) bool {
	for token := range strings.FieldsSeq(scope) {
		if token == want {
			return true
		}
	}
	return false
}

// narrowScope returns the tokens of scope that allowed contains, in scope's order. A session never gains a scope that
// its user was granted later, and loses at once one that was revoked (RFC 6749 section 6).
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
