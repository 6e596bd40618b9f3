package admin

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// NewUser is an account that an administrator makes.
type NewUser struct {
	identity.SignUp // without a password, the account is an invitation: its owner sets one with a recovery code

	Roles    string
	Metadata jsontext.Value // may be nil
	Key      string         // an Idempotency-Key; may be empty
}

// Invitation is what lets the owner of an account set a password. The code has no text if it is sent by mail.
type Invitation struct {
	User  User
	Code  identity.Code
	Again bool // an earlier request with the same key created the account
}

// Create makes an account. With a password it is verified: the administrator vouches for the address. Without one it is
// an invitation. A request that is sent again with its key makes no other account, and sends another code if the
// invitation still waits.
func (s *Service) Create(ctx context.Context, in NewUser, c Change) (Invitation, error) {
	creation := Creation{Verified: in.Password != ""}
	roles := identity.AccountUpdate{Roles: &in.Roles}
	if err := roles.Check(s.optional); err != nil {
		return Invitation{}, err
	}
	creation.Roles = *roles.Roles
	var err error
	if creation.Metadata, err = Merge("", orEmpty(in.Metadata)); err != nil {
		return Invitation{}, err
	}
	if err := s.CheckRoom(creation.Roles, creation.Metadata); err != nil {
		return Invitation{}, err
	}
	if in.Key != "" {
		creation.Key, creation.Request = in.digests(c.Actor, creation)
	}
	account, err := s.accounts.NewAccount(ctx, in.SignUp)
	if err != nil {
		return Invitation{}, err
	}
	e := s.event(ctx, EventCreated, c, account.ID, "")
	created, err := s.store.CreateUser(ctx, account, creation, s.audited(e))
	switch {
	case err != nil:
		return Invitation{}, translate(err)
	case created.Other:
		fault := identity.Fault{Reason: identity.FieldConflicting, Text: "was sent with another request"}
		return Invitation{}, &identity.Error{
			Kind: identity.Conflict, Reason: identity.ReasonInvalidFields,
			Message: "Idempotency-Key: was sent with another request: choose a new one",
			Fields:  []identity.Problem{{Parameter: "Idempotency-Key", Fault: fault}},
		}
	case !created.Again:
		e.Log(ctx, s.audit)
	}
	u, err := s.User(ctx, created.ID)
	if err != nil || u.Activated {
		return Invitation{User: u, Again: created.Again}, err
	}
	code, err := s.accounts.Invite(ctx, u.Email)
	return Invitation{User: u, Code: code, Again: created.Again}, err
}

func orEmpty(v jsontext.Value) jsontext.Value {
	if v == nil {
		return jsontext.Value("{}")
	}
	return v
}

// digests returns the digest of the key, which is the administrator's own, and of the request. The password is not in
// it: a digest without a cost would help to guess it.
func (in NewUser) digests(who Actor, c Creation) (key, request []byte) {
	text, err := json.Marshal([]any{in.Username, in.Email, in.FirstName, in.LastName, in.Scope, c.Verified, c.Roles, c.Metadata})
	if err != nil {
		text = fmt.Append(nil, in.Email) // not UTF-8: refused later
	}
	ofKey, ofRequest := sha256.Sum256(fmt.Appendf(nil, "create user %q %q", who.Name, in.Key)), sha256.Sum256(text)
	return ofKey[:], ofRequest[:]
}

// RequirePasswordChange makes an account's password void and ends its sessions. Its owner sets another one with a code,
// as if they had forgotten it.
func (s *Service) RequirePasswordChange(ctx context.Context, ref Ref, c Change) (Invitation, error) {
	if _, err := s.User(ctx, ref.ID); err != nil {
		return Invitation{}, err // before a password is hashed
	}
	hash, err := s.accounts.UnusableHash(ctx)
	if err != nil {
		return Invitation{}, err
	}
	e := s.event(ctx, EventPasswordVoided, c, ref.ID, "")
	email, err := s.store.VoidPassword(ctx, ref, hash, s.audited(e))
	u, err := s.changed(ctx, ref.ID, e, true, err)
	if err != nil {
		return Invitation{}, err
	}
	code, err := s.accounts.ForgotPassword(ctx, email)
	return Invitation{User: u, Code: code}, err
}

// ResendVerification sends another code to the owner of an address that is not proved: to set a password if the account
// is an invitation, and otherwise to prove the new address.
func (s *Service) ResendVerification(ctx context.Context, ref Ref, c Change) (Invitation, error) {
	u, err := s.User(ctx, ref.ID)
	switch {
	case err != nil:
		return Invitation{}, err
	case ref.Version != "" && ref.Version != u.Version:
		return Invitation{}, translate(identity.ErrStale)
	case u.EmailVerified:
		return Invitation{}, &identity.Error{
			Kind: identity.Conflict, Reason: identity.ReasonEmailVerified, Message: "the address of the account is verified already",
		}
	}
	send := s.accounts.NewVerificationCode
	if !u.Activated {
		send = s.accounts.Invite
	}
	e := s.event(ctx, EventCodeSent, c, ref.ID, "")
	if err := s.store.RecordEvent(ctx, s.audited(e)); err != nil { // the event of the code itself names no actor
		return Invitation{}, err
	}
	e.Log(ctx, s.audit)
	code, err := send(ctx, u.Email)
	return Invitation{User: u, Code: code}, err
}
