package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// A field gets and sets one field of a Config as text.
type field struct {
	set    func(*Config, string) error
	get    func(*Config) string
	isZero func(*Config) bool
}

// A parser converts text to a value and back. Errors of parse say what to write instead, and never repeat a secret.
type parser[T any] struct {
	parse  func(string) (T, error)
	format func(T) string
}

func bind[T any](at func(*Config) *T, k parser[T]) field {
	return field{
		set: func(c *Config, s string) error {
			v, err := k.parse(s)
			if err != nil {
				return err
			}
			*at(c) = v
			return nil
		},
		get:    func(c *Config) string { return k.format(*at(c)) },
		isZero: func(c *Config) bool { return reflect.ValueOf(at(c)).Elem().IsZero() },
	}
}

func integer(low, high int) parser[int] {
	return parser[int]{
		parse: func(s string) (int, error) {
			n, err := strconv.Atoi(s)
			if err != nil && !errors.Is(err, strconv.ErrRange) {
				return 0, fmt.Errorf("%s is not a whole number: write one from %d to %d", quote(s), low, high)
			}
			if err != nil || n < low || n > high {
				return 0, fmt.Errorf("%s is out of range: write a number from %d to %d", quote(s), low, high)
			}
			return n, nil
		},
		format: strconv.Itoa,
	}
}

func oneOf[T ~string](values ...T) parser[T] {
	return parser[T]{
		parse: func(s string) (T, error) {
			if !slices.Contains(values, T(s)) {
				return "", fmt.Errorf("%s is not a valid value: write %s", quote(s), alternatives(values))
			}
			return T(s), nil
		},
		format: func(v T) string { return string(v) },
	}
}

func alternatives[T ~string](values []T) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = string(v)
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

var onOff = parser[bool]{
	parse: func(s string) (bool, error) {
		v, err := oneOf("on", "off").parse(s)
		return v == "on", err
	},
	format: func(on bool) string {
		if on {
			return "on"
		}
		return "off"
	},
}

var logLevel = parser[slog.Level]{
	// slog's own parser also accepts INFO+3.
	parse: func(s string) (level slog.Level, err error) {
		if _, err = oneOf("debug", "info", "warn", "error").parse(s); err == nil {
			err = level.UnmarshalText([]byte(s))
		}
		return level, err
	},
	format: func(l slog.Level) string { return strings.ToLower(l.String()) },
}

// textThat is text that passes a check.
func textThat(check func(string) error) parser[string] {
	return parser[string]{parse: func(s string) (string, error) { return s, check(s) }, format: asIs}
}

func asIs(s string) string { return s }

var text = textThat(func(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	return nil
})

// serviceName is short because the subjects of emails contain it.
var serviceName = textThat(func(s string) error {
	if s == "" || len(s) > maxServiceName || strings.TrimSpace(s) != s {
		return fmt.Errorf("write one line of at most %d bytes, such as Example Shop", maxServiceName)
	}
	return nil
})

// clientID is a client identifier (RFC 6749, appendix A.1), without spaces.
var clientID = textThat(func(s string) error {
	if s == "" || len(s) > maxClientID || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fmt.Errorf("write at most %d ASCII characters without spaces, such as shop", maxClientID)
	}
	return nil
})

// gatewayPath is a namespace and the name of an AuthGateway in it.
var gatewayPath = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)

var gatewayName = textThat(func(s string) error {
	if !gatewayPath.MatchString(s) {
		return fmt.Errorf("%s is not the name of an AuthGateway: write NAMESPACE/NAME, such as shop/auth", quote(s))
	}
	return nil
})

// optional also accepts the empty text, which is the zero value.
func optional[T any](k parser[T]) parser[T] {
	parse := k.parse
	k.parse = func(s string) (value T, err error) {
		if s != "" {
			value, err = parse(s)
		}
		return value, err
	}
	return k
}

// secret is text of at least so many bytes. If least is 0, it may be empty.
func secret(least int) parser[Secret] {
	return parser[Secret]{
		parse: func(s string) (Secret, error) {
			if len(s) < least {
				return Secret{}, fmt.Errorf("has %d bytes: write %d or more, such as the output of `openssl rand -base64 24`, or leave it unset",
					len(s), least)
			}
			return NewSecret(s), nil
		},
		format: Secret.Reveal,
	}
}

