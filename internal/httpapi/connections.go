package httpapi

import (
	"cmp"
	"math/bits"
	"sync"
	"time"
)

// connections bounds what the connections of all clients hold: memory, and their
// number. A client can open thousands of connections at no cost to itself, announce
// a body on each and then send nothing, or ask for a large reply and not read it.
// Each connection is therefore charged for what it may need, at the moment at which
// it announces the need. When all of that is more than there is, the connection
// that has waited longest for its client is closed. An ordinary client, whose
// requests arrive in milliseconds, is never the one that has waited longest.
type connections struct {
	memory  int64       // that they may hold in all
	most    int         // open ones
	onEvict func(phase) // in which phase the connection was

	mu         sync.Mutex
	room       sync.Cond // broadcast when a connection has been closed
	open       int       // until they are really closed
	held       int64     // by those that are not being closed
	leaving    int64     // by those that are
	leavers    int
	unfinished int64 // of held: by those in the list waiting
	fresh      int64 // of held: by those in the list newcomers
	resting    int64 // of held: by those in the list idle
	stopped    bool

	// Those that wait for their client, each list in the order of waiting.
	newcomers, idle, waiting connList
}

// phase says what a connection is doing.
type phase uint8

const (
	phaseNew      phase = iota // not counted yet
	phaseFresh                 // before the first byte
	phaseIdle                  // between two requests
	phaseReading               // a request has begun and is not complete
	phaseWorking               // the client waits for the server, or has sent what is not read yet
	phaseReplying              // a reply is being sent, or has been
	phaseLeaving               // being closed
	phaseLeft
)

// What a connection is charged, in bytes. Measured on 64-bit Linux, and rounded up.
const (
	// idleCost is for a goroutine, its stack, and a socket.
	idleCost = 16 << 10

	// requestCost is that, a buffer for the head, the request and its reply in
	// memory, and a body of smallBody.
	requestCost = idleCost + headLimit + smallBody + 8<<10
	smallBody   = 16 << 10

	// socketBuffer bounds what the kernel keeps of a reply that the client does not
	// read, and of requests that the server has not read yet.
	socketBuffer = 64 << 10

	// leastMemory is enough for a few clients at a time.
	leastMemory   = 4 << 20
	defaultMemory = 64 << 20

	// manyDescriptors is more connections than one process serves well.
	manyDescriptors = 1 << 18

	// otherDescriptors are kept for the database, mail, files and the port for
	// operators.
	otherDescriptors = 256
)

// descriptorsForClients returns how many connections of clients may be open.
func descriptorsForClients() int {
	limit := int(descriptorLimit())
	return limit - min(otherDescriptors, limit/2)
}

// bodyCost is what a body of an announced length costs besides requestCost:
// fasthttp reserves the next power of two.
func bodyCost(length int) int64 {
	if length <= smallBody || length > bodyLimit {
		return 0 // or it will be refused
	}
	return 1 << bits.Len(uint(length-1))
}

// replyCost is what a reply costs that the kernel may have to keep.
func replyCost(length int) int64 {
	if length <= smallBody {
		return 0
	}
	return int64(min(length, 2*socketBuffer)) // the kernel doubles it, for its own use
}

func newConnections(memory int64, most int) *connections {
	s := &connections{memory: max(memory, leastMemory), most: max(most, 16), onEvict: func(phase) {}}
	s.room.L = &s.mu
	return s
}

// add counts a new connection. While the server is still busy closing others it
// waits, and with it whoever is not accepted yet.
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

// enter notes what a connection does now, and charges it for that. It returns false
// if the connection must be closed: it is being closed, or there is no room.
func (s *connections) enter(c *conn, p phase, cost int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.phase >= phaseLeaving || s.stopped && p == phaseIdle {
		return false
	}
	s.set(c, p, cost)
	return s.held <= s.memory || s.makeRoom(c)
}

// set changes the phase and the charge. A connection that stays in its phase keeps
// its place, however much more it asks for.
func (s *connections) set(c *conn, p phase, cost int64) {
	if l := s.list(c.phase); l != nil && p != c.phase {
		l.remove(c)
	}
	if sum := s.sum(c.phase); sum != nil {
		*sum -= c.held
	}
	s.held += cost - c.held
	if sum := s.sum(p); sum != nil {
		*sum += cost
	}
	if l := s.list(p); l != nil && p != c.phase {
		l.push(c)
	}
	c.phase, c.held = p, cost
}

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

// sum returns what the connections in a phase hold together, if that is kept.
func (s *connections) sum(p phase) *int64 {
	switch p {
	case phaseFresh:
		return &s.fresh
	case phaseIdle:
		return &s.resting
	case phaseReading, phaseReplying:
		return &s.unfinished
	default:
		return nil
	}
}

// makeRoom closes connections until the others fit. It returns false if c itself
// is the next one to be closed, or if none waits for its client.
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

// next returns the connection that is closed next: of the kind of which there are too
// many, the one that has waited longest. An unfinished request or reply is the more
// suspicious the more of them there are, and so is a connection that has never sent
// anything. Closing one that has had a reply may cost a proxy a request.
func (s *connections) next() *conn {
	quarter := min(s.memory, int64(s.most)*idleCost) / 4
	switch {
	case s.unfinished > s.memory/2:
		return s.waiting.first
	case s.fresh > quarter:
		return s.newcomers.first
	case s.resting > quarter:
		return s.idle.first
	}
	return cmp.Or(s.newcomers.first, s.waiting.first, s.idle.first)
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// evict has a connection closed: its own goroutine, which waits for the client, is
// woken and does it.
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

// revive takes back an eviction: the next request of a connection that seemed to do
// nothing has arrived meanwhile. Others give way to it, and it to none until what has
// arrived is read.
func (s *connections) revive(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.phase != phaseLeaving {
		return
	}
	s.leaving -= c.held
	s.leavers--
	c.held = 0
	s.set(c, phaseWorking, requestCost)
	c.evicted.Store(uint32(phaseNew))
	_ = c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
	s.makeRoom(c)
}

// remove forgets a connection that has been closed.
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

// evictOne closes the connection that is next, if any waits for its client.
func (s *connections) evictOne() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if victim := s.next(); victim != nil {
		s.evict(victim)
	}
}

// stop closes every connection that is between two requests, now and from now on.
func (s *connections) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for victim := cmp.Or(s.newcomers.first, s.idle.first); victim != nil; victim = cmp.Or(s.newcomers.first, s.idle.first) {
		s.evict(victim)
	}
	s.room.Broadcast()
}

// count returns how many connections are open, and what they hold.
func (s *connections) count() (open int, held int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open, s.held + s.leaving
}

// connList is a list through the connections themselves, so that moving one
// allocates nothing.
type connList struct{ first, last *conn }

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
