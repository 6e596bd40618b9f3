package identity

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"
)

// SignUp creates an account, not verified yet, and the code that verifies it.
// It names every parameter that is wrong, and everything that is taken. In
// exposure public the answer is the same whoever exists: the owner of the
// address hears the rest by mail.
func (s *Service) SignUp(ctx context.Context, in SignUp) (Code, error) {
	user, err := s.newUser(&in)
	if err != nil {
		return Code{}, err
	}
	// Hashed before anything is known to be taken: both take the same time.
	if user.PasswordHash, err = s.hasher.Hash(ctx, in.Password); err != nil {
		return Code{}, err
	}
	text, code := newCode(Verification, s.policy.VerificationTTL)
	created, err := s.store.CreateUser(ctx, user, code)
	if taken, ok := errors.AsType[*TakenError](err); ok && s.policy.Exposure == ExposurePublic {
		return s.mail(ctx, signUpRefusal(user, taken))
	}
	if err != nil {
		return Code{}, storeFailure(err)
	}
	s.event(ctx, "account created", "user", created.ID)
	return s.release(ctx, Code{UserID: created.ID, Text: text, ExpiresIn: code.TTL},
		Message{To: created.Email, Purpose: MailVerification, Username: created.Username})
}

// signUpRefusal tells the owner of an address, and them alone, why a sign-up
// with it made no account.
func signUpRefusal(u NewUser, taken *TakenError) Message {
	purpose := MailUsernameTaken
	if taken.Email {
		purpose = MailSignUpAttempt
	}
	return Message{To: u.Email, Purpose: purpose, Username: u.Username}
}

// newUser checks what a sign-up says and brings it into canonical form.
func (s *Service) newUser(in *SignUp) (NewUser, error) {
	var p problems
	u := NewUser{ID: newID(), Username: in.Username, Email: in.Email}
	var wrong string
	note := func(parameter string) {
		if wrong != "" {
			p.add(parameter, "%s", wrong)
		}
	}
	u.CanonicalUsername, wrong = canonicalUsername(in.Username)
	note("username")
	u.CanonicalEmail, wrong = canonicalEmail(in.Email)
	note("email")
	u.FirstName, wrong = personName(in.FirstName)
	note("first_name")
	u.LastName, wrong = personName(in.LastName)
	note("last_name")
	in.Password, wrong = s.newPassword(in.Password, in.Username, in.Email)
	note("password")
	u.Scope, wrong = s.signUpScope(in.Scope)
	note("scope")
	return u, p.err()
}

// signUpScope gives the scope of a new account. Trusted callers choose freely;
// the public chooses among what the policy offers.
func (s *Service) signUpScope(asked string) (scope, wrong string) {
	if asked == "" {
		return s.policy.SignUpScopes, ""
	}
	if scope, wrong = canonicalScope(asked); wrong != "" {
		return "", wrong
	}
	if s.policy.Exposure == ExposurePublic && narrowScope(scope, s.policy.SignUpScopes) != scope {
		return "", "may hold only " + strings.Join(strings.Fields(s.policy.SignUpScopes), ", ")
	}
	return scope, ""
}

// newPassword brings a password that is to be set into the form that is hashed,
// or tells what is wrong with it. personal are words that the owner is known by.
func (s *Service) newPassword(password string, personal ...string) (normal, wrong string) {
	normal = normalizePassword(password)
	switch n := utf8.RuneCountInString(normal); {
	case n < s.policy.MinPasswordLength:
		return "", "is shorter than " + itoa(s.policy.MinPasswordLength) + " characters"
	case n > maxPassword:
		return "", "is longer than 256 characters"
	case strings.ContainsRune(normal, 0):
		return "", "holds a NUL character"
	}
	for _, word := range personal {
		local, _, _ := strings.Cut(word, "@")
		if word != "" && (strings.EqualFold(normal, word) || strings.EqualFold(normal, local)) {
			return "", "must not be your username or email address"
		}
	}
	for _, word := range s.policy.ServiceNames {
		if strings.EqualFold(normal, word) {
			return "", "must not be the name of this service"
		}
	}
	if s.policy.PasswordBlocklist && isCommonPassword(normal) {
		return "", "is one of the most common passwords; choose another"
	}
	return normal, ""
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
	canonical, wrong := canonicalEmail(email)
	if wrong != "" {
		var p problems
		p.add("email", "%s", wrong)
		return Code{}, p.err()
	}
	ttl := s.policy.RecoveryTTL
	if purpose == Verification {
		ttl = s.policy.VerificationTTL
	}
	text, code := newCode(purpose, ttl)
	user, err := s.store.IssueCode(ctx, canonical, code)
	switch {
	case err == nil:
		s.event(ctx, "code issued", "user", user.ID, "purpose", string(purpose))
		return s.release(ctx, Code{UserID: user.ID, Text: text, ExpiresIn: ttl},
			Message{To: user.Email, Purpose: about, Username: user.Username})
	case s.policy.Exposure == ExposurePublic && (errors.Is(err, ErrNoUser) || errors.Is(err, ErrAlreadyVerified)):
		return Code{}, nil
	case errors.Is(err, ErrAlreadyVerified):
		return Code{}, failure(Conflict, "email: is verified already")
	default:
		return Code{}, storeFailure(err)
	}
}

// VerifyUser redeems a verification code: the owner of the address is signed in,
// and whatever was opened before they proved it ends.
func (s *Service) VerifyUser(ctx context.Context, code string) (Tokens, error) {
	hash, err := hashCode(code)
	if err != nil {
		return Tokens{}, err
	}
	n := s.newSession()
	user, err := s.store.RedeemVerification(ctx, hash, n)
	if err != nil {
		return Tokens{}, storeFailure(err)
	}
	s.event(ctx, "email verified", "user", user.ID, "session", n.ID)
	n.UserID, n.Scope = user.ID, user.Scope
	return s.firstTokens(n, user)
}
