package identitytest

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// Store is an identity.Store in memory. One lock makes each method atomic.
type Store struct {
	now func() time.Time

	mu        sync.Mutex
	broken    error
	users     map[string]*user
	signUps   []*signUp // that wait, in the order in which they came
	codes     map[identity.CodeHash]code
	sessions  map[string]*session
	throttles map[identity.ThrottleKey]throttle
	places    map[string]map[identity.Network]time.Time // by user: when each was last seen
	limits    map[string]time.Time                      // by recipient or key: when nothing is used up any more
	mails     []*mail                                   // in the order in which they were queued
	mailIDs   int64
	events    []identity.Event
}

var _ identity.Store = (*Store)(nil)

// user is an account. Its Email is the one that was proved.
type user struct {
	identity.User
	canonicalUsername      string
	canonicalEmail         string
	unprovedEmail          string // empty: there is none
	canonicalUnprovedEmail string
	changedAt              time.Time // to the unproved address
	passwordHash           string
	suspended              bool
}

// login is what wrong old passwords of an account are counted for.
func (u *user) login() string { return cmp.Or(u.canonicalUsername, u.ID) }

// shown is the account as its owner sees it.
func (u *user) shown() identity.User {
	shown := u.User
	shown.EmailVerified = u.unprovedEmail == ""
	if u.unprovedEmail != "" {
		shown.Email = u.unprovedEmail
	}
	return shown
}

type signUp struct {
	identity.NewSignUp
	createdAt time.Time
}

// code belongs to an account or to a sign-up: their ids differ from each other's.
type code struct {
	ownerID   string
	purpose   identity.Purpose
	target    string
	expiresAt time.Time
}

type session struct {
	id          string
	userID      string
	scope       string
	generation  int64
	openedAt    time.Time
	refreshedAt time.Time
	expiresAt   time.Time
	endsAt      time.Time
	userAgent   string
}

type throttle struct {
	failures    int
	lastFailure time.Time
}

// NewStore makes an empty Store; now is its own clock, by which codes expire
// and failures age.
func NewStore(now func() time.Time) *Store {
	return &Store{
		now:       now,
		users:     make(map[string]*user),
		codes:     make(map[identity.CodeHash]code),
		sessions:  make(map[string]*session),
		throttles: make(map[identity.ThrottleKey]throttle),
		places:    make(map[string]map[identity.Network]time.Time),
		limits:    make(map[string]time.Time),
	}
}

// Break makes every method return err, as if the data were out of reach, until
// it is called with nil.
func (s *Store) Break(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
}

// Suspend sets or lifts the suspension of an account.
func (s *Store) Suspend(_ context.Context, userID string, suspended bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.users[userID]
	if !ok {
		return identity.ErrNoUser
	}
	u.suspended = suspended
	if suspended {
		s.dropCodes(userID)
		s.dropSessions(userID, "")
	}
	return nil
}

// Events gives what was recorded, in its order.
func (s *Store) Events(context.Context) ([]identity.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events), nil
}

// RecordEvent implements identity.Store.
func (s *Store) RecordEvent(ctx context.Context, e identity.Event) error {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.record(e, "")
	return nil
}

// record stores an event, if there is one, and enters the user if it names none.
func (s *Store) record(e identity.Event, userID string) {
	if e.Name != "" {
		e.UserID = cmp.Or(e.UserID, userID)
		s.events = append(s.events, e)
	}
}

// enter takes the lock; the caller gives it back by leave, also after an error.
func (s *Store) enter(ctx context.Context) error {
	s.mu.Lock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.broken
}

func (s *Store) leave() { s.mu.Unlock() }

// live finds a session that ref names and that is alive, and its user.
func (s *Store) live(ref identity.SessionRef) (*session, *user, error) {
	found, ok := s.sessions[ref.ID]
	if !ok || found.userID != ref.UserID || !ref.Now.Before(found.expiresAt) {
		return nil, nil, identity.ErrNoSession
	}
	owner := s.users[found.userID]
	if owner.suspended {
		return nil, nil, identity.ErrNoSession
	}
	return found, owner, nil
}

// redeemable finds a code that has not expired, of this purpose.
func (s *Store) redeemable(h identity.CodeHash, purpose identity.Purpose) (code, error) {
	c, ok := s.codes[h]
	if !ok || c.purpose != purpose || !s.now().Before(c.expiresAt) {
		return code{}, identity.ErrNoCode
	}
	return c, nil
}

func (s *Store) putCode(ownerID string, c identity.NewCode) {
	for h, old := range s.codes {
		if old.ownerID == ownerID && old.purpose == c.Purpose {
			delete(s.codes, h)
		}
	}
	s.codes[c.Hash] = code{ownerID: ownerID, purpose: c.Purpose, target: c.Target, expiresAt: s.now().Add(c.TTL)}
}

func (s *Store) dropCodes(ownerID string) {
	for h, c := range s.codes {
		if c.ownerID == ownerID {
			delete(s.codes, h)
		}
	}
}

// dropSessions ends the sessions of a user but for the one named keep.
func (s *Store) dropSessions(userID, keep string) {
	for id, open := range s.sessions {
		if open.userID == userID && id != keep {
			delete(s.sessions, id)
		}
	}
}

// taken tells what accounts other than userID have of these names; an empty
// one is had by nobody.
func (s *Store) taken(userID, canonicalUsername, canonicalEmail string) error {
	var taken identity.TakenError
	for _, u := range s.users {
		if u.ID == userID {
			continue
		}
		taken.Username = taken.Username || canonicalUsername != "" && u.canonicalUsername == canonicalUsername
		taken.Email = taken.Email || canonicalEmail != "" && u.canonicalEmail == canonicalEmail
	}
	if taken.Username || taken.Email {
		return &taken
	}
	return nil
}
