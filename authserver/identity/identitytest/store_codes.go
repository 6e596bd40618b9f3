package identitytest

import (
	"context"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
)

// IssueCode implements identity.Store.
func (s *Store) IssueCode(ctx context.Context, canonicalEmail string, c identity.NewCode) (identity.User, error) {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return identity.User{}, err
	}
	u, ok := s.at(canonicalEmail)
	if !ok {
		return identity.User{}, identity.ErrNoUser
	}
	if c.Purpose == identity.Verification && u.EmailVerified {
		return identity.User{}, identity.ErrAlreadyVerified
	}
	s.putCode(u.ID, c)
	s.record(ctx, u.ID)
	return u.User, nil
}

// at finds who has an address.
func (s *Store) at(canonicalEmail string) (*user, bool) {
	for _, u := range s.users {
		if u.canonicalEmail == canonicalEmail {
			return u, true
		}
	}
	return nil, false
}

// IssueEmailChange implements identity.Store.
func (s *Store) IssueEmailChange(ctx context.Context, ref identity.SessionRef, c identity.NewCode) (identity.User, error) {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return identity.User{}, err
	}
	_, u, err := s.live(ref)
	if err != nil {
		return identity.User{}, err
	}
	if err := s.taken(u.ID, "", c.Target); err != nil {
		return identity.User{}, err
	}
	s.putCode(u.ID, c)
	s.record(ctx, u.ID)
	return u.User, nil
}

// RedeemVerification implements identity.Store.
func (s *Store) RedeemVerification(ctx context.Context, h identity.CodeHash, n identity.NewSession) (identity.User, error) {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return identity.User{}, err
	}
	c, err := s.redeemable(h, identity.Verification)
	if err != nil {
		return identity.User{}, err
	}
	u := s.users[c.userID]
	if u.suspended {
		return identity.User{}, identity.ErrSuspended
	}
	u.EmailVerified, u.activated = true, true
	u.UpdatedAt = s.now()
	s.dropCodes(u.ID)
	s.dropSessions(u.ID, "")
	s.putSession(u.ID, u.Scope, n)
	s.record(ctx, u.ID)
	return u.User, nil
}

// FindRecovery implements identity.Store.
func (s *Store) FindRecovery(ctx context.Context, h identity.CodeHash) (identity.Credentials, error) {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return identity.Credentials{}, err
	}
	c, err := s.redeemable(h, identity.Recovery)
	if err != nil {
		return identity.Credentials{}, err
	}
	return s.credentials(s.users[c.userID], ""), nil
}

// RedeemRecovery implements identity.Store.
func (s *Store) RedeemRecovery(ctx context.Context, h identity.CodeHash, userID, newHash string, from identity.Place) error {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return err
	}
	c, err := s.redeemable(h, identity.Recovery)
	if err != nil {
		return err
	}
	if c.userID != userID {
		return identity.ErrNoCode
	}
	u := s.users[userID]
	u.passwordHash = newHash
	u.EmailVerified, u.activated = true, true
	u.UpdatedAt = s.now()
	s.dropCodes(userID)
	s.dropSessions(userID, "")
	s.forgetFailures(userID)
	s.becomesFamiliar(userID, from)
	s.record(ctx, userID)
	s.notice(ctx, u)
	return nil
}

// RedeemEmailChange implements identity.Store.
func (s *Store) RedeemEmailChange(ctx context.Context, ref identity.SessionRef, h identity.CodeHash, email, canonicalEmail string) (identity.User, error) {
	defer s.leave()
	if err := s.enter(ctx); err != nil {
		return identity.User{}, err
	}
	_, u, err := s.live(ref)
	if err != nil {
		return identity.User{}, err
	}
	c, err := s.redeemable(h, identity.EmailChange)
	if err != nil {
		return identity.User{}, err
	}
	if c.userID != u.ID || c.target != "" && c.target != canonicalEmail {
		return identity.User{}, identity.ErrNoCode
	}
	if err := s.taken(u.ID, "", canonicalEmail); err != nil {
		return identity.User{}, err
	}
	if u.canonicalEmail != canonicalEmail {
		s.notice(ctx, u)
	}
	u.Email, u.canonicalEmail = email, canonicalEmail
	u.EmailVerified = c.target == canonicalEmail
	u.activated = u.activated || u.EmailVerified
	u.UpdatedAt = s.now()
	s.dropCodes(u.ID)
	s.record(ctx, u.ID)
	return u.User, nil
}
