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
// A direct takes a buffer only when data has arrived, and reads all of it.
//
// It also knows whether a write has to wait, which a [net.Conn] does not tell.
type direct struct {
	conn    net.Conn
	raw     syscall.RawConn
	receive func(descriptor uintptr) (done bool)
	send    func(descriptor uintptr)

	buffer  *[aheadSize]byte // nil when all data has been read from it
	from, n int              // what is left of the data
	err     error            // of the last read

	sending []byte // nil except in writeNow
	sent    int
}

// aheadSize is more than most requests have. The rest of a longer one is read as usual.
const aheadSize = 4 << 10

var aheadBuffers = sync.Pool{New: func() any { return new([aheadSize]byte) }}

// newDirect returns nil if c is no socket.
func newDirect(c net.Conn) *direct {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	d := &direct{conn: c, raw: raw}
	d.receive = func(descriptor uintptr) bool {
		d.buffer = aheadBuffers.Get().(*[aheadSize]byte)
		for {
			d.n, d.err = syscall.Read(int(descriptor), d.buffer[:])
			if d.err != syscall.EINTR { //nolint:errorlint // a system call returns it as it is
				break
			}
		}
		if d.err != nil {
			d.release()
		}
		return d.err != syscall.EAGAIN //nolint:errorlint // as above
	}
	d.send = func(descriptor uintptr) {
		if n, err := syscall.Write(int(descriptor), d.sending); err == nil {
			d.sent = n
		}
	}
	return d
}

// holds reports whether data has been read that read has not returned yet.
func (d *direct) holds() bool { return d != nil && d.buffer != nil }

func (d *direct) release() {
	aheadBuffers.Put(d.buffer)
	d.buffer, d.from, d.n = nil, 0, 0
}

// read is like a Read of the connection, whose deadlines hold for it too.
func (d *direct) read(p []byte) (int, error) {
	if d.buffer == nil {
		if len(p) > 1 {
			return d.conn.Read(p)
		}
		if err := d.raw.Read(d.receive); err != nil { // also when a deadline has passed
			return 0, err
		}
		if d.err != nil {
			return 0, os.NewSyscallError("read", d.err)
		}
		if d.n == 0 {
			d.release()
			return 0, io.EOF
		}
	}
	copied := copy(p, d.buffer[d.from:d.n])
	if d.from += copied; d.from == d.n {
		d.release()
	}
	return copied, nil
}

// writeNow writes as much of p as the kernel takes without a wait, and returns how much that was. It reports no error:
// an ordinary write of the rest does. Unlike that, it ignores the deadlines.
func (d *direct) writeNow(p []byte) int {
	d.sending, d.sent = p, 0
	_ = d.raw.Control(d.send)
	d.sending = nil
	return d.sent
}
