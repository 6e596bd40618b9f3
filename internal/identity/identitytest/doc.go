// Package identitytest supports tests of the domain: an in-memory Store, and TestStore,
// the executable contract of identity.Store.
//
// The in-memory Store and the one on PostgreSQL both pass TestStore, so tests of the domain
// and of HTTP that use the one are valid for the other. Each sentence of the contract is
// the name of a subtest. A rule that only one of the stores keeps is a gap in the suite.
package identitytest
