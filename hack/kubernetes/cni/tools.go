//go:build tools

// Package cni keeps in go.mod the requirements of the programs that internal/testenv/localkubernetes builds. The
// package itself is never compiled.
package cni

import (
	_ "github.com/containernetworking/plugins/plugins/ipam/host-local"
	_ "github.com/containernetworking/plugins/plugins/main/bridge"
	_ "github.com/containernetworking/plugins/plugins/main/loopback"
	_ "github.com/containernetworking/plugins/plugins/meta/portmap"
)
