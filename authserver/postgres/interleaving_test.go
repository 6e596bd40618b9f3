package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
	"github.com/auth-gateway/auth-gateway/authserver/postgres"
	"github.com/auth-gateway/auth-gateway/authserver/postgres/postgrestest"
)

// These tests hold a lock in a transaction of their own until a call of the
// Store waits for it, so that each order of events happens for certain. The
// races in identitytest find the orders that nobody thought of.

// meet runs call while a transaction that has run statement is open; finish
// ends it once the call waits.
func meet(t *testing.T, c postgres.Config, call func() error, finish func(*sql.Tx) error, statement string, args ...any) error {
	t.Helper()
	db := connect(t, c)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(statement, args...); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- call() }()
	waits(t, connect(t, c), 1)
	if err := finish(tx); err != nil {
		t.Fatal(err)
	}
	return <-result
}

// waits returns when n calls of the Store wait for a lock.
func waits(t *testing.T, db *sql.DB, n int) {
	t.Helper()
	eventually(t, "the call waits for the lock", func() bool {
		return count(t, db, `SELECT count(*) FROM pg_stat_activity
			WHERE application_name = 'authserver' AND datname = current_database() AND wait_event_type = 'Lock'`) == n
	})
}

func TestASignInThatWaitsForAChangeOfTheAccount(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		statement string
		finish    func(*sql.Tx) error
		want      error
		sessions  int
	}{
		"opens nothing where the password was changed": {
			`UPDATE users SET password_hash = 'new' WHERE id = $1`, (*sql.Tx).Commit, identity.ErrStale, 0,
		},
		"opens nothing where the account was suspended": {
			`UPDATE users SET suspended_at = now() WHERE id = $1`, (*sql.Tx).Commit, identity.ErrStale, 0,
		},
		"opens nothing where the account was deleted": {
			`DELETE FROM users WHERE id = $1`, (*sql.Tx).Commit, identity.ErrStale, 0,
		},
		"opens a session where only a name was changed": {
			`UPDATE users SET first_name = 'new' WHERE id = $1`, (*sql.Tx).Commit, nil, 1,
		},
		"opens a session where the change was undone": {
			`UPDATE users SET password_hash = 'new' WHERE id = $1`, (*sql.Tx).Rollback, nil, 1,
		},
	} {
		for _, rehash := range []string{"", otherHash} {
			t.Run(name+map[string]string{"": "", otherHash: ", with a new hash"}[rehash], func(t *testing.T) {
				t.Parallel()
				c := postgrestest.Config(t)
				store := postgrestest.Open(t, c)
				u := signUp(t, store, "ada")
				n := newSession(u, time.Now())
				n.Rehash = rehash
				err := meet(t, c, func() error { return store.OpenSession(t.Context(), n) }, tc.finish, tc.statement, u.ID)
				if !errors.Is(err, tc.want) {
					t.Errorf("the error is %v; want %v", err, tc.want)
				}
				if n := count(t, connect(t, c), `SELECT count(*) FROM sessions`); n != tc.sessions {
					t.Errorf("%d sessions are open; want %d", n, tc.sessions)
				}
			})
		}
	}
}

// The sign-in is held in the middle, after it has inserted its session: by the
// row of its throttle, which it removes last.
func TestAChangeOfPasswordWaitsForASignInAndEndsItsSession(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, now := postgrestest.Open(t, c), time.Now()
	u := signUp(t, store, "ada")
	here := open(t, store, u, now)
	late := newSession(u, now)
	if err := store.CountFailure(t.Context(), late.ThrottleKey); err != nil {
		t.Fatal(err)
	}
	changed := make(chan error, 1)
	err := meet(t, c,
		func() error { return store.OpenSession(t.Context(), late) },
		func(tx *sql.Tx) error {
			go func() {
				changed <- store.ChangePassword(context.WithoutCancel(t.Context()), here, passwordHash, otherHash)
			}()
			waits(t, connect(t, c), 2)
			return tx.Commit()
		},
		`SELECT FROM throttles WHERE key = $1 FOR UPDATE`, late.ThrottleKey[:])
	if err != nil {
		t.Errorf("the sign-in: %v", err)
	}
	if err := <-changed; err != nil {
		t.Errorf("the change of password: %v", err)
	}
	_, err = store.FindSession(t.Context(), identity.SessionRef{ID: late.ID, UserID: u.ID, Now: now})
	if !errors.Is(err, identity.ErrNoSession) {
		t.Errorf("the session that was opened with the old password: %v", err)
	}
}

func TestACodeIsNotIssuedForAnAddressThatIsBeingGivenUp(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c)
	u := signUp(t, store, "ada")
	err := meet(t, c,
		func() error {
			_, err := store.IssueCode(t.Context(), u.Email, newCode(identity.Recovery))
			return err
		},
		(*sql.Tx).Commit,
		`UPDATE users SET email = 'new@example.com', canonical_email = 'new@example.com' WHERE id = $1`, u.ID)
	if !errors.Is(err, identity.ErrNoUser) {
		t.Errorf("the error is %v; want %v", err, identity.ErrNoUser)
	}
}

func TestAVerificationThatWaitsForASuspensionIsRefused(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c)
	code := newCode(identity.Verification)
	u, err := store.CreateUser(t.Context(), newUser("ada"), code)
	if err != nil {
		t.Fatal(err)
	}
	err = meet(t, c,
		func() error {
			_, err := store.RedeemVerification(t.Context(), code.Hash, newSession(u, time.Now()))
			return err
		},
		(*sql.Tx).Commit,
		`UPDATE users SET suspended_at = now() WHERE id = $1`, u.ID)
	if !errors.Is(err, identity.ErrSuspended) {
		t.Errorf("the error is %v; want %v", err, identity.ErrSuspended)
	}
}

func TestASessionThatWasEndedMeanwhileChangesNoPassword(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c)
	u := signUp(t, store, "ada")
	ref := open(t, store, u, time.Now())
	err := meet(t, c,
		func() error { return store.ChangePassword(t.Context(), ref, passwordHash, otherHash) },
		func(tx *sql.Tx) error {
			_, err := tx.Exec(`DELETE FROM sessions WHERE user_id = $1`, u.ID)
			return errors.Join(err, tx.Commit())
		},
		`UPDATE users SET email_verified_at = now(), activated_at = now() WHERE id = $1`, u.ID)
	if !errors.Is(err, identity.ErrNoSession) {
		t.Errorf("the error is %v; want %v", err, identity.ErrNoSession)
	}
}
