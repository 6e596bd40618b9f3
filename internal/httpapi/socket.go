//go:build unix

package httpapi

import (
	"cmp"
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// limitSocketBuffers bounds the kernel's buffers of each accepted connection. Otherwise the kernel buffers megabytes of
// a reply that the client does not read, which count as this process's memory. Errors are ignored.
func limitSocketBuffers(l syscall.Conn) {
	raw, err := l.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
	})
}

// descriptorLimit returns how many files and sockets the process may open.
func descriptorLimit() uint64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return manyDescriptors
	}
	return min(limit.Cur, manyDescriptors)
}

// peerLives reports whether the client still waits for its reply. fasthttp does not check a connection while a handler
// runs, so without this a password would be hashed for a client that has already disconnected.
//
// It peeks at the socket. The end of the stream or an error means that the client has disconnected;
// data (a pipelined request) or no data yet means that it is connected. A client that closes its
// sending half and waits counts as disconnected, as in net/http.
func peerLives(c net.Conn) bool {
	n, err := peek(c)
	return n > 0 || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, errors.ErrUnsupported)
}

// bytesWait reports whether unread data has arrived.
func bytesWait(c net.Conn) bool {
	n, _ := peek(c)
	return n > 0
}

// peek looks at the next byte without reading it. At the end of the stream it returns 0 and no error.
func peek(c net.Conn) (n int, err error) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, errors.ErrUnsupported
	}
	// Control, unlike Read, ignores the read deadline, which may have passed.
	controlErr := raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return n, cmp.Or(controlErr, err)
}
