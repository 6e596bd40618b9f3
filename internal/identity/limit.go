package identity

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"
)

// Rate is how often something may be done: Count times at once, and again when
// that is so long ago that Count in Per is kept. The zero Rate is no limit.
type Rate struct {
	Count int
	Per   time.Duration
}

// Interval is how long one of Count takes to come back. A Store counts in
// microseconds, so all of them do.
func (r Rate) Interval() time.Duration {
	return (r.Per / time.Duration(r.Count)).Truncate(time.Microsecond)
}

// Window is how long all of Count take to come back.
func (r Rate) Window() time.Duration { return r.Interval() * time.Duration(r.Count) }

// LimitKey names what is limited, and whose it is. It is a digest, so that the
// table tells nobody who was there.
type LimitKey [sha256.Size]byte

// Allowance is what a limit says to one more.
type Allowance struct {
	Allowed    bool
	Limit      int           // how many at once; 0: there is no limit, and nothing else is told
	Window     time.Duration // how long all of them take to come back
	Remaining  int           // how many more at once
	Reset      time.Duration // until there are Limit of them again
	RetryAfter time.Duration // where it is not allowed: until it may be; 0: not known
}

// Allow gives the allowance of who was allowed one more, or was not, where reset
// is how long all that is used up takes to come back.
func (r Rate) Allow(allowed bool, reset time.Duration) Allowance {
	a := Allowance{Allowed: allowed, Limit: r.Count, Window: r.Window(), Reset: max(reset, 0)}
	switch {
	case allowed:
		a.Remaining = max(int((r.Window()-a.Reset)/r.Interval()), 0)
	case reset > 0: // else the store could not tell
		a.RetryAfter = max(reset-r.Window()+r.Interval(), 0)
	}
	return a
}

// LimitClass is what one client address, or one user, may do only so often.
type LimitClass string

// The classes. Each is counted by itself.
const (
	LimitSignIn LimitClass = "signin"
	LimitSignUp LimitClass = "signup"
	LimitCodes  LimitClass = "codes"  // asking for them, and using them
	LimitWrites LimitClass = "writes" // of a session; by user, or by session, and not by address
)

// LimitClasses are all of them.
func LimitClasses() []LimitClass {
	return []LimitClass{LimitSignIn, LimitSignUp, LimitCodes, LimitWrites}
}

// Rate gives the limit of a class.
func (p Policy) Rate(class LimitClass) Rate {
	switch class {
	case LimitSignIn:
		return p.LimitSignIn
	case LimitSignUp:
		return p.LimitSignUp
	case LimitCodes:
		return p.LimitCodes
	case LimitWrites:
		return p.LimitWrites
	}
	return Rate{}
}

// maxRefusals bounds how many clients that were refused are remembered. Of more
// than these, some cost a statement each time.
const maxRefusals = 10_000

// refusal is until when a client is refused, and when it has all of its limit
// again, by the process's clock.
type refusal struct{ until, reset time.Time }

// Admit counts one more of a class for who asked for what is done in ctx, by their
// place. Where it is too much, the error is of kind RateLimited, and the
// allowance is there too. A client whose address is not known shares a limit with
// all others of that kind: to let them pass would be a way round it.
//
// Who was refused is refused until their wait is over without asking the Store,
// so that a flood costs no statements but one a minute, for the audit trail. The wait
// counts from before the Store was asked, so it is never longer than the Store's.
func (s *Service) Admit(ctx context.Context, class LimitClass) (Allowance, error) {
	return s.admit(ctx, class, string(callerNetwork(ctx)), SessionRef{}, func(key LimitKey, rate Rate) (Allowance, error) {
		return s.store.TakeLimit(ctx, key, rate)
	})
}

// AdmitChange counts one more change that the user of an access token makes. All
// sessions of a user are counted together: signing in again is no way round the limit.
// A session that has ended is refused and not counted, so that a stolen token
// of it uses up nothing.
func (s *Service) AdmitChange(ctx context.Context, accessToken string) (Allowance, error) {
	return s.admitWrite(ctx, accessToken, func(ref SessionRef) string { return "user " + ref.UserID })
}

// AdmitEnding counts one more call by which a session ends others, or the account. Each
// session is counted by itself: a stolen token must not keep the owner from ending the
// session that it is of.
func (s *Service) AdmitEnding(ctx context.Context, accessToken string) (Allowance, error) {
	return s.admitWrite(ctx, accessToken, func(ref SessionRef) string { return "session " + ref.ID })
}

func (s *Service) admitWrite(
	ctx context.Context, accessToken string, whose func(SessionRef) string,
) (Allowance, error) {
	ref, err := s.authenticate(accessToken, "")
	if err != nil {
		return Allowance{}, err
	}
	return s.admit(ctx, LimitWrites, whose(ref), ref, func(key LimitKey, rate Rate) (Allowance, error) {
		a, err := s.store.TakeSessionLimit(ctx, ref, key, rate)
		if err != nil {
			err = storeFailure(err)
		}
		return a, err
	})
}

// admit counts one more of a class for whoever is named; take asks the Store.
func (s *Service) admit(
	ctx context.Context, class LimitClass, whose string, by SessionRef, take func(LimitKey, Rate) (Allowance, error),
) (Allowance, error) {
	rate := s.policy.Rate(class)
	if rate == (Rate{}) {
		return Allowance{Allowed: true}, nil
	}
	key := LimitKey(sha256.Sum256(fmt.Appendf(nil, "limit:%s %s", class, whose)))
	now := s.now()
	if r, ok := s.refusals.Get(key); ok && now.Before(r.until) {
		return s.refuse(ctx, class, key, by, Allowance{
			Limit: rate.Count, Window: rate.Window(), Reset: r.reset.Sub(now), RetryAfter: r.until.Sub(now),
		})
	}
	a, err := take(key, rate)
	if err != nil {
		return Allowance{}, err
	}
	if a.Allowed {
		return a, nil
	}
	if a.RetryAfter > 0 {
		s.refusals.Add(key, refusal{until: now.Add(a.RetryAfter), reset: now.Add(a.Reset)})
	}
	return s.refuse(ctx, class, key, by, a)
}

// Limited tells how many were refused because too many of a class came from one
// client address or user, since the start of the process.
func (s *Service) Limited(class LimitClass) uint64 { return s.counts.limited[class].Load() }

func (s *Service) refuse(
	ctx context.Context, class LimitClass, key LimitKey, by SessionRef, a Allowance,
) (Allowance, error) {
	s.counts.limited[class].Add(1)
	s.refused(ctx, refusedLimit, string(key[:]), by.UserID, by.ID, slog.String("limit", string(class)))
	message := "too many requests of this kind from your network; wait for as many seconds as Retry-After says"
	if by != (SessionRef{}) {
		message = "too many changes; wait for as many seconds as Retry-After says"
	}
	return a, &Error{
		Kind: RateLimited, Reason: ReasonTooManyRequests, RetryAfter: a.RetryAfter,
		Message: message,
	}
}
