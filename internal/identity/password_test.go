package identity

import (
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const testCost = bcrypt.MinCost

func mustHash(t *testing.T, password string) string {
	t.Helper()
	hash := testenv.Must(hashPassword(password, testCost))(t)
	return hash
}

func isRight(t *testing.T, hash, password string) bool {
	t.Helper()
	right, _, err := comparePassword(hash, password, testCost)
	if err != nil {
		t.Fatal(err)
	}
	return right
}

func TestPasswordIsHashedInFull(t *testing.T) {
	for _, length := range []int{8, 71, 72, 73, 256} {
		t.Run(fmt.Sprint(length, " bytes"), func(t *testing.T) {
			password := strings.Repeat("p", length)
			hash := mustHash(t, password)
			if !isRight(t, hash, password) {
				t.Fatal("the password does not match its hash")
			}
			for what, other := range map[string]string{
				"another last byte":  password[:length-1] + "q",
				"another first byte": "q" + password[1:],
				"a byte less":        password[:length-1],
				"a byte more":        password + "p",
			} {
				if isRight(t, hash, other) {
					t.Error("the hash matches a password with ", what)
				}
			}
		})
	}
	t.Run("64 characters of four bytes", func(t *testing.T) {
		password := strings.Repeat("😀", 64)
		hash := mustHash(t, password)
		if !isRight(t, hash, password) || isRight(t, hash, strings.Repeat("😀", 63)+"😁") {
			t.Error("the 256th byte is ignored")
		}
	})
}

func TestPasswordThatIsCondensedMatchesNoPlainOne(t *testing.T) {
	long := strings.Repeat("long ", 20)
	sum := sha512.Sum384([]byte(long))
	digest := base64.StdEncoding.EncodeToString(sum[:]) // the 64 bytes that bcrypt hashes instead of the password
	if hash := mustHash(t, long); isRight(t, hash, digest) {
		t.Error("the digest matches the hash of the long password")
	}
	if hash := mustHash(t, digest); isRight(t, hash, long) {
		t.Error("the long password matches the hash of its digest")
	}
	if isRight(t, mustHash(t, condensedMark+digest), long) {
		t.Error("a mark in a password is mistaken for the mark of a hash")
	}
	if hash := mustHash(t, long); !strings.HasPrefix(hash, condensedMark+"$2a$") || strings.HasPrefix(mustHash(t,
		"short one"), condensedMark) {
		t.Error("the hash of a condensed password lacks the mark, or another hash has it")
	}
}

func TestPasswordHashOfAnotherCostIsOutdated(t *testing.T) {
	for _, password := range []string{"short one", strings.Repeat("long ", 20)} {
		hash := mustHash(t, password)
		for cost, want := range map[int]bool{testCost: false, testCost + 1: true} {
			right, outdated, err := comparePassword(hash, password, cost)
			if err != nil || !right || outdated != want {
				t.Errorf("at cost %d: right %v, outdated %v, %v; want outdated %v", cost, right, outdated, err, want)
			}
		}
	}
}

func TestPasswordPlaceholderHashCostsWhatOthersDo(t *testing.T) {
	for cost := 4; cost <= 15; cost++ {
		hash := placeholderHash(cost)
		if got, err := bcrypt.Cost([]byte(hash)); got != cost || err != nil {
			t.Errorf("the placeholder for cost %d has cost %d: %v", cost, got, err)
		}
		if len(hash) != len(mustHash(t, "anything")) {
			t.Errorf("the placeholder for cost %d has %d bytes", cost, len(hash))
		}
	}
	for cost := 4; cost <= 7; cost++ { // at higher costs only the duration differs
		// A mismatch shows that bcrypt decoded salt and digest and did the work. For a
		// malformed hash it returns another error at once.
		if err := bcrypt.CompareHashAndPassword([]byte(placeholderHash(cost)), []byte("x")); !errors.Is(err,
			bcrypt.ErrMismatchedHashAndPassword) {
			t.Errorf("the placeholder for cost %d cannot be compared: %v", cost, err)
		}
	}
	// The placeholder has the requested cost, so an invalid cost is an error.
	if _, _, err := comparePassword("", "x", bcrypt.MaxCost+1); err == nil {
		t.Error("a comparison without a hash ignores the requested cost")
	}
	for _, password := range []string{"", "anything", strings.Repeat("long ", 20)} {
		if isRight(t, "", password) {
			t.Errorf("%q matches although there is no account", password)
		}
	}
}

func TestPasswordHashThatIsMalformedIsAFault(t *testing.T) {
	for _, hash := range []string{"x", condensedMark, "$2a$04$short", strings.Replace(placeholderHash(4), "$2a", "$9z", 1)} {
		if right, _, err := comparePassword(hash, "anything", testCost); right || err == nil {
			t.Errorf("%q: right %v, %v", hash, right, err)
		}
	}
}

func TestPasswordIsCommonInAnyCase(t *testing.T) {
	for _, p := range []string{"password", "PassWord", "12345678", "iloveyou", "!qaz2wsx", "trustno1", "zzzzzzz1"} {
		if !isCommonPassword(p) {
			t.Errorf("%q is not recognized as common", p)
		}
	}
	for _, p := range []string{"", "\n", "password\n12345678", "correct horse battery", "passwor"} {
		if isCommonPassword(p) {
			t.Errorf("%q is mistaken for a common password", p)
		}
	}
	if !strings.HasPrefix(commonPasswords, "\n") || !strings.HasSuffix(commonPasswords, "\n") {
		t.Error("the list lacks the line break at its beginning or end, so its first or last password is not found")
	}
	for line := range strings.Lines(strings.TrimPrefix(commonPasswords, "\n")) {
		if p := strings.TrimSuffix(line, "\n"); p != strings.ToLower(p) || p != normalizePassword(p) {
			t.Errorf("%q can never match", p)
		}
	}
}
