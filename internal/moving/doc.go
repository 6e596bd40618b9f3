// Package moving moves accounts in from other systems, and out. It reads their formats and keeps count; postgres
// stores, and identity and hashes decide what may be stored.
//
//	file ─▶ Reader: accounts ─▶ check, in parallel ─▶ Store: one transaction a batch ─┬─▶ accounts
//	                                    │                                            ├─▶ how far the import is
//	                                    └── refused ─────────────────────────────────┴─▶ file of refused accounts
//
// A batch stores its accounts and how far the import is in one transaction, so an import that is killed continues where
// it was. The file of refused accounts is written before the transaction commits, and cut to the recorded length when
// the import continues.
package moving
