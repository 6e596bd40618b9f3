// Package console serves pages on which administrators find accounts, see their sessions and events, suspend accounts,
// and end sessions. It is served on the port of administrators only.
//
// The pages are rendered by the server and need no script. An administrator signs in with their credential, which
// stays in the memory of this process; the browser has a random session ID. Each request authorizes the credential
// again, so a right that was taken away is gone with the next page.
package console
