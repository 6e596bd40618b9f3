package identity

import (
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/auth-gateway/auth-gateway/internal/hashes"
)

// FormerSystem is the system that accounts have moved from. It checks the passwords whose hashes could not be had.
type FormerSystem interface {
	// CheckPassword reports whether a password is right for an address. An error means that the system did not say. It
	// contains neither of them.
	CheckPassword(ctx context.Context, email, password string) (right bool, err error)
}

// The former system is asked few times at once, and for a short time. A sign-in that waits for it delays no other one,
// since it holds neither a hashing thread nor a database connection.
const (
	migrationTimeout = 3 * time.Second // waiting for a turn included
	migrationAtOnce  = 16
	migrationRetry   = 5 * time.Second // of a caller
)

// migrationRate bounds how often the former system is asked about a login. It admits whatever the throttle admits: ten
// wrong passwords, six more within a minute, then one a minute. An answer that does not come counts as no wrong
// password, so only this limit bounds the guesses during an outage, and those that are sent at the same time.
var migrationRate = Rate{Count: 20, Per: 20 * time.Minute}

// migration asks the former system.
//
// Only the first sign-in of an account that is marked needs it. But a stranger must not see by the time, or during an
// outage by the answer, which accounts these are, or that a login has no account. So every sign-in that fails here asks,
// as long as any account is marked. For all others the password is replaced by a random one, and the answer is ignored:
// what an owner types by mistake does not leave the gateway once their password is here.
type migration struct {
	system FormerSystem // may be nil
	turns  chan struct{}
	idle   atomic.Bool // no account is marked

	migrated, refused, unavailable atomic.Int64
}

// MigrationStats counts how the former system was asked.
type MigrationStats struct {
	Migrated    int64 // the password of a marked account was right
	Refused     int64 // the password was wrong, or not of a marked account
	Unavailable int64 // there was no answer in time, or too many at once
}

// MigrationStats returns the current counts. ok is false if there is no former system.
func (s *Service) MigrationStats() (stats MigrationStats, ok bool) {
	m := &s.migration
	return MigrationStats{m.migrated.Load(), m.refused.Load(), m.unavailable.Load()}, m.system != nil
}

// SetMigrating sets whether an account is marked. If none is, the former system is not asked, until a sign-in meets one.
func (s *Service) SetMigrating(marked bool) { s.migration.idle.Store(!marked) }

// asks reports whether the former system is asked when a sign-in with these credentials fails.
func (m *migration) asks(c Credentials) bool {
	if m.system == nil {
		return false
	}
	if c.PasswordHash == hashes.Migrating {
		m.idle.Store(false)
	}
	return !m.idle.Load()
}

// migrate asks the former system whether a password is right that is not right here. If it is, migrate returns its hash.
func (s *Service) migrate(ctx context.Context, c Credentials, login Login, password string) (hash string, err error) {
	m := &s.migration
	email, proved := formerEmail(c, login)
	marked := c.PasswordHash == hashes.Migrating && c.admitted() && proved
	asked := password
	if !marked {
		asked = lookalike(password)
	}
	key := LimitKey(sha256.Sum256(append([]byte("migration:"), c.ThrottleKey[:]...)))
	a, err := s.store.TakeLimit(ctx, key, migrationRate)
	if err != nil {
		return "", err
	}
	if !a.Allowed {
		s.throttled(ctx, c)
		return "", errThrottled(a.RetryAfter)
	}
	right, err := m.check(ctx, email, asked)
	switch {
	case err != nil:
		m.unavailable.Add(1)
		return "", &Error{
			Kind: Overloaded, Reason: ReasonOverloaded, Message: "the password cannot be checked at the moment; try again later",
			RetryAfter: migrationRetry, Cause: err,
		}
	case !right || !marked:
		m.refused.Add(1)
		return "", nil
	}
	if hash, err = s.hasher.Hash(ctx, password); err == nil {
		m.migrated.Add(1)
	}
	return hash, err
}

// formerEmail returns the address that the former system is asked about, and whether it is the proved one of the account.
// It is not what was typed: the username of an account here may be that of another person there, whose password must
// not open this account.
func formerEmail(c Credentials, login Login) (email string, proved bool) {
	switch {
	case c.Found && c.User.EmailVerified:
		return c.User.Email, true
	case login.CanonicalEmail != "": // accounts are found by their proved address only
		return login.CanonicalEmail, true
	}
	return login.CanonicalUsername + "@unknown.invalid", false // RFC 2606: no person has it
}

// check waits for a turn and asks.
func (m *migration) check(ctx context.Context, email, password string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	select {
	case m.turns <- struct{}{}:
		defer func() { <-m.turns }()
		return m.system.CheckPassword(ctx, email, password)
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// lookalikes are the characters that stand in for others of their kind: ASCII, then characters of two to four bytes.
var lookalikes = []string{
	"abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", "!#$%&*+,-.:;=?@_", "àáâäåèéêíîïòóôöùúûüý",
	"一丁七万丈三上下不与", "😀😁😂😃😄😅😆😉😊😋",
}

// lookalike returns a random password of the same form: as long, and with the same kinds of characters in the same
// places. A system that looks at the form first takes the same time for both.
func lookalike(password string) string {
	return strings.Map(func(r rune) rune {
		kind := 3
		switch n := utf8.RuneLen(r); {
		case n > 1:
			kind += n - 1
		case 'a' <= r && r <= 'z':
			kind = 0
		case 'A' <= r && r <= 'Z':
			kind = 1
		case '0' <= r && r <= '9':
			kind = 2
		}
		runes := []rune(lookalikes[kind])
		return runes[rand.IntN(len(runes))] //nolint:gosec // it need not be unpredictable, only be another one
	}, password)
}
