package identitytest

import (
	"crypto/rand"
	"crypto/sha256"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

func newLimitKey() identity.LimitKey { return sha256.Sum256([]byte(rand.Text())) }

func (s *suite) take(key identity.LimitKey, rate identity.Rate) identity.Allowance {
	s.Helper()
	return must(s.TakeLimit(s.Context(), key, rate))(s)
}

// about fails unless d is as expected, less the time that the test took.
func (s *suite) about(d, want time.Duration) {
	s.Helper()
	if d > want || d < want-time.Minute {
		s.Errorf("it is %v; want %v", d, want)
	}
}

var limitSentences = []sentence{
	{"TakeLimit allows Count at once, and then tells how long to wait", func(s *suite) {
		key, rate := newLimitKey(), identity.Rate{Count: 3, Per: 3 * time.Hour}
		for _, remaining := range []int{2, 1, 0} {
			a := s.take(key, rate)
			equal(s, a.Allowed, true)
			equal(s, a.Limit, 3)
			equal(s, a.Remaining, remaining)
			equal(s, a.RetryAfter, 0)
			s.about(a.Reset, time.Duration(3-remaining)*time.Hour)
		}
		for range 5 {
			a := s.take(key, rate)
			equal(s, a.Allowed, false)
			equal(s, a.Limit, 3)
			equal(s, a.Remaining, 0)
			s.about(a.RetryAfter, time.Hour)
			s.about(a.Reset, 3*time.Hour)
		}
	}},
	{"TakeLimit gives back one after the other, and all after a while", func(s *suite) {
		key, rate := newLimitKey(), identity.Rate{Count: 3, Per: 3 * time.Hour}
		allowed := func() (n int) {
			for s.take(key, rate).Allowed {
				n++
			}
			return n
		}
		equal(s, allowed(), 3)
		s.pass(time.Hour)
		equal(s, allowed(), 1)
		s.pass(2 * time.Hour)
		equal(s, allowed(), 2)
		s.pass(100 * time.Hour)
		equal(s, allowed(), 3)
	}},
	{"TakeLimit counts each key by itself, and a limit of one allows one", func(s *suite) {
		rate := identity.Rate{Count: 1, Per: time.Hour}
		for range 2 {
			key := newLimitKey()
			equal(s, s.take(key, rate).Allowed, true)
			equal(s, s.take(key, rate).Allowed, false)
			s.pass(time.Hour)
			equal(s, s.take(key, rate).Allowed, true)
			equal(s, s.take(key, rate).Allowed, false)
		}
	}},
	{"TakeLimit follows a rate that was changed", func(s *suite) {
		key := newLimitKey()
		s.take(key, identity.Rate{Count: 1, Per: time.Hour})
		equal(s, s.take(key, identity.Rate{Count: 1, Per: time.Hour}).Allowed, false)
		equal(s, s.take(key, identity.Rate{Count: 10, Per: 5 * time.Hour}).Allowed, true)
		// More was used up under the wider rate than the narrower one allows.
		a := s.take(key, identity.Rate{Count: 2, Per: time.Hour})
		equal(s, a.Allowed, false)
		equal(s, a.Remaining, 0)
		s.about(a.RetryAfter, time.Hour)
	}},
	{"TakeSessionLimit counts for live sessions alone, and together with TakeLimit", func(s *suite) {
		u := s.create("ada")
		here, there := s.open(u), s.open(u)
		key, rate := newLimitKey(), identity.Rate{Count: 3, Per: 3 * time.Hour}
		gone := s.open(u)
		must(s.EndSession(s.Context(), gone, noEvent))(s)
		for _, ref := range []identity.SessionRef{gone, s.ref("x", u), s.ref(here.ID, identity.User{ID: newID()})} {
			a, err := s.TakeSessionLimit(s.Context(), ref, key, rate)
			s.is(err, identity.ErrNoSession)
			equal(s, a, identity.Allowance{})
		}
		for i, ref := range []identity.SessionRef{here, there} {
			a := must(s.TakeSessionLimit(s.Context(), ref, key, rate))(s)
			equal(s, a.Allowed, true)
			equal(s, a.Remaining, 2-i)
		}
		equal(s, s.take(key, rate).Allowed, true)
		a := must(s.TakeSessionLimit(s.Context(), here, key, rate))(s)
		equal(s, a.Allowed, false)
		s.about(a.RetryAfter, time.Hour)
	}},
	{"of 60 TakeLimit at once, exactly as many as the rate has are allowed", func(s *suite) {
		for _, count := range []int{1, 7, 20} {
			key, allowed := newLimitKey(), make([]identity.Allowance, 60)
			equal(s, s.winners(len(allowed), nil, func(i int) (err error) {
				allowed[i], err = s.TakeLimit(s.Context(), key, identity.Rate{Count: count, Per: 24 * time.Hour})
				return err
			}), len(allowed))
			n := 0
			for _, a := range allowed {
				if a.Allowed {
					n++
				} else if a.RetryAfter > 24*time.Hour/time.Duration(count) {
					s.Errorf("the wait is %v", a.RetryAfter)
				}
			}
			equal(s, n, count)
		}
	}},
}
