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

// If a connection is closed while data from the client is unread, the kernel resets it, and the reset
// overtakes the reply: the client of a request that is too long sees a broken connection instead
// of 413. Such a connection is therefore closed in two steps (RFC 9112 section 9.6).

const lingerTime = time.Second

// listener accepts connections that frame their requests, are bounded in memory, and can be closed gently.
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

// Accept waits for the next connection. It retries after temporary errors, such as a lack of
// descriptors or a client that disconnected, because fasthttp stops at any error.
func (l listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		switch {
		case err == nil:
			c := &conn{Conn: accepted, all: l.all, direct: newDirect(accepted)}
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
	for _, e := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// conn is a client connection. Only the goroutine that serves it calls Read, Write and the deadlines;
// any goroutine may call Close.
type conn struct {
	net.Conn
	all    *connections
	gently atomic.Bool

	direct  *direct // nil on a system without it
	wire    framing
	first   bool  // only the first byte of a request was read: fasthttp reads it separately
	doing   phase // as known to the goroutine that serves it
	charged int64 // for the request
	readBy  deadline
	waits   time.Time // the deadline of the next read that waits, see SetReadDeadline
	writeBy deadline
	reply   int64    // what the kernel may still buffer of the last reply
	refusal *failure // of the data that the client sends next

	evicted atomic.Uint32 // the phase in which it was evicted; 0: not evicted

	// all.mu guards the following fields.
	phase         phase
	held          int64
	before, after *conn
}

// closeGently closes the connection after the reply, so that the client can still read the reply.
func closeGently(ctx *fasthttp.RequestCtx) {
	ctx.Response.Header.SetConnectionClose()
	if c, ok := ctx.Conn().(*conn); ok {
		c.gently.Store(true)
	}
}

// Read returns the next bytes of a well-framed request, without trailer fields. In place of refused
// data it returns an error.
func (c *conn) Read(p []byte) (int, error) {
	if c.refusal != nil {
		return 0, c.refusal
	}
	if c.wire.state == betweenRequests && (c.doing == phaseWorking || c.doing == phaseReplying) {
		// The kernel may still buffer the end of a large reply, for as long as the client does not read it.
		c.charged = 0
		if !c.enter(phaseIdle, idleCost+c.reply) {
			return 0, io.EOF
		}
	}
	if c.first {
		c.first = false
		if !c.hasMore() && !c.charge() {
			c.refusal = errCrowded()
			return 0, c.refusal
		}
	}
	for {
		if err := c.evictionError(); err != nil {
			return 0, err
		}
		n, err := c.receive(p)
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
				return 1, nil // fasthttp ignores errors while it waits for a first byte
			}
		case len(p) == 1 && c.wire.state != betweenRequests:
			// The rest of the request has probably arrived too, so do not evict it.
			c.first, c.charged, c.reply = true, c.all.requestCost(), 0
			c.enter(phaseWorking, c.all.requestCost())
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

// receive reads data as it has arrived.
func (c *conn) receive(p []byte) (int, error) {
	if c.direct.holds() {
		return c.direct.read(p)
	}
	if err := c.limitRead(); err != nil {
		return 0, err
	}
	if c.direct != nil {
		return c.direct.read(p)
	}
	return c.Conn.Read(p)
}

// hasMore reports whether a read would not wait.
func (c *conn) hasMore() bool { return c.direct.holds() || bytesWait(c) }

// charge charges the connection for the current request, and records when it is complete. A complete
// request is always served.
func (c *conn) charge() bool {
	if c.wire.state == betweenRequests {
		if c.doing != phaseWorking {
			c.enter(phaseWorking, max(c.charged, c.all.requestCost()))
		}
		return true
	}
	cost := c.all.requestCost() + bodyCost(c.wire.body)
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

// evictionError returns the error for an evicted connection. A connection between two requests ends
// without a reply, unless the next request has arrived: if it were closed then, the client could
// not know whether the request was received.
func (c *conn) evictionError() error {
	switch phase(c.evicted.Load()) {
	case phaseNew:
		return nil
	case phaseFresh, phaseIdle:
		if c.hasMore() {
			c.all.revive(c)
			c.doing, c.charged, c.reply = phaseWorking, c.all.requestCost(), 0
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

// Write sends a part of a reply. (Data sent during a request is 100 Continue, or an error that ends the connection.)
func (c *conn) Write(p []byte) (int, error) {
	if phase(c.evicted.Load()) == phaseReplying {
		return 0, os.ErrDeadlineExceeded
	}
	if c.wire.state != betweenRequests || c.refusal != nil {
		return c.Conn.Write(p)
	}
	cost, sent := replyCost(len(p)), 0
	if c.direct != nil && c.doing == phaseWorking && cost == 0 {
		// Such a reply waits for the client only if the client did not read the ones before it. If every reply made the
		// connection one that waits, it could be evicted before the next request is read, and the client of that
		// request could not know whether it was received.
		if sent = c.direct.writeNow(p); sent == len(p) {
			return sent, nil
		}
	}
	if c.doing != phaseReplying || cost > c.reply {
		c.reply = cost
		c.enter(phaseReplying, max(c.charged, c.all.requestCost())+cost) // it is sent even if there is no room
	}
	n, err := c.Conn.Write(p[sent:])
	return sent + n, err
}

// deadline is a deadline that was set. fasthttp sets three for each request, which is work for the runtime's timers, so
// one that is later by less than the slack is not set.
type deadline struct{ at time.Time }

func (d *deadline) suffices(t time.Time, slack time.Duration) bool {
	if later := t.Sub(d.at); later >= 0 && later < slack && !t.IsZero() && !d.at.IsZero() {
		return true
	}
	d.at = t
	return false
}

// SetReadDeadline sets the deadline of the next read that waits. fasthttp sets one for the wait between two requests and
// another one, which is earlier, for the rest of a request, which has usually arrived.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.waits = t
	return nil
}

// limitRead sets that deadline, unless the connection is being closed.
func (c *conn) limitRead() error {
	if c.evicted.Load() != 0 || c.readBy.suffices(c.waits, c.all.slack) {
		return nil
	}
	err := c.Conn.SetReadDeadline(c.waits)
	if c.evicted.Load() != 0 { // evict's deadline may have come before this one
		return c.Conn.SetReadDeadline(longAgo)
	}
	return err
}

// SetWriteDeadline sets the deadline, unless the connection is being closed during a reply.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if phase(c.evicted.Load()) == phaseReplying || c.writeBy.suffices(t, c.all.slack) {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// Close shuts down our side, then reads for a moment before it closes the connection.
func (c *conn) Close() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.gently.Load() {
		if half.CloseWrite() == nil && c.Conn.SetReadDeadline(time.Now().Add(lingerTime)) == nil &&
			c.all.enter(c, phaseReading, c.all.requestCost()) {
			_, _ = io.Copy(io.Discard, c.Conn)
		}
	}
	err := c.Conn.Close()
	c.all.remove(c)
	return err
}

// SyscallConn returns the socket; see peerLives.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, syscall.ENOTSUP
}
