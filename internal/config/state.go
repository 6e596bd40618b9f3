package config

// StatePath is the path on METRICS_PORT at which a server serves its State.
const StatePath = "/state"

// State is what a server reports about itself, as JSON: what it is waiting for, and what
// it can do at this moment. It contains no secrets. Readers must ignore unknown members.
type State struct {
	// Version is the version of the program.
	Version string `json:"version"`

	// Ready reports whether requests should be sent to the server, as /readyz does. A server that was once ready stays
	// ready when its database is down; see DatabaseState.Problem.
	Ready bool `json:"ready"`

	// Reason describes in one line of less than 512 bytes why the server is not ready.
	Reason string `json:"reason,omitempty"`

	// MayNotReview reports whether Kubernetes decides what administrators may do, and does not let this server ask: its
	// ServiceAccount is not bound to system:auth-delegator.
	MayNotReview bool `json:"mayNotReview,omitempty"`

	Keys     KeysState     `json:"keys"`
	Database DatabaseState `json:"database"`
}

// KeysState describes the key ring of a server.
type KeysState struct {
	// Generation is the generation of the ring in use, or 0 before one is loaded.
	Generation int64 `json:"generation"`

	// Held are the kids of the keys, of both uses, whose tokens this server accepts. Revoked keys are not among them.
	Held []string `json:"held"`

	// Ready are the kids of the keys in Held that this server can sign with, now or when
	// they begin to sign: it has decrypted their private halves.
	Ready []string `json:"ready"`
}

// DatabaseState describes what a server knows about its database.
type DatabaseState struct {
	// MaxConnections is the number of connections that PostgreSQL allows to all ordinary
	// users together, or 0 while it is unknown.
	MaxConnections int `json:"maxConnections,omitempty"`

	// Problem describes, like Reason, why requests that need the database fail although
	// the server is ready: the database is down, is read-only, or belongs to another
	// issuer. Requests that do not need the database, such as those for keys, succeed.
	Problem string `json:"problem,omitempty"`
}
