// Package endings keeps, in memory, which sessions ended and which keys were revoked before
// the access tokens did that they stand for. Consumers that verify tokens offline read it
// as a feed; the gateway itself asks it about single sessions, without a query.
//
//	endings.go    what an ending is, and what a store has to offer
//	snapshot.go   what a replica, or a consumer, has seen
//	cursor.go     the text in which a consumer keeps that
//	set.go        the endings in memory
//	feed.go       follows the table of endings, and answers from memory
//
// # How endings get here
//
// A trigger on the table of sessions writes each ending, in the transaction that ends the
// session. Each replica reads what was committed since its last look, once a second.
// Transactions commit in another order than they number their rows, so no number says how
// far a reader is. A snapshot of PostgreSQL does: it says of each transaction whether it
// was visible. The endings between two snapshots are those of the transactions that only
// the later one sees. That is exact: it needs no overlap, and no limit on how long a
// transaction may take.
//
// # What a consumer keeps
//
// The cursor of a consumer is such a snapshot, too. All replicas understand it, because it
// is PostgreSQL's and not a replica's: the next replica sends what the former one did not
// have, and nothing twice. A replica that is behind the cursor waits until it has caught
// up.
//
// A snapshot means something only until PostgreSQL restarts, because a crash can forget
// numbers of transactions that left no trace, and use them again. It then means something
// again after all endings were read once more. The incarnation of the database shows that.
// A consumer with a cursor of another incarnation gets all endings; it knows most of them,
// and nothing happens twice.
//
// # How long an ending matters
//
// Until the last access token has expired that can have been issued before it: the longest
// lifetime that the settings, or a key of the ring, allow, and Grace. All of this is
// decided by the database's clock, which wrote the time of the ending.
package endings

import (
	"context"
	"time"
)

// Kind is what has ended.
type Kind string

// The kinds of endings.
const (
	Session Kind = "sid" // the session with this ID
	Key     Kind = "kid" // the key of access tokens with this ID
)

// Ending is a session that ended, or a key that was revoked.
type Ending struct {
	Kind        Kind
	ID          string
	Transaction int64 // that committed it
	At          time.Time
}

// Grace is how much longer than the longest access token an ending matters: a token may be
// issued by a request that was under way, the clocks of replicas differ, and verifiers
// allow for a difference.
const Grace = time.Minute

// View is what one statement saw.
type View struct {
	Snapshot    Snapshot
	Incarnation string    // differs if Transaction and Snapshot cannot be compared with those of another view
	At          time.Time // by the database's clock
	Endings     []Ending
}

// Store is the table of endings. internal/postgres implements it.
type Store interface {
	// LoadEndings returns the first endings, at most limit, that are younger than age, and
	// that follow a kind and an id in the order of both.
	LoadEndings(ctx context.Context, after Ending, age time.Duration, limit int) (View, error)

	// TailEndings returns the endings that are visible now, and were not in a snapshot, but
	// not more than limit of them.
	TailEndings(ctx context.Context, since Snapshot, limit int) (View, error)
}