// commaSeparated parses a list of distinct names. check validates one of them.
func commaSeparated(check func(string) error) parser[[]string] {
	return parser[[]string]{
		parse: func(s string) ([]string, error) {
			list := strings.Split(s, ",")
			for i := range list {
				list[i] = strings.TrimSpace(list[i])
				if list[i] == "" {
					return nil, fmt.Errorf("%s has an empty entry: write names separated by single commas", quote(s))
				}
				if err := check(list[i]); err != nil {
					return nil, err
				}
				if slices.Contains(list[:i], list[i]) {
					return nil, fmt.Errorf("%s is listed twice: write it once", quote(list[i]))
				}
			}
			return list, nil
		},
		format: func(list []string) string { return strings.Join(list, ",") },
	}
}

var audiences = commaSeparated(func(s string) error {
	if strings.ContainsFunc(s, unicode.IsSpace) {
		return fmt.Errorf("%s contains a space: separate names by commas", quote(s))
	}
	return nil
})

const noNames = "none"

// signUpNames parses the names that sign-up requires, or none.
var signUpNames = func() parser[[]string] {
	names := []string{"username", "first_name", "last_name"}
	k := commaSeparated(func(s string) error {
		if !slices.Contains(names, s) {
			return fmt.Errorf("%s is not a valid value: write %s, or only %s", quote(s), alternatives(names), noNames)
		}
		return nil
	})
	parse, format := k.parse, k.format
	k.parse = func(s string) ([]string, error) {
		switch s {
		case noNames:
			return []string{}, nil
		case "":
			return nil, fmt.Errorf("is empty: write %s, or %s if none of them is required", strings.Join(names, ","), noNames)
		}
		return parse(s)
	}
	k.format = func(list []string) string { return cmp.Or(format(list), noNames) }
	return k
}()

// sizeUnits are in the order in which size formats them.
var sizeUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// size parses a number of bytes with a unit. Empty means 0, for a default that is computed later.
func size(low, high int64) parser[int64] {
	format := func(n int64) string {
		for _, unit := range sizeUnits {
			if n != 0 && n%unit.bytes == 0 {
				return strconv.FormatInt(n/unit.bytes, 10) + unit.name
			}
		}
		if n == 0 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	return optional(parser[int64]{
		parse: func(s string) (int64, error) {
			number, factor := s, int64(1)
			for _, unit := range sizeUnits {
				if before, found := strings.CutSuffix(s, unit.name); found {
					number, factor = before, unit.bytes
				}
			}
			n, err := strconv.ParseInt(number, 10, 64)
			if err != nil && !errors.Is(err, strconv.ErrRange) {
				return 0, fmt.Errorf("%s is not a size: write a number with KiB, MiB or GiB, such as 64MiB", quote(s))
			}
			if err != nil || n < low/factor || n > high/factor {
				return 0, fmt.Errorf("%s is out of range: write a size from %s to %s", quote(s), format(low), format(high))
			}
			return n * factor, nil
		},
		format: format,
	})
}

// scopeToken is the grammar of RFC 6749, section 3.3.
var scopeToken = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]+$`)

var scopes = parser[[]string]{
	parse: func(s string) ([]string, error) {
		list := strings.Fields(s)
		if len(list) == 0 {
			return nil, errors.New("is empty: write scopes separated by spaces, such as profile email")
		}
		for i, scope := range list {
			if !scopeToken.MatchString(scope) {
				return nil, fmt.Errorf("%s is not a scope: write ASCII without spaces, quotes or backslashes", quote(scope))
			}
			if slices.Contains(list[:i], scope) {
				return nil, fmt.Errorf("%s is listed twice: write it once", quote(scope))
			}
		}
		return list, nil
	},
	format: func(list []string) string { return strings.Join(list, " ") },
}

// quote formats a value for a message. It shortens a long one.
func quote(s string) string {
	const enough = 60
	if len(s) > enough {
		s = strings.ToValidUTF8(s[:enough], "") + "…"
	}
	return strconv.Quote(s)
}
