// Package consumers tests the module verify against the code that issues tokens and keeps keys. It is a module of its
// own, because verify must not require the gateway.
package consumers
