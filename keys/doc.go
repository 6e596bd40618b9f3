// Package keys owns the life of the keys that sign tokens: it generates them,
// seals them, keeps them in a ring, publishes them, and says when each starts
// and stops to sign. It knows no Kubernetes, HTTP, SQL or JWT, and no clock: the
// caller gives the time. The server and the operator share it.
//
// # The life of a key
//
//	Published ──lead passed, seen everywhere──▶ Signing ──a successor signs──▶ Retiring ──last token dead──▶ gone
//	    └───────────────────────────── Revoked, by a person ──────────────────────────────▶ trusted by nobody
//
//	time ─────────────────────────────────────────────────────────────────────────▶
//	key A  ▓▓▓▓▓▓▓▓▓▓▓▓▓ Signing ▓▓▓▓▓▓▓▓▓▓▓▓▓▓│░░░░░ Retiring ░░░░░│░░ once more ░░│ gone
//	key B           │ Published  │ once more  │▓▓▓▓▓▓▓▓▓▓▓▓▓ Signing ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓
//	                │ lead       │ lead       │ lead + longest token + skew, twice
//
// A verifier that lags behind the ring by no more than the lead has key B before
// the first token of B reaches it, and has key A for as long as a token of A can
// live, even one that a signer made that lagged as well. Exactly one key of each
// kind signs. The first key of a kind, and one whose predecessor was revoked,
// signs at once.
//
// # The protocol
//
//	        ┌──────────────── read the ring (FromFiles) ◀───────────────┐
//	        ▼                                                            │
//	Observed: which passphrase opens what (Inspect), who has seen what   │
//	        ▼                                                            │
//	Next(ring, policy, observed, now) ─▶ Step ─▶ Apply ─▶ Ring.Files ─▶ compare-and-swap
//	        ▼ None                                          on the generation
//	     look again at Step.When
//
// Next is pure and returns one step, so a crash between any two writes is made
// good by whoever asks next, and of two who ask at once one loses the swap and
// asks again. The ring is the only state. Next never makes a ring where there
// was one: a ring that is missing or damaged is for the caller to notice, and
// one that no passphrase opens is left alone until a person decides.
//
// What the caller owes: it tells a ring that never was from one that it could
// not read; it writes by compare-and-swap; it gives signers a new passphrase
// before it calls it the current one; it lets tokens live longer only after the
// Extend that follows from the new Policy is written.
//
// # Clocks
//
// A phase that begins in the future, because the clock went back, begins now. A
// clock that jumps ahead makes every wait look over. So each wait is done twice:
// when its end is reached for the first time, that is only written down, and the
// wait starts again. A jump can cut one of the two short, not both, unless the
// clock jumps ahead twice in that time. It causes one rotation at the most.
package keys
