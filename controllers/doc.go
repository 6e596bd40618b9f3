// Package controllers is the operator: it makes of one AuthGateway a running,
// watched and rotating service.
//
// # One pass
//
//	observe ────▶ tend the keys ──▶ publish ──▶ observe ──▶ render ──▶ apply ──▶ one status write
//	what keys     keys.Tend,        them        the rest    pure       writes
//	need          2 swaps at most
//
// The keys come first, and need nothing else: a revocation must not wait for a
// name that is taken, or for a right that is missing. Each other object is read
// and applied by itself. What is in the way of one is named, and keeps no other
// from being done, but for the Deployment; see apply.
//
// observe.go and replicas.go are the places that read, and what they find is all
// that the rest goes by, the time included. problems.go decides, from what was observed,
// what keeps the operator from going on; resources.go renders every object from
// it; status.go sums up. All three are pure. keys.go and apply.go write. A pass
// that finds everything as it should be writes nothing.
//
// Nothing is remembered between passes but what can be found again. Every write
// is either a compare-and-swap (the Secrets of the keys and their passphrases)
// or says the same each time (server-side apply). So a crash after any of them,
// and a second operator that is at it too, are made good by the next pass.
//
// # The order of writes
//
//	1  NAME-passphrases   swap: the passphrases that signers are given
//	2  NAME-keys          swap: the ring, sealed
//	3  NAME-public-keys   never of an older ring than is there
//	4  Service, NetworkPolicy, …
//	5  Deployment         last: a longer lifetime of tokens reaches the servers
//	                      only when the ring knows of it
//
// keys/custody.go says why it is safe, and keys/operator_model_test.go checks it
// over simulated years.
//
// # Whose is what
//
// A field that someone else has set, and that is not in what we apply, stays:
// that is server-side apply. What we have applied is found again in the
// managedFields of the object (the Extract functions of client-go); as soon as
// someone changes or takes away a field of ours it is no longer there, what is
// found differs from what is wanted, and the object is applied again. No copy of
// what was last applied has to be kept anywhere.
//
// An object that has a name of ours and was not made by us is never touched; the
// AuthGateway says so, and what needs the object waits.
package controllers
