//go:build tools

// Package containerd keeps in go.mod the requirements of the programs that internal/testenv/localkubernetes builds. The
// package itself is never compiled.
package containerd

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
)
