// Package admincli has the commands for accounts, sessions and events. Two programs have them: authserver, which
// reaches a server with a key from a file, and kubectl-authgateway, which forwards a port and gets a token.
package admincli

//go:generate go run -C ../../cmd/kubectl-authgateway ./clidoc ../../docs/reference/cli.md
