package identity

import (
	"context"
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

// release gives a code to whoever may see it: the caller where callers are
// trusted, else the owner of the address alone.
func (s *Service) release(ctx context.Context, c Code, m Message) (Code, error) {
	if s.policy.Exposure != ExposurePublic {
		return c, nil
	}
	m.Code, m.TTL = c.Text, c.ExpiresIn
	return s.mail(ctx, m)
}

// mail sends a message in place of an answer: every answer of a public route is
// the same, whoever exists.
func (s *Service) mail(ctx context.Context, m Message) (Code, error) {
	if err := s.mailer.Send(ctx, m); err != nil {
		return Code{}, &Error{Kind: Unavailable, Message: "mail cannot be sent now", RetryAfter: time.Minute, Cause: err}
	}
	return Code{}, nil
}
