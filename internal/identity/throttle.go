package identity

import "time"

// freeFailures is how many wrong passwords in a row an account (or an unknown
// login) may have before each further try has to wait.
const freeFailures = 10

// maxThrottle bounds the wait, so that strangers who keep failing slow down an
// owner in a place where they have never signed in, but never lock them out for
// long; from a familiar place the owner does not notice. At one try a minute,
// guessing is 525,600 tries a year.
const maxThrottle = time.Minute

// throttleDelay is how long after the last of so many failures in a row the
// next try is taken: at once below freeFailures, then 1 s, 2 s, 4 s … a minute.
func throttleDelay(failures int) time.Duration {
	over := failures - freeFailures
	if over < 0 {
		return 0
	}
	return min(time.Second<<min(over, 6), maxThrottle) // 2^6 s is past the bound
}

// checkThrottle refuses a try that comes too early.
func checkThrottle(c Credentials) error {
	wait := throttleDelay(c.Failures) - c.SinceFailure
	if wait <= 0 {
		return nil
	}
	return &Error{Kind: RateLimited, Reason: ReasonTooManyWrongPasswords, Message: "too many wrong passwords; try again later", RetryAfter: wait}
}
