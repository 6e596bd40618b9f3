package postgres_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/identity"
	"github.com/auth-gateway/auth-gateway/authserver/postgres"
	"github.com/auth-gateway/auth-gateway/authserver/postgres/postgrestest"
)

const (
	passwordHash = "hash of the password"
	otherHash    = "hash of another password"
)

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func newUser(name string) identity.NewUser {
	return identity.NewUser{
		ID: newID(), Username: name, CanonicalUsername: name,
		Email: name + "@example.com", CanonicalEmail: name + "@example.com",
		FirstName: "Ada", LastName: "Lovelace", Scope: "profile email", PasswordHash: passwordHash,
	}
}

func newCode(p identity.Purpose) identity.NewCode {
	return identity.NewCode{Purpose: p, Hash: sha256.Sum256([]byte(rand.Text())), TTL: time.Hour}
}

func newSession(u identity.User, now time.Time) identity.NewSession {
	return identity.NewSession{
		ID: newID(), UserID: u.ID, Scope: "profile email", Keep: 10, From: "192.0.2.9/32",
		OpenedAt: now, ExpiresAt: now.Add(24 * time.Hour), EndsAt: now.Add(30 * 24 * time.Hour),
		PasswordHash: passwordHash, FailureLimit: 10, ThrottleKey: sha256.Sum256([]byte("user:" + u.ID)),
	}
}

