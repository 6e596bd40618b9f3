package identity

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"
)

// Rate is how often something may be done: Count times in Per, and up to Count times at
// once. The zero Rate is no limit.
type Rate struct {
	Count int
	Per   time.Duration
}

// Interval returns how long it takes until one more is allowed. It is in whole
// microseconds, because a Store counts in them.
func (r Rate) Interval() time.Duration {
	return (r.Per / time.Duration(r.Count)).Truncate(time.Microsecond)
}

// Window returns how long it takes until all of Count are allowed again.
func (r Rate) Window() time.Duration { return r.Interval() * time.Duration(r.Count) }

// LimitKey identifies a limit and its client or user. It is a digest, so that the table
// does not show which clients there were.
type LimitKey [sha256.Size]byte

// Allowance is the answer of a limit to one more use.
type Allowance struct {
	Allowed    bool
	Limit      int           // how many at once; 0: there is no limit, and the other fields are zero
	Window     time.Duration // how long it takes until all of them are allowed again
	Remaining  int           // how many more at once
	Reset      time.Duration // until Remaining is Limit again
	RetryAfter time.Duration // if not allowed: until it is; 0: unknown
}

// Allow returns the allowance of a use that was allowed or not, where reset is how long it
// takes until the limit is completely free again.
func (r Rate) Allow(allowed bool, reset time.Duration) Allowance {
	a := Allowance{Allowed: allowed, Limit: r.Count, Window: r.Window(), Reset: max(reset, 0)}
	switch {
	case allowed:
		a.Remaining = max(int((r.Window()-a.Reset)/r.Interval()), 0)
	case reset > 0: // otherwise the Store does not know
		a.RetryAfter = max(reset-r.Window()+r.Interval(), 0)
	}
	return a
}

// LimitClass is a kind of request whose rate is limited for a client address, or a user.
type LimitClass string

// The classes. Each is counted separately.
const (
	LimitSignIn LimitClass = "signin"
	LimitSignUp LimitClass = "signup"
	LimitCodes  LimitClass = "codes"  // requesting and redeeming them
	LimitWrites LimitClass = "writes" // with an access token; by user or session, not by address
)

// LimitClasses returns all classes.
func LimitClasses() []LimitClass {
	return []LimitClass{LimitSignIn, LimitSignUp, LimitCodes, LimitWrites}
}

// Rate returns the limit of a class.
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

// maxRefusals bounds how many refused clients are remembered. A client beyond them costs a query for each request.
const maxRefusals = 10_000

// refusal is how long a client is refused, and when its limit is completely free again, by the clock of the process.
type refusal struct{ until, reset time.Time }

// Admit counts one more request of a class for the network of the caller. If there are too
// many, it returns a RateLimited error together with the allowance. All callers without a
// known address share one limit: exempting them would be a way around it.
//
// A refused client stays refused until its wait ends, without another query. So a flood of requests costs one statement
// a minute, for the audit trail. The wait begins before the query, so it is never longer than the Store's.
func (s *Service) Admit(ctx context.Context, class LimitClass) (Allowance, error) {
	network := string(callerNetwork(ctx))
	return s.admit(ctx, class, network, SessionRef{}, func(key LimitKey, rate Rate) (Allowance, error) {
		return s.store.TakeLimit(ctx, key, rate)
	})
}

// AdmitChange counts one more change by the user of an access token. All sessions of a user
// count together, so signing in again is no way around the limit. An ended session is
// refused without counting, so a token stolen from it uses up nothing.
func (s *Service) AdmitChange(ctx context.Context, accessToken string) (Allowance, error) {
	return s.admitWrite(ctx, accessToken, func(ref SessionRef) string { return "user " + ref.UserID })
}

// AdmitEnding counts one more request by which a session ends sessions or the account. Each session counts separately:
// a stolen token must not keep the owner from ending the session it belongs to.
func (s *Service) AdmitEnding(ctx context.Context, accessToken string) (Allowance, error) {
	return s.admitWrite(ctx, accessToken, func(ref SessionRef) string { return "session " + ref.ID })
}

func (s *Service) admitWrite(ctx context.Context, accessToken string, whose func(SessionRef) string) (Allowance, error) {
	ref, err := s.authenticate(accessToken, "")
	if err != nil {
		return Allowance{}, err
	}
	return s.admit(ctx, LimitWrites, whose(ref), ref, func(key LimitKey, rate Rate) (Allowance, error) {
		a, err := s.store.TakeSessionLimit(ctx, ref, key, rate)
		return a, storeFailure(err)
	})
}

// admit counts one more request of a class; take counts it in the Store.
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

// Limited returns how many requests of a class were refused since the process started.
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
