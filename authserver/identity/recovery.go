package identity

import (
	"context"
	"errors"
)

// ResetPassword redeems a recovery code: the password is replaced, and every
// session and code of the user ends. userID may be empty; where it is given, the
// code must be that user's. A suspended account stays suspended.
func (s *Service) ResetPassword(ctx context.Context, code, userID, password string) error {
	var p problems
	if userID != "" && !isUUID(userID) {
		p.add("id", "must be a UUID in lower case, as it was answered at sign-up")
	}
	hash, err := hashCode(code)
	var c Credentials
	if err == nil {
		c, err = s.store.FindRecovery(ctx, hash)
	}
	if err != nil && !errors.Is(err, ErrNoCode) && KindOf(err) != Invalid {
		return storeFailure(err)
	}
	holds := err == nil && (userID == "" || userID == c.User.ID)
	if !holds {
		// Told along with what else is wrong; the code, where there is one, still holds.
		p = append(p, errCode().Message)
		c = Credentials{}
	}
	normal, wrong := s.newPassword(password, c.User.Username, c.User.Email)
	if wrong != "" {
		p.add("password", "%s", wrong)
	}
	if err := p.err(); err != nil {
		return err
	}
	same, newHash, err := s.hasher.Replace(ctx, c.PasswordHash, normal)
	if err != nil {
		return err
	}
	if same {
		return errSamePassword()
	}
	if err := s.store.RedeemRecovery(ctx, hash, c.User.ID, newHash); err != nil {
		return storeFailure(err)
	}
	s.event(ctx, "password reset", "user", c.User.ID)
	return nil
}

// ChangePassword replaces the password of the token's user, who knows the old
// one. Every other session of theirs ends. Wrong guesses at the old password
// count against the account like those of a sign-in, so that a stolen access
// token is no way round the throttle.
func (s *Service) ChangePassword(ctx context.Context, accessToken, oldPassword, password string) error {
	ref, err := s.authenticate(accessToken, "")
	if err != nil {
		return err
	}
	c, err := s.store.FindPassword(ctx, ref)
	if err != nil {
		return storeFailure(err)
	}
	normal, wrong := s.newPassword(password, c.User.Username, c.User.Email)
	if wrong != "" {
		var p problems
		p.add("password", "%s", wrong)
		return p.err()
	}
	old := normalizePassword(oldPassword)
	if !isPossiblePassword(old) {
		return failure(Unauthenticated, "old_password: is wrong")
	}
	if _, err := s.checkPassword(ctx, c, old); err != nil {
		if KindOf(err) == Unauthenticated {
			return failure(Unauthenticated, "old_password: is wrong")
		}
		return err
	}
	if normal == old {
		return errSamePassword()
	}
	newHash, err := s.hasher.Hash(ctx, normal)
	if err != nil {
		return err
	}
	if err := s.store.ChangePassword(ctx, ref, c.PasswordHash, newHash); err != nil {
		return storeFailure(err)
	}
	s.event(ctx, "password changed", "user", ref.UserID)
	return nil
}

func errSamePassword() error {
	return failure(Invalid, "password: must differ from the old one")
}
