package postgres_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/endings"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
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

func newSignUp(name string) identity.NewSignUp {
	return identity.NewSignUp{
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
		PasswordHash: passwordHash, FailureLimit: 10, ThrottleKey: sha256.Sum256([]byte("user:" + u.ID)), Forgive: true,
	}
}

// signUp creates an account without a session.
func signUp(t testing.TB, store *postgres.Store, name string) identity.User {
	t.Helper()
	c := newCode(identity.Verification)
	testenv.NoError(t, store.CreateSignUp(t.Context(), newSignUp(name), c, noEvent))
	now := time.Now()
	n := identity.NewSession{ID: newID(), OpenedAt: now, ExpiresAt: now, EndsAt: now}
	u, err := store.RedeemVerification(t.Context(), identity.ClaimProof{Code: c.Hash}, n, noRecord)
	if err == nil {
		_, err = store.EndSession(t.Context(), identity.SessionRef{ID: n.ID, UserID: u.ID}, noEvent)
	}
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// noEvent and noRecord record nothing with the change.
var (
	noEvent  identity.Event
	noRecord identity.Record
)

func open(t testing.TB, store *postgres.Store, u identity.User, now time.Time) identity.SessionRef {
	t.Helper()
	n := newSession(u, now)
	testenv.NoError(t, store.OpenSession(t.Context(), n, noEvent))
	return identity.SessionRef{ID: n.ID, UserID: u.ID, Now: now}
}

func newMail(about identity.MessagePurpose, to string) identity.NewMail {
	return identity.NewMail{Purpose: about, To: to}
}

// claim claims a mail. If the mail brings a code, claim issues one and discards its text.
func claim(ctx context.Context, store *postgres.Store, now time.Time) (identity.ClaimedMail, bool, error) {
	return identity.ClaimMail(ctx, store, identity.MailClaim{
		Lease: time.Minute, Now: now, Limit: mailLimit,
		Issue: func(_ int64, p identity.Purpose) (identity.NewCode, identity.Event) { return newCode(p), noEvent },
	})
}

var mailLimit = identity.Rate{Count: 1000, Per: time.Hour}

// fill inserts accounts, each with a session, a code, a throttle, a known network, a limit,
// an audit event and a mail that is not due, and as many sign-ups.
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
		`INSERT INTO endings (kind, id) SELECT 'sid', gen_random_uuid() FROM generate_series(1, $1::int)`,
		`INSERT INTO limits (key, until) SELECT sha256(convert_to('mail:recovery:' || canonical_email, 'UTF8')), now() + interval '1 hour'
		 FROM users LIMIT $1`,
		`INSERT INTO signups (id, username, canonical_username, email, canonical_email, first_name, last_name, scope, password_hash)
		 SELECT gen_random_uuid(), 'waiting' || i, 'waiting' || i, 'waiting' || i || '@example.com', 'waiting' || i || '@example.com',
			'Ada', 'Lovelace', 'profile email', '` + passwordHash + `'
		 FROM generate_series(1, $1::int) i`,
		`INSERT INTO codes (hash, signup_id, purpose, expires_at)
		 SELECT sha256(convert_to('code' || id::text, 'UTF8')), id, 'verification', now() + interval '1 hour' FROM signups LIMIT $1`,
		`UPDATE users SET unproved_email = 'new-' || email, canonical_unproved_email = 'new-' || email, unproved_since = now()
		 WHERE id IN (SELECT id FROM users LIMIT $1::int / 10)`,
		`INSERT INTO mails (purpose, recipient, canonical_recipient, due_at)
		 SELECT 'recovery', email, canonical_email, now() + interval '1 hour' FROM users LIMIT $1`,
	} {
		postgrestest.Exec(t, c, statement, accounts)
	}
	postgrestest.Exec(t, c, `ANALYZE`)
}

