package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// Each of these tests holds a lock in its own transaction until a call of the Store waits for that lock. This forces
// one order of events. The races in identitytest look for orders that these tests do not cover.

// meet opens a transaction, runs statement in it, and starts call. When the call waits for
// a lock, finish ends the transaction. meet returns the error of the call.
func meet(t *testing.T, c postgres.Config, call func() error, finish func(*sql.Tx) error, statement string, args ...any) error {
	t.Helper()
	db := connect(t, c)
	tx := testenv.Must(db.Begin())(t)
	testenv.Must(tx.Exec(statement, args...))(t)
	result := make(chan error, 1)
	go func() { result <- call() }()
	waits(t, connect(t, c), 1)
	testenv.NoError(t, finish(tx))
	return <-result
}

// waits returns as soon as n calls of the Store wait for a lock.
func waits(t *testing.T, db *sql.DB, n int) {
	t.Helper()
	testenv.Until(t, patience, "the call waits for the lock", func() bool {
		return count(t, db, `SELECT count(*) FROM pg_stat_activity
			WHERE application_name = 'authserver' AND datname = current_database() AND wait_event_type = 'Lock'`) == n
	})
}

func TestSignInThatWaitsForAChangeOfTheAccount(t *testing.T) {
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
				err := meet(t, c, func() error { return store.OpenSession(t.Context(), n, noEvent) }, tc.finish, tc.statement, u.ID)
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

// The test blocks the sign-in after it has inserted its session: it locks the row of the
// throttle, which the sign-in removes last.
func TestChangePasswordWaitsForASignInAndEndsItsSession(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, now := postgrestest.Open(t, c), time.Now()
	u := signUp(t, store, "ada")
	here := open(t, store, u, now)
	late := newSession(u, now)
	testenv.NoError(t, store.CountFailure(t.Context(), late.ThrottleKey, noEvent))
	changed := make(chan error, 1)
	err := meet(t, c,
		func() error { return store.OpenSession(t.Context(), late, noEvent) },
		func(tx *sql.Tx) error {
			go func() {
				changed <- store.ChangePassword(context.WithoutCancel(t.Context()), here, passwordHash, otherHash, noRecord)
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
		t.Errorf("FindSession of the session opened with the old password: %v", err)
	}
}

func TestIssueCodeRefusesAnAddressThatIsBeingGivenUp(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c)
	u := signUp(t, store, "ada")
	err := meet(t, c,
		func() error {
			return testenv.Err(store.IssueCode(t.Context(), u.Email, newCode(identity.Recovery), noEvent))
		},
		(*sql.Tx).Commit,
		`UPDATE users SET email = 'new@example.com', canonical_email = 'new@example.com' WHERE id = $1`, u.ID)
	if !errors.Is(err, identity.ErrNoUser) {
		t.Errorf("the error is %v; want %v", err, identity.ErrNoUser)
	}
}

// unproved creates an account with a new address that is not proved, and returns the code that proves it.
func unproved(t *testing.T, store *postgres.Store, address string) (identity.User, identity.CodeHash) {
	t.Helper()
	u := signUp(t, store, "ada")
	change, code := newCode(identity.EmailChange), newCode(identity.Verification)
	ref := open(t, store, u, time.Now())
	_, err := store.RedeemEmailChange(t.Context(), ref, identity.EmailRedemption{Code: change.Hash, Email: address,
		CanonicalEmail: address}, noRecord)
	if !errors.Is(err, identity.ErrNoCode) {
		t.Fatal(err)
	}
	err = store.IssueEmailChange(t.Context(), ref, change, noEvent)
	if err == nil {
		_, err = store.RedeemEmailChange(t.Context(), ref, identity.EmailRedemption{Code: change.Hash, Email: address,
			CanonicalEmail: address}, noRecord)
	}
	if err == nil {
		_, err = store.IssueCode(t.Context(), address, code, noEvent)
	}
	if err != nil {
		t.Fatal(err)
	}
	return u, code.Hash
}

func TestProofThatWaitsForASuspensionIsRefused(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c)
	u, code := unproved(t, store, "new@example.com")
	err := meet(t, c,
		func() error {
			_, err := store.RedeemVerification(t.Context(), identity.ClaimProof{Code: code}, newSession(u, time.Now()), noRecord)
			return err
		},
		(*sql.Tx).Commit,
		`UPDATE users SET suspended_at = now() WHERE id = $1`, u.ID)
	if !errors.Is(err, identity.ErrNoCode) { // the suspension has voided the code
		t.Errorf("the error is %v; want %v", err, identity.ErrNoCode)
	}
}

// Every proof of an address takes the advisory lock of that address, whether it proves a
// sign-up or the new address of an account. Here the test holds that lock.
func TestProofsOfOneAddressWaitForEachOther(t *testing.T) {
	t.Parallel()
	const lock = `SELECT pg_advisory_xact_lock(hashtextextended('address:new@example.com', 0))`
	for name, prepare := range map[string]func(t *testing.T, store *postgres.Store) func() error{
		"a sign-up": func(t *testing.T, store *postgres.Store) func() error {
			n, code := newSignUp("grace"), newCode(identity.Verification)
			n.Email, n.CanonicalEmail = "new@example.com", "new@example.com"
			testenv.NoError(t, store.CreateSignUp(t.Context(), n, code, noEvent))
			return func() error {
				_, err := store.RedeemVerification(t.Context(), identity.ClaimProof{Code: code.Hash}, newSession(identity.User{}, time.Now()), noRecord)
				return err
			}
		},
		"a sign-up, by a recovery": func(t *testing.T, store *postgres.Store) func() error {
			n, code := newSignUp("grace"), newCode(identity.Recovery)
			n.Email, n.CanonicalEmail = "new@example.com", "new@example.com"
			err := store.CreateSignUp(t.Context(), n, newCode(identity.Verification), noEvent)
			if err == nil {
				_, err = store.IssueCode(t.Context(), n.Email, code, noEvent)
			}
			if err != nil {
				t.Fatal(err)
			}
			return func() error {
				return store.RedeemRecovery(t.Context(), code.Hash, identity.Claim{ID: n.ID, IsSignUp: true}, otherHash, "", noRecord)
			}
		},
		"a new address": func(t *testing.T, store *postgres.Store) func() error {
			u, code := unproved(t, store, "new@example.com")
			return func() error {
				_, err := store.RedeemVerification(t.Context(), identity.ClaimProof{Code: code}, newSession(u, time.Now()), noRecord)
				return err
			}
		},
		"a change": func(t *testing.T, store *postgres.Store) func() error {
			change := newCode(identity.EmailChange)
			change.Target = "new@example.com"
			ref := open(t, store, signUp(t, store, "ada"), time.Now())
			testenv.NoError(t, store.IssueEmailChange(t.Context(), ref, change, noEvent))
			return func() error {
				e := identity.EmailRedemption{Code: change.Hash, Email: change.Target, CanonicalEmail: change.Target}
				_, err := store.RedeemEmailChange(t.Context(), ref, e, noRecord)
				return err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := postgrestest.Config(t)
			store := postgrestest.Open(t, c)
			if err := meet(t, c, prepare(t, store), (*sql.Tx).Commit, lock); err != nil {
				t.Error(err)
			}
			if n := count(t, connect(t, c), `SELECT count(*) FROM users WHERE canonical_email = 'new@example.com'`); n != 1 {
				t.Errorf("%d accounts have the address; want 1", n)
			}
		})
	}
}

func TestChangePasswordNeedsALiveSession(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c)
	u := signUp(t, store, "ada")
	ref := open(t, store, u, time.Now())
	err := meet(t, c,
		func() error { return store.ChangePassword(t.Context(), ref, passwordHash, otherHash, noRecord) },
		func(tx *sql.Tx) error {
			_, err := tx.Exec(`DELETE FROM sessions WHERE user_id = $1`, u.ID)
			return errors.Join(err, tx.Commit())
		},
		`UPDATE users SET email_verified_at = now(), activated_at = now() WHERE id = $1`, u.ID)
	if !errors.Is(err, identity.ErrNoSession) {
		t.Errorf("the error is %v; want %v", err, identity.ErrNoSession)
	}
}

