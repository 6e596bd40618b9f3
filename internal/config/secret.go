package config

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
)

// redacted is the printed form of a secret.
const redacted = "[redacted]"

// A Secret is text that must not be printed: it prints, logs and marshals as
// "[redacted]". Only Reveal returns the text.
//
// The text is behind a pointer because package fmt does not call the methods of unexported fields: %+v of a struct with
// a Config in an unexported field would print a plain string.
type Secret struct{ text *string }

// NewSecret returns a Secret. An empty text is the zero Secret.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.text == nil }

// Equal compares two secrets in constant time.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// Format makes every verb print the result of String. %d would ignore a plain Stringer.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// GoString implements fmt.GoStringer, for %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText implements encoding.TextMarshaler, which encoding/json uses.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
