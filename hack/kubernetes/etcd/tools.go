//go:build tools

// Package etcd keeps in go.mod the requirements of the program that internal/testenv/localkubernetes builds. The
// package itself is never compiled.
package etcd

import (
	_ "go.etcd.io/etcd/server/v3"
)