// A worker claims a mail while its account is being changed. The claim waits, and the
// changed account determines what the mail contains.
func TestMailThatWaitsForAChangeOfItsAccount(t *testing.T) {
	t.Parallel()
	const move = `UPDATE users SET email = 'new@example.com', canonical_email = 'new@example.com' WHERE id = $1`
	for name, tc := range map[string]struct {
		about     identity.MessagePurpose
		statement string
		finish    func(tx *sql.Tx) error
		to        string // empty: no mail is sent
	}{
		"brings no code to an address that was given up": {identity.MailRecovery, move, (*sql.Tx).Commit, ""},
		"brings no code to verify one":                   {identity.MailVerification, move, (*sql.Tx).Commit, ""},
		"brings nothing where the account was deleted":   {identity.MailRecovery, `DELETE FROM users WHERE id = $1`, (*sql.Tx).Commit, ""},
		"brings a code where the change was undone":      {identity.MailRecovery, move, (*sql.Tx).Rollback, "ada@example.com"},
		"brings a code for a change of address to the one of now": {
			identity.MailEmailChange, move, (*sql.Tx).Commit, "new@example.com",
		},
		"brings no code to a session that was ended": {
			identity.MailEmailChange, `UPDATE users SET password_hash = 'new' WHERE id = $1`,
			func(tx *sql.Tx) error {
				_, err := tx.Exec(`DELETE FROM sessions`)
				return errors.Join(err, tx.Commit())
			}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := postgrestest.Config(t)
			store, now := postgrestest.Open(t, c), time.Now()
			u := signUp(t, store, "ada")
			postgrestest.Exec(t, c, `DELETE FROM codes`)
			m := newMail(tc.about, u.Email)
			err := store.QueueMail(t.Context(), m)
			if tc.about == identity.MailEmailChange {
				postgrestest.Exec(t, c, `DELETE FROM mails`)
				m.To = ""
				err = store.QueueEmailChange(t.Context(), open(t, store, u, now), m)
			}
			if err != nil {
				t.Fatal(err)
			}
			var taken identity.ClaimedMail
			var told bool
			err = meet(t, c, func() (err error) {
				taken, told, err = claim(t.Context(), store, now)
				return err
			}, tc.finish, tc.statement, u.ID)
			if err != nil || told != (tc.to != "") || taken.To != tc.to {
				t.Errorf("a mail is sent: %v, to %q, error %v; want it to %q", told, taken.To, err, tc.to)
			}
			db, left := connect(t, c), 0
			if tc.to != "" {
				left = 1
			}
			if n := count(t, db, `SELECT count(*) FROM mails`); n != left {
				t.Errorf("%d mails are in the outbox; want %d", n, left)
			}
			if n := count(t, db, `SELECT count(*) FROM codes`); n != left {
				t.Errorf("%d codes are live; want %d", n, left)
			}
		})
	}
}

