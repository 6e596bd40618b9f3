//go:build tools

// Package containerd keeps in go.mod what the programs need that
// internal/testenv/localkubernetes builds; nothing compiles it.
package containerd

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
)
