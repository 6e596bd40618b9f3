//go:build !linux

package main

import "syscall"

// bindToParent needs Linux.
func bindToParent(*syscall.SysProcAttr) {}
