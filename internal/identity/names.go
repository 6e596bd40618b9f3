package identity

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// The longest values of an account, in the units that the comments name.
const (
	maxUsername = 64   // bytes, which are characters: usernames are ASCII
	maxEmail    = 254  // bytes; RFC 5321 section 4.5.3.1.3
	maxLocal    = 64   // bytes; RFC 5321 section 4.5.3.1.1
	maxName     = 100  // code points
	maxScope    = 1000 // bytes: a token must stay well under its own cap
)

// canonicalUsername returns the spelling that usernames are compared by, or what is wrong with s. Usernames are plain
// ASCII, so that none folds to or looks like another. They never look like an email address or an id.
func canonicalUsername(s string) (canonical string, wrong Fault) {
	switch {
	case s == "":
		return "", Fault{FieldEmpty, "is empty"}
	case len(s) > maxUsername:
		return "", Fault{FieldTooLong, "is longer than 64 characters"}
	case !isAlphanumeric(s[0]):
		return "", Fault{FieldMalformed, "must start with a letter (a-z) or a digit"}
	}
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && s[i] != '.' && s[i] != '_' && s[i] != '-' {
			return "", Fault{FieldMalformed, "may hold only letters (a-z), digits, '.', '_' and '-'"}
		}
	}
	canonical = strings.ToLower(s)
	if IsUUID(canonical) {
		return "", Fault{FieldMalformed, "must not be a UUID"}
	}
	return canonical, Fault{}
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// canonicalEmail returns the spelling that addresses are compared by, or what is wrong with s. It consists of the local
// part in lower case, which must be a dot-atom (RFC 5322 section 3.2.3) without quotes, comments or spaces, and the
// domain's A-labels (RFC 5890).
func canonicalEmail(s string) (canonical string, wrong Fault) {
	malformed := Fault{FieldMalformed, "must be an address like name@example.com"}
	tooLong := Fault{FieldTooLong, "is longer than 254 bytes"}
	at := strings.LastIndexByte(s, '@')
	switch {
	case s == "":
		return "", Fault{FieldEmpty, "is empty"}
	case len(s) > maxEmail: // before anything else is parsed
		return "", tooLong
	case at < 0:
		return "", malformed
	}
	local, domain := s[:at], s[at+1:]
	switch {
	case len(local) > maxLocal:
		return "", Fault{FieldTooLong, "has more than 64 bytes before the @"}
	case !isDotAtom(local):
		return "", malformed
	case strings.Contains(local, "=?"): // an encoded word (RFC 2047), which some mailers decode anyway
		return "", malformed
	}
	ascii, ok := asciiDomain(domain)
	if !ok {
		return "", malformed
	}
	canonical = strings.ToLower(local) + "@" + ascii
	if len(canonical) > maxEmail {
		return "", tooLong
	}
	return canonical, Fault{}
}

// checkEmail is canonicalEmail for a call whose only parameter to check is email.
func checkEmail(email string) (canonical string, err error) {
	var p problems
	canonical = p.check("email", email, canonicalEmail)
	return canonical, p.err()
}

// asciiDomain returns the A-labels of a domain (RFC 5891 section 5). Addresses are compared by them, and mail is sent
// to them. Non-ASCII text can be folded in several ways: one folding maps U+0130 to i, another to i with a dot above.
// Mail that follows one folding must not prove an address that was compared by another. So a domain is refused unless
// the registration rules, which map nothing, and the lookup rules, which map what people type, agree on its lower case.
func asciiDomain(domain string) (ascii string, ok bool) {
	ascii, err := idna.Registration.ToASCII(strings.ToLower(norm.NFC.String(domain)))
	if err != nil {
		return "", false
	}
	for _, form := range []string{domain, strings.ToLower(domain), ascii} {
		if other, err := idna.Lookup.ToASCII(form); err != nil || other != ascii {
			return "", false
		}
	}
	dot := strings.LastIndexByte(ascii, '.')
	return ascii, dot >= 0 && isTopLevel(ascii[dot+1:])
}

func isDotAtom(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" {
			return false
		}
		for i := range len(atom) {
			if !isAlphanumeric(atom[i]) && strings.IndexByte("!#$%&'*+-/=?^_`{|}~", atom[i]) < 0 {
				return false
			}
		}
	}
	return true
}

// isTopLevel reports whether label is a top-level domain, and neither empty nor the end
// of an IP address (RFC 3696 section 2).
func isTopLevel(label string) bool {
	return strings.ContainsFunc(label, func(r rune) bool { return 'a' <= r && r <= 'z' })
}

// personName returns a first or last name in normal form C and without surrounding white
// space, or what is wrong with it.
func personName(s string) (name string, wrong Fault) {
	name = strings.TrimSpace(norm.NFC.String(s))
	switch {
	case name == "":
		return "", Fault{FieldEmpty, "is empty"}
	case !utf8.ValidString(name):
		return "", Fault{FieldMalformed, "is not valid UTF-8"}
	case utf8.RuneCountInString(name) > maxName:
		return "", Fault{FieldTooLong, "is longer than 100 characters"}
	case strings.ContainsFunc(name, unprintable):
		return "", Fault{FieldMalformed, "holds control characters"}
	}
	return name, Fault{}
}

// unprintable reports whether a character can forge or hide the text around it:
// controls, line breaks and bidirectional overrides. Joiners are allowed, because names
// in some languages need them.
func unprintable(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) ||
		unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r)
}

// canonicalScope returns scope with each token once, separated by single spaces, or what
// is wrong with it (grammar: RFC 6749 section 3.3).
func canonicalScope(s string) (scope string, wrong Fault) {
	if len(s) > maxScope {
		return "", Fault{FieldTooLong, "is longer than 1000 bytes"}
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return "", Fault{FieldMalformed,
				"must be tokens of printable ASCII without quotes and backslashes, separated by spaces"}
		}
	}
	var tokens []string
	for t := range strings.FieldsSeq(s) {
		if !slices.Contains(tokens, t) {
			tokens = append(tokens, t)
		}
	}
	if len(tokens) == 0 {
		return "", Fault{FieldEmpty, "is empty"}
	}
	return strings.Join(tokens, " "), Fault{}
}

// ParseLogin distinguishes an email, which contains an @, from a username. White space
// around it comes from keyboards and clipboards and is removed. It returns false for a
// text that no account can have.
func ParseLogin(s string) (Login, bool) {
	s = strings.TrimSpace(s)
	if strings.Contains(s, "@") {
		email, wrong := canonicalEmail(s)
		return Login{CanonicalEmail: email}, wrong == Fault{}
	}
	name, wrong := canonicalUsername(s)
	return Login{CanonicalUsername: name}, wrong == Fault{}
}
