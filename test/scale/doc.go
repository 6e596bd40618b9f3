// Package scale holds the operator to what issue 3 asks of it with a thousand
// AuthGateways and ten thousand Secrets of others: it writes nothing where
// nothing changes, it is small, and it is prompt.
//
// The operator runs as the program that it is, for its memory is to be told from
// that of the tests; and it is told on Linux alone.
package scale
