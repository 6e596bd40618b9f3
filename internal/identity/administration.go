package identity

import (
	"context"
	"crypto/rand"
	"strings"
)

// AccountUpdate holds what an administrator changes of an account; nil fields stay.
type AccountUpdate struct {
	FirstName, LastName *string
	Scope               *string // may be empty: the account has none
	Roles               *string // separated by spaces; may be empty
}

// Check brings the values into canonical form. The error names every one that is wrong.
func (u *AccountUpdate) Check(optional OptionalNames) error {
	var p problems
	for _, field := range []struct {
		name      string
		value     **string
		canonical func(string) (string, Fault)
	}{
		{"first_name", &u.FirstName, orNone(optional.FirstName, personName)},
		{"last_name", &u.LastName, orNone(optional.LastName, personName)},
		{"scope", &u.Scope, orNone(true, canonicalScope)},
		{"roles", &u.Roles, orNone(true, canonicalScope)},
	} {
		if *field.value != nil {
			*field.value = new(p.check(field.name, **field.value, field.canonical))
		}
	}
	return p.err()
}

// IsRole reports whether a text can be a role: a token as in a scope.
func IsRole(s string) bool {
	role, wrong := canonicalScope(s)
	return wrong == (Fault{}) && role == s && !strings.Contains(s, " ")
}

// NewAccount checks an account that an administrator makes, and hashes its password. Without a password, none will match.
// An administrator chooses the scope freely; empty is the policy's.
func (s *Service) NewAccount(ctx context.Context, in SignUp) (NewSignUp, error) {
	scope := in.Scope
	in.Scope = ""
	invited := in.Password == ""
	if invited {
		in.Password = unusablePassword()
	}
	n, password, p := s.newSignUp(in)
	if scope != "" {
		n.Scope = p.check("scope", scope, canonicalScope)
	}
	if err := p.err(); err != nil {
		return NewSignUp{}, err
	}
	var err error
	n.PasswordHash, err = s.hasher.Hash(ctx, password)
	return n, err
}

// UnusableHash returns the hash of a password that is not known.
func (s *Service) UnusableHash(ctx context.Context) (string, error) {
	return s.hasher.Hash(ctx, unusablePassword())
}

// unusablePassword returns a password that passes every check. Its hash takes as long to compare as any.
func unusablePassword() string { return rand.Text() + rand.Text() + rand.Text() }
