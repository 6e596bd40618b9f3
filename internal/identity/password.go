package identity

import (
	"crypto/sha512"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"
)

const (
	maxPassword    = 256 // code points
	maxBcryptInput = 72  // bytes; bcrypt ignores the rest
	// condensedMark marks the bcrypt hash of a condensed password, so that it is never compared with a plain one.
	condensedMark = "$sha384"
)

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

// condense shortens a password that is too long for bcrypt to a digest, so that every byte
// counts. The digest is in Base64, because bcrypt would stop at a NUL.
func condense(password string) (input []byte, condensed bool) {
	if len(password) <= maxBcryptInput {
		return []byte(password), false
	}
	sum := sha512.Sum384([]byte(password))
	return []byte(base64.StdEncoding.EncodeToString(sum[:])), true
}

func hashPassword(password string, cost int) (string, error) {
	input, condensed := condense(password)
	hash, err := bcrypt.GenerateFromPassword(input, cost)
	if err != nil {
		return "", fmt.Errorf("hash a password: %w", err)
	}
	if condensed {
		return condensedMark + string(hash), nil
	}
	return string(hash), nil
}

// comparePassword reports whether hash is the hash of password, and whether it has another
// cost. An empty hash matches no password, after the same work.
func comparePassword(hash, password string, cost int) (right, outdated bool, err error) {
	input, condensed := condense(password)
	plain, marked := strings.CutPrefix(hash, condensedMark)
	if hash == "" {
		plain = placeholderHash(cost)
	}
	err = bcrypt.CompareHashAndPassword([]byte(plain), input)
	switch {
	case errors.Is(err, bcrypt.ErrMismatchedHashAndPassword):
		return false, false, nil
	case err != nil:
		return false, false, fmt.Errorf("compare a password: %w", err)
	}
	was, err := bcrypt.Cost([]byte(plain))
	return hash != "" && marked == condensed, was != cost, err
}

// placeholderHash returns a well-formed hash of no known password: its salt and digest are
// constants. A comparison with it takes as long as with any other hash.
func placeholderHash(cost int) string {
	return fmt.Sprintf("$2a$%02d$%s", cost, "N0b0dyHasThisSaltOrDiges.uQ7mVh5r1cXo2YtLwPz8KdEfGa3B")
}
