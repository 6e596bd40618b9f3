// Package walk follows the documents like a new user: it starts `make run`, pastes the commands of README.md and
// docs/quick-start.md, and runs the examples.
package walk
