// Package postgres keeps accounts, codes, sessions, the outbox and the key ring in
// PostgreSQL. It holds no rules of the domain: what a statement decides is what
// the comments of identity.Store say that a store has to decide, because only
// the database can decide it among replicas.
//
// # Tables
//
//	users ◀──── codes      at most one of each purpose; only the SHA-256 is kept
//	signups ◀── codes      likewise; sign-ups that wait for their proof
//	users ◀──── sessions   one row a session; a token has none
//	      ◀──── familiar_places   where its owner has signed in; digests
//	throttles              wrong passwords; a digest names the login, and a familiar place
//	mails                  to be sent; holds no code, refers to nothing, and outlives accounts
//	limits                 what is used up of a limit; a digest names whose; not in the write-ahead log
//	key_ring               one row, replaced by compare-and-swap
//	gateway                one row: the issuer of all replicas
//	audit_events           what happened, by ids and client addresses; refers to nothing, and
//	                       outlives accounts until its retention is over
//
// # Who waits for whom
//
// One lock orders everything that belongs to an account: its row in users,
// taken FOR NO KEY UPDATE. PostgreSQL reads under READ COMMITTED, so each
// statement sees what was committed when it began, except that a row which it
// had to wait for is read, and checked against WHERE, anew. That gives two
// patterns, and there is no third:
//
//	one statement    it locks the row under the condition that must still hold
//	                 (the password is the one that was checked), and acts only
//	                 on what the lock gave back. What it acts on besides is as
//	                 old as its beginning, so it may only add, or remove what
//	                 may go anyway.
//	a transaction    its first statement locks the row, and nothing else. The
//	                 next one begins after whoever held the lock before has
//	                 committed, and so sees all that they did: it can end every
//	                 session, and decide whether this one is still alive.
//
// So a sign-in that meets a change of password either gets the lock first, and
// then the change sees its session and ends it; or it comes second, finds
// another password under the lock, and opens nothing:
//
//	sign-in                          change of password
//	   │ lock, insert, commit           │ (waits)
//	   │                                │ lock ──▶ new hash, delete sessions
//	   or
//	   │ (waits)                        │ lock, new hash, delete sessions, commit
//	   │ lock ──▶ hash differs: stale
//
// An address that is to be proved has a lock of its own, an advisory one that lasts
// until the transaction ends; so sign-ups and accounts prove it one after another, and
// who comes second sees that an account has it. It is taken before the lock of an
// account. A code for a sign-up is stored under a lock of that sign-up, so that it goes
// with it.
//
// A renewal and a sign-out need no lock: each is one conditional statement on
// one row of sessions. Nobody takes the lock of an account while holding a row
// that belongs to one, so there is no cycle to deadlock in.
//
// A mail belongs to no account. Who takes one out of the outbox locks its row
// first, and then the account that it turns out to be about; everyone else skips
// rows that are locked, or adds rows, and waits for none. What a mail says is
// decided under the lock of the account, so that no code goes to an address that is
// being given up. The row of a limit is the last that a statement locks.
//
// # Two clocks
//
// Codes expire, failures age, mails fall due and limits recover by the database's
// clock, of which all replicas see the same one. Whether a session is alive is decided by the
// caller's clock, because its token is checked by that clock too.
//
// # Faults
//
// Every call has a deadline, a bounded wait for a connection, and
// statement_timeout and lock_timeout behind it. Whatever keeps an answer away
// becomes an *identity.Error of kind Unavailable, unknown errors too: nothing
// is ever taken for "no such session" because the database is ill.
//
// A connection is admitted if its server takes writes and its text is UTF-8; of
// several hosts the next one is tried. A connection that answers later that it takes
// no writes is thrown away, with all idle ones. Nothing was done over it, so even
// what must not be done twice is sent again. So the pool is a new primary's within
// seconds of there being one.
//
// After a restart of PostgreSQL the pool is full of dead connections. What may
// be done twice (reads, conditional writes, transactions that had not begun to
// commit) is sent again over another connection; a write whose answer was lost
// is not.
//
// # Schema
//
// Migrations only expand what the release before them needs; what is not used
// any more is removed a release later. So an older binary works on a newer
// schema, which it logs, and a roll-back needs no migration. A binary refuses
// to be ready on an older schema than its own.
//
// # Poolers
//
// A pooler lends a server process for one transaction, or for longer, which cannot be
// told from outside. So nothing outlives a transaction there: it brings its limits
// with it (SET LOCAL), prepares no statement for a later one, and a single statement
// is a transaction too. Advisory locks are those of transactions, with a pooler or
// without. See admit for how a pooler is found out.
//
// # PostgreSQL's own log
//
// An error in a statement is logged there with the values that collide. So a name that
// is taken is no error: inserts have ON CONFLICT, and an update that may collide is a
// function that catches the violation, which is then not logged.
package postgres
