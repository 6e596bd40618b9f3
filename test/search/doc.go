// Package search searches for faults with random sequences of all routes. They go to a whole server with a real
// PostgreSQL and real SMTP connections, and two rules are checked after each request.
//
// The first rule is about takeover and lockout (takeover_test.go). An owner has a mailbox; strangers have other
// mailboxes, share everything they know, and enter any name and any address. The owner behaves like real users: they
// sign up, perhaps twice, read mail late, type codes in lower case, and try old codes. In no order of events may
// strangers have a session, a password or a code of an account whose address is the owner's. An administrator invites
// anyone on request, creates verified accounts, makes passwords void and deletes accounts (admin_test.go). In the end the
// owner must get into an account that they created, within three rounds of sign-in, recovery and sign-up, twenty
// minutes apart, while the strangers keep requesting mail. That is at most 150 requests and an hour. The owner takes
// one precaution: they enter only a code while their own sign-up or change of address waits for the proof of the
// address that the code was sent to. They ignore other codes, as the mail says: if one sign-up waits, a code is enough
// to prove that one.
//
// The second rule is about disclosure (telling_test.go). The same requests of strangers go to two servers, one where
// the owner has an account in one of eight states, and one where they have none. Replies must be the same, with all
// header fields, and so must the statements and the number of hashed passwords. Strangers without a mailbox may enter
// any name. For strangers with a mailbox, its mails are compared too, and they do not enter the owner's username:
// signed-in users may learn that a username is taken. test/public compares times.
//
// Server and database use one clock, which the test sets (gateway_test.go). So limits, throttles and expiries are part
// of the sequences, and two servers never differ by a rounded second. Parameters are filled in by name
// (people_test.go): TestSearchesKnowEveryRoute fails for a new route or parameter of the API until it is added to
// routes.
//
// # When a search finds something
//
// It prints the shortest sequence that it found, and how to repeat it:
//
//	go test ./test/search -run 'TestNobody…/public' -search.seed 4711
//	go test ./test/search -search.time 1h -search.all
//
// The second command searches longer, and continues after each finding. Every run has its own names, and starts without
// waiting mails, so a finding does not depend on earlier runs.
//
// # Planted faults
//
// TestSearchesFindPlantedFaults adds faults to the database, and expects the searches to find them. The faults in
// the program that led to the searches can be restored by hand; the searches then find:
//
//	mails are sent to another fold of the domain     identity/names.go: return address as it was given, and have
//	than is compared                                 mail/smtp.go send to it: strangers have a session or a code
//	a proof accepts any password that waits          identity/signup.go: prove the first claim without asking for
//	                                                 the password: strangers chose the password
//	an unproved address counts as the account's      plant "a new address counts before it is proved"
//	LIMIT_MAILS counts requests                      postgres/mails.go: count when a mail is queued: locked out
//	sign-in looks at sign-ups in exposure public     identity/session.go: drop preventsEnumeration in checkSignUps:
//	                                                 POST /tokens/signin: "401" and "403"
//	failures are counted by account                  postgres/accounts.go: throttle by the account's id:
//	                                                 POST /tokens/signin: "429" and "401"
//	403 without a second look at the failures        identity/session.go: drop the second FindCredentials in
//	                                                 checkSignUps: guesses that are sent at the same
//	                                                 time bypass the throttle
//	a suspension is checked, but ends nothing        plant "a lifted suspension gives everything back"
package search
