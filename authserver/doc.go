// Package authserver joins the parts into a server and into the commands that
// go with it. It holds no rules: those of accounts are in identity, those of
// keys in keys.
//
//	cmd/authserver ─▶ Command ─▶ Server.Run
//	                                ├── httpapi ─▶ identity ─▶ postgres, token, Hasher
//	                                ├── keyring      the signing keys: reload, rotate (keys.Reconcile)
//	                                ├── housekeeping what has expired is removed
//	                                └── operations   /healthz /readyz /state /metrics on a port of their own
//
// A server starts whether or not its database is there: it answers 503, is alive
// and not ready, says what it is waiting for, and tries again. It ends by itself
// only for what no waiting mends: a port that is taken, keys that its passphrases
// do not open. Its last words are then in TERMINATION_LOG.
package authserver
