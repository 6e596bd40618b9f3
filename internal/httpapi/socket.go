//go:build unix

package httpapi

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// limitSocketBuffers bounds the kernel's buffers of each accepted connection. Otherwise the kernel
// buffers megabytes of a reply that the client does not read, which count as this process's
// memory. Errors are ignored.
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
