//go:build tools

// Package runc keeps in go.mod the requirements of the program that internal/testenv/localkubernetes builds. The
// package itself is never compiled.
package runc

import (
	_ "github.com/opencontainers/runc"
)
