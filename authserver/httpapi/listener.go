package httpapi

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

// A connection that is closed while bytes of the client are unread is reset by
// the kernel, and the reset overtakes the reply: the client of a request that
// was too long, say, sees a broken connection in place of 413. So such a
// connection is closed in two steps (RFC 9112 section 9.6).

const lingerTime = time.Second

// lingering makes connections that can be closed gently.
type lingering struct{ net.Listener }

func (l lingering) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c}, nil
}

type conn struct {
	net.Conn
	gently atomic.Bool
}

// closeGently asks for the connection to be closed after the reply, in a way
// that lets the client read it.
func closeGently(ctx *fasthttp.RequestCtx) {
	ctx.Response.Header.SetConnectionClose()
	if c, ok := ctx.Conn().(*conn); ok {
		c.gently.Store(true)
	}
}

// Close ends our side, then reads on for a moment before it ends the other.
func (c *conn) Close() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.gently.Load() {
		if half.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
			_, _ = io.Copy(io.Discard, c.Conn)
		}
	}
	return c.Conn.Close()
}

// SyscallConn gives access to the socket; see peerLives.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, syscall.ENOTSUP
}
