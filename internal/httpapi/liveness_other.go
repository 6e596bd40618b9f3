//go:build !unix

package httpapi

import "net"

// peerLives is not supported on this system: clients always count as connected.
func peerLives(net.Conn) bool { return true }

// bytesWait is not supported on this system.
func bytesWait(net.Conn) bool { return false }
