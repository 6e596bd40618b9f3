//go:build tools

// Package runc keeps in go.mod what the program needs that internal/testenv/localkubernetes
// builds; nothing compiles it.
package runc

import (
	_ "github.com/opencontainers/runc"
)
