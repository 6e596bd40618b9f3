package httpapi

import (
	"cmp"
	"math/bits"
	"sync"
	"time"
)

// connections bounds the number and the memory of all client connections. A client can open thousands of connections at
// no cost, announce a body on each and send nothing, or request a large reply and not read it. Each connection is
// therefore charged for the memory that it may need as soon as it announces the need. When the sum exceeds the limit,
// the connection that has waited longest for its client is closed. Requests of an ordinary client arrive within
// milliseconds, so it is never the one that has waited longest.
type connections struct {
	memory  int64         // limit of all charges
	most    int           // limit of open connections
	slack   time.Duration // by how much a deadline may be too early; see deadline
	head    int           // limit of the request line and the header fields of a request
	onEvict func(phase)   // called with the phase of an evicted connection

	mu      sync.Mutex
	room    sync.Cond // broadcast when a connection has been closed
	open    int       // not closed yet
	held    int64     // charges of connections that are not being closed
	leaving int64     // charges of connections that are being closed
	leavers int       // connections that are being closed
	stopped bool

	// Connections that wait for their client, the longest waiting first.
	newcomers, idle, waiting connList
}

// phase is the activity of a connection.
type phase uint8

const (
	phaseNew      phase = iota // not counted yet
	phaseFresh                 // before the first byte
	phaseIdle                  // between two requests
	phaseReading               // a request has begun but is not complete
	phaseWorking               // the client waits for the server, or has sent unread data
	phaseReplying              // a reply is being sent or was sent
	phaseLeaving               // being closed
	phaseLeft
)

// The charges of a connection, in bytes, measured on 64-bit Linux and rounded up.
const (
	// idleCost covers a goroutine, its stack, and a socket.
	idleCost = 16 << 10

	// smallBody is the length of a body that is part of the cost of each request.
	smallBody = 16 << 10

	// socketBuffer bounds the kernel's buffers for unread replies and unread requests.
	socketBuffer = 64 << 10

	// leastMemory is enough for a few clients at the same time.
	leastMemory   = 4 << 20
	defaultMemory = 64 << 20

	// manyDescriptors is an upper bound, more than one process serves well.
	manyDescriptors = 1 << 18

	// otherDescriptors are reserved for the database, mail, files and the operations port.
	otherDescriptors = 256
)

// requestCost covers idleCost, a buffer for the head, the request and its reply, and a body of up to smallBody.
func (s *connections) requestCost() int64 { return idleCost + int64(s.head) + smallBody + 8<<10 }

// descriptorsForClients returns how many client connections may be open.
func descriptorsForClients() int {
	limit := int(descriptorLimit())
	return limit - min(otherDescriptors, limit/2)
}

// bodyCost returns the charge for a body of an announced length in addition to requestCost:
// fasthttp allocates the next power of two.
func bodyCost(length int) int64 {
	if length <= smallBody || length > bodyLimit {
		return 0 // a longer body is refused
	}
	return 1 << bits.Len(uint(length-1))
}

// replyCost returns the charge for a reply that the kernel may have to buffer.
func replyCost(length int) int64 {
	if length <= smallBody {
		return 0
	}
	return int64(min(length, 2*socketBuffer)) // the kernel doubles the buffer
}

func newConnections(memory int64, most, head int) *connections {
	s := &connections{memory: max(memory, leastMemory), most: max(most, 16), head: head, onEvict: func(phase) {}}
	s.room.L = &s.mu
	return s
}

// add registers a new connection. It waits while the server is still closing others, which also
// delays accepting further connections.
func (s *connections) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	s.set(c, phaseFresh, idleCost)
	s.makeRoom(c)
	for !s.stopped && (s.open > s.most || s.leaving > s.memory/2) {
		s.room.Wait()
	}
	if s.stopped && c.phase == phaseFresh {
		s.evict(c)
	}
}

// enter sets the phase and the charge of a connection. It returns false if the connection must be
// closed, because it is already being closed or there is no room.
func (s *connections) enter(c *conn, p phase, cost int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.phase >= phaseLeaving || s.stopped && p == phaseIdle {
		return false
	}
	s.set(c, p, cost)
	return s.held <= s.memory || s.makeRoom(c)
}

