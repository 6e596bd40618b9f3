// Package walk follows the documents as a newcomer does: it starts `make run`,
// pastes what README.md and docs/quick-start.md say, and runs the examples.
package walk
