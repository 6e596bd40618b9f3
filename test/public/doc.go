// Package public attacks a public gateway the way strangers do, and says in
// figures what they get: who has an account (nothing), mails for somebody's
// address (as many as LIMIT_MAILS lets through), guesses at a password.
//
// What is asked of time is asked of a distribution, not of one reply: see
// timing.go for the test, how sure it is, and what it could have found.
package public
