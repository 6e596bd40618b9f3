// Package authserver wires the parts into a server and its commands. It contains no rules:
// the rules of accounts are in identity, those of keys in keys.
//
//	cmd/authserver ─▶ Command ─▶ Server.Run
//	                                ├── httpapi ─▶ identity ─▶ postgres, token, Hasher
//	                                ├── keyring      the signing keys: reload, rotate (keys.Reconcile)
//	                                ├── housekeeping removes expired rows
//	                                └── operations   /healthz /readyz /state /metrics on a separate port
//
// A server also starts if its database is down: it answers 503, is alive but not ready, reports what it is waiting for,
// and retries. It exits on its own only for errors that waiting cannot fix, such as a port in use or passphrases that
// do not decrypt the keys. It then writes the reason to TERMINATION_LOG.
//
// operations.go is the model for another listener, which Server.Run starts and stops;
// housekeeping.go is the model for another background job, which Server.work starts.
package authserver
