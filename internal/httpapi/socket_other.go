//go:build !unix

package httpapi

import "syscall"

// limitSocketBuffers does nothing on this system.
func limitSocketBuffers(syscall.Conn) {}

// descriptorLimit is unknown on this system.
func descriptorLimit() uint64 { return manyDescriptors }
