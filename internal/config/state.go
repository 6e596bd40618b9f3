package config

// StatePath is where a server tells its State, on METRICS_PORT.
const StatePath = "/state"

// State is what a server says of itself to those who run it, as JSON: what it is
// waiting for, and what it could do at this moment. It holds no secrets. Whoever
// reads it must put up with members that they do not know.
type State struct {
	// Version is that of the program.
	Version string `json:"version"`

	// Ready says whether requests should be sent to the server, as /readyz does. A
	// server that has been ready stays so while its database is away; see
	// DatabaseState.Problem.
	Ready bool `json:"ready"`

	// Reason says why not, to a person, in one line of less than 512 bytes.
	Reason string `json:"reason,omitempty"`

	Keys     KeysState     `json:"keys"`
	Database DatabaseState `json:"database"`
}

// KeysState says what a server has of the key ring.
type KeysState struct {
	// Generation is that of the ring in use; 0 before there is one.
	Generation int64 `json:"generation"`

	// Held are the kids of the keys, of both kinds, whose tokens verify at this
	// server. A revoked key is not among them.
	Held []string `json:"held"`

	// Ready are those of them that the server could also sign with, where they
	// are to sign, now or later: their private halves are open.
	Ready []string `json:"ready"`
}

// DatabaseState says what a server has found out about its database.
type DatabaseState struct {
	// MaxConnections is how many connections PostgreSQL gives to all of its
	// ordinary users together; 0 while that is not known.
	MaxConnections int `json:"maxConnections,omitempty"`

	// Problem says, as Reason does, why requests that need the database fail now,
	// though the server is ready: it is away, takes no writes, or belongs to another
	// issuer. All others are answered, those for the keys among them.
	Problem string `json:"problem,omitempty"`
}
