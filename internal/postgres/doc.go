// Package postgres stores accounts, codes, sessions, the outbox and the key ring in PostgreSQL. It contains no rules of
// the domain. A statement decides only what the comments of identity.Store say that a store has to decide, because only
// the database can decide it among replicas.
//
// The statements are in the folder queries. Each is whole, and can be pasted into psql
// after \set has set its parameters.
//
// # Tables
//
//	users ◀──── codes      at most one for each purpose; only the SHA-256 is stored
//	signups ◀── codes      likewise; sign-ups that wait for the proof of their address
//	users ◀──── sessions   one row for each session; tokens are not stored
//	      ◀──── familiar_places   digests of the networks in which the owner has signed in
//	throttles              wrong passwords; a digest of the login and of a known network
//	mails                  to be sent; contains no code, refers to nothing, outlives accounts
//	limits                 what is used up of each limit; not in the write-ahead log
//	key_ring               one row, replaced by compare-and-swap
//	gateway                one row: the issuer of all replicas
//	endings                sessions that ended, and keys that were revoked, while tokens may
//	                       be alive; written by a trigger
//	queued_events          events for the webhook; written by a trigger of audit_events
//	event_webhook          one row: which events are queued, and until when
//	audit_events           events with ids and client addresses; refers to nothing, and
//	                       outlives accounts until its retention ends
//
// # Locks
//
// One lock orders all changes to an account: its row in users, locked FOR NO KEY UPDATE. Under READ COMMITTED a
// statement sees what was committed when it began. The exception is a row that it had to wait for: PostgreSQL reads
// that row again, and checks it against WHERE again. That gives exactly two patterns:
//
//	one statement    It locks the row under the condition that must still hold
//	                 (the password is the one that was checked), and acts only
//	                 if it got the lock. It sees other rows as they were when it
//	                 began, so it may only add rows, or remove rows that may be
//	                 removed in any case.
//	a transaction    Its first statement only locks the row. The next statement
//	                 begins after the previous holder of the lock has committed,
//	                 and so sees all of that holder's changes: it can end every
//	                 session, and decide whether this one is still alive.
//
// So when a sign-in meets a change of password, either the sign-in gets the lock first, and the change sees its session
// and ends it; or it gets the lock second, finds another password, and opens nothing:
//
//	sign-in                          change of password
//	   │ lock, insert, commit           │ (waits)
//	   │                                │ lock ──▶ new hash, delete sessions
//	   or
//	   │ (waits)                        │ lock, new hash, delete sessions, commit
//	   │ lock ──▶ hash differs: stale
//
// An address that is being proved has a separate advisory lock, until the transaction ends. Sign-ups and accounts
// therefore prove it one after another, and the second sees that an account has it. This lock is taken before the lock
// of an account. A code for a sign-up is stored under a lock of that sign-up, so that both are deleted together.
//
// A renewal and a sign-out need no lock: each is one conditional statement on one row of sessions. No transaction takes
// the lock of an account while it holds a row that belongs to an account, so there is no cycle, and no deadlock.
//
// A mail belongs to no account. The claim of a mail locks its row first, and then the account that it is about. All
// other statements skip locked mails, or add mails, and wait for none. The contents of a mail are decided under the
// lock of the account, so that no code is sent to an address that is being given up. The row of a limit is the last
// that a statement locks.
//
// # Two clocks
//
// Codes expire, failures age, mails become due and limits recover by the clock of the
// database, which is the same for all replicas. Whether a session is alive is decided by
// the clock of the caller, because its token is checked by that clock too.
//
// # Faults
//
// Every call has a deadline and a bounded wait for a connection, backed by statement_timeout and lock_timeout. Every
// error that prevents an answer becomes an *identity.Error of kind Unavailable, including unknown errors: a failing
// database is never mistaken for "no such session".
//
// A connection is accepted if its server takes writes and its encoding is UTF-8; otherwise the next of several hosts is
// tried. A connection that later reports that it takes no writes is closed, together with all idle ones. Nothing was
// done over it, so even a statement that must not run twice is sent again. The pool therefore moves to a new primary
// within seconds. A server that another one has replaced, and that does not know it, is recognized by its timeline; see
// hosts.
//
// After a restart of PostgreSQL the pool is full of dead connections. What may run twice
// (reads, conditional writes, transactions that had not begun to commit) is sent again
// over another connection. A write whose answer was lost is not.
//
// # Schema
//
// Migrations only expand what the previous release needs. Tables and columns that are no longer used are removed one
// release later. An older binary therefore works on a newer schema, and logs that, and a rollback needs no migration. A
// binary does not become ready on a schema older than its own.
//
// # Poolers
//
// A pooler lends a server process for one transaction or for longer, which a client cannot find out. Nothing therefore
// outlives a transaction there: the transaction sets its own limits (SET LOCAL), prepares no statement for a later one,
// and a single statement is a transaction too. All advisory locks belong to transactions, with or without a pooler. See
// admit for how a pooler is detected.
//
// # PostgreSQL's log
//
// PostgreSQL logs an error of a statement with the colliding values. A name that is taken
// is therefore no error: inserts use ON CONFLICT, and an update that may collide is a
// function that catches the violation, which is then not logged.
package postgres
