package identitytest

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
)

// CreateUser implements identity.Store.
func (s *Store) CreateUser(ctx context.Context, n identity.NewUser, c identity.NewCode) (identity.User, error) {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return identity.User{}, err
	}
	if err := s.taken(n.ID, n.CanonicalUsername, n.CanonicalEmail); err != nil {
		return identity.User{}, err
	}
	created := s.putUser(n)
	s.putCode(n.ID, c)
	s.record(ctx, n.ID)
	return created, nil
}

// CreateUserQuietly implements identity.Store.
func (s *Store) CreateUserQuietly(ctx context.Context, n identity.NewUser, m identity.NewMail) (created bool, err error) {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return false, err
	}
	asked := &mail{canonicalTo: n.CanonicalEmail}
	asked.Purpose, asked.To, asked.Username, asked.Language = m.Purpose, n.Email, n.Username, m.Language
	if s.taken(n.ID, n.CanonicalUsername, n.CanonicalEmail) == nil {
		created = true
		asked.userID = s.putUser(n).ID
	}
	if s.allows(n.CanonicalEmail, m.Limit) {
		s.queue(asked)
	}
	if e, ok := identity.EventOf(ctx); ok {
		if !created {
			e.Name, e.UserID = identity.EventSignUpRefused, ""
		}
		s.events = append(s.events, e)
	}
	return created, nil
}

func (s *Store) putUser(n identity.NewUser) identity.User {
	now := s.now()
	s.users[n.ID] = &user{
		User: identity.User{
			ID: n.ID, Username: n.Username, Email: n.Email,
			FirstName: n.FirstName, LastName: n.LastName, Scope: n.Scope, Language: n.Language,
			CreatedAt: now, UpdatedAt: now,
		},
		canonicalUsername: n.CanonicalUsername,
		canonicalEmail:    n.CanonicalEmail,
		passwordHash:      n.PasswordHash,
	}
	return s.users[n.ID].User
}

// FindCredentials implements identity.Store.
func (s *Store) FindCredentials(ctx context.Context, login identity.Login) (identity.Credentials, error) {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return identity.Credentials{}, err
	}
	for _, u := range s.users {
		if login.CanonicalUsername != "" && u.canonicalUsername == login.CanonicalUsername ||
			login.CanonicalEmail != "" && u.canonicalEmail == login.CanonicalEmail {
			return s.credentials(u, login.From), nil
		}
	}
	unknown := identity.Credentials{ThrottleKey: sha256.Sum256([]byte("name:" + login.CanonicalUsername + login.CanonicalEmail))}
	s.countFailures(&unknown)
	return unknown, nil
}

func (s *Store) credentials(u *user, from identity.Place) identity.Credentials {
	c := identity.Credentials{
		Found:        true,
		User:         u.User,
		PasswordHash: u.passwordHash,
		Activated:    u.activated,
		Suspended:    u.suspended,
		ThrottleKey:  userThrottle(u.ID),
	}
	here := placeThrottle(u.ID, from)
	if _, familiar := s.places[u.ID][here]; familiar {
		c.ThrottleKey = here
	}
	s.countFailures(&c)
	return c
}

func (s *Store) countFailures(c *identity.Credentials) {
	if t, ok := s.throttles[c.ThrottleKey]; ok {
		c.Failures = t.failures
		c.SinceFailure = s.now().Sub(t.lastFailure)
	}
}

func userThrottle(userID string) identity.ThrottleKey {
	return sha256.Sum256([]byte("user:" + userID))
}

func placeThrottle(userID string, from identity.Place) identity.ThrottleKey {
	return sha256.Sum256([]byte("place:" + userID + " " + string(from)))
}

// forgetFailures forgets what was counted against an account, from wherever.
func (s *Store) forgetFailures(userID string) {
	delete(s.throttles, userThrottle(userID))
	for place := range s.places[userID] {
		delete(s.throttles, place)
	}
}

// becomesFamiliar remembers a place of a user; where these are too many, the one
// that was not seen for longest goes.
func (s *Store) becomesFamiliar(userID string, from identity.Place) {
	if from == "" {
		return
	}
	known := s.places[userID]
	if known == nil {
		known = map[identity.ThrottleKey]time.Time{}
		s.places[userID] = known
	}
	known[placeThrottle(userID, from)] = s.now()
	for len(known) > identity.FamiliarPlaces {
		var oldest identity.ThrottleKey
		for place, seen := range known {
			if first, ok := known[oldest]; !ok || seen.Before(first) {
				oldest = place
			}
		}
		delete(known, oldest)
	}
}

// CountFailure implements identity.Store.
func (s *Store) CountFailure(ctx context.Context, key identity.ThrottleKey) error {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.throttles[key] = throttle{failures: s.throttles[key].failures + 1, lastFailure: s.now()}
	s.record(ctx, "")
	return nil
}

// UpdateUser implements identity.Store.
func (s *Store) UpdateUser(ctx context.Context, ref identity.SessionRef, p identity.ProfileChange) (identity.User, error) {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return identity.User{}, err
	}
	_, u, err := s.live(ref)
	if err != nil {
		return identity.User{}, err
	}
	if p.Username != nil {
		if err := s.taken(u.ID, *p.CanonicalUsername, ""); err != nil {
			return identity.User{}, err
		}
		u.Username, u.canonicalUsername = *p.Username, *p.CanonicalUsername
	}
	if p.FirstName != nil {
		u.FirstName = *p.FirstName
	}
	if p.LastName != nil {
		u.LastName = *p.LastName
	}
	u.UpdatedAt = s.now()
	s.record(ctx, u.ID)
	return u.User, nil
}

// DeleteUser implements identity.Store.
func (s *Store) DeleteUser(ctx context.Context, ref identity.SessionRef) error {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return err
	}
	_, u, err := s.live(ref)
	if err != nil {
		return err
	}
	s.dropSessions(u.ID, "")
	s.dropCodes(u.ID)
	s.forgetFailures(u.ID)
	delete(s.places, u.ID)
	delete(s.users, u.ID)
	s.record(ctx, u.ID)
	return nil
}

// FindUser implements identity.Store.
func (s *Store) FindUser(ctx context.Context, ref identity.SessionRef) (identity.User, error) {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return identity.User{}, err
	}
	_, u, err := s.live(ref)
	if err != nil {
		return identity.User{}, err
	}
	return u.User, nil
}

// FindPassword implements identity.Store.
func (s *Store) FindPassword(ctx context.Context, ref identity.SessionRef, from identity.Place) (identity.Credentials, error) {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return identity.Credentials{}, err
	}
	_, u, err := s.live(ref)
	if err != nil {
		return identity.Credentials{}, err
	}
	return s.credentials(u, from), nil
}

// ChangePassword implements identity.Store.
func (s *Store) ChangePassword(ctx context.Context, ref identity.SessionRef, oldHash, newHash string) error {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return err
	}
	_, u, err := s.live(ref)
	if err != nil {
		return err
	}
	if u.passwordHash != oldHash {
		return identity.ErrStale
	}
	u.passwordHash = newHash
	u.UpdatedAt = s.now()
	s.dropSessions(u.ID, ref.ID)
	s.dropCodes(u.ID)
	s.forgetFailures(u.ID)
	s.record(ctx, u.ID)
	s.notice(ctx, u)
	return nil
}