func signUp(t testing.TB, store *postgres.Store, name string) identity.User {
	t.Helper()
	u, err := store.CreateUser(t.Context(), newUser(name), newCode(identity.Verification))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func open(t testing.TB, store *postgres.Store, u identity.User, now time.Time) identity.SessionRef {
	t.Helper()
	n := newSession(u, now)
	if err := store.OpenSession(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return identity.SessionRef{ID: n.ID, UserID: u.ID, Now: now}
}

func newMail(about identity.MessagePurpose, to string) identity.NewMail {
	return identity.NewMail{
		Purpose: about, To: to, CanonicalTo: to, Limit: identity.Rate{Count: 1000, Per: time.Hour},
	}
}

// take takes a mail, with a code that nobody is told.
func take(now time.Time) identity.MailTake {
	return identity.MailTake{
		Lease: time.Minute, Now: now,
		Issue: func(ctx context.Context, _ int64, p identity.Purpose) (context.Context, identity.NewCode) {
			return ctx, newCode(p)
		},
	}
}

// fill inserts accounts, each with a session, a code, a throttle, a limit and a
// mail that is not due.
func fill(t testing.TB, c postgres.Config, accounts int) {
	t.Helper()
	for _, statement := range []string{
		`INSERT INTO users (id, username, canonical_username, email, canonical_email, first_name, last_name,
			scope, password_hash, email_verified_at, activated_at)
		 SELECT gen_random_uuid(), 'filler' || i, 'filler' || i, 'filler' || i || '@example.com', 'filler' || i || '@example.com',
			'Ada', 'Lovelace', 'profile email', '` + passwordHash + `', now(), now()
		 FROM generate_series(1, $1::int) i`,
		`INSERT INTO sessions (id, user_id, scope, opened_at, refreshed_at, expires_at, ends_at)
		 SELECT gen_random_uuid(), id, scope, now(), now(), now() + interval '7 days', now() + interval '30 days'
		 FROM users LIMIT $1`,
		`INSERT INTO codes (hash, user_id, purpose, expires_at)
		 SELECT sha256(convert_to('code' || id::text, 'UTF8')), id, 'recovery', now() + interval '1 hour' FROM users LIMIT $1`,
		`INSERT INTO throttles (key, failures, last_failure_at)
		 SELECT sha256(convert_to('user:' || id::text, 'UTF8')), 3, now() FROM users LIMIT $1`,
		`INSERT INTO familiar_places (user_id, place, last_seen_at)
		 SELECT id, sha256(convert_to('place:' || id::text || ' 192.0.2.1/32', 'UTF8')), now() FROM users LIMIT $1`,
		`INSERT INTO audit_events (event, user_id) SELECT 'signed in', id FROM users LIMIT $1`,
		`INSERT INTO limits (key, until) SELECT sha256(convert_to('mail:' || canonical_email, 'UTF8')), now() + interval '1 hour'
		 FROM users LIMIT $1`,
		`INSERT INTO mails (purpose, recipient, canonical_recipient, due_at)
		 SELECT 'recovery', email, canonical_email, now() + interval '1 hour' FROM users LIMIT $1`,
	} {
		postgrestest.Exec(t, c, statement, accounts)
	}
	postgrestest.Exec(t, c, `ANALYZE`)
}

// callEverything takes one account through every call that there is.
func callEverything(ctx context.Context, t testing.TB, store *postgres.Store, name string, now time.Time) {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx = identity.WithEvent(ctx, identity.Event{Name: "something"})
	verification := newCode(identity.Verification)
	u, err := store.CreateUser(ctx, newUser(name), verification)
	ok(err)
	ok(store.RecordEvent(ctx))
	_, err = store.TakeLimit(ctx, sha256.Sum256([]byte(name)), identity.Rate{Count: 1, Per: time.Hour})
	ok(err)
	_, err = store.FindCredentials(ctx, identity.Login{CanonicalUsername: name, From: "192.0.2.1/32"})
	ok(err)
	quiet := newUser("quiet-" + name)
	_, err = store.CreateUserQuietly(ctx, quiet, newMail(identity.MailVerification, quiet.Email))
	ok(err)
	_, err = store.CreateUserQuietly(ctx, quiet, newMail(identity.MailVerification, quiet.Email))
	ok(err)
	credentials, err := store.FindCredentials(ctx, identity.Login{CanonicalEmail: u.Email})
	ok(err)
	ok(store.CountFailure(ctx, credentials.ThrottleKey))
	n := newSession(u, now)
	_, err = store.RedeemVerification(ctx, verification.Hash, n)
	ok(err)
	ref := open(t, store, u, now)
	_, err = store.FindUser(ctx, ref)
	ok(err)
	_, err = store.FindSession(ctx, ref)
	ok(err)
	_, _, err = store.AdvanceSession(ctx, ref, 0, identity.Renewal{RefreshedAt: now, Lifetime: 48 * time.Hour})
	ok(err)
	_, err = store.FindPassword(ctx, ref, "")
	ok(err)
	_, err = store.UpdateUser(ctx, ref, identity.ProfileChange{FirstName: &name})
	ok(err)
	ctx = identity.WithNotice(ctx, identity.Notice{Purpose: identity.MailPasswordChanged})
	ok(store.ChangePassword(ctx, ref, passwordHash, passwordHash))
	change := newCode(identity.EmailChange)
	change.Target = "new-" + u.Email
	_, err = store.IssueEmailChange(ctx, ref, change)
	ok(err)
	_, err = store.RedeemEmailChange(ctx, ref, change.Hash, change.Target, change.Target)
	ok(err)
	recovery := newCode(identity.Recovery)
	_, err = store.IssueCode(ctx, change.Target, recovery)
	ok(err)
	_, err = store.FindRecovery(ctx, recovery.Hash)
	ok(err)
	ok(store.RedeemRecovery(ctx, recovery.Hash, u.ID, passwordHash, "192.0.2.8/32"))
	ok(store.QueueMail(ctx, newMail(identity.MailVerification, quiet.Email)))
	ok(store.QueueMail(ctx, newMail(identity.MailRecovery, change.Target)))
	ref = open(t, store, u, now)
	ok(store.QueueEmailChange(ctx, ref, newMail(identity.MailEmailChange, "")))
	ok(store.QueueEmailChange(ctx, ref, newMail(identity.MailEmailChange, quiet.Email)))
	for {
		m, found, err := store.TakeMail(ctx, take(now))
		ok(err)
		if !found {
			break
		}
		ok(store.PostponeMail(ctx, m.Ref, time.Hour))
		ok(store.ReturnMail(ctx, m.Ref))
		m.Ref.Taken++
		ok(store.RemoveMail(ctx, m.Ref))
	}
	spare := open(t, store, u, now)
	_, err = store.FindOwnSessions(ctx, ref)
	ok(err)
	_, err = store.EndOwnSession(ctx, ref, spare.ID)
	ok(err)
	rehashed := newSession(u, now)
	rehashed.Rehash = otherHash
	ok(store.OpenSession(ctx, rehashed))
	_, err = store.EndSession(ctx, ref)
	ok(err)
	ref.ID = rehashed.ID
	ok(store.DeleteUser(ctx, ref))
	_, err = store.DeleteExpired(ctx, now, 7*24*time.Hour, 90*24*time.Hour, 100)
	ok(err)
}