// callEverything makes every call of the Store, most of them for one account.
func callEverything(ctx context.Context, t testing.TB, store *postgres.Store, name string, now time.Time) {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		testenv.NoError(t, err)
	}
	e := identity.Event{Name: "something"}
	told := identity.Record{Event: e, Notice: identity.Notice{Purpose: identity.MailPasswordChanged}}
	verification := newCode(identity.Verification)
	waiting := newSignUp(name)
	ok(store.CreateSignUp(ctx, waiting, verification, e))
	ok(store.RecordEvent(ctx, e))
	ok(testenv.Err(store.TakeLimit(ctx, sha256.Sum256([]byte(name)), identity.Rate{Count: 1, Per: time.Hour})))
	ok(testenv.Err(store.FindCredentials(ctx, identity.Login{CanonicalUsername: name, From: "192.0.2.1/32"})))
	concealed := newSignUp("concealed-" + name)
	ok(store.CreateSignUpConcealed(ctx, concealed, newMail(identity.MailVerification, concealed.Email), e))
	for _, login := range []identity.Login{{CanonicalEmail: waiting.Email}, {CanonicalUsername: name}} {
		credentials := testenv.Must(store.FindCredentials(ctx, login))(t)
		ok(store.CountFailure(ctx, credentials.ThrottleKey, e))
		ok(testenv.Err(store.FindSignUps(ctx, login)))
	}
	ok(testenv.Err(store.FindClaims(ctx, verification.Hash)))
	u, err := store.RedeemVerification(ctx, identity.ClaimProof{
		Code: verification.Hash, ClaimID: waiting.ID, PasswordHash: waiting.PasswordHash,
	}, newSession(identity.User{}, now), told)
	ok(err)
	_, err = store.RedeemVerification(ctx, identity.ClaimProof{Code: verification.Hash}, newSession(identity.User{}, now), told)
	if !errors.Is(err, identity.ErrNoCode) {
		t.Fatal(err)
	}
	ref := open(t, store, u, now)
	ok(testenv.Err(store.FindUser(ctx, ref)))
	ok(testenv.Err(store.TakeSessionLimit(ctx, ref, sha256.Sum256([]byte("of "+name)), identity.Rate{Count: 1, Per: time.Hour})))
	ok(testenv.Err(store.FindSession(ctx, ref)))
	_, _, err = store.AdvanceSession(ctx, ref, 0, identity.Renewal{RefreshedAt: now, Lifetime: 48 * time.Hour})
	ok(err)
	ok(testenv.Err(store.FindPassword(ctx, ref, "")))
	ok(testenv.Err(store.UpdateUser(ctx, ref, identity.ProfileChange{FirstName: &name}, e)))
	ok(store.ChangePassword(ctx, ref, passwordHash, passwordHash, told))
	change := newCode(identity.EmailChange)
	ok(store.IssueEmailChange(ctx, ref, change, e))
	unprovedChange := identity.EmailRedemption{Code: change.Hash, Email: "unproved-" + u.Email, CanonicalEmail: "unproved-" + u.Email}
	ok(testenv.Err(store.RedeemEmailChange(ctx, ref, unprovedChange, told)))
	unproved := newCode(identity.Verification)
	ok(testenv.Err(store.IssueCode(ctx, unprovedChange.Email, unproved, e)))
	ok(testenv.Err(store.RedeemVerification(ctx, identity.ClaimProof{Code: unproved.Hash}, newSession(u, now), told)))
	ref = open(t, store, u, now)
	change = newCode(identity.EmailChange)
	change.Target = "new-" + u.Email
	ok(store.IssueEmailChange(ctx, ref, change, e))
	_, err = store.RedeemEmailChange(ctx, ref, identity.EmailRedemption{Code: change.Hash, Email: change.Target,
		CanonicalEmail: change.Target}, told)
	ok(err)
	recovery := newCode(identity.Recovery)
	ok(testenv.Err(store.IssueCode(ctx, change.Target, recovery, e)))
	owner := testenv.Must(store.FindRecovery(ctx, recovery.Hash))(t)
	ok(store.RedeemRecovery(ctx, recovery.Hash, owner, passwordHash, "192.0.2.8/32", told))
	recovered := newSignUp("recovered-" + name)
	ok(store.CreateSignUp(ctx, recovered, newCode(identity.Verification), e))
	recovery = newCode(identity.Recovery)
	ok(testenv.Err(store.IssueCode(ctx, recovered.Email, recovery, e)))
	owner = testenv.Must(store.FindRecovery(ctx, recovery.Hash))(t)
	ok(store.RedeemRecovery(ctx, recovery.Hash, owner, passwordHash, "192.0.2.8/32", told))
	ok(store.QueueMail(ctx, newMail(identity.MailVerification, concealed.Email)))
	ok(store.QueueMail(ctx, newMail(identity.MailRecovery, change.Target)))
	ref = open(t, store, u, now)
	ok(store.QueueEmailChange(ctx, ref, newMail(identity.MailEmailChange, "")))
	ok(store.QueueEmailChange(ctx, ref, newMail(identity.MailEmailChange, concealed.Email)))
	for {
		m, found, err := claim(ctx, store, now)
		ok(err)
		if !found {
			break
		}
		ok(store.RenewMail(ctx, m.Ref, time.Hour))
		for _, r := range []identity.MailResult{identity.MailPostponed, identity.MailReturned, identity.MailGivenUp, identity.MailSent} {
			ok(store.FinishMail(ctx, m.Ref, identity.MailOutcome{Result: r, After: time.Hour}, mailLimit))
			if r == identity.MailReturned {
				m.Ref.Taken++
			}
		}
	}
	spare := open(t, store, u, now)
	ok(testenv.Err(store.FindOwnSessions(ctx, ref)))
	ok(testenv.Err(store.EndOwnSession(ctx, ref, spare.ID, e)))
	rehashed := newSession(u, now)
	rehashed.Rehash = otherHash
	ok(store.OpenSession(ctx, rehashed, e))
	ok(testenv.Err(store.EndSession(ctx, ref, e)))
	ref.ID = rehashed.ID
	ok(store.DeleteUser(ctx, ref, e))
	ok(store.EndKey(ctx, "key of "+name, now))
	view := testenv.Must(store.LoadEndings(ctx, endings.Ending{}, time.Hour, 100))(t)
	ok(testenv.Err(store.TailEndings(ctx, view.Snapshot, 100)))
	ok(testenv.Err(store.PasswordSchemes(ctx)))
	ok(testenv.Err(store.DeleteExpired(ctx, now, retention, 100)))
}
