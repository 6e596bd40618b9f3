//go:build !unix

package httpapi

import (
	"net"
	"syscall"
)

// limitSocketBuffers does nothing on this system.
func limitSocketBuffers(syscall.Conn) {}

// descriptorLimit is unknown on this system.
func descriptorLimit() uint64 { return manyDescriptors }

// peerLives is not supported on this system: clients always count as connected.
func peerLives(net.Conn) bool { return true }

// bytesWait is not supported on this system.
func bytesWait(net.Conn) bool { return false }
