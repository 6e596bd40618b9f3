package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

func signUpArgs(n identity.NewSignUp, e identity.Event) pgx.NamedArgs {
	return pgx.NamedArgs{
		"id": id(n.ID), "username": stored(n.Username, n.ID), "canonical_username": stored(n.CanonicalUsername, n.ID),
		"email": n.Email, "canonical_email": n.CanonicalEmail, "first_name": n.FirstName, "last_name": n.LastName,
		"scope": n.Scope, "password_hash": n.PasswordHash, "language": n.Language, "event": eventArg(e),
	}
}

// CreateSignUp implements identity.Store.
func (s *Store) CreateSignUp(ctx context.Context, n identity.NewSignUp, c identity.NewCode, e identity.Event) error {
	args := signUpArgs(n, e)
	args["code"], args["purpose"], args["ttl"] = c.Hash[:], c.Purpose, c.TTL
	var taken identity.TakenError
	err := s.queryRow(ctx, onlyOnce, named("CreateSignUp"), args, &taken.Username, &taken.Email)
	if err == nil && taken != (identity.TakenError{}) {
		return &taken
	}
	return err
}

// CreateSignUpConcealed implements identity.Store.
func (s *Store) CreateSignUpConcealed(
	ctx context.Context, n identity.NewSignUp, m identity.NewMail, e identity.Event,
) error {
	args := signUpArgs(n, e)
	args["mail"], args["recipient"], args["mail_language"] = m.Purpose, m.To, m.Language
	return s.exec(ctx, onlyOnce, named("CreateSignUpConcealed"), args)
}

// FindSignUps implements identity.Store.
func (s *Store) FindSignUps(ctx context.Context, login identity.Login) ([]identity.Claim, error) {
	st, args := named("FindSignUpsByUsername"), pgx.NamedArgs{"limit": identity.MaxClaims}
	if login.CanonicalEmail != "" {
		st, args["email"] = named("FindSignUpsByEmail"), login.CanonicalEmail
	} else {
		args["username"] = login.CanonicalUsername
	}
	return findAll(ctx, s, st, args, claimDest)
}
