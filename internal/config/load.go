package config

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLength bounds a value in bytes, so that a wrong file cannot fill the memory or a log line.
const maxLength = 4096

// A Problem describes an invalid setting and what to write instead. It never contains the value of a secret.
type Problem struct {
	Setting string
	Message string
}

func (p Problem) String() string { return p.Setting + ": " + p.Message }

// InvalidError lists all invalid settings, in the table's order.
type InvalidError struct{ Problems []Problem }

func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads all settings. lookup is os.LookupEnv and readFile is os.ReadFile, except in
// tests. If settings are invalid, the error is an *InvalidError.
func Load(lookup func(string) (string, bool), readFile func(string) ([]byte, error)) (Config, error) {
	return load(Config{}, lookup, readFile)
}

// LoadAdmin does the same for "authserver admin": it does not read the settings that are ServeOnly.
func LoadAdmin(lookup func(string) (string, bool), readFile func(string) ([]byte, error)) (Config, error) {
	return load(Config{AdminOnly: true}, lookup, readFile)
}

func load(c Config, lookup func(string) (string, bool), readFile func(string) ([]byte, error)) (Config, error) {
	invalid := &InvalidError{}
	refuse := func(name string, err error) {
		invalid.Problems = append(invalid.Problems, Problem{name, err.Error()})
	}
	for _, s := range table {
		if s.ServeOnly && c.AdminOnly {
			s.setDefault(&c)
			continue
		}
		value, given, err := s.read(lookup, readFile)
		if err != nil {
			refuse(s.Name, err)
			continue
		}
		if !given {
			switch {
			case s.Required:
				refuse(s.Name, fmt.Errorf("is not set: %s", s.Advice))
			case s.derive != nil:
				// A derived default is invalid only if its source is, and then the source is reported.
				_ = s.set(&c, s.derive(&c))
				if s.Name == EnvIssuer {
					c.DerivedIssuer = true
				}
			default:
				s.setDefault(&c)
			}
			continue
		}
		if err := s.set(&c, value); err != nil {
			refuse(s.Name, err)
		}
		c.MetricsPortSet = c.MetricsPortSet || s.Name == EnvMetricsPort
	}
	if len(invalid.Problems) == 0 {
		// Report contradictions only between settings that are valid on their own.
		invalid.Problems = c.contradictions()
	}
	if len(invalid.Problems) > 0 {
		return Config{}, invalid
	}
	return c, nil
}

// read returns the text of a setting, from the environment or from the file that the environment names.
func (s setting) read(
	lookup func(string) (string, bool), readFile func(string) ([]byte, error),
) (value string, given bool, err error) {
	value, given = lookup(s.Name)
	if s.Secret {
		if path, ok := lookup(s.Name + FileSuffix); ok {
			if given {
				return "", true, fmt.Errorf("both %[1]s and %[1]s%[2]s are set: set only one of them", s.Name, FileSuffix)
			}
			if path == "" {
				return "", true, fmt.Errorf("%s%s is empty: write the path of a file, or leave it unset", s.Name, FileSuffix)
			}
			content, err := readFile(path)
			if err != nil {
				return "", true, fmt.Errorf("%s%s cannot be read: %w", s.Name, FileSuffix, err)
			}
			// Editors and `echo` add a line break that is not part of the secret.
			value, given = strings.TrimRight(string(content), "\r\n"), true
		}
	}
	if !given {
		return "", false, nil
	}
	if value == "" && s.Required {
		return "", true, fmt.Errorf("is empty: %s", s.Advice)
	}
	if len(value) > maxLength {
		return "", true, fmt.Errorf("is %d bytes long: write at most %d", len(value), maxLength)
	}
	if !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
		return "", true, errors.New("contains a control character or is not UTF-8: write plain text on one line")
	}
	return value, true, nil
}

// LoadOperations reads only HOST and METRICS_PORT, for a process that queries a server
// with the same settings. The error is an *InvalidError.
func LoadOperations(lookup func(string) (string, bool)) (host string, port int, err error) {
	c := Defaults()
	invalid := &InvalidError{}
	for _, s := range table {
		if s.Name != EnvHost && s.Name != EnvMetricsPort {
			continue
		}
		value, given, err := s.read(lookup, nil)
		if err == nil && given {
			err = s.set(&c, value)
		}
		if err != nil {
			invalid.Problems = append(invalid.Problems, Problem{s.Name, err.Error()})
		}
	}
	if len(invalid.Problems) > 0 {
		return "", 0, invalid
	}
	return c.Host, c.MetricsPort, nil
}

// setDefault panics if the default is invalid, which is a mistake in the table.
func (s setting) setDefault(c *Config) {
	if s.Default == "" {
		return
	}
	if err := s.set(c, s.Default); err != nil {
		panic("config: the default of " + s.Name + ": " + err.Error())
	}
}
