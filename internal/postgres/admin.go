package postgres

import (
	"cmp"
	"context"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/auth-gateway/auth-gateway/internal/admin"
	"github.com/auth-gateway/auth-gateway/internal/identity"
)

// adminUserDest returns the scan destinations of an account as administrators see it.
func adminUserDest(u *admin.User) []any {
	return append(userDest(&u.User), (*zeronull.Timestamptz)(&u.SuspendedAt), &u.Activated, &u.Version)
}

func listedUserDest(u *admin.User) []any { return append(adminUserDest(u), &u.Key) }

func (s *Store) findAdminUser(ctx context.Context, st *statement, args pgx.NamedArgs) (found admin.User, err error) {
	err = s.queryRow(ctx, repeatable, st, args, adminUserDest(&found)...)
	return found, noRowsIs(err, identity.ErrNoUser)
}

// FindUserByID implements admin.Store.
func (s *Store) FindUserByID(ctx context.Context, userID string) (admin.User, error) {
	return s.findAdminUser(ctx, named("AdminUserByID"), pgx.NamedArgs{"user_id": id(userID)})
}

// FindUserByEmail implements admin.Store.
func (s *Store) FindUserByEmail(ctx context.Context, canonicalEmail string) (admin.User, error) {
	return s.findAdminUser(ctx, named("AdminUserByEmail"), pgx.NamedArgs{"email": canonicalEmail})
}

// FindUserByUsername implements admin.Store.
func (s *Store) FindUserByUsername(ctx context.Context, canonicalUsername string) (admin.User, error) {
	return s.findAdminUser(ctx, named("AdminUserByUsername"), pgx.NamedArgs{"username": canonicalUsername})
}

// ListUsersByEmail implements admin.Store.
func (s *Store) ListUsersByEmail(ctx context.Context, r admin.Range, limit int) ([]admin.User, error) {
	return findAll(ctx, s, named("AdminUsersByEmail"), rangeArgs(r, limit), listedUserDest)
}

// ListUsersByUsername implements admin.Store.
func (s *Store) ListUsersByUsername(ctx context.Context, r admin.Range, limit int) ([]admin.User, error) {
	return findAll(ctx, s, named("AdminUsersByUsername"), rangeArgs(r, limit), listedUserDest)
}

// rangeArgs selects by a prefix. All keys are printable ASCII in the order of their bytes, so DEL follows all of them.
func rangeArgs(r admin.Range, limit int) pgx.NamedArgs {
	return pgx.NamedArgs{"first": r.Prefix, "end": r.Prefix + "\x7f", "after": r.After, "limit": limit}
}

// ListUsersByCreation implements admin.Store.
func (s *Store) ListUsersByCreation(ctx context.Context, b admin.Before, suspended bool, limit int) ([]admin.User, error) {
	st := named("AdminUsersByCreation")
	if suspended {
		st = named("AdminSuspendedUsers")
	}
	return findAll(ctx, s, st, pgx.NamedArgs{
		"before": b.At, "before_id": id(b.ID), "created_after": b.CreatedAfter, "limit": limit,
	}, adminUserDest)
}

// CreateUser implements admin.Store. Under the lock of the address, a request that is sent twice at once creates one account.
func (s *Store) CreateUser(
	ctx context.Context, n identity.NewSignUp, c admin.Creation, e identity.Event,
) (created admin.Created, err error) {
	args := with(signUpArgs(n, e), pgx.NamedArgs{
		"roles": c.Roles, "metadata": c.Metadata, "verified": c.Verified, "key": c.Key, "request": c.Request,
	})
	err = s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		created = admin.Created{}
		if err := named("LockAddress").exec(ctx, tx, pgx.NamedArgs{"email": n.CanonicalEmail}); err != nil {
			return err
		}
		var taken identity.TakenError
		err := named("AdminCreateUser").queryRow(ctx, tx, args).
			Scan(&created.ID, &created.Again, &created.Other, &taken.Username, &taken.Email)
		if err == nil && created.ID == "" {
			taken.Username = taken.Username || !taken.Email // by an account that was created meanwhile
			return &taken
		}
		return err
	})
	if isViolation(err, adminRequestKey) { // another request with the key, for another address, came first
		return admin.Created{Other: true}, nil
	}
	return created, err
}

// VoidPassword implements admin.Store.
func (s *Store) VoidPassword(ctx context.Context, ref admin.Ref, hash string, e identity.Event) (email string, err error) {
	expected := false
	err = s.queryRow(ctx, onlyOnce, named("AdminVoidPassword"), pgx.NamedArgs{
		"user_id": id(ref.ID), "version": ref.Version, "new_hash": hash, "event": eventArg(e),
	}, &expected, &email)
	if err == nil && !expected {
		return "", identity.ErrStale
	}
	return email, noRowsIs(err, identity.ErrNoUser)
}

// SuspendUser implements admin.Store.
func (s *Store) SuspendUser(ctx context.Context, ref admin.Ref, e identity.Event) (bool, error) {
	return s.changeState(ctx, named("AdminSuspendUser"), ref, e)
}

// UnsuspendUser implements admin.Store.
func (s *Store) UnsuspendUser(ctx context.Context, ref admin.Ref, e identity.Event) (bool, error) {
	return s.changeState(ctx, named("AdminUnsuspendUser"), ref, e)
}

