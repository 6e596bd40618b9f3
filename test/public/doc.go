// Package public attacks a gateway of exposure public from the outside, and measures what an attacker gains: whether an
// account exists (nothing), mails to a victim's address (as many as LIMIT_MAILS allows), guesses at a password.
//
// Times are compared as distributions, not single replies: timing.go describes the test, its confidence and its power.
package public
