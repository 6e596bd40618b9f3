// Package public attacks a gateway of exposure public from the outside, and measures what an attacker gains: no
// knowledge of whether an account exists, at most LIMIT_MAILS mails to a victim's address, and few guesses at a
// password.
//
// Times are compared as distributions, not single replies: timing.go describes the test, its confidence and its power.
package public
