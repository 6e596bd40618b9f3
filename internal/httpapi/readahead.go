//go:build unix

package httpapi

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// fasthttp waits for the first byte of each request with a buffer of one byte, so that an idle connection holds no
// other. That takes two more system calls for each request: one to read the rest, and one to see whether it has arrived.
// A readAhead takes a buffer only when data has arrived, and reads all of it.
type readAhead struct {
	conn    net.Conn
	raw     syscall.RawConn
	receive func(descriptor uintptr) (done bool)

	buffer  *[aheadSize]byte // nil when all data has been read from it
	from, n int              // what is left of the data
	err     error            // of the last system call
}

// aheadSize is more than most requests have. The rest of a longer one is read as usual.
const aheadSize = 4 << 10

var aheadBuffers = sync.Pool{New: func() any { return new([aheadSize]byte) }}

// newReadAhead returns nil if c is no socket.
func newReadAhead(c net.Conn) *readAhead {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	a := &readAhead{conn: c, raw: raw}
	a.receive = func(descriptor uintptr) bool {
		a.buffer = aheadBuffers.Get().(*[aheadSize]byte)
		for {
			a.n, a.err = syscall.Read(int(descriptor), a.buffer[:])
			if a.err != syscall.EINTR { //nolint:errorlint // a system call returns it as it is
				break
			}
		}
		if a.err != nil {
			a.release()
		}
		return a.err != syscall.EAGAIN //nolint:errorlint // as above
	}
	return a
}

// holds reports whether data has been read that read has not returned yet.
func (a *readAhead) holds() bool { return a != nil && a.buffer != nil }

func (a *readAhead) release() {
	aheadBuffers.Put(a.buffer)
	a.buffer, a.from, a.n = nil, 0, 0
}

// read is like a Read of the connection, whose deadlines hold for it too.
func (a *readAhead) read(p []byte) (int, error) {
	if a.buffer == nil {
		if len(p) > 1 {
			return a.conn.Read(p)
		}
		if err := a.raw.Read(a.receive); err != nil { // also when a deadline has passed
			return 0, err
		}
		if a.err != nil {
			return 0, os.NewSyscallError("read", a.err)
		}
		if a.n == 0 {
			a.release()
			return 0, io.EOF
		}
	}
	copied := copy(p, a.buffer[a.from:a.n])
	if a.from += copied; a.from == a.n {
		a.release()
	}
	return copied, nil
}
