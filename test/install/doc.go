// Package install holds what is in config/ and charts/ against a real API server:
// that it is accepted, that it asks for no more than it may, that it can be
// installed, upgraded and taken away again, and that both ways say the same.
package install
