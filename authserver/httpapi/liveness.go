//go:build unix

package httpapi

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// peerLives tells whether the client still waits for its reply. fasthttp does
// not look at a connection while a handler runs, so without this a password
// would be hashed for a client that gave up long ago.
//
// It looks at the socket without taking anything from it: the end of the stream
// or an error means that the client has gone; bytes (a pipelined request) or
// nothing yet mean that it is there. A client that closes its sending half and
// waits counts as gone, as it does for net/http.
func peerLives(c net.Conn) bool {
	s, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return true
	}
	alive := true
	// Control, unlike Read, does not mind the read deadline, which may have passed.
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		alive = n > 0 || err == unix.EAGAIN || err == unix.EINTR
	})
	return err == nil && alive
}
