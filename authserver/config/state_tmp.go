package config

const StatePath = "/state"
type State struct {
	Ready bool
	Reason string
	Keys struct{ Generation int64; Ready []string }
	Database struct{ MaxConnections int }
}
