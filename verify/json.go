package verify

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// encoding/json uses the last of two duplicate members, accepts "SUB" for "sub", and repairs invalid UTF-8. Another
// reader could then see another token. This scanner refuses all three, and it does not allocate.

// scanner reads strict JSON (RFC 8259). After an error it stays at the end, and bad is set.
type scanner struct {
	data string
	at   int
	bad  bool
}

// maxDepth limits how deeply values are nested.
const maxDepth = 16

func (s *scanner) fail() { s.bad, s.at = true, len(s.data) }

// peek skips white space and returns the next byte, or 0 at the end.
func (s *scanner) peek() byte {
	for ; s.at < len(s.data); s.at++ {
		switch c := s.data[s.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) expect(c byte) {
	if s.peek() != c {
		s.fail()
		return
	}
	s.at++
}

// next reports whether another element follows in an array or object of which n were read, and consumes the comma or
// the closing bracket.
func (s *scanner) next(n int, closing byte) bool {
	switch c := s.peek(); {
	case s.bad:
	case c == closing:
		s.at++
	case n == 0:
		return true
	case c == ',':
		s.at++
		return true
	default:
		s.fail()
	}
	return false
}

// end fails unless only white space is left.
func (s *scanner) end() {
	if s.peek(); s.at < len(s.data) {
		s.fail()
	}
}

// name reads the name of a member and its colon.
func (s *scanner) name() string {
	name := s.text()
	s.expect(':')
	return name
}

// text reads a string. Without escapes the result shares the memory of the data.
func (s *scanner) text() string {
	s.expect('"')
	start, ascii := s.at, true
	for ; s.at < len(s.data); s.at++ {
		switch c := s.data[s.at]; {
		case c == '"':
			text := s.data[start:s.at]
			if !ascii && !utf8.ValidString(text) {
				break
			}
			s.at++
			return text
		case c == '\\':
			return s.escaped(start)
		case c < ' ':
			s.fail()
			return ""
		case c >= utf8.RuneSelf:
			ascii = false
			continue
		default:
			continue
		}
		break
	}
	s.fail()
	return ""
}

var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// escaped reads the rest of a string that has an escape.
func (s *scanner) escaped(start int) string {
	text := []byte(s.data[start:s.at])
	for s.at < len(s.data) {
		c := s.data[s.at]
		s.at++
		switch {
		case c == '"':
			if !utf8.Valid(text) {
				s.fail()
				return ""
			}
			return string(text)
		case c < ' ':
			s.fail()
			return ""
		case c != '\\':
			text = append(text, c)
		case s.at == len(s.data):
			s.fail()
			return ""
		case s.data[s.at] == 'u':
			s.at--
			text = utf8.AppendRune(text, s.rune())
		case escapes[s.data[s.at]] != 0:
			text = append(text, escapes[s.data[s.at]])
			s.at++
		default:
			s.fail()
			return ""
		}
	}
	s.fail()
	return ""
}

// rune reads \uXXXX, or a surrogate pair of two.
func (s *scanner) rune() rune {
	r := s.unit()
	if !utf16.IsSurrogate(r) {
		return r
	}
	pair := utf16.DecodeRune(r, s.unit())
	if pair == utf8.RuneError {
		s.fail()
	}
	return pair
}

func (s *scanner) unit() rune {
	if len(s.data)-s.at < 6 || s.data[s.at] != '\\' || s.data[s.at+1] != 'u' {
		s.fail()
		return 0
	}
	n, err := strconv.ParseUint(s.data[s.at+2:s.at+6], 16, 16)
	if err != nil {
		s.fail()
		return 0
	}
	s.at += 6
	return rune(n)
}

// latest is the end of the year 9999. Later times cannot be formatted.
const latest = 253402300799

// date reads a NumericDate. The gateway writes whole seconds, so a sign, a fraction and an exponent are refused.
func (s *scanner) date() int64 {
	s.peek()
	n, start := int64(0), s.at
	for ; s.at < len(s.data) && '0' <= s.data[s.at] && s.data[s.at] <= '9'; s.at++ {
		n = n*10 + int64(s.data[s.at]-'0')
		if n > 1000*latest { // milliseconds are recognised, to name the mistake
			s.fail()
			return 0
		}
	}
	if digits := s.at - start; digits == 0 || digits > 1 && s.data[start] == '0' {
		s.fail()
	}
	switch s.peek() {
	case ',', '}': // a NumericDate is a member
	default:
		s.fail()
	}
	return n
}

func (s *scanner) flag() bool {
	if s.peek() == 't' {
		s.literal("true")
		return true
	}
	s.literal("false")
	return false
}

func (s *scanner) literal(word string) {
	if !strings.HasPrefix(s.data[s.at:], word) {
		s.fail()
		return
	}
	s.at += len(word)
}

// skip reads any value and checks it.
func (s *scanner) skip(depth int) {
	switch c := s.peek(); {
	case depth > maxDepth:
		s.fail()
	case c == '"':
		s.text()
	case c == '{':
		s.at++
		var names []string
		for n := 0; s.next(n, '}'); n++ {
			name := s.name()
			for _, other := range names {
				if name == other {
					s.fail()
				}
			}
			names = append(names, name)
			s.skip(depth + 1)
		}
	case c == '[':
		s.at++
		for n := 0; s.next(n, ']'); n++ {
			s.skip(depth + 1)
		}
	case c == 't':
		s.literal("true")
	case c == 'f':
		s.literal("false")
	case c == 'n':
		s.literal("null")
	default:
		s.number()
	}
}

// number reads a number (RFC 8259, section 6).
func (s *scanner) number() {
	s.optional("-")
	if !s.optional("0") && !s.digits() {
		s.fail()
	}
	if s.optional(".") && !s.digits() {
		s.fail()
	}
	if s.optional("eE") {
		s.optional("+-")
		if !s.digits() {
			s.fail()
		}
	}
}

// optional consumes one of some bytes.
func (s *scanner) optional(some string) bool {
	if s.at < len(s.data) && strings.IndexByte(some, s.data[s.at]) >= 0 {
		s.at++
		return true
	}
	return false
}

func (s *scanner) digits() bool {
	start := s.at
	for s.optional("0123456789") {
	}
	return s.at > start
}
