package identitytest

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// Store is an in-memory identity.Store. One lock makes each method atomic.
type Store struct {
	OnCall func(method string) // called at the start of each method of identity.Store, if it is set

	now func() time.Time

	mu        sync.Mutex
	broken    error
	users     map[string]*user
	signUps   []*signUp // waiting for proof, oldest first
	codes     map[identity.CodeHash]code
	sessions  map[string]*session
	throttles map[identity.ThrottleKey]throttle
	networks  map[string]map[identity.Network]time.Time // known networks by user, with the time last seen
	limits    map[string]time.Time                      // by key: the time at which the limit is fully available again
	mails     []*mail                                   // oldest first
	mailIDs   int64
	events    []identity.Event
}

var _ identity.Store = (*Store)(nil)

// user is an account. Its Email is proved.
type user struct {
	identity.User
	canonicalUsername      string
	canonicalEmail         string
	unprovedEmail          string // empty: none
	canonicalUnprovedEmail string
	changedAt              time.Time // when the unproved address was set
	passwordHash           string
	suspended              bool
}

// login returns the login for which wrong old passwords are counted.
func (u *user) login() string { return cmp.Or(u.canonicalUsername, u.ID) }

// shown returns the account as its owner sees it.
func (u *user) shown() identity.User {
	shown := u.User
	shown.EmailVerified = u.unprovedEmail == ""
	shown.Metadata = cmp.Or(shown.Metadata, "{}")
	if u.unprovedEmail != "" {
		shown.Email = u.unprovedEmail
	}
	return shown
}

type signUp struct {
	identity.NewSignUp
	createdAt time.Time
}

// code is a live code of an account or a sign-up.
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

// NewStore returns an empty Store. now is its own clock, which codes and failures use.
func NewStore(now func() time.Time) *Store {
	return &Store{
		now:       now,
		users:     make(map[string]*user),
		codes:     make(map[identity.CodeHash]code),
		sessions:  make(map[string]*session),
		throttles: make(map[identity.ThrottleKey]throttle),
		networks:  make(map[string]map[identity.Network]time.Time),
		limits:    make(map[string]time.Time),
	}
}

// Break makes every method return err, as if the data were unreachable. Break(nil) ends that.
func (s *Store) Break(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
}

// SaveSessions returns a function that restores the sessions, as a failover does that loses the last changes.
func (s *Store) SaveSessions() (restore func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	saved := map[string]session{}
	for id, open := range s.sessions {
		saved[id] = *open
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		clear(s.sessions)
		for id, open := range saved {
			s.sessions[id] = &open
		}
	}
}

// Suspend suspends an account or lifts the suspension.
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

// SetScope changes the scope of an account.
func (s *Store) SetScope(userID, scope string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[userID].Scope = scope
}

// SetPasswordHash changes what is stored of the password of an account.
func (s *Store) SetPasswordHash(userID, hash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[userID].passwordHash = hash
}

// Events returns the recorded events, oldest first.
func (s *Store) Events(context.Context) ([]identity.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events), nil
}

// RecordEvent implements identity.Store.
func (s *Store) RecordEvent(ctx context.Context, e identity.Event) error {
	defer s.leave()
	if err := s.enter(ctx, "RecordEvent"); err != nil {
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

// enter is called first by each method of identity.Store. It takes the lock. The caller must call leave, also after an
// error.
func (s *Store) enter(ctx context.Context, method string) error {
	if s.OnCall != nil {
		s.OnCall(method)
	}
	s.mu.Lock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.broken
}

func (s *Store) leave() { s.mu.Unlock() }

// enterLive is enter for the user of a live session.
func (s *Store) enterLive(ctx context.Context, method string, ref identity.SessionRef) (*session, *user, error) {
	if err := s.enter(ctx, method); err != nil {
		return nil, nil, err
	}
	return s.live(ref)
}

// live returns the session that ref names and its user, if the session is alive.
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

// redeemable returns the code of this purpose, unless it has expired.
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

// dropSessions ends the sessions of a user, except the one named keep.
func (s *Store) dropSessions(userID, keep string) {
	for id, open := range s.sessions {
		if open.userID == userID && id != keep {
			delete(s.sessions, id)
		}
	}
}

// taken returns a *TakenError if an account other than userID has the username or the email. Empty names are not taken.
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
