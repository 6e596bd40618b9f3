// Package identitytest holds what tests of the domain need: a Store in memory,
// and TestStore, the contract of identity.Store as an executable suite.
//
// Store obeys the same contract as the one on PostgreSQL, because both pass
// TestStore; so whatever the domain or the HTTP layer is seen to do over the
// one, it does over the other. A sentence in the contract has a subtest of its
// name; a rule that only one of the stores keeps is a gap in the suite.
package identitytest
