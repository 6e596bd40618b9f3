package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"time"
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

// hashCode gives what a presented code is looked up by. Codes are compared as
// they are: another case, or space around it, is another code. What has another
// length is none.
func hashCode(text string) (h CodeHash, ok bool) {
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
