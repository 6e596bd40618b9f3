// Package browser tests the whole way of a person: the application of make run
// in a real browser, over CORS, with the mail that is really sent. It starts
// `make run` with EXPOSURE=public, and does nothing that a person would not,
// but to look at what goes over the network.
package browser
