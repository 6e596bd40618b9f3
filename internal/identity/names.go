package identity

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// Limits of what an account is made of, in the units that the comments name.
const (
	maxUsername = 64   // bytes, which are characters: usernames are ASCII
	maxEmail    = 254  // bytes; RFC 5321 section 4.5.3.1.3
	maxLocal    = 64   // bytes; RFC 5321 section 4.5.3.1.1
	maxName     = 100  // code points
	maxScope    = 1000 // bytes: a token must stay well under its own cap
)

// canonicalUsername gives the spelling that usernames are compared by, or what
// is wrong with s. Usernames are plain ASCII, so that nothing folds to, or
// looks like, someone else's; and never look like an email address or an id.
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

// canonicalEmail gives the spelling that addresses are compared by, or what is
// wrong with s: a local part that is a dot-atom of RFC 5322 (section 3.2.3) and
// so has no quotes, comments or spaces, in lower case, and the domain's A-labels
// (RFC 5890).
func canonicalEmail(s string) (canonical string, wrong Fault) {
	malformed := Fault{FieldMalformed, "must be an address like name@example.com"}
	tooLong := Fault{FieldTooLong, "is longer than 254 bytes"}
	at := strings.LastIndexByte(s, '@')
	switch {
	case s == "":
		return "", Fault{FieldEmpty, "is empty"}
	case len(s) > maxEmail: // before anything else is looked at
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
	case strings.Contains(local, "=?"): // an encoded word (RFC 2047), which some mailers decode all the same
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

// asciiDomain gives the A-labels of a domain (RFC 5891 section 5), which addresses are
// compared by, and which mail is sent to. There are several foldings of what is not
// ASCII, and mail that follows one of them must not prove what was compared by
// another: U+0130 is an i to one, and i with a dot above to another. So a domain is
// refused unless the registration rules, which map nothing, agree on its lower case with the
// rules for looking it up, which map what people type.
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

// isTopLevel tells a top-level domain from the end of an IP address (RFC 3696
// section 2), or from nothing.
func isTopLevel(label string) bool {
	return strings.ContainsFunc(label, func(r rune) bool { return 'a' <= r && r <= 'z' })
}

// personName gives a first or last name in normal form C, without white space
// around it, or what is wrong with it.
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

// unprintable tells of characters that can forge or hide text around them:
// controls, line breaks and bidirectional overrides. Joiners stay: some
// languages' names need them.
func unprintable(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) ||
		unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r)
}

// canonicalScope gives scope with each token once, separated by single spaces,
// or what is wrong with it (grammar: RFC 6749 section 3.3).
func canonicalScope(s string) (scope string, wrong Fault) {
	if len(s) > maxScope {
		return "", Fault{FieldTooLong, "is longer than 1000 bytes"}
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return "", Fault{FieldMalformed, "must be tokens of printable ASCII without quotes and backslashes, separated by spaces"}
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

// parseLogin tells a username from an email: only the latter has an @. White space
// around it comes from keyboards and clipboards, and is no part of either. What is
// neither names no account.
func parseLogin(s string) (Login, bool) {
	s = strings.TrimSpace(s)
	if strings.Contains(s, "@") {
		email, wrong := canonicalEmail(s)
		return Login{CanonicalEmail: email}, wrong == Fault{}
	}
	name, wrong := canonicalUsername(s)
	return Login{CanonicalUsername: name}, wrong == Fault{}
}
