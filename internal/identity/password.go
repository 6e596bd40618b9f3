package identity

import (
	_ "embed"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const maxPassword = 256 // code points

// normalizePassword returns the form of a password that is hashed: Unicode normal form C,
// so that a password is the same from every keyboard. It trims nothing and keeps the case.
func normalizePassword(s string) string { return norm.NFC.String(s) }

// isPossiblePassword reports whether an account can have this password.
func isPossiblePassword(s string) bool {
	return s != "" && utf8.RuneCountInString(s) <= maxPassword && !strings.ContainsRune(s, 0)
}

// commonPasswords holds one password a line, in lower case, with a line break before and after each: those of at least
// eight characters among the 30,000 most common passwords in the frequency lists of zxcvbn (Dropbox, MIT).
//
//go:embed common_passwords.txt
var commonPasswords string

func isCommonPassword(s string) bool {
	return !strings.Contains(s, "\n") && strings.Contains(commonPasswords, "\n"+strings.ToLower(s)+"\n")
}
