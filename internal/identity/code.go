package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"strings"
	"time"
	"unicode"
)

// codeLength is what rand.Text gives: 26 characters of base32, 130 bits.
const codeLength = 26

// newCode makes a one-time code: its text, for whoever may see it, and what the
// store keeps. rand.Text never fails and never repeats itself predictably: the
// process ends before that.
func newCode(p Purpose, ttl time.Duration) (text string, c NewCode) {
	text = rand.Text()
	return text, NewCode{Purpose: p, Hash: sha256.Sum256([]byte(text)), TTL: ttl}
}

// maxTypedCode bounds, in bytes, a code as people type and paste it.
const maxTypedCode = 200

// hashCode returns what a presented code is looked up by. People type codes, and copy
// them out of mails, where they stand in groups: upper and lower case are the same,
// and spaces, line breaks and hyphens make no difference, whichever character a mail
// program has put in their place. What has another length then is not a code.
func hashCode(text string) (h CodeHash, ok bool) {
	if len(text) > maxTypedCode {
		return CodeHash{}, false
	}
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r), unicode.Is(unicode.Pd, r), unicode.Is(unicode.Cf, r): // Cf: soft hyphen, zero width space
			return -1
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		}
		return r
	}, text)
	if len(text) != codeLength {
		return CodeHash{}, false
	}
	return sha256.Sum256([]byte(text)), true
}

func purposeAttr(p Purpose) slog.Attr { return slog.String("purpose", string(p)) }

// codeTTL is how long a code lives.
func (s *Service) codeTTL(p Purpose) time.Duration {
	if p == Verification {
		return s.policy.VerificationTTL
	}
	return s.policy.RecoveryTTL
}
