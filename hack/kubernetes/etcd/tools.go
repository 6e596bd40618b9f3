//go:build tools

// Package etcd keeps in go.mod what the program needs that internal/testenv/localkubernetes
// builds; nothing compiles it.
package etcd

import (
	_ "go.etcd.io/etcd/server/v3"
)
