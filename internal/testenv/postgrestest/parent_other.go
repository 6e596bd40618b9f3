//go:build !linux

package postgrestest

import "os/exec"

// bindToParent needs Linux.
func bindToParent(*exec.Cmd) {}
