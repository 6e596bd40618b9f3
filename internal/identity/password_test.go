package identity

import (
	"strings"
	"testing"
)

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
