package identity

import "strings"

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
