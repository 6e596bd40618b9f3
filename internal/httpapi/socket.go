//go:build unix

package httpapi

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// limitSocketBuffers bounds what the kernel keeps for each connection that the
// listener accepts: by itself it keeps megabytes of a reply that the client does not
// read, and they count as this process's memory. Where it cannot be set, it stays as
// it is.
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

// descriptorLimit returns how many files and sockets the process may have open.
func descriptorLimit() uint64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return manyDescriptors
	}
	return min(limit.Cur, manyDescriptors)
}
