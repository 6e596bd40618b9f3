package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// SignUp creates an account, not verified yet, and the code that verifies it.
// It names every parameter that is wrong, and everything that is taken. In
// exposure public the answer is the same whoever exists: the owner of the
// address hears the rest by mail.
func (s *Service) SignUp(ctx context.Context, in SignUp) (Code, error) {
	user, password, wrong := s.newUser(in)
	if err := wrong.err(); err != nil {
		return Code{}, err
	}
	user.Language = language(ctx)
	// Hashed before anything is known to be taken: both take the same time.
	var err error
	if user.PasswordHash, err = s.hasher.Hash(ctx, password); err != nil {
		return Code{}, err
	}
	if s.hidesAccounts() {
		return s.signUpQuietly(ctx, user)
	}
	text, code := newCode(Verification, s.codeTTL(Verification))
	ctx, e := s.event(ctx, EventAccountCreated, user.ID, "")
	created, err := s.store.CreateUser(ctx, user, code)
	if err != nil {
		return Code{}, storeFailure(err)
	}
	s.tell(ctx, e)
	return Code{UserID: created.ID, Text: text, ExpiresIn: code.TTL}, nil
}

// signUpQuietly creates an account, or none, and only the audit trail and a mail
// tell which.
func (s *Service) signUpQuietly(ctx context.Context, user NewUser) (Code, error) {
	ctx, e := s.event(ctx, EventAccountCreated, user.ID, "")
	created, err := s.store.CreateUserQuietly(ctx, user, s.newMail(ctx, MailVerification, user.Email, user.CanonicalEmail))
	if err != nil {
		return Code{}, storeFailure(err)
	}
	if !created {
		e.Name, e.UserID = EventSignUpRefused, ""
	}
	s.tell(ctx, e)
	return Code{}, nil
}

// CheckSignUp tells what is wrong with the parameters of a sign-up, for a caller
// that cannot sign up with them anyway, since some are missing, and who is to
// hear of the others too.
func (s *Service) CheckSignUp(in SignUp) []Problem {
	_, _, p := s.newUser(in)
	return p
}

// newUser checks what a sign-up says and brings it into canonical form. The
// password is yet to be hashed.
func (s *Service) newUser(in SignUp) (u NewUser, password string, p problems) {
	u = NewUser{
		ID:                newID(),
		Username:          in.Username,
		CanonicalUsername: p.check("username", in.Username, canonicalUsername),
		Email:             in.Email,
		CanonicalEmail:    p.check("email", in.Email, canonicalEmail),
		FirstName:         p.check("first_name", in.FirstName, personName),
		LastName:          p.check("last_name", in.LastName, personName),
	}
	password = p.check("password", in.Password, s.newPassword(in.Username, in.Email))
	u.Scope = p.check("scope", in.Scope, s.signUpScope)
	return u, password, p
}

// signUpScope gives the scope of a new account. Trusted callers choose freely;
// the public chooses among what the policy offers.
func (s *Service) signUpScope(asked string) (scope string, wrong Fault) {
	if asked == "" {
		return s.policy.SignUpScopes, Fault{}
	}
	if scope, wrong = canonicalScope(asked); wrong != (Fault{}) {
		return "", wrong
	}
	if s.policy.Exposure == ExposurePublic && narrowScope(scope, s.policy.SignUpScopes) != scope {
		return "", Fault{FieldNotAllowed, "may hold only " + strings.Join(strings.Fields(s.policy.SignUpScopes), ", ")}
	}
	return scope, Fault{}
}

// newPassword gives what brings a password that is to be set into the form that
// is hashed, or tells what is wrong with it. The owner may be nobody.
func (s *Service) newPassword(username, email string) func(password string) (normal string, wrong Fault) {
	local, _, _ := strings.Cut(email, "@")
	return func(password string) (normal string, wrong Fault) {
		normal = normalizePassword(password)
		is := func(word string) bool { return strings.EqualFold(normal, word) }
		switch n := utf8.RuneCountInString(normal); {
		case n < s.policy.MinPasswordLength:
			return "", Fault{FieldTooShort, fmt.Sprintf("is shorter than %d characters", s.policy.MinPasswordLength)}
		case n > maxPassword:
			return "", Fault{FieldTooLong, fmt.Sprintf("is longer than %d characters", maxPassword)}
		case strings.ContainsRune(normal, 0):
			return "", Fault{FieldMalformed, "holds a NUL character"}
		case is(username) || is(email) || is(local):
			return "", Fault{FieldTooGuessable, "must not be your username or email address"}
		case slices.ContainsFunc(s.policy.ServiceNames, is):
			return "", Fault{FieldTooGuessable, "must not be the name of this service"}
		case s.policy.PasswordBlocklist && isCommonPassword(normal):
			return "", Fault{FieldTooCommon, "is one of the most common passwords; choose another"}
		}
		return normal, Fault{}
	}
}

// NewVerificationCode replaces the code of an account that is not verified yet.
func (s *Service) NewVerificationCode(ctx context.Context, email string) (Code, error) {
	return s.issueCode(ctx, email, Verification, MailVerification)
}

// ForgotPassword makes a code that sets a new password. An account that is not
// verified gets one too (using it proves the address), and so does a suspended
// one (which stays suspended), so that the answer tells nothing of either.
func (s *Service) ForgotPassword(ctx context.Context, email string) (Code, error) {
	return s.issueCode(ctx, email, Recovery, MailRecovery)
}

func (s *Service) issueCode(ctx context.Context, email string, purpose Purpose, about MessagePurpose) (Code, error) {
	var p problems
	canonical := p.check("email", email, canonicalEmail)
	if err := p.err(); err != nil {
		return Code{}, err
	}
	if s.hidesAccounts() {
		return s.queueCode(ctx, about, email, canonical)
	}
	text, code := newCode(purpose, s.codeTTL(purpose))
	ctx, e := s.event(ctx, EventCodeIssued, "", "", purposeAttr(purpose))
	user, err := s.store.IssueCode(ctx, canonical, code)
	switch {
	case err == nil:
		e.UserID = user.ID
		s.tell(ctx, e)
		return Code{UserID: user.ID, Text: text, ExpiresIn: code.TTL}, nil
	case errors.Is(err, ErrAlreadyVerified):
		return Code{}, fieldFailure(Conflict, "email", Fault{FieldVerified, "is verified already"})
	default:
		return Code{}, storeFailure(err)
	}
}

// VerifyUser redeems a verification code: the owner of the address is signed in,
// and whatever was opened before they proved it ends.
func (s *Service) VerifyUser(ctx context.Context, code string) (Tokens, error) {
	if err := s.ready(); err != nil {
		return Tokens{}, err
	}
	hash, ok := hashCode(code)
	if !ok {
		return Tokens{}, errCode()
	}
	n := s.newSession(ctx)
	ctx, e := s.event(ctx, EventEmailVerified, "", n.ID)
	user, err := s.store.RedeemVerification(ctx, hash, n)
	if err != nil {
		return Tokens{}, s.codeFailure(ctx, Verification, SessionRef{}, err)
	}
	e.UserID = user.ID
	s.tell(ctx, e)
	n.UserID, n.Scope = user.ID, user.Scope
	return s.firstTokens(n, user)
}
