package httpapi

import (
	"errors"
	"io"
	"net"
	"os"
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

// listener makes connections whose requests are framed, that are bounded in what
// they hold, and that can be closed gently.
type listener struct {
	net.Listener
	all *connections
}

func newListener(l net.Listener, all *connections) listener {
	if s, ok := l.(syscall.Conn); ok {
		limitSocketBuffers(s)
	}
	return listener{l, all}
}

// Accept waits for the next connection. fasthttp ends for good at any error, so
// those that pass are waited for here: there are no more descriptors, say, or a
// client has gone before it was accepted.
func (l listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		switch {
		case err == nil:
			c := &conn{Conn: accepted, all: l.all}
			l.all.add(c)
			return c, nil
		case isPassing(err):
			l.all.evictOne()
			time.Sleep(acceptPause)
		default:
			return nil, err
		}
	}
}

const acceptPause = 10 * time.Millisecond

func isPassing(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// conn is a connection. Read, Write and the deadlines are for the goroutine that
// serves it; Close may be called by any.
type conn struct {
	net.Conn
	all    *connections
	gently atomic.Bool

	wire    framing
	first   bool     // only the first byte of a request was read: fasthttp waits for it alone
	doing   phase    // as the goroutine that serves it knows it
	charged int64    // for the request
	reply   int64    // what the kernel may still keep of the last reply
	refusal *failure // of what the client sends next

	evicted atomic.Uint32 // the phase in which it was evicted; 0: it was not

	// The rest is guarded by all.mu.
	phase         phase
	held          int64
	before, after *conn
}

// closeGently asks for the connection to be closed after the reply, in a way
// that lets the client read it.
func closeGently(ctx *fasthttp.RequestCtx) {
	ctx.Response.Header.SetConnectionClose()
	if c, ok := ctx.Conn().(*conn); ok {
		c.gently.Store(true)
	}
}

// Read gives fasthttp the next bytes of a request that can be framed, without those
// of trailer fields. A refusal is an error that comes in place of what is refused.
func (c *conn) Read(p []byte) (int, error) {
	if c.refusal != nil {
		return 0, c.refusal
	}
	if c.wire.state == betweenRequests && (c.doing == phaseWorking || c.doing == phaseReplying) {
		// Of a large reply the kernel may still hold the end, which the client
		// can leave there for as long as it keeps the connection.
		c.charged = 0
		if !c.enter(phaseIdle, idleCost+c.reply) {
			return 0, io.EOF
		}
	}
	if c.first {
		c.first = false
		if !bytesWait(c) && !c.charge() {
			c.refusal = errCrowded()
			return 0, c.refusal
		}
	}
	for {
		if err := c.evictionError(); err != nil {
			return 0, err
		}
		n, err := c.Conn.Read(p)
		if err != nil {
			if c.evicted.Load() != 0 {
				continue
			}
			return 0, err
		}
		kept, refusal := c.wire.advance(p[:n])
		switch {
		case refusal != nil:
			c.refusal = refusal
			if kept == 0 && len(p) == 1 {
				return 1, nil // fasthttp waits for a first byte without looking at errors
			}
		case len(p) == 1 && c.wire.state != betweenRequests:
			// The rest of the request has probably arrived too, so it gives way to none.
			c.first, c.charged, c.reply = true, requestCost, 0
			c.enter(phaseWorking, requestCost)
		case !c.charge():
			c.refusal = errCrowded()
		}
		switch {
		case kept > 0:
			return kept, nil
		case c.refusal != nil:
			return 0, c.refusal
		}
	}
}

// charge charges the connection for the request that has begun, and notes when it
// is complete. A complete one is served, whatever else there is.
func (c *conn) charge() bool {
	if c.wire.state == betweenRequests {
		if c.doing != phaseWorking {
			c.enter(phaseWorking, max(c.charged, requestCost))
		}
		return true
	}
	cost := requestCost + bodyCost(c.wire.body)
	if c.doing == phaseReading && cost <= c.charged {
		return true
	}
	c.charged, c.reply = cost, 0
	return c.enter(phaseReading, cost)
}

func (c *conn) enter(p phase, cost int64) bool {
	c.doing = p
	return c.all.enter(c, p, cost)
}

// evictionError is what fasthttp gets to know of an eviction. A connection that was
// between two requests just ends, unless the next request is there: the client of a
// connection that is closed then does not know whether the request was received.
func (c *conn) evictionError() error {
	switch phase(c.evicted.Load()) {
	case phaseNew:
		return nil
	case phaseFresh, phaseIdle:
		if bytesWait(c) {
			c.all.revive(c)
			c.doing, c.charged, c.reply = phaseWorking, requestCost, 0
			return nil
		}
		return io.EOF
	case phaseReading:
		c.refusal = errCrowded()
		return c.refusal
	default:
		return os.ErrDeadlineExceeded
	}
}

// Write sends a part of a reply. (What is sent in the middle of a request is 100
// Continue, or an error that ends the connection.)
func (c *conn) Write(p []byte) (int, error) {
	if phase(c.evicted.Load()) == phaseReplying {
		return 0, os.ErrDeadlineExceeded
	}
	if c.wire.state == betweenRequests && c.refusal == nil {
		if cost := replyCost(len(p)); c.doing != phaseReplying || cost > c.reply {
			c.reply = cost
			c.enter(phaseReplying, max(c.charged, requestCost)+cost) // without room it is sent all the same
		}
	}
	return c.Conn.Write(p)
}

// SetReadDeadline sets the deadline, unless the connection is being closed.
func (c *conn) SetReadDeadline(t time.Time) error {
	if c.evicted.Load() != 0 {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline sets the deadline, unless the connection is being closed in the
// middle of a reply.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if phase(c.evicted.Load()) == phaseReplying {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// Close ends our side, then reads on for a moment before it ends the other.
func (c *conn) Close() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.gently.Load() {
		if half.CloseWrite() == nil && c.Conn.SetReadDeadline(time.Now().Add(lingerTime)) == nil && c.all.enter(c, phaseReading, requestCost) {
			_, _ = io.Copy(io.Discard, c.Conn)
		}
	}
	err := c.Conn.Close()
	c.all.remove(c)
	return err
}

// SyscallConn gives access to the socket; see peerLives.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, syscall.ENOTSUP
}
