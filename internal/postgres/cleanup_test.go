package postgres_test

import (
	"database/sql"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

const (
	week    = 7 * 24 * time.Hour
	quarter = 90 * 24 * time.Hour
)

var retention = postgres.Retention{Unverified: week, Events: quarter, Tokens: time.Hour}

func TestDeleteExpiredRemovesWhatHasEndedAndNothingElse(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	now := time.Now().UTC().Truncate(time.Second)
	fill(t, c, 20) // activated accounts, of which nothing has expired
	// The previous release created an account for each sign-up. It may still run during an upgrade.
	for _, name := range []string{"old", "young", "verified"} {
		u := signUp(t, store, name)
		open(t, store, u, now)
		testenv.NoError(t, store.CountFailure(t.Context(), newSession(u, now).ThrottleKey, noEvent))
	}
	postgrestest.Exec(t, c, `UPDATE users SET created_at = now() - interval '8 days' WHERE username IN ('old', 'verified')`)
	postgrestest.Exec(t, c, `UPDATE users SET email_verified_at = NULL, activated_at = NULL WHERE username IN ('old', 'young')`)
	postgrestest.Exec(t, c, `INSERT INTO codes (hash, user_id, purpose, expires_at)
		SELECT sha256(convert_to(username, 'UTF8')), id, 'verification', now() + interval '1 hour'
		FROM users WHERE username IN ('old', 'young', 'verified')`)
	// Five of each have expired.
	const five = `(SELECT canonical_username FROM users WHERE canonical_username LIKE 'filler%' ORDER BY 1 LIMIT 5)`
	const theirs = `(SELECT id FROM users WHERE canonical_username IN ` + five + `)`
	postgrestest.Exec(t, c, `UPDATE sessions SET expires_at = now() - interval '1 day' WHERE user_id IN `+theirs)
	postgrestest.Exec(t, c, `UPDATE codes SET expires_at = now() - interval '1 second' WHERE user_id IN `+theirs)
	postgrestest.Exec(t, c, `UPDATE throttles SET last_failure_at = now() - interval '25 hours'
		WHERE key IN (SELECT sha256(convert_to('user:' || id::text, 'UTF8')) FROM users WHERE id IN `+theirs+`)`)
	postgrestest.Exec(t, c, `UPDATE familiar_places SET last_seen_at = now() - interval '91 days' WHERE user_id IN `+theirs)
	postgrestest.Exec(t, c, `UPDATE limits SET until = now() - interval '1 second'
		WHERE key IN (SELECT sha256(convert_to('mail:recovery:' || canonical_email, 'UTF8')) FROM users WHERE id IN `+theirs+`)`)
	postgrestest.Exec(t, c, `UPDATE audit_events SET at = now() - interval '91 days' WHERE user_id IN `+theirs)

	deleted, err := store.DeleteExpired(t.Context(), now, retention, 3)
	if want := (postgres.Deleted{Users: 1, Sessions: 3, Codes: 3, Throttles: 3, Limits: 3, Events: 3,
		Networks: 3}); err != nil || deleted != want {
		t.Errorf("deleted %+v, error %v; want %+v", deleted, err, want)
	}
	deleted, err = store.DeleteExpired(t.Context(), now, retention, 3)
	if want := (postgres.Deleted{Sessions: 2, Codes: 2, Throttles: 2, Limits: 2, Events: 2, Networks: 2}); err != nil || deleted != want {
		t.Errorf("deleted %+v, error %v; want %+v", deleted, err, want)
	}
	deleted, err = store.DeleteExpired(t.Context(), now, retention, 3)
	if want := (postgres.Deleted{}); err != nil || deleted != want {
		t.Errorf("deleted %+v, error %v; want %+v", deleted, err, want)
	}
	// One of the three accounts was deleted, with its session and code.
	for table, want := range map[string]int{"users": 22, "sessions": 17, "codes": 37, "throttles": 18, "limits": 15,
		"mails": 20, "familiar_places": 17, "audit_events": 15} {
		if got := count(t, db, `SELECT count(*) FROM `+table); got != want {
			t.Errorf("%d %s are left; want %d", got, table, want)
		}
	}
}

// What has ended first goes first, so that nothing stays for long while the clean-up cannot keep up. It waits for no row.
func TestDeleteExpiredRemovesTheOldestThatIsNotLocked(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	fill(t, c, 5)
	columns := map[string]string{
		"sessions": "expires_at", "codes": "expires_at", "throttles": "last_failure_at", "familiar_places": "last_seen_at",
		"limits": "until", "audit_events": "at", "endings": "ended_at",
	}
	oldest := func(table string) int {
		return count(t, db, `SELECT extract(epoch FROM min(`+columns[table]+`))::bigint FROM `+table)
	}
	before := map[string]int{}
	for table, column := range columns {
		postgrestest.Exec(t, c, `UPDATE `+table+` t SET `+column+` = now() - interval '2400 hours' - n * interval '24 hours'
			FROM (SELECT ctid AS place, row_number() OVER () AS n FROM `+table+`) x WHERE t.ctid = x.place`)
		before[table] = oldest(table)
	}
	testenv.Must(store.DeleteExpired(t.Context(), time.Now(), retention, 1))(t)
	for table, at := range before {
		if after := oldest(table); after != at+24*60*60 {
			t.Errorf("the oldest row of %s was of %d, and is of %d", table, at, after)
		}
	}
	within(t, db, func(tx *sql.Tx) {
		for table := range columns {
			testenv.Must(tx.Exec(`SELECT FROM ` + table + ` FOR UPDATE`))(t)
		}
		if deleted, err := store.DeleteExpired(t.Context(), time.Now(), retention, 1); err != nil || deleted != (postgres.Deleted{}) {
			t.Errorf("while all rows are locked, deleted %+v, error %v", deleted, err)
		}
	})
}

func TestDeleteExpiredRemovesASignUpWithItsCode(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	for _, name := range []string{"old", "young", "promised"} {
		testenv.NoError(t, store.CreateSignUp(t.Context(), newSignUp(name), newCode(identity.Verification), noEvent))
	}
	postgrestest.Exec(t, c, `UPDATE codes SET expires_at = now() - interval '1 second'
		WHERE signup_id IN (SELECT id FROM signups WHERE username <> 'promised')`)
	postgrestest.Exec(t, c, `UPDATE signups SET created_at = now() - interval '8 days' WHERE username <> 'young'`)
	deleted, err := store.DeleteExpired(t.Context(), time.Now(), retention, 10)
	if want := (postgres.Deleted{SignUps: 1, Codes: 1}); err != nil || deleted != want {
		t.Errorf("deleted %+v, error %v; want %+v", deleted, err, want)
	}
	// A code keeps its full lifetime of a day, however old its sign-up is.
	if n := count(t, db, `SELECT count(*) FROM codes c JOIN signups w ON w.id = c.signup_id WHERE w.username = 'promised'`); n != 1 {
		t.Errorf("the old sign-up with a live code has %d codes; want 1", n)
	}
}

func TestDeleteExpiredWaitsForNoLock(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	signUp(t, store, "ada")
	postgrestest.Exec(t, c, `UPDATE users SET created_at = now() - interval '8 days', email_verified_at = NULL, activated_at = NULL`)
	for name, statement := range map[string]string{
		"another process cleans up": `SELECT pg_advisory_xact_lock(x'636c65616e7570'::bigint)`,
		"the account is in use":     `UPDATE users SET email_verified_at = now(), activated_at = now()`,
	} {
		within(t, db, func(tx *sql.Tx) {
			testenv.Must(tx.Exec(statement))(t)
			deleted, err := store.DeleteExpired(t.Context(), time.Now(), retention, 10)
			if err != nil || deleted != (postgres.Deleted{}) {
				t.Errorf("%s: deleted %+v, error %v", name, deleted, err)
			}
		})
	}
	deleted, err := store.DeleteExpired(t.Context(), time.Now(), retention, 10)
	if err != nil || deleted.Users != 1 {
		t.Errorf("deleted %+v, error %v", deleted, err)
	}
}

func TestDeleteExpiredKeepsNoEventWithoutRetention(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	fill(t, c, 5)
	deleted, err := store.DeleteExpired(t.Context(), time.Now(), postgres.Retention{Unverified: week, Tokens: time.Hour}, 10)
	if err != nil || deleted.Events != 5 || count(t, db, `SELECT count(*) FROM audit_events`) != 0 {
		t.Errorf("deleted %+v, error %v", deleted, err)
	}
}

// A batch of the size that the server uses reads only its rows, also if so much has expired that a join would look cheap.
func TestDeleteExpiredScansNoTable(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	fill(t, c, 10_000)
	for _, expire := range []string{
		`UPDATE sessions SET expires_at = now() - interval '2 days'`,
		`UPDATE codes SET expires_at = now() - interval '1 second'`,
		`UPDATE throttles SET last_failure_at = now() - interval '25 hours'`,
		`UPDATE familiar_places SET last_seen_at = now() - interval '91 days'`,
		`UPDATE limits SET until = now() - interval '1 second'`,
		`UPDATE audit_events SET at = now() - interval '91 days'`,
		`UPDATE endings SET ended_at = now() - interval '91 days'`,
		`VACUUM ANALYZE`,
	} {
		postgrestest.Exec(t, c, expire)
	}
	settle(t, db)
	before := scans(t, db)
	const batch = 500
	for range 12 { // PostgreSQL chooses between custom and generic plans after five executions
		deleted := testenv.Must(store.DeleteExpired(t.Context(), time.Now(), retention, batch))(t)
		if want := (postgres.Deleted{Sessions: batch, Codes: batch, Throttles: batch, Limits: batch, Events: batch,
			Networks: batch, Endings: batch}); deleted != want {
			t.Fatalf("deleted %+v; want %+v", deleted, want)
		}
	}
	store.Close()
	settle(t, db)
	if after := scans(t, db); !slices.Equal(before, after) {
		t.Errorf("the sequential scans were %v before, and %v after", before, after)
	}
}

// within runs f in a transaction and rolls it back.
func within(t *testing.T, db *sql.DB, f func(tx *sql.Tx)) {
	t.Helper()
	tx := testenv.Must(db.Begin())(t)
	defer func() { _ = tx.Rollback() }()
	f(tx)
}

// The constraints of the schema reject invalid rows, whichever program writes them.
func TestSchemaHoldsTheInvariants(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	u := signUp(t, store, "ada")
	open(t, store, u, time.Now())
	testenv.Must(store.IssueCode(t.Context(), u.Email, newCode(identity.Recovery), noEvent))(t)
	testenv.NoError(t, store.CreateSignUp(t.Context(), newSignUp("waiting"), newCode(identity.Verification), noEvent))
	for name, statement := range map[string]string{
		"a username that folds to another":   `UPDATE users SET username = 'Grace'`,
		"an upper-case canonical username":   `UPDATE users SET username = 'ADA', canonical_username = 'ADA'`,
		"a username with an @":               `UPDATE users SET username = 'a@b', canonical_username = 'a@b'`,
		"a username of 65 characters":        `UPDATE users SET username = repeat('a', 65), canonical_username = repeat('a', 65)`,
		"an upper-case canonical email":      `UPDATE users SET canonical_email = 'Ada@example.com'`,
		"an email without an @":              `UPDATE users SET canonical_email = 'ada'`,
		"an email of 255 bytes":              `UPDATE users SET canonical_email = repeat('a', 253) || '@b'`,
		"no password":                        `UPDATE users SET password_hash = ''`,
		"verified, but never activated":      `UPDATE users SET email_verified_at = now(), activated_at = NULL`,
		"a code without a valid purpose":     `UPDATE codes SET purpose = 'any'`,
		"a code that is not a hash":          `UPDATE codes SET hash = 'text'`,
		"a target of a recovery":             `UPDATE codes SET target = 'a@b'`,
		"a code of an account and a sign-up": `UPDATE codes SET signup_id = (SELECT id FROM signups)`,
		"a code without an owner":            `UPDATE codes SET user_id = NULL`,
		"a sign-up with an empty username":   `UPDATE signups SET username = '', canonical_username = ''`,
		"a sign-up without an @":             `UPDATE signups SET email = 'ada', canonical_email = 'ada'`,
		"a sign-up with no password":         `UPDATE signups SET password_hash = ''`,
		"half an unproved address":           `UPDATE users SET unproved_email = 'a@b'`,
		"an unproved address with no @":      `UPDATE users SET unproved_email = 'ada', canonical_unproved_email = 'ada', unproved_since = now()`,
		"a code of an unknown user":          `UPDATE codes SET user_id = gen_random_uuid()`,
		"two codes of one purpose": `INSERT INTO codes (hash, user_id, purpose, expires_at)
			SELECT sha256('x'), user_id, purpose, expires_at FROM codes WHERE user_id IS NOT NULL`,
		"two codes of one purpose for a sign-up": `INSERT INTO codes (hash, signup_id, purpose, expires_at)
			SELECT sha256('x'), signup_id, purpose, expires_at FROM codes WHERE signup_id IS NOT NULL`,
		"a session of an unknown user":         `UPDATE sessions SET user_id = gen_random_uuid()`,
		"a generation below 0":                 `UPDATE sessions SET generation = -1`,
		"a session that expires after its end": `UPDATE sessions SET expires_at = ends_at + interval '1 second'`,
		"an event without a name":              `INSERT INTO audit_events (event) VALUES ('')`,
		"an event with only a user":            `INSERT INTO audit_events (user_id) VALUES (gen_random_uuid())`,
		"details that are not an object":       `INSERT INTO audit_events (event, details) VALUES ('x', '[1]')`,
		"details that are too long": `INSERT INTO audit_events (event, details)
				SELECT 'x', jsonb_build_object('x', string_agg(random()::text, '')) FROM generate_series(1, 500)`,
		"a request id of 65 characters":        `INSERT INTO audit_events (event, request_id) VALUES ('x', repeat('a', 65))`,
		"a user agent of 257 bytes":            `UPDATE sessions SET user_agent = repeat('a', 257)`,
		"a throttle without a failure":         `INSERT INTO throttles (key, failures, last_failure_at) VALUES (sha256('x'), 0, now())`,
		"a throttle whose key is not a digest": `INSERT INTO throttles (key, failures, last_failure_at) VALUES ('x', 1, now())`,
		"a language of 257 bytes":              `UPDATE users SET language = repeat('a', 257)`,
		"a limit whose key is not a digest":    `INSERT INTO limits (key, until) VALUES ('x', now())`,
		"a mail without a purpose":             `INSERT INTO mails (purpose, recipient, canonical_recipient) VALUES ('', 'a@b', 'a@b')`,
		"a mail without a recipient":           `INSERT INTO mails (purpose, recipient, canonical_recipient) VALUES ('x', '', '')`,
		"a mail to an address of 255 bytes":    `INSERT INTO mails (purpose, recipient, canonical_recipient) VALUES ('x', repeat('a', 255), 'a@b')`,
		"a mail with a language of 257 bytes": `INSERT INTO mails (purpose, recipient, canonical_recipient, language)
				VALUES ('x', 'a@b', 'a@b', repeat('a', 257))`,
		"a network of an unknown user":   `INSERT INTO familiar_places (user_id, place, last_seen_at) VALUES (gen_random_uuid(), sha256('x'), now())`,
		"a network that is not a digest": `INSERT INTO familiar_places (user_id, place, last_seen_at) SELECT id, '192.0.2.1', now() FROM users`,
		"a second event webhook":         `INSERT INTO event_webhook (only_one, types, until) VALUES (true, '{}', now()), (false, '{}', now())`,
		"a second key ring":              `INSERT INTO key_ring (only_one, generation, files) VALUES (true, 1, '{}'), (false, 1, '{}')`,
	} {
		within(t, db, func(tx *sql.Tx) {
			if _, err := tx.Exec(statement); err == nil {
				t.Errorf("the schema accepts %s", name)
			}
		})
	}
	n := newSignUp("grace")
	n.ID = "no id"
	if err := store.CreateSignUp(t.Context(), n, newCode(identity.Verification), noEvent); identity.KindOf(err) != identity.Internal {
		t.Errorf("an account without an id: %v", err)
	}
	if _, ok := errors.AsType[*identity.Error](store.CountFailure(t.Context(), identity.ThrottleKey{}, noEvent)); ok {
		t.Error("a key of zeros is accepted")
	}
}
