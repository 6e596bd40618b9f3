package identitytest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// IssueCode implements identity.Store.
func (s *Store) IssueCode(
	ctx context.Context, canonicalEmail string, c identity.NewCode, e identity.Event,
) (ownerID string, err error) {
	defer s.leave()
	if err := s.enter(ctx, "IssueCode"); err != nil {
		return "", err
	}
	owner, err := s.owner(canonicalEmail, c.Purpose)
	if err != nil {
		return "", err
	}
	s.putCode(owner.ID, owner.code(c, canonicalEmail))
	s.record(e, owner.ID)
	return owner.ID, nil
}

// owner returns the owner of a code of this purpose for an address.
func (s *Store) owner(canonicalEmail string, p identity.Purpose) (claim, error) {
	u, ok := s.at(canonicalEmail)
	if ok && p == identity.Verification {
		return claim{}, identity.ErrAlreadyVerified
	}
	if ok {
		return claim{Claim: u.claim(), user: u}, nil
	}
	for _, c := range s.claims(canonicalEmail) {
		if p == identity.Verification || c.IsSignUp {
			return c, nil
		}
	}
	return claim{}, identity.ErrNoUser
}

// claim is an identity.Claim with its account or sign-up.
type claim struct {
	identity.Claim
	user   *user
	signUp *signUp
	at     time.Time
}

// code returns n as stored for this claim. A verification code of an account also stores
// the address, because the account may change its address before the code is redeemed.
func (c claim) code(n identity.NewCode, canonicalEmail string) identity.NewCode {
	if n.Purpose == identity.Verification && !c.IsSignUp {
		n.Target = canonicalEmail
	}
	return n
}

func (u *user) claim() identity.Claim {
	return identity.Claim{ID: u.ID, Username: u.Username, Email: u.shown().Email, PasswordHash: u.passwordHash}
}

// claims returns all claims to an address, newest first.
func (s *Store) claims(canonicalEmail string) (claims []claim) {
	for _, waiting := range slices.Backward(s.signUps) {
		if waiting.CanonicalEmail == canonicalEmail {
			claims = append(claims, claim{Claim: waiting.claim(), signUp: waiting, at: waiting.createdAt})
		}
	}
	for _, u := range s.users {
		if u.canonicalUnprovedEmail == canonicalEmail {
			claims = append(claims, claim{Claim: u.claim(), user: u, at: u.changedAt})
		}
	}
	slices.SortStableFunc(claims, func(a, b claim) int { return b.at.Compare(a.at) })
	return claims
}

// at returns the account with this proved address.
func (s *Store) at(canonicalEmail string) (*user, bool) {
	for _, u := range s.users {
		if u.canonicalEmail == canonicalEmail {
			return u, true
		}
	}
	return nil, false
}

// IssueEmailChange implements identity.Store.
func (s *Store) IssueEmailChange(
	ctx context.Context, ref identity.SessionRef, c identity.NewCode, e identity.Event,
) error {
	defer s.leave()
	_, u, err := s.enterLive(ctx, "IssueEmailChange", ref)
	if err != nil {
		return err
	}
	if err := s.taken(u.ID, "", c.Target); err != nil {
		return err
	}
	s.putCode(u.ID, c)
	s.record(e, u.ID)
	return nil
}

// FindClaims implements identity.Store.
func (s *Store) FindClaims(ctx context.Context, h identity.CodeHash) ([]identity.Claim, error) {
	defer s.leave()
	if err := s.enter(ctx, "FindClaims"); err != nil {
		return nil, err
	}
	claims, err := s.redeemableClaims(h)
	var found []identity.Claim
	for i, c := range claims {
		if i < identity.MaxClaims {
			found = append(found, c.Claim)
		}
	}
	return found, err
}

// redeemableClaims returns the claims to the address of a Verification code, its owner first.
func (s *Store) redeemableClaims(h identity.CodeHash) ([]claim, error) {
	c, err := s.redeemable(h, identity.Verification)
	if err != nil {
		return nil, err
	}
	address := c.target
	for _, waiting := range s.signUps {
		if waiting.ID == c.ownerID {
			address = waiting.CanonicalEmail
		}
	}
	if _, has := s.at(address); has {
		return nil, identity.ErrNoCode
	}
	claims := s.claims(address)
	own := slices.IndexFunc(claims, func(other claim) bool { return other.ID == c.ownerID })
	if own < 0 {
		return nil, identity.ErrNoCode
	}
	first := claims[own]
	return slices.Insert(slices.Delete(claims, own, own+1), 0, first), nil
}

