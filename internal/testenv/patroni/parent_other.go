//go:build !linux

package patroni

import "syscall"

// bindToParent needs Linux.
func bindToParent(*syscall.SysProcAttr) {}
