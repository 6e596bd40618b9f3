package identitytest

import (
	"context"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// CreateSignUp implements identity.Store.
func (s *Store) CreateSignUp(ctx context.Context, n identity.NewSignUp, c identity.NewCode, e identity.Event) error {
	defer s.leave()
	if err := s.enter(ctx, "CreateSignUp"); err != nil {
		return err
	}
	if err := s.taken(n.ID, n.CanonicalUsername, n.CanonicalEmail); err != nil {
		return err
	}
	s.signUps = append(s.signUps, &signUp{NewSignUp: n, createdAt: s.now()})
	s.putCode(n.ID, c)
	s.record(e, n.ID)
	return nil
}

// CreateSignUpConcealed implements identity.Store.
func (s *Store) CreateSignUpConcealed(
	ctx context.Context, n identity.NewSignUp, m identity.NewMail, e identity.Event,
) error {
	defer s.leave()
	if err := s.enter(ctx, "CreateSignUpConcealed"); err != nil {
		return err
	}
	s.signUps = append(s.signUps, &signUp{NewSignUp: n, createdAt: s.now()})
	asked := &mail{}
	asked.SignUpID = n.ID
	asked.Purpose, asked.To, asked.Username, asked.Language = m.Purpose, m.To, n.Username, m.Language
	s.queue(asked)
	s.record(e, n.ID)
	return nil
}

// FindSignUps implements identity.Store.
func (s *Store) FindSignUps(ctx context.Context, login identity.Login) ([]identity.Claim, error) {
	defer s.leave()
	if err := s.enter(ctx, "FindSignUps"); err != nil {
		return nil, err
	}
	var claims []identity.Claim
	for _, waiting := range slices.Backward(s.signUps) {
		if len(claims) < identity.MaxClaims &&
			(login.CanonicalUsername != "" && waiting.CanonicalUsername == login.CanonicalUsername ||
				login.CanonicalEmail != "" && waiting.CanonicalEmail == login.CanonicalEmail) {
			claims = append(claims, waiting.claim())
		}
	}
	return claims, nil
}

func (w *signUp) claim() identity.Claim {
	return identity.Claim{ID: w.ID, IsSignUp: true, Username: w.Username, Email: w.Email, PasswordHash: w.PasswordHash}
}

// becomeAccount turns a sign-up into an account with this username, and removes all sign-ups that wait for its address.
func (s *Store) becomeAccount(w *signUp, username, canonicalUsername, passwordHash string) (*user, error) {
	if err := s.taken(w.ID, canonicalUsername, w.CanonicalEmail); err != nil {
		return nil, err
	}
	now := s.now()
	u := &user{
		User: identity.User{
			ID: w.ID, Username: username, Email: w.Email,
			FirstName: w.FirstName, LastName: w.LastName, Scope: w.Scope, Language: w.Language,
			CreatedAt: w.createdAt, UpdatedAt: now,
		},
		canonicalUsername: canonicalUsername,
		canonicalEmail:    w.CanonicalEmail,
		passwordHash:      passwordHash,
	}
	s.users[w.ID] = u
	s.signUps = slices.DeleteFunc(s.signUps, func(other *signUp) bool {
		if other.CanonicalEmail != w.CanonicalEmail {
			return false
		}
		s.dropCodes(other.ID)
		return true
	})
	return u, nil
}

// FindCredentials implements identity.Store.
func (s *Store) FindCredentials(ctx context.Context, login identity.Login) (identity.Credentials, error) {
	defer s.leave()
	if err := s.enter(ctx, "FindCredentials"); err != nil {
		return identity.Credentials{}, err
	}
	canonical := login.CanonicalUsername + login.CanonicalEmail
	for _, u := range s.users {
		if login.CanonicalUsername != "" && u.canonicalUsername == login.CanonicalUsername ||
			login.CanonicalEmail != "" && u.canonicalEmail == login.CanonicalEmail {
			return s.credentials(u, login.From, canonical), nil
		}
	}
	unknown := identity.Credentials{ThrottleKey: loginThrottle("", "", canonical)}
	s.countFailures(&unknown)
	return unknown, nil
}

func (s *Store) credentials(u *user, from identity.Network, canonical string) identity.Credentials {
	c := identity.Credentials{
		Found:        true,
		User:         u.shown(),
		PasswordHash: u.passwordHash,
		Activated:    true,
		Suspended:    u.suspended,
		ThrottleKey:  loginThrottle("", "", canonical),
	}
	if _, c.KnownNetwork = s.networks[u.ID][from]; c.KnownNetwork {
		c.ThrottleKey = loginThrottle(u.ID, from, canonical)
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

// loginThrottle returns the key under which wrong passwords for a login are counted. Each
// known network of an account has its own key; all other networks share one.
func loginThrottle(userID string, from identity.Network, canonical string) identity.ThrottleKey {
	return sha256.Sum256([]byte(userID + " " + string(from) + " " + canonical))
}

// forgetFailures removes the failures counted for the known networks of an account.
func (s *Store) forgetFailures(u *user) {
	for network := range s.networks[u.ID] {
		delete(s.throttles, loginThrottle(u.ID, network, u.login()))
		delete(s.throttles, loginThrottle(u.ID, network, u.canonicalEmail))
	}
}

// addKnownNetwork stores a network of a user. If there are too many, it removes the one seen longest ago.
func (s *Store) addKnownNetwork(userID string, from identity.Network) {
	if from == "" {
		return
	}
	known := s.networks[userID]
	if known == nil {
		known = map[identity.Network]time.Time{}
		s.networks[userID] = known
	}
	known[from] = s.now()
	for len(known) > identity.KnownNetworks {
		var oldest identity.Network
		for network, seen := range known {
			if first, ok := known[oldest]; !ok || seen.Before(first) {
				oldest = network
			}
		}
		delete(known, oldest)
	}
}

// CountFailure implements identity.Store.
func (s *Store) CountFailure(ctx context.Context, key identity.ThrottleKey, e identity.Event) error {
	defer s.leave()
	if err := s.enter(ctx, "CountFailure"); err != nil {
		return err
	}
	s.throttles[key] = throttle{failures: s.throttles[key].failures + 1, lastFailure: s.now()}
	s.record(e, "")
	return nil
}

// UpdateUser implements identity.Store.
func (s *Store) UpdateUser(
	ctx context.Context, ref identity.SessionRef, p identity.ProfileChange, e identity.Event,
) (identity.User, error) {
	defer s.leave()
	_, u, err := s.enterLive(ctx, "UpdateUser", ref)
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
	s.record(e, u.ID)
	return u.shown(), nil
}

// DeleteUser implements identity.Store.
func (s *Store) DeleteUser(ctx context.Context, ref identity.SessionRef, e identity.Event) error {
	defer s.leave()
	_, u, err := s.enterLive(ctx, "DeleteUser", ref)
	if err != nil {
		return err
	}
	s.dropSessions(u.ID, "")
	s.dropCodes(u.ID)
	s.forgetFailures(u)
	delete(s.networks, u.ID)
	delete(s.users, u.ID)
	s.record(e, u.ID)
	return nil
}

// FindUser implements identity.Store.
func (s *Store) FindUser(ctx context.Context, ref identity.SessionRef) (identity.User, error) {
	defer s.leave()
	_, u, err := s.enterLive(ctx, "FindUser", ref)
	if err != nil {
		return identity.User{}, err
	}
	return u.shown(), nil
}

// FindPassword implements identity.Store.
func (s *Store) FindPassword(
	ctx context.Context, ref identity.SessionRef, from identity.Network,
) (identity.Credentials, error) {
	defer s.leave()
	_, u, err := s.enterLive(ctx, "FindPassword", ref)
	if err != nil {
		return identity.Credentials{}, err
	}
	return s.credentials(u, from, u.login()), nil
}

// ChangePassword implements identity.Store.
func (s *Store) ChangePassword(
	ctx context.Context, ref identity.SessionRef, oldHash, newHash string, r identity.Record,
) error {
	defer s.leave()
	_, u, err := s.enterLive(ctx, "ChangePassword", ref)
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
	s.forgetFailures(u)
	s.record(r.Event, u.ID)
	s.notice(r.Notice, u)
	return nil
}
