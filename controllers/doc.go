// Package controllers is the operator. It turns each AuthGateway into a running
// identity service: it creates the objects, rotates the keys and reports the state.
//
// # One reconcile
//
//	observe ──▶ reconcile  ──▶ publish ──▶ observe ──▶ render ──▶ apply ──▶ write the
//	the keys    the keys                   the rest    (pure)               status once
//
// The keys come first and depend on nothing else: a revocation must not wait for a name that is taken or for a missing
// permission. Every other object is read and applied independently. A failed write does not stop the others, with one
// exception: the Deployment is skipped, because pods must not start before the objects that protect them.
//
// observe.go and replicas.go read, and collect everything in a clusterState, the time included. problems.go decides
// what keeps the operator from going on. render*.go renders the objects. status*.go summarizes. These three are pure:
// their tests need no API server. keys.go and apply.go write. A reconcile that finds everything in order writes
// nothing.
//
// The operator keeps no state between reconciles that it cannot restore. A write is either a compare-and-swap (the
// Secrets of the keys and passphrases) or always the same (server-side apply). If the process crashes after any write,
// or a second operator runs at the same time, the next reconcile corrects it.
//
// # The order of writes
//
//  1. NAME-passphrases, by compare-and-swap: the passphrases for the signers.
//  2. NAME-keys, by compare-and-swap: the ring, encrypted.
//  3. NAME-public-keys and NAME-refresh-public-keys: never from a ring that is older
//     than the published one.
//  4. ServiceAccount, Service, NetworkPolicy and so on.
//  5. Deployment: last, because the ring must know of a longer token lifetime before
//     the servers do.
//
// Package keys explains why this order is safe, and its operator model tests it over simulated years.
//
// # Ownership of fields
//
// Server-side apply keeps the fields that other writers set. What the operator applied before is found in managedFields
// (by client-go's Extract functions). When another writer changes such a field, the extracted object differs from the
// wanted one, and the operator applies again. So no copy of the last applied object is needed.
//
// The operator never touches an object that has the name of one of its own but that
// it did not create. The AuthGateway reports the conflict.
//
// # Copies in other namespaces
//
// A PublicKeys has a copy of a gateway's public keys in its own namespace. A second controller reconciles it in the
// same way: publickeys_controller.go observes and applies, publickeys_decide.go is pure. publications.go passes on what
// a gateway publishes, and copies.go makes a rotation wait for the copies.
//
// # How to add a reference to a Secret or a ConfigMap
//
// Add the field to api/v1alpha1, a row to the table inputs (with a volume and a
// directory in names.go, if the pods get files), and the field's documentation.
package controllers
