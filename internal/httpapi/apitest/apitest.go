// Package apitest checks every reply of a server against the OpenAPI document and the rules that all replies obey. A
// test that uses its client also tests the contract.
package apitest

import (
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// New returns a client of the server at base. A reply that breaks the contract is an error of the test.
func New(t testing.TB, base string) *testenv.Client {
	t.Helper()
	client := testenv.NewClient(t, base)
	client.HTTP.Transport = Transport(t, client.HTTP.Transport)
	return client
}
