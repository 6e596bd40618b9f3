package identity

import "context"

// ScopeProfile and ScopeEmail are the scopes that the gateway's own routes ask
// for; all others are the applications' own.
const (
	ScopeProfile = "profile"
	ScopeEmail   = "email"
)

// ProfileUpdate holds what people change about themselves; what is nil stays.
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

// UpdateProfile changes the names of the token's user. An optional name that is empty
// is removed.
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
	if err != nil {
		return User{}, storeFailure(err)
	}
	s.logEvent(ctx, e)
	return user, nil
}

// DeleteUser removes the token's user and everything that is theirs.
func (s *Service) DeleteUser(ctx context.Context, accessToken string) error {
	ref, err := s.authenticate(accessToken, "")
	if err != nil {
		return err
	}
	e := s.event(ctx, EventAccountDeleted, ref.UserID, "")
	if err := s.store.DeleteUser(ctx, ref, s.audited(e)); err != nil {
		return storeFailure(err)
	}
	s.logEvent(ctx, e)
	return nil
}

// RequestEmailChange makes a code that allows a new address. Where email is
// given, the code is good for that address alone, and bringing it back proves the
// address. In exposure public the answer is the same
// where another account has it, and its owner hears of it by mail.
func (s *Service) RequestEmailChange(ctx context.Context, accessToken, email string) (Code, error) {
	ref, err := s.authenticate(accessToken, ScopeEmail)
	if err != nil {
		return Code{}, err
	}
	target := ""
	if email != "" {
		var p problems
		target = p.check("email", email, canonicalEmail)
		if err := p.err(); err != nil {
			return Code{}, err
		}
	}
	if s.preventsEnumeration() {
		if err := s.store.QueueEmailChange(ctx, ref, s.newMail(ctx, MailEmailChange, target)); err != nil {
			return Code{}, storeFailure(err)
		}
		return Code{}, nil
	}
	text, code := newCode(EmailChange, s.codeTTL(EmailChange))
	code.Target = target
	e := s.event(ctx, EventCodeIssued, ref.UserID, "", purposeAttr(EmailChange))
	if err := s.store.IssueEmailChange(ctx, ref, code, s.audited(e)); err != nil {
		return Code{}, storeFailure(err)
	}
	s.logEvent(ctx, e)
	return Code{UserID: ref.UserID, Text: text, ExpiresIn: code.TTL}, nil
}

// ChangeEmail redeems an email-change code. If the code was made for the new address,
// that is proved. Otherwise the account shows it as not verified, and it holds nothing
// until it is proved: sign-in and recovery go by the former one. In exposure public the
// answer to an address that is not proved does not depend on whether an account has it.
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
