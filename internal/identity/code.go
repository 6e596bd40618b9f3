package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"strings"
	"time"
	"unicode"
)

// codeLength is the length of rand.Text: 26 characters of base32, 130 bits.
const codeLength = 26

// newCode makes a one-time code: its text, and what the Store keeps of it. rand.Text
// never returns predictable text: if the system has no randomness, the process ends.
func newCode(p Purpose, ttl time.Duration) (text string, c NewCode) {
	text = rand.Text()
	return text, NewCode{Purpose: p, Hash: sha256.Sum256([]byte(text)), TTL: ttl}
}

// maxTypedCode bounds, in bytes, a code as people type or paste it.
const maxTypedCode = 200

// hashCode returns the hash that a presented code is looked up by. People type codes and copy them from mails, which
// show them in groups. So case does not matter, and spaces, line breaks and hyphens are ignored, whichever character a
// mail program uses for them. ok is false if what remains does not have the length of a code.
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

// mailedTTL returns the lifetime of a code that a mail of this kind brings, or that is in a reply instead of it.
func (s *Service) mailedTTL(about MessagePurpose, p Purpose) time.Duration {
	if about == MailInvitation {
		return s.policy.InvitationTTL
	}
	return s.codeTTL(p)
}

// codeTTL returns the lifetime of a code.
func (s *Service) codeTTL(p Purpose) time.Duration {
	if p == Verification {
		return s.policy.VerificationTTL
	}
	return s.policy.RecoveryTTL
}
