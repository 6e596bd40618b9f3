package identity

import (
	"errors"
	"testing"
	"time"
)

func TestThrottleDoublesTheWaitAfterTenFailures(t *testing.T) {
	for _, c := range []struct {
		failures int
		want     time.Duration
	}{
		{0, 0}, {1, 0}, {9, 0},
		{10, time.Second}, {11, 2 * time.Second}, {12, 4 * time.Second}, {13, 8 * time.Second},
		{14, 16 * time.Second}, {15, 32 * time.Second}, {16, time.Minute}, {17, time.Minute},
		{100, time.Minute}, {1 << 40, time.Minute},
	} {
		if got := throttleDelay(c.failures); got != c.want {
			t.Errorf("after %d failures: %v; want %v", c.failures, got, c.want)
		}
	}
}

func TestThrottleAllowsAnAttemptAfterItsWait(t *testing.T) {
	for _, c := range []struct {
		failures    int
		since, wait time.Duration
	}{
		{9, 0, 0},
		{10, 0, time.Second},
		{10, 999 * time.Millisecond, time.Millisecond},
		{10, time.Second, 0},
		{20, 20 * time.Second, 40 * time.Second},
		{20, time.Hour, 0},
	} {
		err := checkThrottle(Credentials{Failures: c.failures, SinceFailure: c.since})
		if c.wait == 0 {
			if err != nil {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Kind != RateLimited || e.RetryAfter != c.wait {
			t.Errorf("%+v: %+v", c, err)
		}
	}
}
