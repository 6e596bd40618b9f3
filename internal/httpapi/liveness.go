//go:build unix

package httpapi

import (
	"cmp"
	"errors"
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
	n, err := peek(c)
	return n > 0 || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, errors.ErrUnsupported)
}

// bytesWait reports whether bytes have arrived that nobody has read yet.
func bytesWait(c net.Conn) bool {
	n, _ := peek(c)
	return n > 0
}

// peek looks for a next byte and leaves it where it is. It returns 0 and no error at
// the end of the stream.
func peek(c net.Conn) (n int, err error) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, errors.ErrUnsupported
	}
	// Control, unlike Read, does not mind the read deadline, which may have passed.
	controlErr := raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return n, cmp.Or(controlErr, err)
}
