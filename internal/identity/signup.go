package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// SignUp stores a sign-up until its address is proved, and makes the code for that. An error names every wrong
// parameter. A sign-up reserves neither the username nor the address, so with exposure internal they are only taken if
// an account has them. With exposure public the answer does not depend on accounts: the owner of the address receives
// the rest by mail.
func (s *Service) SignUp(ctx context.Context, in SignUp) (Code, error) {
	n, password, wrong := s.newSignUp(in)
	if err := wrong.err(); err != nil {
		return Code{}, err
	}
	n.Language = CallerOf(ctx).language()
	// Hashing comes before the check of what is taken, so that both answers take the same time.
	var err error
	if n.PasswordHash, err = s.hasher.Hash(ctx, password); err != nil {
		return Code{}, err
	}
	e := s.event(ctx, EventSignedUp, n.ID, "")
	if s.preventsEnumeration() {
		m := s.newMail(ctx, MailVerification, n.CanonicalEmail)
		return Code{}, s.done(ctx, e, s.store.CreateSignUpConcealed(ctx, n, m, s.audited(e)))
	}
	text, code := newCode(Verification, s.codeTTL(Verification))
	if err := s.done(ctx, e, s.store.CreateSignUp(ctx, n, code, s.audited(e))); err != nil {
		return Code{}, err
	}
	return Code{UserID: n.ID, Text: text, ExpiresIn: code.TTL}, nil
}

// CheckSignUp returns what is wrong with the parameters of a sign-up. It is for a request
// that lacks parameters, so that the answer also names other faults.
func (s *Service) CheckSignUp(in SignUp) []Problem {
	_, _, p := s.newSignUp(in)
	return p
}

// newSignUp checks the parameters of a sign-up and brings them into canonical form. It does not hash the password.
func (s *Service) newSignUp(in SignUp) (n NewSignUp, password string, p problems) {
	n = NewSignUp{
		ID:                newID(),
		Username:          in.Username,
		CanonicalUsername: p.check("username", in.Username, orNone(s.policy.Optional.Username, canonicalUsername)),
		Email:             in.Email,
		CanonicalEmail:    p.check("email", in.Email, canonicalEmail),
		FirstName:         p.check("first_name", in.FirstName, orNone(s.policy.Optional.FirstName, personName)),
		LastName:          p.check("last_name", in.LastName, orNone(s.policy.Optional.LastName, personName)),
	}
	password = p.check("password", in.Password, s.newPassword(in.Username, in.Email))
	n.Scope = p.check("scope", in.Scope, s.signUpScope)
	return n, password, p
}

// orNone returns a check that also accepts an empty text, if that is allowed.
func orNone(allowed bool, canonical func(string) (string, Fault)) func(string) (string, Fault) {
	return func(s string) (string, Fault) {
		name, wrong := canonical(s)
		if allowed && wrong.Reason == FieldEmpty {
			return "", Fault{}
		}
		return name, wrong
	}
}

// signUpScope returns the scope of a new account. Trusted callers choose freely, the
// public among the scopes of the policy.
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

// newPassword returns a check for a new password. The check returns the form that is
// hashed, or what is wrong with it. username and email may be empty.
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

// NewVerificationCode replaces the code of a waiting sign-up, or of an account whose new address is not proved yet.
func (s *Service) NewVerificationCode(ctx context.Context, email string) (Code, error) {
	return s.issueCode(ctx, email, Verification, MailVerification)
}

// ForgotPassword makes a code that sets a new password. A waiting sign-up gets one too (redeeming it proves the
// address), and so does a suspended account (which stays suspended), so that the answer shows neither.
func (s *Service) ForgotPassword(ctx context.Context, email string) (Code, error) {
	return s.issueCode(ctx, email, Recovery, MailRecovery)
}

// Invite makes a code with which the owner of a new account sets its first password: a recovery code that lives longer.
func (s *Service) Invite(ctx context.Context, email string) (Code, error) {
	return s.issueCode(ctx, email, Recovery, MailInvitation)
}