// The test blocks the claim after it has locked the account: it locks the code that the claim replaces.
func TestChangeOfAddressWaitsForAMailAndVoidsItsCode(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, now := postgrestest.Open(t, c), time.Now()
	u := signUp(t, store, "ada")
	ref := open(t, store, u, now)
	testenv.Must(store.IssueCode(t.Context(), u.Email, newCode(identity.Recovery), noEvent))(t)
	change := newCode(identity.EmailChange)
	change.Target = "new@example.com"
	testenv.NoError(t, store.IssueEmailChange(t.Context(), ref, change, noEvent))
	testenv.NoError(t, store.QueueMail(t.Context(), newMail(identity.MailRecovery, u.Email)))
	var told bool
	changed := make(chan error, 1)
	err := meet(t, c,
		func() (err error) {
			_, told, err = claim(t.Context(), store, now)
			return err
		},
		func(tx *sql.Tx) error {
			go func() {
				e := identity.EmailRedemption{Code: change.Hash, Email: change.Target, CanonicalEmail: change.Target}
				_, err := store.RedeemEmailChange(context.WithoutCancel(t.Context()), ref, e, noRecord)
				changed <- err
			}()
			waits(t, connect(t, c), 2)
			return tx.Commit()
		},
		`SELECT FROM codes WHERE purpose = 'recovery' FOR UPDATE`)
	if err != nil || !told {
		t.Errorf("a mail is sent: %v, error %v", told, err)
	}
	if err := <-changed; err != nil {
		t.Errorf("the change of address: %v", err)
	}
	if n := count(t, connect(t, c), `SELECT count(*) FROM codes`); n != 0 {
		t.Errorf("%d codes are live; want none", n)
	}
}

func TestMailThatIsBeingClaimedIsSkipped(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	for _, to := range []string{"first@example.com", "second@example.com"} {
		testenv.NoError(t, store.QueueMail(t.Context(), newMail("notice", to)))
	}
	within(t, db, func(tx *sql.Tx) {
		testenv.Must(tx.Exec(`SELECT FROM mails WHERE recipient = 'first@example.com' FOR UPDATE`))(t)
		m, ok, err := claim(t.Context(), store, time.Now())
		if err != nil || !ok || m.To != "second@example.com" {
			t.Errorf("claimed is %v, the mail to %q, error %v", ok, m.To, err)
		}
		if _, ok, err = claim(t.Context(), store, time.Now()); ok || err != nil {
			t.Errorf("claimed is %v, error %v; want no mail", ok, err)
		}
	})
}

// A sign-up is proved while an account takes the same username. The unique index decides which of them gets it.
func TestSignUpThatWaitsForItsUsername(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		finish func(*sql.Tx) error
		taken  bool
	}{
		"is refused where another account was made": {(*sql.Tx).Commit, true},
		"is proved where that was undone":           {(*sql.Tx).Rollback, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := postgrestest.Config(t)
			store, code := postgrestest.Open(t, c), newCode(identity.Verification)
			testenv.NoError(t, store.CreateSignUp(t.Context(), newSignUp("ada"), code, noEvent))
			prove := func() error {
				_, err := store.RedeemVerification(t.Context(), identity.ClaimProof{Code: code.Hash}, newSession(identity.User{}, time.Now()), noRecord)
				return err
			}
			err := meet(t, c, prove, tc.finish, `INSERT INTO users (id, username, canonical_username, email, canonical_email,
				first_name, last_name, scope, password_hash, email_verified_at, activated_at)
				VALUES (gen_random_uuid(), 'ada', 'ada', 'other@example.com', 'other@example.com', 'A', 'L', '', 'x', now(), now())`)
			taken, ok := errors.AsType[*identity.TakenError](err)
			if ok != tc.taken || err != nil && (!ok || *taken != identity.TakenError{Username: true}) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}
