// Package identity is the domain of the gateway: accounts, passwords, one-time
// codes, sessions, and the rules that join them. It knows neither HTTP nor SQL nor
// SMTP; what it needs from the world it names as an interface (Store), and its
// errors (Error) are the only vocabulary that its callers have to map.
//
// # A session
//
// Signing in writes one row, the session. A refresh token is nothing but a
// signed pair (session, generation), so there is no row for a token:
//
//	sign-in ──▶ session{generation 0} ──▶ refresh token (sid, gen 0)
//	                  │ renewal: one conditional UPDATE, 0 → 1
//	                  ▼
//	            session{generation 1} ──▶ refresh token (sid, gen 1)
//
//	gen == current      it holds; it is renewed where the policy asks for it
//	gen == current - 1  within the grace: the same successor again (a lost reply,
//	                    racing tabs); after the grace: theft, the session ends
//	gen <  current - 1  theft, the session ends
//
// # A sign-up
//
// A sign-up is not an account. It waits for the proof of its address, beside other
// sign-ups for the same one, and holds neither the address nor the username:
//
//	SignUp ──▶ signups{mallory, ada@…}    SignUp ──▶ signups{ada, ada@…}
//	                 │ a code to ada@…                     │ a code to ada@…
//	                 └──────────────┬──────────────────────┘
//	                                ▼
//	VerifyUser(code)            several wait: the password is needed
//	VerifyUser(code, password)  the sign-up that has this password becomes an account;
//	                            the others go
//
// A code proves the mailbox, and the password says whose sign-up its reader means. So
// a proof never blesses a password that its reader did not choose, and a stranger who
// uses up the mails of an address has sent its owner codes that work. An account that
// has changed to an address without a proof is a claim to it, like a sign-up.
//
// # A one-time code
//
// A code is 130 random bits. The store keeps only its SHA-256, one live code
// for each account or sign-up and purpose, and takes its time from the database. A code is
// redeemed in the transaction that does what it allows, so that of any number
// of attempts at once exactly one succeeds.
//
// # A mail
//
// In exposure public codes leave by mail alone, and no answer tells who has an
// account. So a request for a code looks nobody up: it writes one row, the same
// whoever exists, and is answered 202. Everything else happens when the row is
// taken out of the outbox:
//
//	forgot-password ──▶ mails{recovery, address} ──▶ 202
//	                        │ TakeMail, by whoever sends mail
//	                        ▼
//	            who has the address now? nobody: the row is removed
//	                        │ the code is made, only its SHA-256 is stored
//	                        ▼
//	            Message{to, code} ──▶ SentMail, PostponeMail, ReturnMail or GiveUpMail
//
// No code is ever kept in the clear, and its life begins when it is sent. Who died
// while sending is found out by a lease; the next attempt brings another code, and
// the newest holds. So a mail is sent at least once, and one that was sent twice
// does no harm.
//
// A notice of a change is a row too, written by the statement that makes the
// change, in either exposure. Nobody can ask for one, so no limit keeps it back.
//
// # A password
//
// Hashing is the one thing here that costs processor time on purpose, so it
// has a lane of its own (see Hasher): bounded, at the lowest priority, and with
// a queue that turns away what it cannot serve in time before it is hashed.
// No database connection is held meanwhile.
package identity
