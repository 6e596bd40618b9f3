// Package keys manages the keys that sign tokens: it generates and encrypts them, keeps them in a ring, publishes them,
// and decides when each starts and stops signing. It knows nothing of Kubernetes, HTTP, SQL or JWT, and has no clock:
// the caller passes the time. The server and the operator share it.
//
// # The life of a key
//
//	Generated ──seen everywhere──▶ Published ──lead passed──▶ Signing ──a successor signs──▶ Retiring
//	    │                              │                         │                             │
//	    │                              │                         │          last token expired │
//	    └──────────────────────────────┴─ revoked by a person ───┴──▶ Revoked (not trusted) ───┴──▶ removed
//
//	time ─────────────────────────────────────────────────────────────────────────▶
//	key A  ▓▓▓▓▓▓▓▓▓▓▓▓▓ Signing ▓▓▓▓▓▓▓▓▓▓▓▓▓▓│░░░░░ Retiring ░░░░░│░░░ again ░░░░│ removed
//	key B           │ Published  │ again      │▓▓▓▓▓▓▓▓▓▓▓▓▓ Signing ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓
//	                │ lead       │ lead       │ lead + longest token + skew, twice
//
// A verifier that lags behind the ring by at most the lead has key B before the first token of B reaches it. It keeps
// key A as long as a token of A can live, even if a signer that lagged as much issued that token. Exactly one key of
// each use signs. The first key of a use, and the successor of a revoked signing key, sign at once. RFC 7583 has the
// terms.
//
// A verifier can already get a key in the phase Generated. The phase ends, and the lead
// begins, when the key is published and every replica in service has loaded it: the
// process that publishes keys may be delayed after it has written the ring.
//
// # The protocol
//
//	   ┌─────────── the caller reads the ring and the passphrases ◀──────────┐
//	   ▼                                                                     │
//	Inspect: the passphrase that decrypts each key                           │
//	   ▼                                                                     │
//	Reconcile(Input) ─▶ Result ─▶ write the passphrases, then the ring, each by compare-and-swap
//	   ▼
//	look again at Result.Next.When
//
// Reconcile works on plain data and never calls back. It repeats next, a pure list of rules that returns one step, and
// apply. The operator and the server both call it. If the caller crashes between two writes, the next call continues;
// of two concurrent callers one loses the compare-and-swap and starts over. The ring is the only state. An existing
// ring is never replaced by a new one: the caller must notice a ring that is missing or damaged, and a ring that no
// passphrase decrypts is left alone until a person decides.
//
// The caller must tell a ring that never existed from one that it could not read; write by compare-and-swap; give
// signers a new passphrase before it reports it as distributed; and issue tokens with a longer lifetime only after
// Reconcile has written the Extend step for it.
//
// # Clocks
//
// If the clock goes back, a phase that begins in the future begins now. If the clock jumps forward, every wait appears
// to have elapsed. Each wait therefore runs twice: the first time its deadline passes, that is recorded and the wait
// restarts. A jump can shorten one of the two waits; only two jumps in that time shorten both. A jump causes one
// rotation at most.
package keys
