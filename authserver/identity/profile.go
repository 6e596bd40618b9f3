package identity

import (
	"context"
)

// ScopeProfile and ScopeEmail are the scopes that the gateway's own routes ask
// for; all others are the applications' own.
const (
	ScopeProfile = "profile"
	ScopeEmail   = "email"
)

// ProfileUpdate holds what someone changes about themselves; what is nil stays.
type ProfileUpdate struct {
	Username, FirstName, LastName *string
}

// Profile gives the account of the token's user, in one statement.
func (s *Service) Profile(ctx context.Context, accessToken string) (User, error) {
	ref, err := s.authenticate(accessToken, ScopeProfile)
	if err != nil {
		return User{}, err
	}
	user, err := s.store.FindUser(ctx, ref)
	if err != nil {
		return User{}, storeFailure(err)
	}
	return user, nil
}

// UpdateProfile changes the names of the token's user.
func (s *Service) UpdateProfile(ctx context.Context, accessToken string, in ProfileUpdate) (User, error) {
	ref, err := s.authenticate(accessToken, "")
	if err != nil {
		return User{}, err
	}
	var p problems
	var change ProfileChange
	set := func(parameter string, value *string, check func(string) (string, string)) *string {
		if value == nil {
			return nil
		}
		checked, wrong := check(*value)
		if wrong != "" {
			p.add(parameter, "%s", wrong)
		}
		return &checked
	}
	change.Username = in.Username
	change.CanonicalUsername = set("username", in.Username, canonicalUsername)
	change.FirstName = set("first_name", in.FirstName, personName)
	change.LastName = set("last_name", in.LastName, personName)
	if in == (ProfileUpdate{}) {
		return User{}, failure(Invalid, "username, first_name, last_name: give at least one of them")
	}
	if err := p.err(); err != nil {
		return User{}, err
	}
	user, err := s.store.UpdateUser(ctx, ref, change)
	if err != nil {
		return User{}, storeFailure(err)
	}
	s.event(ctx, "profile changed", "user", user.ID)
	return user, nil
}

// DeleteUser removes the token's user and everything that is theirs.
func (s *Service) DeleteUser(ctx context.Context, accessToken string) error {
	ref, err := s.authenticate(accessToken, "")
	if err != nil {
		return err
	}
	if err := s.store.DeleteUser(ctx, ref); err != nil {
		return storeFailure(err)
	}
	s.event(ctx, "account deleted", "user", ref.UserID)
	return nil
}

// RequestEmailChange makes a code that allows a new address. Where email is
// given, the code is good for that address alone, and whoever brings it back has
// proved that the address is theirs.
func (s *Service) RequestEmailChange(ctx context.Context, accessToken, email string) (Code, error) {
	ref, err := s.authenticate(accessToken, ScopeEmail)
	if err != nil {
		return Code{}, err
	}
	text, code := newCode(EmailChange, s.policy.RecoveryTTL)
	if email != "" {
		var wrong string
		if code.Target, wrong = canonicalEmail(email); wrong != "" {
			var p problems
			p.add("email", "%s", wrong)
			return Code{}, p.err()
		}
	}
	user, err := s.store.IssueEmailChange(ctx, ref, code)
	if err != nil {
		return Code{}, storeFailure(err)
	}
	s.event(ctx, "code issued", "user", user.ID, "purpose", string(EmailChange))
	to := user.Email
	if email != "" {
		to = email
	}
	return s.release(ctx, Code{UserID: user.ID, Text: text, ExpiresIn: code.TTL},
		Message{To: to, Purpose: MailEmailChange, Username: user.Username})
}

// ChangeEmail redeems an email-change code. The new address counts as verified
// only where the code was made for it.
func (s *Service) ChangeEmail(ctx context.Context, accessToken, code, email string) (User, error) {
	ref, err := s.authenticate(accessToken, "")
	if err != nil {
		return User{}, err
	}
	canonical, wrong := canonicalEmail(email)
	hash, codeErr := hashCode(code)
	var p problems
	if wrong != "" {
		p.add("email", "%s", wrong)
		if codeErr != nil {
			p = append(p, codeErr.(*Error).Message)
		}
		return User{}, p.err()
	}
	if codeErr != nil {
		return User{}, codeErr
	}
	user, err := s.store.RedeemEmailChange(ctx, ref, hash, email, canonical)
	if err != nil {
		return User{}, storeFailure(err)
	}
	s.event(ctx, "email changed", "user", user.ID)
	return user, nil
}
