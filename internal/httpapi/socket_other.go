//go:build !unix

package httpapi

import (
	"errors"
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

// direct is not supported on this system.
type direct struct{}

func newDirect(net.Conn) *direct { return nil }

func (*direct) holds() bool { return false }

func (*direct) read([]byte) (int, error) { return 0, errors.ErrUnsupported }

func (*direct) writeNow([]byte) int { return 0 }
