//go:build !unix

package httpapi

import "syscall"

// limitSocketBuffers does nothing on this system.
func limitSocketBuffers(syscall.Conn) {}

// descriptorLimit cannot tell on this system.
func descriptorLimit() uint64 { return manyDescriptors }