// RedeemVerification implements identity.Store.
func (s *Store) RedeemVerification(
	ctx context.Context, p identity.ClaimProof, n identity.NewSession, r identity.Record,
) (identity.User, error) {
	defer s.leave()
	if err := s.enter(ctx, "RedeemVerification"); err != nil {
		return identity.User{}, err
	}
	claims, err := s.redeemableClaims(p.Code)
	if err != nil {
		return identity.User{}, err
	}
	proved := claims[0]
	if p.ClaimID == "" {
		if len(claims) > 1 {
			return identity.User{}, identity.ErrSeveralClaims
		}
	} else {
		i := slices.IndexFunc(claims, func(c claim) bool { return c.ID == p.ClaimID && c.PasswordHash == p.PasswordHash })
		if i < 0 {
			return identity.User{}, identity.ErrStale
		}
		proved = claims[i]
	}
	u := proved.user
	if proved.IsSignUp {
		w := proved.signUp
		u, err = s.becomeAccount(w, cmp.Or(p.Username, w.Username), cmp.Or(p.CanonicalUsername, w.CanonicalUsername), w.PasswordHash)
		if err != nil {
			return identity.User{}, err
		}
	} else {
		if u.suspended {
			return identity.User{}, identity.ErrSuspended
		}
		s.notice(r.Notice, u)
		u.Email, u.canonicalEmail = u.unprovedEmail, u.canonicalUnprovedEmail
		u.unprovedEmail, u.canonicalUnprovedEmail = "", ""
		u.UpdatedAt = s.now()
		s.dropCodes(u.ID)
		s.dropSessions(u.ID, "")
		s.signUps = slices.DeleteFunc(s.signUps, func(w *signUp) bool { return w.CanonicalEmail == u.canonicalEmail })
	}
	delete(s.codes, p.Code)
	s.putSession(u.ID, u.Scope, n)
	s.record(r.Event, u.ID)
	return u.shown(), nil
}

// FindRecovery implements identity.Store.
func (s *Store) FindRecovery(ctx context.Context, h identity.CodeHash) (identity.Claim, error) {
	defer s.leave()
	if err := s.enter(ctx, "FindRecovery"); err != nil {
		return identity.Claim{}, err
	}
	owner, err := s.recovering(h)
	return owner.Claim, err
}

func (s *Store) recovering(h identity.CodeHash) (claim, error) {
	c, err := s.redeemable(h, identity.Recovery)
	if err != nil {
		return claim{}, err
	}
	if u, ok := s.users[c.ownerID]; ok {
		found := claim{Claim: u.claim(), user: u}
		found.Email = u.Email
		return found, nil
	}
	for _, w := range s.signUps {
		if _, has := s.at(w.CanonicalEmail); w.ID == c.ownerID && !has {
			return claim{Claim: w.claim(), signUp: w}, nil
		}
	}
	return claim{}, identity.ErrNoCode
}

// RedeemRecovery implements identity.Store.
func (s *Store) RedeemRecovery(
	ctx context.Context, h identity.CodeHash, owner identity.Claim, newHash string, from identity.Network, r identity.Record,
) error {
	defer s.leave()
	if err := s.enter(ctx, "RedeemRecovery"); err != nil {
		return err
	}
	found, err := s.recovering(h)
	if err != nil {
		return err
	}
	if found.ID != owner.ID {
		return identity.ErrNoCode
	}
	u := found.user
	if found.IsSignUp {
		if u, err = s.becomeAccount(found.signUp, found.signUp.Username, found.signUp.CanonicalUsername, newHash); err != nil {
			return err
		}
	} else {
		u.passwordHash = newHash
		u.UpdatedAt = s.now()
		s.notice(r.Notice, u)
	}
	s.dropCodes(u.ID)
	s.dropSessions(u.ID, "")
	s.forgetFailures(u)
	s.addKnownNetwork(u.ID, from)
	s.record(r.Event, u.ID)
	return nil
}

// RedeemEmailChange implements identity.Store.
func (s *Store) RedeemEmailChange(
	ctx context.Context, ref identity.SessionRef, e identity.EmailRedemption, r identity.Record,
) (identity.User, error) {
	defer s.leave()
	_, u, err := s.enterLive(ctx, "RedeemEmailChange", ref)
	if err != nil {
		return identity.User{}, err
	}
	c, err := s.redeemable(e.Code, identity.EmailChange)
	if err != nil {
		return identity.User{}, err
	}
	if c.ownerID != u.ID || c.target != "" && c.target != e.CanonicalEmail {
		return identity.User{}, identity.ErrNoCode
	}
	proved := c.target != "" || e.CanonicalEmail == u.canonicalEmail
	if proved || e.RefuseTaken {
		if err := s.taken(u.ID, "", e.CanonicalEmail); err != nil {
			return identity.User{}, err
		}
	}
	if u.canonicalEmail != e.CanonicalEmail {
		s.notice(r.Notice, u)
	}
	if proved {
		u.Email, u.canonicalEmail = e.Email, e.CanonicalEmail
		u.unprovedEmail, u.canonicalUnprovedEmail = "", ""
	} else {
		u.unprovedEmail, u.canonicalUnprovedEmail, u.changedAt = e.Email, e.CanonicalEmail, s.now()
	}
	u.UpdatedAt = s.now()
	s.dropCodes(u.ID)
	s.record(r.Event, u.ID)
	return u.shown(), nil
}
