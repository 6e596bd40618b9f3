// Package identity is the domain of the gateway: accounts, passwords, one-time
// codes, sessions, and the rules that join them. It knows neither HTTP nor SQL;
// what it needs from the world it names as interfaces (Store, Mailer), and its
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
// # A one-time code
//
// A code is 130 random bits. The store keeps only its SHA-256, one live code
// for each user and purpose, and takes its time from the database. A code is
// redeemed in the transaction that does what it allows, so that of any number
// of attempts at once exactly one succeeds.
//
// # A password
//
// Hashing is the one thing here that costs processor time on purpose, so it
// has a lane of its own (see Hasher): bounded, at the lowest priority, and with
// a queue that turns away what it cannot serve in time before it is hashed.
// No database connection is held meanwhile.
package identity
