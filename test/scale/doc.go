// Package scale tests the operator with a thousand AuthGateways, a thousand PublicKeys and ten thousand unrelated
// Secrets: it writes nothing if nothing changes, it needs little memory, and it acts promptly.
//
// The operator runs as a separate process, so its memory can be measured. That needs Linux.
package scale
