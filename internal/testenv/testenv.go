// Package testenv is the kit that the tests of all packages share: waiting for a condition, the output of a program, a
// clock, free ports, programs built from this tree, and what is cleaned up when all tests of a package have run. Its
// subpackages run the servers that tests need.
//
// This package needs only the standard library, so the test modules below test/ can use it too.
package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv/freeport"
)

var exit struct {
	sync.Mutex

	main  bool // Main runs
	calls []func() error
}

// Main runs the tests of a package. If they pass, it runs the checks. Then it makes the calls that AtExit has
// registered, and exits.
func Main(m *testing.M, checks ...func() error) {
	exit.main = true
	code := m.Run()
	for _, check := range checks {
		if code == 0 {
			code = report(check())
		}
	}
	exit.Lock()
	defer exit.Unlock()
	for _, call := range slices.Backward(exit.calls) {
		code = max(code, report(call()))
	}
	os.Exit(code)
}

func report(err error) (code int) {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// AtExit registers a call that Main makes when all tests have run, the last registered first. It is for resources that
// tests share; t.Cleanup is for those of one test.
func AtExit(t testing.TB, call func() error) {
	t.Helper()
	exit.Lock()
	defer exit.Unlock()
	if !exit.main {
		t.Fatal("what this test starts would not be stopped: write func TestMain(m *testing.M) { testenv.Main(m) }")
	}
	exit.calls = append(exit.calls, call)
}

// NoError ends the test if err is not nil.
func NoError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually calls try until it returns nil, and returns how long that took. If it takes longer than limit, the test
// fails with the last error.
func Eventually(t testing.TB, limit time.Duration, what string, try func() error) time.Duration {
	t.Helper()
	for begin := time.Now(); ; {
		err := try()
		took := time.Since(begin)
		if err == nil {
			return took
		}
		if took > limit {
			t.Fatalf("not within %v: %s: %v", limit, what, err)
		}
		// Polling costs CPU time that the tested program needs, so it slows down.
		time.Sleep(min(max(took/20, 5*time.Millisecond), 250*time.Millisecond))
	}
}

// Until is Eventually for a condition.
func Until(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	Eventually(t, limit, what, func() error {
		if !holds() {
			return errNotYet
		}
		return nil
	})
}

var errNotYet = errors.New("the condition does not hold")

// Must returns the value of a call, for a test that fails if the call returns an error:
//
//	session := testenv.Must(store.FindSession(ctx, ref))(t)
func Must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		NoError(t, err)
		return value
	}
}

// Err returns the error of a call that also returns a value.
func Err(_ any, err error) error { return err }

// FreeAddress returns an address of this machine with a free port, as freeport.Choose does.
func FreeAddress(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
}

// FreePort is freeport.Choose.
func FreePort(t testing.TB) int {
	t.Helper()
	return Must(freeport.Choose(context.Background()))(t)
}

// Clock is a time that tests set. The zero value runs with the clock of the machine; Set stops it.
type Clock struct {
	mu      sync.Mutex
	stopped bool
	now     time.Time     // if the clock is stopped
	ahead   time.Duration // if the clock runs
}

// NewClock returns a stopped clock.
func NewClock(now time.Time) *Clock { return &Clock{stopped: true, now: now} }

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return c.now
	}
	return time.Now().Add(c.ahead)
}

// Set stops the clock at a time.
func (c *Clock) Set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped, c.now = true, now
}

// Advance puts the clock forward.
func (c *Clock) Advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.ahead = c.now.Add(by), c.ahead+by
}
