package config

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
)

// redacted is what a secret shows to whoever prints it.
const redacted = "[redacted]"

// A Secret is text that must not be seen: it prints, logs and marshals as
// "[redacted]", and only Reveal gives it.
//
// The text lies behind a pointer, because package fmt does not call the
// methods of unexported fields: a struct that holds a Config in one and is
// printed with %+v would show a plain string.
type Secret struct{ text *string }

// NewSecret makes a Secret of text. An empty text is the zero Secret.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal gives the text itself.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.text == nil }

// Equal compares two secrets in a time that does not depend on where they
// differ.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// Format makes every verb print what String does; %d of a plain Stringer
// would not.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// GoString is what %#v prints.
func (s Secret) GoString() string { return s.String() }

// MarshalText is for encoders, encoding/json among them.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue is for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
