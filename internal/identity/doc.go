// Package identity is the domain of the gateway: accounts, passwords, one-time codes, sessions, and the rules between
// them. It knows neither HTTP nor SQL nor SMTP. What it needs from outside is the Store interface; the errors that
// callers have to map are all of type Error.
//
// # A session
//
// A sign-in writes one row, the session. A refresh token is a signed pair (session,
// generation), so there is no row for a token:
//
//	sign-in ──▶ session{generation 0} ──▶ refresh token (sid, gen 0)
//	                  │ renewal: one conditional UPDATE, 0 → 1
//	                  ▼
//	            session{generation 1} ──▶ refresh token (sid, gen 1)
//
//	gen == current      valid; renewed if the policy asks for it
//	gen == current - 1  within the grace: the same successor again (a lost reply,
//	                    racing tabs); after the grace: theft, the session ends
//	gen <  current - 1  theft, the session ends
//
// # A sign-up
//
// A sign-up is not an account. It waits for the proof of its email address, beside other sign-ups for the same address,
// and reserves neither the address nor the username:
//
//	SignUp ──▶ signups{mallory, ada@…}    SignUp ──▶ signups{ada, ada@…}
//	                 │ a code to ada@…                     │ a code to ada@…
//	                 └──────────────┬──────────────────────┘
//	                                ▼
//	VerifyUser(code)            several wait: the password is needed
//	VerifyUser(code, password)  the sign-up with this password becomes an account;
//	                            the others are removed
//
// A code proves the mailbox, and the password shows which sign-up its reader made. A proof therefore never confirms a
// password that the reader did not choose, and a stranger who uses up the mails of an address has only sent its owner
// valid codes. An account that has changed to an unproved address is a claim to it, like a sign-up.
//
// # A one-time code
//
// A code is 130 random bits. The Store keeps only its SHA-256, one live code for each account or sign-up and purpose,
// and uses the clock of the database. A code is redeemed in the transaction that makes the change it allows. Of any
// number of concurrent attempts exactly one succeeds.
//
// # A mail
//
// With exposure public, codes are only sent by mail, and no answer shows whether an account exists. A request for a
// code therefore looks up no account: it writes one row, always the same, and is answered with 202. Everything else
// happens when a worker claims the row:
//
//	forgot-password ──▶ mails{recovery, address} ──▶ 202
//	                        │ ClaimMail
//	                        ▼
//	            who has the address now? no one: the row is removed
//	                        │ the code is made, only its SHA-256 is stored
//	                        ▼
//	            Message{to, code} ──▶ FinishMail: sent, postponed, returned or given up
//
// No code is ever stored in the clear, and its lifetime starts when it is sent. If a worker dies while it sends, its
// lease ends and the mail is claimed again, with a new code that replaces the former one. A mail is thus sent at least
// once, and a second copy does no harm.
//
// A notice of a change is a row too, written by the statement that makes the change,
// with either exposure. It cannot be requested, so no limit applies to it.
//
// # A password
//
// Hashing is the one operation that is slow on purpose. It runs in a worker pool (see
// Hasher) with a bounded queue and the lowest priority, which rejects what it cannot
// serve in time before any work is done. No database connection is held meanwhile.
package identity
