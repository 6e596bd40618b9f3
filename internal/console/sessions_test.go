package console

import (
	"slices"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// lasts reports whether a session that is used at some times after its beginning is there at the last of them.
func lasts(at ...time.Duration) (there bool) {
	begin := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	clock := testenv.NewClock(begin)
	s := newSessions(clock.Now)
	id := s.open("a credential")
	for _, after := range at {
		clock.Set(begin.Add(after))
		_, there = s.credential(id)
	}
	return there
}

func TestSessionEndsWhenItIsNotUsedAndAfterEightHours(t *testing.T) {
	t.Parallel()
	var often []time.Duration
	for at := idleLife / 2; at < wholeLife; at += idleLife / 2 {
		often = append(slices.Clip(often), at)
	}
	for name, tc := range map[string]struct {
		used  []time.Duration
		there bool
	}{
		"used in time":       {[]time.Duration{idleLife - 1, 2*idleLife - 2}, true},
		"not used":           {[]time.Duration{idleLife}, false},
		"not used later":     {[]time.Duration{idleLife - 1, 2*idleLife - 1}, false},
		"used after its end": {[]time.Duration{idleLife, idleLife + 1}, false},
		"used often":         {append(slices.Clip(often), wholeLife-1), true},
		"used for too long":  {append(slices.Clip(often), wholeLife), false},
	} {
		if lasts(tc.used...) != tc.there {
			t.Errorf("%s: the session is there: %v", name, !tc.there)
		}
	}
}

func TestCodeOpensOneSessionWithinAMinute(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	for after, want := range map[time.Duration]bool{0: true, codeLife - 1: true, codeLife: false} {
		clock := testenv.NewClock(begin)
		s := newSessions(clock.Now)
		code, id := s.code("a credential"), s.open("a credential")
		if _, ok := s.credential(code); ok {
			t.Error("a code is a session")
		}
		if _, ok := s.redeem(id); ok {
			t.Error("a session is a code")
		}
		clock.Set(begin.Add(after))
		if credential, ok := s.redeem(code); ok != want || ok && credential != "a credential" {
			t.Errorf("after %v, the code is good: %v", after, ok)
		}
		if _, ok := s.redeem(code); ok {
			t.Errorf("after %v, the code is good twice", after)
		}
	}
}

// At the limit, the session that was not used for the longest time makes room.
func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	clock := testenv.NewClock(time.Now())
	s := newSessions(clock.Now)
	var ids []string
	for range maxSessions {
		clock.Set(clock.Now().Add(time.Millisecond))
		ids = append(ids, s.open("a credential"))
	}
	clock.Set(clock.Now().Add(time.Millisecond))
	_, _ = s.credential(ids[0])
	ids = append(ids, s.open("a credential"))
	for i, want := range map[int]bool{0: true, 1: false, 2: true, maxSessions: true} {
		if _, ok := s.credential(ids[i]); ok != want {
			t.Errorf("session %d is there: %v", i, ok)
		}
	}
	if len(s.all) != maxSessions {
		t.Errorf("%d sessions are held", len(s.all))
	}
}
