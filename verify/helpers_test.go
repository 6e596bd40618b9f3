package verify_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/verify"
	"github.com/auth-gateway/auth-gateway/verify/verifytest"
)

var audience = verify.Audience(verifytest.Audience)

// open returns a Verifier that is closed with the test.
func open(t testing.TB, source verify.Source, options ...verify.Option) *verify.Verifier {
	t.Helper()
	v, err := verify.New(context.Background(), source, audience, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 seconds: %s", what)
		}
	}
}

// refused checks that an error has a check and a reason, contains some text, and contains no part of the token.
func refused(t testing.TB, err error, token string, check verify.Check, reason verify.Reason, message string) {
	t.Helper()
	var e *verify.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a *verify.Error", err)
	}
	if !errors.Is(err, check) || !errors.Is(err, reason) {
		t.Errorf("got %q, %q, want %q, %q: %v", string(e.Check), string(e.Reason), string(check), string(reason), err)
	}
	if !strings.Contains(err.Error(), message) {
		t.Errorf("the message does not contain %q: %v", message, err)
	}
	for _, part := range strings.Split(token, ".") {
		if len(part) > 16 && strings.Contains(err.Error(), part) {
			t.Errorf("the message contains the token: %v", err)
		}
	}
}

// clock is a clock that a test moves.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Now().UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }
