package identity

import (
	"context"
	"errors"
)

// ResetPassword redeems a recovery code: it replaces the password, ends all sessions of the user and removes the user's
// codes. userID may be empty; otherwise the code must belong to that user. A suspended account stays suspended.
func (s *Service) ResetPassword(ctx context.Context, code, userID, password string) error {
	hash, owner, err := s.findRecovery(ctx, code)
	if err != nil {
		return err
	}
	var p problems
	if userID != "" && !IsUUID(userID) {
		p.add("id", Fault{FieldMalformed, "must be a UUID in lower case, as it was answered at sign-up"})
		userID = "" // the code may still be right
	}
	if owner.ID == "" || userID != "" && userID != owner.ID {
		// The answer also names what else is wrong; the code, if there is one, remains valid.
		p.add("code", wrongCode)
		owner = Claim{}
	}
	normal := p.check("password", password, s.newPassword(owner.Username, owner.Email))
	if err := p.err(); err != nil {
		return err
	}
	same, newHash, err := s.hasher.Replace(ctx, owner.PasswordHash, normal)
	if err != nil {
		return err
	}
	if same && !owner.IsSignUp { // the reader may not have made the sign-up, and must not learn its password
		return errSamePassword()
	}
	e := s.event(ctx, EventPasswordReset, owner.ID, "")
	if err := s.store.RedeemRecovery(ctx, hash, owner, newHash, callerNetwork(ctx), s.record(ctx, e, MailPasswordChanged)); err != nil {
		return s.codeFailure(ctx, Recovery, SessionRef{}, err)
	}
	s.logEvent(ctx, e)
	return nil
}

// findRecovery finds the owner of a recovery code. If the code is invalid, it returns the zero Claim and no error.
func (s *Service) findRecovery(ctx context.Context, code string) (CodeHash, Claim, error) {
	hash, ok := hashCode(code)
	if !ok {
		return hash, Claim{}, nil
	}
	owner, err := s.store.FindRecovery(ctx, hash)
	if errors.Is(err, ErrNoCode) {
		_ = s.codeFailure(ctx, Recovery, SessionRef{}, err)
		return hash, Claim{}, nil
	}
	return hash, owner, err
}

// ChangePassword replaces the password of the token's user, if the old one is right, and
// ends all other sessions of the user. Wrong old passwords count against the account
// like failed sign-ins, so that a stolen access token does not circumvent the throttle.
func (s *Service) ChangePassword(ctx context.Context, accessToken, oldPassword, password string) error {
	ref, err := s.authenticate(accessToken, "")
	if err != nil {
		return err
	}
	c, err := s.store.FindPassword(ctx, ref, callerNetwork(ctx))
	if err != nil {
		return storeFailure(err)
	}
	var p problems
	normal := p.check("password", password, s.newPassword(c.User.Username, c.User.Email))
	if err := p.err(); err != nil {
		return err
	}
	old := normalizePassword(oldPassword)
	if err := s.checkOldPassword(ctx, ref, c, old); err != nil {
		return err
	}
	if normal == old {
		return errSamePassword()
	}
	newHash, err := s.hasher.Hash(ctx, normal)
	if err != nil {
		return err
	}
	e := s.event(ctx, EventPasswordChanged, ref.UserID, "")
	find := func() (Credentials, error) { return s.store.FindPassword(ctx, ref, callerNetwork(ctx)) }
	for {
		err := s.store.ChangePassword(ctx, ref, c.PasswordHash, newHash, s.record(ctx, e, MailPasswordChanged))
		if errors.Is(err, ErrStale) {
			if c, err = s.renewedHash(ctx, find, c, old); err == nil {
				continue // a sign-in has rehashed the same password
			}
		}
		switch {
		case errors.Is(err, ErrStale):
			return errOldPassword() // the password was changed meanwhile
		case err != nil:
			return storeFailure(err)
		}
		s.logEvent(ctx, e)
		return nil
	}
}

func errOldPassword() error {
	return fieldFailure(Unauthenticated, "old_password", Fault{FieldWrong, "is wrong"})
}

func errSamePassword() error {
	return fieldFailure(Invalid, "password", Fault{FieldUnchanged, "must differ from the old one"})
}

// checkOldPassword is checkPassword for a signed-in user. It reads the failures again afterwards, as OpenSession does
// for a sign-in: of many concurrent guesses, none that the throttle would have refused is confirmed.
func (s *Service) checkOldPassword(ctx context.Context, ref SessionRef, c Credentials, old string) error {
	wrong := errOldPassword()
	if !isPossiblePassword(old) {
		return wrong
	}
	if _, err := s.checkPassword(ctx, c, old, func() (string, error) { return "", nil }); err != nil {
		if KindOf(err) == Unauthenticated {
			return wrong
		}
		return err
	}
	after, err := s.store.FindPassword(ctx, ref, callerNetwork(ctx))
	if err != nil {
		return storeFailure(err)
	}
	if after.Failures > c.Failures && after.Failures >= freeFailures {
		s.throttled(ctx, after)
		return wrong
	}
	return nil
}
