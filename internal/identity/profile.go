package identity

import "context"

// ScopeProfile and ScopeEmail are the scopes that the gateway's own routes require. All
// others belong to the applications.
const (
	ScopeProfile = "profile"
	ScopeEmail   = "email"
)

// ProfileUpdate holds the names that a user changes; nil fields are not changed.
type ProfileUpdate struct {
	Username, FirstName, LastName *string
}

// Profile returns the account of the token's user, in one statement.
func (s *Service) Profile(ctx context.Context, accessToken string) (User, error) {
	ref, err := s.authenticate(accessToken, ScopeProfile)
	if err != nil {
		return User{}, err
	}
	user, err := s.store.FindUser(ctx, ref)
	return user, storeFailure(err)
}

// UpdateProfile changes the names of the token's user. An empty optional name is removed.
func (s *Service) UpdateProfile(ctx context.Context, accessToken string, in ProfileUpdate) (User, error) {
	ref, err := s.authenticate(accessToken, "")
	if err != nil {
		return User{}, err
	}
	if in == (ProfileUpdate{}) {
		missing := Fault{FieldMissing, "is missing"}
		return User{}, &Error{
			Kind: Invalid, Reason: ReasonInvalidFields, Message: "username, first_name, last_name: give at least one of them",
			Fields: []Problem{{"username", missing}, {"first_name", missing}, {"last_name", missing}},
		}
	}
	var p problems
	check := func(parameter string, value *string, canonical func(string) (string, Fault)) *string {
		if value == nil {
			return nil
		}
		return new(p.check(parameter, *value, canonical))
	}
	change := ProfileChange{
		Username:          in.Username,
		CanonicalUsername: check("username", in.Username, orNone(s.policy.Optional.Username, canonicalUsername)),
		FirstName:         check("first_name", in.FirstName, orNone(s.policy.Optional.FirstName, personName)),
		LastName:          check("last_name", in.LastName, orNone(s.policy.Optional.LastName, personName)),
	}
	if err := p.err(); err != nil {
		return User{}, err
	}
	e := s.event(ctx, EventProfileChanged, ref.UserID, "")
	user, err := s.store.UpdateUser(ctx, ref, change, s.audited(e))
	return user, s.done(ctx, e, err)
}

// DeleteUser removes the token's user and everything that belongs to the account.
func (s *Service) DeleteUser(ctx context.Context, accessToken string) error {
	ref, err := s.authenticate(accessToken, "")
	if err != nil {
		return err
	}
	e := s.event(ctx, EventAccountDeleted, ref.UserID, "")
	return s.done(ctx, e, s.store.DeleteUser(ctx, ref, s.audited(e)))
}

// RequestEmailChange makes a code that allows a new address. If email is given, the code is only good for that address,
// and redeeming it proves the address. With exposure public the answer is the same if another account has it; the owner
// of that account is informed by mail.
func (s *Service) RequestEmailChange(ctx context.Context, accessToken, email string) (Code, error) {
	ref, err := s.authenticate(accessToken, ScopeEmail)
	if err != nil {
		return Code{}, err
	}
	target := ""
	if email != "" {
		if target, err = checkEmail(email); err != nil {
			return Code{}, err
		}
	}
	if s.preventsEnumeration() {
		return Code{}, storeFailure(s.store.QueueEmailChange(ctx, ref, s.newMail(ctx, MailEmailChange, target)))
	}
	text, code := newCode(EmailChange, s.codeTTL(EmailChange))
	code.Target = target
	e := s.event(ctx, EventCodeIssued, ref.UserID, "", purposeAttr(EmailChange))
	if err := s.done(ctx, e, s.store.IssueEmailChange(ctx, ref, code, s.audited(e))); err != nil {
		return Code{}, err
	}
	return Code{UserID: ref.UserID, Text: text, ExpiresIn: code.TTL}, nil
}

// ChangeEmail redeems an email-change code. If the code was made for the new address, the address is proved. Otherwise
// the account shows it as not verified, and it reserves nothing until it is proved: sign-in and recovery still use the
// former one. With exposure public the answer to an unproved address does not depend on whether another account has it.
func (s *Service) ChangeEmail(ctx context.Context, accessToken, code, email string) (User, error) {
	ref, err := s.authenticate(accessToken, "")
	if err != nil {
		return User{}, err
	}
	var p problems
	hash, ok := hashCode(code)
	if !ok {
		p.add("code", wrongCode)
	}
	change := EmailRedemption{Code: hash, Email: email, RefuseTaken: !s.preventsEnumeration()}
	change.CanonicalEmail = p.check("email", email, canonicalEmail)
	if err := p.err(); err != nil {
		return User{}, err
	}
	e := s.event(ctx, EventEmailChanged, ref.UserID, "")
	user, err := s.store.RedeemEmailChange(ctx, ref, change, s.record(ctx, e, MailEmailChanged))
	if err != nil {
		return User{}, s.codeFailure(ctx, EmailChange, ref, err)
	}
	s.logEvent(ctx, e)
	return user, nil
}
