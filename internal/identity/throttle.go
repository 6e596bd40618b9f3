package identity

import "time"

// freeFailures is how many wrong passwords in a row an account, or a login without an
// account, may have before each further attempt has to wait.
const freeFailures = 10

// maxThrottle bounds the wait. Strangers who keep failing slow down an owner on a new network, but never lock the owner
// out for long; on a known network the owner does not notice. One guess a minute is 525,600 guesses a year.
const maxThrottle = time.Minute

// throttleDelay returns how long after the last of these failures the next attempt is
// allowed: at once below freeFailures, then after 1 s, 2 s, 4 s, up to a minute.
func throttleDelay(failures int) time.Duration {
	over := failures - freeFailures
	if over < 0 {
		return 0
	}
	return min(time.Second<<min(over, 6), maxThrottle) // 2^6 s is past the bound
}

// checkThrottle rejects an attempt that comes too early.
func checkThrottle(c Credentials) error {
	wait := throttleDelay(c.Failures) - c.SinceFailure
	if wait <= 0 {
		return nil
	}
	return errThrottled(wait)
}

func errThrottled(wait time.Duration) error {
	return &Error{
		Kind: RateLimited, Reason: ReasonTooManyWrongPasswords, Message: "too many wrong passwords; try again later",
		RetryAfter: wait,
	}
}