func (s *Store) changeState(ctx context.Context, st *statement, ref admin.Ref, e identity.Event) (changed bool, err error) {
	expected := false
	err = s.queryRow(ctx, onlyOnce, st, pgx.NamedArgs{
		"user_id": id(ref.ID), "version": ref.Version, "event": eventArg(e),
	}, &expected, &changed)
	if err == nil && !expected {
		return false, identity.ErrStale
	}
	return changed, noRowsIs(err, identity.ErrNoUser)
}

// EditUser implements admin.Store.
func (s *Store) EditUser(ctx context.Context, ref admin.Ref, u admin.Editable, e identity.Event) error {
	err := s.queryRow(ctx, onlyOnce, named("AdminEditUser"), pgx.NamedArgs{
		"user_id": id(ref.ID), "version": ref.Version, "first_name": u.FirstName, "last_name": u.LastName,
		"scope": u.Scope, "roles": u.Roles, "metadata": cmp.Or(u.Metadata, "{}"), "event": eventArg(e),
	})
	return noRowsIs(err, identity.ErrStale)
}

// RemoveUser implements admin.Store.
func (s *Store) RemoveUser(ctx context.Context, ref admin.Ref, e identity.Event) error {
	return s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		expected := false
		err := named("AdminVersion").queryRow(ctx, tx, pgx.NamedArgs{"user_id": id(ref.ID), "version": ref.Version}).Scan(&expected)
		switch {
		case err != nil:
			return noRowsIs(err, identity.ErrNoUser)
		case !expected:
			return identity.ErrStale
		}
		return named("DeleteUser").exec(ctx, tx, pgx.NamedArgs{"user_id": id(ref.ID), "event": eventArg(e)})
	})
}

// ListSessions implements admin.Store.
func (s *Store) ListSessions(ctx context.Context, userID string, now time.Time) ([]identity.OwnSession, error) {
	found, err := findAll(ctx, s, named("AdminSessions"), pgx.NamedArgs{"user_id": id(userID), "now": now},
		func(o *identity.OwnSession) []any {
			return []any{
				(*zeronull.Text)(&o.ID), (*zeronull.Timestamptz)(&o.OpenedAt), (*zeronull.Timestamptz)(&o.RefreshedAt),
				(*zeronull.Timestamptz)(&o.ExpiresAt), (*zeronull.Text)(&o.UserAgent),
			}
		})
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, identity.ErrNoUser
	case found[0].ID == "":
		return nil, nil
	}
	return found, nil
}

// EndSessions implements admin.Store.
func (s *Store) EndSessions(
	ctx context.Context, userID, sessionID string, now time.Time, e identity.Event,
) (ended int, err error) {
	err = s.queryRow(ctx, onlyOnce, named("AdminEndSessions"), pgx.NamedArgs{
		"user_id": id(userID), "session_id": id(sessionID), "all": sessionID == "", "now": now, "event": eventArg(e),
	}, &ended)
	return ended, noRowsIs(err, identity.ErrNoUser)
}

// ListEvents implements admin.Store.
func (s *Store) ListEvents(ctx context.Context, f admin.EventFilter, before int64, limit int) ([]admin.Event, error) {
	st, args := named("AdminEvents"), pgx.NamedArgs{"before": before, "limit": limit}
	switch {
	case f.UserID != "":
		st, args["user_id"], args["event"], args["actor"] = named("AdminEventsOfUser"), id(f.UserID), f.Event, f.Actor
	case f.Actor != "":
		st, args["actor"], args["event"] = named("AdminEventsOfActor"), f.Actor, f.Event
	case f.Event != "":
		st, args["event"] = named("AdminEventsOfName"), f.Event
	}
	return findAll(ctx, s, st, args, func(e *admin.Event) []any {
		return []any{&e.ID, &e.At, &e.Name, &e.UserID, &e.SessionID, &e.RequestID, &e.Address, &e.Details}
	})
}

// Clock returns the time and the version of the database.
func (s *Store) Clock(ctx context.Context) (now time.Time, version string, err error) {
	err = s.queryRow(ctx, repeatable, named("AdminClock"), nil, &now, &version)
	return now, version, err
}

// Connections lists from where servers are connected to the database.
func (s *Store) Connections(ctx context.Context) ([]admin.Connections, error) {
	return findAll(ctx, s, named("AdminConnections"), nil, func(c *admin.Connections) []any {
		return []any{&c.Address, &c.Number, &c.Since, &c.Own}
	})
}

// WaitingMails lists what the outbox holds, by purpose.
func (s *Store) WaitingMails(ctx context.Context) ([]admin.WaitingMails, error) {
	return findAll(ctx, s, named("AdminOutbox"), nil, func(m *admin.WaitingMails) []any {
		return []any{&m.Purpose, &m.Number, &m.Oldest, &m.Attempts, &m.Due}
	})
}

// Export implements admin.Store.
func (s *Store) Export(ctx context.Context, userID string, events int) (e admin.Export, err error) {
	var text []byte
	err = s.queryRow(ctx, repeatable, named("AdminExport"), pgx.NamedArgs{"user_id": id(userID), "events": events}, &text)
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	return e, noRowsIs(err, identity.ErrNoUser)
}
