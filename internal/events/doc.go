// Package events announces what happens to accounts to a service of others: it posts the events that the database has
// queued.
//
//	transaction of a change ─▶ audit_events ─trigger─▶ queued_events ◀─claim, remove, postpone─ [worker] ─post─▶ receiver
//
// # At least once
//
// A trigger queues an event in the transaction that records it, so there is the event if and only if there is the change,
// whichever release or program made it. A row is removed when the receiver has answered 2xx. A worker that claims a row
// has it for the time of a lease, which is longer than all that the worker does with it. If its process dies, the row is
// due again when the lease ends, and is sent again with the same ID.
//
// # In order
//
// Only the first event of a user may be claimed, the one with the least number. So a later one is not sent before the
// first was accepted or given up, whichever replica sends it. An event gets its number while its transaction holds the
// lock of the account, so the numbers of changes that follow each other are in their order, and the earlier one is
// visible when the later one is. Nothing has to wait for other transactions, and no reader remembers a position.
//
// # A receiver that is down
//
// A change inserts a row and waits for nothing. An event that is not accepted waits longer each time, for itself and the
// later ones of its user. If the receiver accepts nothing, all workers of a replica pause, and one of them tries.
//
// # On and off
//
// The table event_webhook says which events are queued, and until when. Servers with a receiver extend that time while
// they run. When it is over, the trigger queues nothing, and the clean-up removes what is left.
package events
