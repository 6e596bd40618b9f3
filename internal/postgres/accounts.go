package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// FindCredentials implements identity.Store.
func (s *Store) FindCredentials(ctx context.Context, login identity.Login) (identity.Credentials, error) {
	st, args := named("FindCredentialsByUsername"), pgx.NamedArgs{"network": login.From}
	if login.CanonicalEmail != "" {
		st, args["email"] = named("FindCredentialsByEmail"), login.CanonicalEmail
	} else {
		args["username"] = login.CanonicalUsername
	}
	return s.findCredentials(ctx, st, args)
}

func (s *Store) findCredentials(
	ctx context.Context, st *statement, args pgx.NamedArgs,
) (c identity.Credentials, err error) {
	var key []byte
	var microseconds int64
	err = s.queryRow(ctx, repeatable, st, args, credentialsDest(&c, &key, &microseconds)...)
	if err != nil {
		return identity.Credentials{}, err
	}
	copy(c.ThrottleKey[:], key)
	c.SinceFailure = time.Duration(microseconds) * time.Microsecond
	return c, nil
}

// PasswordSchemes returns the schemes of all stored hashes of passwords.
func (s *Store) PasswordSchemes(ctx context.Context) ([]string, error) {
	return findAll(ctx, s, named("FindPasswordSchemes"), nil, func(scheme *string) []any { return []any{scheme} })
}

// CountFailure implements identity.Store.
func (s *Store) CountFailure(ctx context.Context, key identity.ThrottleKey, e identity.Event) error {
	return s.exec(ctx, onlyOnce, named("CountFailure"), pgx.NamedArgs{"key": key[:], "event": eventArg(e)})
}

// UpdateUser implements identity.Store. It may be sent again: a second run changes nothing more, but is recorded again.
func (s *Store) UpdateUser(
	ctx context.Context, ref identity.SessionRef, p identity.ProfileChange, e identity.Event,
) (updated identity.User, err error) {
	if p.Username != nil {
		p.Username = new(stored(*p.Username, ref.UserID))
		p.CanonicalUsername = new(stored(*p.CanonicalUsername, ref.UserID))
	}
	err = s.queryRow(ctx, repeatable, named("UpdateUser"), sessionArgs(ref, pgx.NamedArgs{
		"username": p.Username, "canonical_username": p.CanonicalUsername,
		"first_name": p.FirstName, "last_name": p.LastName, "event": eventArg(e),
	}), userDest(&updated)...)
	if err == nil && updated.ID == "" {
		return identity.User{}, &identity.TakenError{Username: true}
	}
	return updated, noRowsIs(err, identity.ErrNoSession)
}

// FindUser implements identity.Store.
func (s *Store) FindUser(ctx context.Context, ref identity.SessionRef) (found identity.User, err error) {
	err = s.queryRow(ctx, repeatable, named("FindUser"), sessionArgs(ref, nil), userDest(&found)...)
	return found, noRowsIs(err, identity.ErrNoSession)
}

// FindPassword implements identity.Store.
func (s *Store) FindPassword(
	ctx context.Context, ref identity.SessionRef, from identity.Network,
) (identity.Credentials, error) {
	c, err := s.findCredentials(ctx, named("FindPassword"), sessionArgs(ref, pgx.NamedArgs{"network": from}))
	return c, noRowsIs(err, identity.ErrNoSession)
}

// DeleteUser implements identity.Store.
func (s *Store) DeleteUser(ctx context.Context, ref identity.SessionRef, e identity.Event) error {
	return s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := lockLive(ctx, tx, ref); err != nil {
			return err
		}
		return named("DeleteUser").exec(ctx, tx, pgx.NamedArgs{"user_id": id(ref.UserID), "event": eventArg(e)})
	})
}

// ChangePassword implements identity.Store.
func (s *Store) ChangePassword(
	ctx context.Context, ref identity.SessionRef, oldHash, newHash string, r identity.Record,
) error {
	return s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := lockLive(ctx, tx, ref); err != nil {
			return err
		}
		err := named("ChangePassword").queryRow(ctx, tx, recordArgs(r, pgx.NamedArgs{
			"user_id": id(ref.UserID), "session_id": id(ref.ID), "old_hash": oldHash, "new_hash": newHash,
		})).Scan()
		return noRowsIs(err, identity.ErrStale)
	})
}

// lockLive takes the lock of the account of a session, and then reads the account if the session is alive.
func lockLive(ctx context.Context, tx pgx.Tx, ref identity.SessionRef) (owner identity.User, err error) {
	if err := named("LockUser").exec(ctx, tx, pgx.NamedArgs{"user_id": id(ref.UserID)}); err != nil {
		return identity.User{}, err
	}
	err = named("FindUser").queryRow(ctx, tx, sessionArgs(ref, nil)).Scan(userDest(&owner)...)
	return owner, noRowsIs(err, identity.ErrNoSession)
}

// noRowsIs replaces the driver's "no rows" by what it means to a caller.
func noRowsIs(err, meaning error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return meaning
	}
	return err
}