func (s *Service) issueCode(ctx context.Context, email string, purpose Purpose, about MessagePurpose) (Code, error) {
	canonical, err := checkEmail(email)
	if err != nil {
		return Code{}, err
	}
	if s.preventsEnumeration() {
		// This looks up no account, so neither the work nor the answer depends on who has one.
		return Code{}, storeFailure(s.store.QueueMail(ctx, s.newMail(ctx, about, canonical)))
	}
	text, code := newCode(purpose, s.mailedTTL(about, purpose))
	e := s.event(ctx, EventCodeIssued, "", "", purposeAttr(purpose))
	ownerID, err := s.store.IssueCode(ctx, canonical, code, s.audited(e))
	switch {
	case err == nil:
		e.UserID = ownerID
		s.logEvent(ctx, e)
		return Code{UserID: ownerID, Text: text, ExpiresIn: code.TTL}, nil
	case errors.Is(err, ErrAlreadyVerified):
		return Code{}, fieldFailure(Conflict, "email", Fault{FieldVerified, "is verified already"})
	default:
		return Code{}, storeFailure(err)
	}
}

// Proof is what a user sends to prove an address.
type Proof struct {
	Code string
	// Password is the one chosen with the claim that is to be proved. It may be nil if
	// no other claim waits for the address.
	Password *string
	// Username replaces the sign-up's, if an account has that one by now; nil: keep it.
	Username *string
}

// VerifyUser redeems a verification code: a sign-up becomes an account, or the new address of an account becomes its
// address. The owner is signed in, and all former sessions end.
//
// The reader of the mailbox may not have chosen the password of the sign-up that owns the code. If several sign-ups
// wait for the address, the password shows which one the reader made, and a code without a password proves none.
func (s *Service) VerifyUser(ctx context.Context, in Proof) (Tokens, error) {
	if err := s.ready(); err != nil {
		return Tokens{}, err
	}
	var (
		proof ClaimProof
		p     problems
		ok    bool
	)
	if proof.Code, ok = hashCode(in.Code); !ok {
		p.add("code", wrongCode)
	}
	if in.Username != nil {
		proof.Username, proof.CanonicalUsername = *in.Username, p.check("username", *in.Username, canonicalUsername)
	}
	if err := p.err(); err != nil {
		return Tokens{}, err
	}
	if in.Password != nil {
		claim, err := s.findClaim(ctx, proof.Code, normalizePassword(*in.Password))
		if err != nil {
			return Tokens{}, err
		}
		proof.ClaimID, proof.PasswordHash = claim.ID, claim.PasswordHash
	}
	n := s.newSession(ctx)
	e := s.event(ctx, EventEmailVerified, "", n.ID)
	user, err := s.store.RedeemVerification(ctx, proof, n, s.record(ctx, e, MailEmailChanged))
	switch {
	case errors.Is(err, ErrSeveralClaims):
		return Tokens{}, fieldFailure(Invalid, "password", Fault{FieldRequired,
			"is needed, since several sign-ups wait for this address; send the one that you chose when you signed up"})
	case errors.Is(err, ErrStale):
		return Tokens{}, errNoClaim()
	case err != nil:
		return Tokens{}, s.codeFailure(ctx, Verification, SessionRef{}, err)
	}
	e.UserID = user.ID
	s.logEvent(ctx, e)
	n.UserID, n.Scope = user.ID, user.Scope
	return s.firstTokens(ctx, n, user)
}

// findClaim returns the claim with this password, among those to the address that the code was sent to.
func (s *Service) findClaim(ctx context.Context, h CodeHash, password string) (Claim, error) {
	claims, err := s.store.FindClaims(ctx, h)
	if err != nil {
		return Claim{}, s.codeFailure(ctx, Verification, SessionRef{}, err)
	}
	claim, ok, err := s.matchClaim(ctx, claims, password)
	if err == nil && !ok {
		err = errNoClaim()
	}
	return claim, err
}

// matchClaim returns the first of the claims that has this password.
func (s *Service) matchClaim(ctx context.Context, claims []Claim, password string) (match Claim, ok bool, err error) {
	if !isPossiblePassword(password) {
		return Claim{}, false, nil
	}
	for _, claim := range claims {
		right, err := s.hasher.Check(ctx, claim.PasswordHash, password)
		if err != nil || right {
			return claim, right, err
		}
	}
	return Claim{}, false, nil
}

// errNoClaim returns the answer if no claim to an address has the password.
func errNoClaim() *Error {
	return fieldFailure(Invalid, "password", Fault{FieldWrong,
		"is not the one of a sign-up that waits for this address; the code still holds"})
}
