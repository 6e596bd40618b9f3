// Package browser tests the application of make run in a real browser, over CORS, with real mail. It starts `make run`
// with EXPOSURE=public, and acts only through the page; it also observes the network.
package browser
