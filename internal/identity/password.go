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
	maxBcryptInput = 72  // bytes; bcrypt ignores all beyond
	// condensedMark stands before a bcrypt hash that was made of the condensed
	// password, so that the two kinds can never be taken for one another.
	condensedMark = "$sha384"
)

// normalizePassword gives the one form of a password that is hashed: Unicode
// normal form C, so that the same password typed on another keyboard is the
// same. Nothing is trimmed and no case is changed.
func normalizePassword(s string) string { return norm.NFC.String(s) }

// isPossiblePassword tells whether any account can have this password.
func isPossiblePassword(s string) bool {
	return s != "" && utf8.RuneCountInString(s) <= maxPassword && !strings.ContainsRune(s, 0)
}

// commonPasswords holds one a line, in lower case, with a line break before and
// after each: those of eight characters and more among the 30,000 most common
// in the frequency lists of zxcvbn (Dropbox, MIT).
//
//go:embed common_passwords.txt
var commonPasswords string

func isCommonPassword(s string) bool {
	return !strings.Contains(s, "\n") && strings.Contains(commonPasswords, "\n"+strings.ToLower(s)+"\n")
}

// condense makes what bcrypt can take of a longer password, so that every byte
// of it counts. Base64, since bcrypt would stop at a NUL.
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

// comparePassword tells whether hash is that of password, and whether it was
// made at another cost than the one given. An empty hash is that of nobody: the
// work is done all the same.
func comparePassword(hash, password string, cost int) (right, outdated bool, err error) {
	input, condensed := condense(password)
	plain, marked := strings.CutPrefix(hash, condensedMark)
	if hash == "" {
		plain = nobodysHash(cost)
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

// nobodysHash is a well-formed hash that no password is known to have: salt and
// digest are constants. Comparing with it takes as long as with any other.
func nobodysHash(cost int) string {
	return fmt.Sprintf("$2a$%02d$%s", cost, "N0b0dyHasThisSaltOrDiges.uQ7mVh5r1cXo2YtLwPz8KdEfGa3B")
}