// set changes the phase and the charge. A connection that stays in its phase keeps its position
// in the list, whatever its charge.
func (s *connections) set(c *conn, p phase, cost int64) {
	from, to := s.list(c.phase), s.list(p)
	if from != nil {
		from.held -= c.held
		if p != c.phase {
			from.remove(c)
		}
	}
	if to != nil {
		to.held += cost
		if p != c.phase {
			to.push(c)
		}
	}
	s.held += cost - c.held
	c.phase, c.held = p, cost
}

// list returns the list of a phase, or nil if connections of the phase do not wait for their client.
func (s *connections) list(p phase) *connList {
	switch p {
	case phaseFresh:
		return &s.newcomers
	case phaseIdle:
		return &s.idle
	case phaseReading, phaseReplying:
		return &s.waiting
	default:
		return nil
	}
}

// makeRoom evicts connections until the others fit. It returns false if c itself is the next one,
// or if no connection waits for its client.
func (s *connections) makeRoom(c *conn) bool {
	for s.held > s.memory || s.open-s.leavers > s.most {
		victim := s.next()
		if victim == nil || victim == c {
			return false
		}
		s.evict(victim)
	}
	return true
}

// next returns the next connection to evict: the longest waiting one in the list that uses too
// much. Many unfinished requests or replies are suspicious, and so are many connections that have
// never sent anything. Closing a connection between two requests may cost a proxy a request.
func (s *connections) next() *conn {
	quarter := min(s.memory, int64(s.most)*idleCost) / 4
	switch {
	case s.waiting.held > s.memory/2:
		return s.waiting.first
	case s.newcomers.held > quarter:
		return s.newcomers.first
	case s.idle.held > quarter:
		return s.idle.first
	}
	return cmp.Or(s.newcomers.first, s.waiting.first, s.idle.first)
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// evict wakes the goroutine of a connection, which waits for the client, to close it.
func (s *connections) evict(c *conn) {
	was, held := c.phase, c.held
	s.set(c, phaseLeaving, 0)
	c.held = held
	s.leaving += held
	s.leavers++
	c.evicted.Store(uint32(was))
	if was == phaseReplying {
		_ = c.SetDeadline(longAgo)
	} else {
		_ = c.Conn.SetReadDeadline(longAgo)
	}
	s.onEvict(was)
}

// revive cancels the eviction of an idle connection whose next request has arrived in the
// meantime. The connection cannot be evicted again until that request is read.
func (s *connections) revive(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.phase != phaseLeaving {
		return
	}
	s.leaving -= c.held
	s.leavers--
	c.held = 0
	s.set(c, phaseWorking, s.requestCost())
	c.evicted.Store(uint32(phaseNew))
	c.readBy = deadline{}
	_ = c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
	s.makeRoom(c)
}

// remove unregisters a closed connection.
func (s *connections) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch c.phase {
	case phaseLeft:
		return
	case phaseLeaving:
		s.leaving -= c.held
		s.leavers--
	default:
		s.set(c, phaseLeft, 0)
	}
	c.phase = phaseLeft
	s.open--
	s.room.Broadcast()
}

// evictOne evicts the next connection, if any waits for its client.
func (s *connections) evictOne() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if victim := s.next(); victim != nil {
		s.evict(victim)
	}
}

// stop closes all connections between two requests, now and from now on.
func (s *connections) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	next := func() *conn { return cmp.Or(s.newcomers.first, s.idle.first) }
	for victim := next(); victim != nil; victim = next() {
		s.evict(victim)
	}
	s.room.Broadcast()
}

// count returns the number of open connections and their total charge.
func (s *connections) count() (open int, held int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open, s.held + s.leaving
}

// connList is an intrusive list, so that moving a connection does not allocate.
type connList struct {
	first, last *conn
	held        int64 // the charges of its connections
}

func (l *connList) push(c *conn) {
	c.before, c.after = l.last, nil
	if l.last != nil {
		l.last.after = c
	} else {
		l.first = c
	}
	l.last = c
}

func (l *connList) remove(c *conn) {
	if c.before != nil {
		c.before.after = c.after
	} else {
		l.first = c.after
	}
	if c.after != nil {
		c.after.before = c.before
	} else {
		l.last = c.before
	}
	c.before, c.after = nil, nil
}
