// Package search looks for faults by machine. It sends random sequences of all
// routes to a whole server, with a real PostgreSQL and real SMTP conversations, and
// checks two rules after each request.
//
// The first rule is about taking over and locking out (takeover_test.go). An owner
// has a mailbox; strangers have others, share all that they know, and give any name
// and any address. The owner acts as people do: they sign up, perhaps twice, read
// mails late, type codes in lower case, try old codes. In no order of events may
// strangers have a session, a password or a code of an account whose proved address
// is the owner's. And the owner must get in at the end, into an account that they
// made: within three rounds of sign-in, recovery and sign-up, twenty minutes apart,
// while the strangers go on asking for mails. That is at most 150 requests and an
// hour. One precaution is the owner's own: they enter a code alone only while
// something of theirs, a sign-up or a change of address, waits for the proof of the
// address that the code was sent to. A code that comes unasked is one to ignore, as
// its mail says: with one sign-up waiting, a code alone proves that one.
//
// The second rule is about telling (telling_test.go). The same requests of strangers
// go to two servers, one where the owner has an account in one of six states and one
// where they have none. Replies must be the same, with all header fields, and so
// must the statements and the number of passwords that are hashed. Strangers without
// a mailbox may name whomever they like. Strangers with one get its mails compared
// too, and do not name the owner's username: that a username is taken may be known
// to those who are signed in. Times are for test/public.
//
// Server and database go by one clock, which the test sets (gateway_test.go), so that
// limits, throttles and expiries are part of the sequences, and two servers never
// differ by a rounded second. Parameters are filled in by their names (people_test.go):
// a route or a parameter that is added to the API fails TestTheSearchesKnowEveryRoute
// until it is added to routes.
//
// # When a search finds something
//
// It prints the shortest sequence that it could make of it, and how to repeat it:
//
//	go test ./test/search -run 'TestNobody…/public' -search.seed 4711
//	go test ./test/search -search.time 1h -search.all
//
// The second searches longer, and goes on after each finding. Every run has names of
// its own, and begins without mails that wait, so a finding does not depend on the
// runs before it.
//
// # That they find what they look for
//
// TestTheSearchesFindPlantedFaults gives the database faults, and expects the
// searches to find them. The faults that the searches were written for, in the
// program, can be put back by hand; this is what then is found:
//
//	mails are sent to another fold of the domain     identity/names.go: return address as it was given, and have
//	than is compared                                 mail/smtp.go send to it: strangers have a session or a code
//	a proof blesses any password that waits          identity/signup.go: prove the first claim without asking for
//	                                                 the password: strangers chose the password
//	an unproved address is the account's             plant "a new address counts before it is proved"
//	LIMIT_MAILS counts requests                      postgres/mails.go: count when a mail is queued: locked out
//	sign-in looks at sign-ups in exposure public     identity/session.go: drop preventsEnumeration in checkSignUps:
//	                                                 POST /tokens/signin: "401" and "403"
//	failures are counted by account                  postgres/accounts.go: throttle by the account's id:
//	                                                 POST /tokens/signin: "429" and "401"
//	403 without a second look at the failures        identity/session.go: drop the second FindCredentials in
//	                                                 checkSignUps: a burst of guesses goes round the throttle
//	a suspension is looked at, and ends nothing      plant "a lifted suspension gives everything back"
package search
