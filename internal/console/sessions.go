package console

import (
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"
)

const (
	idleLife  = 30 * time.Minute // of a session that is not used
	wholeLife = 8 * time.Hour    // of any session
	codeLife  = time.Minute      // of a code that opens a session

	// maxSessions limits the sessions and codes of a process. Only an administrator can create one.
	maxSessions = 1000
)

// session is an administrator who has signed in.
type session struct {
	credential string // sent to the Authorizer with each request
	opened     time.Time
	used       time.Time
	isCode     bool // the ID is a code in a URL, which is good for one use
}

func (s session) isOver(now time.Time) bool {
	if s.isCode {
		return now.Sub(s.opened) >= codeLife
	}
	return now.Sub(s.opened) >= wholeLife || now.Sub(s.used) >= idleLife
}

// sessions are held by the digest of their ID, which only the browser knows.
type sessions struct {
	now func() time.Time

	mu  sync.Mutex
	all map[[sha256.Size]byte]session
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, all: map[[sha256.Size]byte]session{}}
}

// open returns the ID of a new session.
func (s *sessions) open(credential string) string { return s.add(credential, false) }

// code returns a code that opens a session once.
func (s *sessions) code(credential string) string { return s.add(credential, true) }

func (s *sessions) add(credential string, isCode bool) string {
	id, now := rand.Text(), s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) >= maxSessions {
		s.makeRoom(now)
	}
	s.all[sha256.Sum256([]byte(id))] = session{credential: credential, opened: now, used: now, isCode: isCode}
	return id
}

// makeRoom removes the sessions that are over, or else the one that was not used for the longest time.
func (s *sessions) makeRoom(now time.Time) {
	var oldest [sha256.Size]byte
	at := now.Add(time.Second)
	for digest, one := range s.all {
		if one.isOver(now) {
			delete(s.all, digest)
		} else if one.used.Before(at) {
			oldest, at = digest, one.used
		}
	}
	if len(s.all) >= maxSessions {
		delete(s.all, oldest)
	}
}

// credential returns the credential of a session, and notes that it was used.
func (s *sessions) credential(id string) (string, bool) {
	digest := sha256.Sum256([]byte(id))
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.all[digest]
	if !ok || one.isCode {
		return "", false
	}
	if one.isOver(s.now()) {
		delete(s.all, digest)
		return "", false
	}
	one.used = s.now()
	s.all[digest] = one
	return one.credential, true
}

// redeem returns the credential of a code, once.
func (s *sessions) redeem(code string) (string, bool) {
	digest := sha256.Sum256([]byte(code))
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.all[digest]
	if !ok || !one.isCode {
		return "", false
	}
	delete(s.all, digest)
	return one.credential, !one.isOver(s.now())
}

// end ends a session.
func (s *sessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, sha256.Sum256([]byte(id)))
}
