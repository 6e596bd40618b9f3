package postgres_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/auth-gateway/auth-gateway/internal/endings"
	"github.com/auth-gateway/auth-gateway/internal/hashes"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// statements collects the statements that are sent.
type statements struct {
	mu   sync.Mutex
	sent []string
}

func (s *statements) add(_ context.Context, sql string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, sql)
}

func (s *statements) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent := s.sent
	s.sent = nil
	return sent
}

// roundTrips counts round trips: reads that follow a write on the same connection.
type roundTrips struct{ n atomic.Int64 }

func (r *roundTrips) install(c *pgxpool.Config) {
	dial := c.ConnConfig.DialFunc
	c.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return &countedConn{Conn: conn, trips: r}, err
	}
}

type countedConn struct {
	net.Conn
	trips *roundTrips
	wrote atomic.Bool
}

func (c *countedConn) Write(b []byte) (int, error) {
	c.wrote.Store(true)
	return c.Conn.Write(b)
}

func (c *countedConn) Read(b []byte) (int, error) {
	if c.wrote.Swap(false) {
		c.trips.n.Add(1)
	}
	return c.Conn.Read(b)
}

func TestStatementsAndRoundTripsOfEachCall(t *testing.T) {
	t.Parallel()
	var sent statements
	var trips roundTrips
	c := postgrestest.Config(t)
	c.MaxConns = 1 // so that each statement is prepared by the first call
	store := postgrestest.Open(t, c, postgres.WithStatementHook(sent.add), postgres.WithPoolConfig(trips.install))
	ctx := t.Context()
	now := time.Now().UTC().Truncate(time.Second)

	finish := func(r identity.MailResult) func() error {
		return func() error {
			return store.FinishMail(ctx, identity.MailRef{ID: 1, Taken: 1}, identity.MailOutcome{Result: r}, mailLimit)
		}
	}

	var u identity.User
	var ref identity.SessionRef
	// Each call is made twice, and measured the second time.
	for _, tc := range []struct {
		name              string
		statements, trips int
		call              func() error
	}{
		{"FindCredentials", 1, 1, func() error {
			_, err := store.FindCredentials(ctx, identity.Login{CanonicalUsername: "ada"})
			return err
		}},
		{"FindUser", 1, 1, func() error { return testenv.Err(store.FindUser(ctx, ref)) }},
		{"FindSession", 1, 1, func() error { return testenv.Err(store.FindSession(ctx, ref)) }},
		{"FindPassword", 1, 1, func() error { return testenv.Err(store.FindPassword(ctx, ref, "")) }},
		{"AdvanceSession", 1, 1, func() error {
			_, advanced, err := store.AdvanceSession(ctx, ref, 0, identity.Renewal{RefreshedAt: now, Lifetime: time.Hour})
			if !advanced {
				return fmt.Errorf("not advanced: %w", err)
			}
			return nil
		}},
		{"EndSession", 1, 1, func() error { return testenv.Err(store.EndSession(ctx, ref, noEvent)) }},
		{"FindOwnSessions", 1, 1, func() error { return testenv.Err(store.FindOwnSessions(ctx, ref)) }},
		{"EndOwnSession", 1, 1, func() error { return testenv.Err(store.EndOwnSession(ctx, ref, ref.ID, noEvent)) }},
		{"OpenSession", 1, 1, func() error { return store.OpenSession(ctx, newSession(u, now), noEvent) }},
		{"OpenSession from a place", 1, 1, func() error {
			n := newSession(u, now)
			n.From = "192.0.2.1/32"
			return store.OpenSession(ctx, n, noEvent)
		}},
		{"TakeSessionLimit", 1, 1, func() error {
			_, err := store.TakeSessionLimit(ctx, ref, sha256.Sum256([]byte("writes of "+u.ID)), identity.Rate{Count: 1, Per: time.Hour})
			return err
		}},
		{"TakeLimit", 1, 1, func() error {
			_, err := store.TakeLimit(ctx, sha256.Sum256([]byte(u.ID)), identity.Rate{Count: 1, Per: time.Hour})
			return err
		}},
		{"OpenSession with a new hash", 1, 1, func() error {
			n := newSession(u, now)
			n.Rehash = n.PasswordHash
			return store.OpenSession(ctx, n, noEvent)
		}},
		{"CountFailure", 1, 1, func() error {
			return store.CountFailure(ctx, identity.ThrottleKey(sha256.Sum256([]byte("user:"+u.ID))), noEvent)
		}},
		{"CreateSignUp", 1, 1, func() error {
			return store.CreateSignUp(ctx, newSignUp(strings.ToLower(rand.Text())), newCode(identity.Verification), noEvent)
		}},
		{"FindSignUps", 1, 1, func() error { return testenv.Err(store.FindSignUps(ctx, identity.Login{CanonicalEmail: u.Email})) }},
		// The sign-up, then BEGIN, lock, act, COMMIT.
		{"CreateSignUp and RedeemVerification", 5, 5, func() error {
			c := newCode(identity.Verification)
			if err := store.CreateSignUp(ctx, newSignUp(strings.ToLower(rand.Text())), c, noEvent); err != nil {
				return err
			}
			_, err := store.RedeemVerification(ctx, identity.ClaimProof{Code: c.Hash}, newSession(identity.User{}, now), noRecord)
			return err
		}},
		{"UpdateUser", 1, 1, func() error { return testenv.Err(store.UpdateUser(ctx, ref, identity.ProfileChange{}, noEvent)) }},
		{"IssueCode", 1, 1, func() error { return testenv.Err(store.IssueCode(ctx, u.Email, newCode(identity.Recovery), noEvent)) }},
		{"CreateSignUpConcealed", 1, 1, func() error {
			n := newSignUp(strings.ToLower(rand.Text()))
			return store.CreateSignUpConcealed(ctx, n, newMail(identity.MailVerification, n.Email), noEvent)
		}},
		{"CreateSignUpConcealed of what is taken", 1, 1, func() error {
			return store.CreateSignUpConcealed(ctx, newSignUp("ada"), newMail(identity.MailVerification, u.Email), noEvent)
		}},
		{"QueueMail", 1, 1, func() error { return store.QueueMail(ctx, newMail(identity.MailRecovery, u.Email)) }},
		{"QueueEmailChange", 1, 1, func() error { return store.QueueEmailChange(ctx, ref, newMail(identity.MailEmailChange, "")) }},
		{"RenewMail", 1, 1, func() error { return store.RenewMail(ctx, identity.MailRef{ID: 1, Taken: 1}, time.Minute) }},
		{"FinishMail of a mail that was sent", 1, 1, finish(identity.MailSent)},
		{"FinishMail of a mail that is postponed", 1, 1, finish(identity.MailPostponed)},
		{"FinishMail of a mail that is returned", 1, 1, finish(identity.MailReturned)},
		{"FinishMail of a mail that is given up", 1, 1, finish(identity.MailGivenUp)},
		// BEGIN, claim, look, count, issue, COMMIT.
		{"ClaimMail of a recovery", 6, 6, func() error {
			postgrestest.Exec(t, c, `DELETE FROM mails`)
			postgrestest.Exec(t, c, `INSERT INTO mails (purpose, recipient, canonical_recipient) VALUES ('recovery', $1, $1)`, u.Email)
			_, _, err := claim(ctx, store, now)
			return err
		}},
		// BEGIN, claim, COMMIT.
		{"ClaimMail where none is due", 3, 3, func() error {
			_, _, err := claim(ctx, store, now)
			return err
		}},
		// BEGIN, lock, look, act, COMMIT.
		{"ChangePassword", 5, 5, func() error { return store.ChangePassword(ctx, ref, passwordHash, passwordHash, noRecord) }},
		{"ClaimEvent", 1, 1, func() error { _, _, err := store.ClaimEvent(ctx, time.Minute); return err }},
		{"Ready", 1, 1, func() error { return store.Ready(ctx) }},
		{"TailEndings", 1, 1, func() error { return testenv.Err(store.TailEndings(ctx, endings.Snapshot{Next: 1}, 100)) }},
		{"RingVersion", 1, 1, func() error { return testenv.Err(store.RingVersion(ctx)) }},
	} {
		found := false
		if credentials, err := store.FindCredentials(ctx, identity.Login{CanonicalUsername: "ada"}); err == nil {
			u, found = credentials.User, credentials.Found
		}
		if !found {
			u = signUp(t, store, "ada")
		}
		for range 2 {
			ref = open(t, store, u, now)
			sent.take()
			trips.n.Store(0)
			if err := tc.call(); err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
		}
		if got := sent.take(); len(got) != tc.statements {
			t.Errorf("%s sends %d statements; want %d:\n%s", tc.name, len(got), tc.statements, strings.Join(got, "\n"))
		}
		if got := trips.n.Load(); got != int64(tc.trips) {
			t.Errorf("%s takes %d round trips; want %d", tc.name, got, tc.trips)
		}
	}
}

func TestPasswordSchemesAreThoseOfTheStoredHashes(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	db := connect(t, c)
	fill(t, c, 3000)
	store := postgrestest.Open(t, c)
	find := func() []string { return testenv.Must(store.PasswordSchemes(t.Context()))(t) }
	set := func(query string, args ...any) { testenv.Must(db.Exec(query, args...))(t) }
	if at := find(); len(at) != 0 {
		t.Fatalf("malformed hashes have the schemes %q", at)
	}
	set(`UPDATE users SET password_hash = $1`, "$2a$12$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK")
	own := []string{"$2a$12"}
	want := slices.Clone(own)
	for i, tc := range []struct{ stored, scheme string }{
		{"$2b$10$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK", "$2b$10"},
		{"$sha384$2a$11$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK", "$sha384$2a$11"},
		{"$md5$2b$09$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK", "$md5$2b$09"},
		{"$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc", "$argon2id$v=19$m=256,t=2,p=2"},
		{"$pbkdf2-sha256$i=6400,l=32$2ZrzXitFSGltTQnBWOsdeg$Y11AchqV4b0sUisdZd0Xr97KWoymNE0LNNrnEgY4H9M", "$pbkdf2-sha256$i=6400,l=32"},
		{"$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=jxspr8Ki0RYycVU8zw==$42xEC+ixf3L2lw$lSrfV15cpx95/sZS2W9c9Kp6i", "$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=jxspr8Ki0RYycVU8zw=="},
		{hashes.Migrating, hashes.MigratingScheme},
		{"!", ""},
	} {
		set(`UPDATE users SET password_hash = $1 WHERE id IN (
			SELECT id FROM users WHERE password_hash LIKE '$2a$%' ORDER BY id LIMIT $2)`, tc.stored, i+1)
		if tc.scheme != "" {
			want = append(want, tc.scheme)
			if _, err := hashes.ParseScheme(tc.scheme); err != nil && tc.scheme != hashes.MigratingScheme {
				t.Error(tc.scheme, err)
			}
		}
	}
	slices.Sort(want)
	if got := find(); !slices.Equal(got, want) {
		t.Errorf("they are %q; want %q", got, want)
	}
	set(`UPDATE users SET password_hash = $1`, "$2b$10$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK")
	if got := find(); !slices.Equal(got, []string{"$2b$10"}) {
		t.Errorf("of one kind they are %q", got)
	}
	set(`DELETE FROM users`)
	if got := find(); len(got) != 0 {
		t.Errorf("without accounts they are %q", got)
	}
}

func TestStatementsScanNoTable(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	db := connect(t, c)
	fill(t, c, 10_000)
	store := postgrestest.Open(t, c)
	ctx, now := t.Context(), time.Now().UTC().Truncate(time.Second)
	settle(t, db)
	before := scans(t, db)
	// PostgreSQL chooses between custom and generic plans after five executions.
	for i := range 12 {
		callEverything(ctx, t, store, fmt.Sprintf("scan%d", i), now)
	}
	store.Close()
	settle(t, db)
	if after := scans(t, db); !slices.Equal(before, after) {
		t.Errorf("the sequential scans were %v before, and %v after", before, after)
	}
}

// settle waits until db has the only connection. A server process has reported all its statistics once it has ended.
func settle(t *testing.T, db *sql.DB) {
	t.Helper()
	testenv.Until(t, patience, "all other connections have ended", func() bool {
		return count(t, db, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()`) == 0
	})
}

// scans returns the number of sequential scans of each table.
func scans(t *testing.T, db *sql.DB) (scans []string) {
	t.Helper()
	rows := testenv.Must(db.Query(`SELECT relname, seq_scan FROM pg_stat_user_tables
		WHERE relname IN ('users', 'codes', 'sessions', 'throttles', 'audit_events', 'mails', 'limits', 'familiar_places', 'endings')
		ORDER BY relname`))(t)
	defer rows.Close()
	for rows.Next() {
		var name string
		var n int64
		testenv.NoError(t, rows.Scan(&name, &n))
		scans = append(scans, fmt.Sprintf("%s %d", name, n))
	}
	testenv.NoError(t, rows.Err())
	return scans
}

func TestRenewalIsAHeapOnlyUpdate(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c)
	now := time.Now().UTC().Truncate(24 * time.Hour)
	u := signUp(t, store, "ada")
	const sessions, renewals = 10, 50
	for range sessions {
		n := newSession(u, now)
		n.Keep = sessions
		testenv.NoError(t, store.OpenSession(t.Context(), n, noEvent))
		ref := identity.SessionRef{ID: n.ID, UserID: u.ID, Now: now}
		for generation := range int64(renewals) {
			_, advanced, err := store.AdvanceSession(t.Context(), ref, generation,
				identity.Renewal{RefreshedAt: now.Add(time.Duration(generation) * time.Minute), Lifetime: 48 * time.Hour})
			if err != nil || !advanced {
				t.Fatalf("advanced is %v, error %v", advanced, err)
			}
		}
	}
	store.Close()
	db := connect(t, c)
	settle(t, db)
	if n := count(t, db, `SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'sessions'`); n != sessions*renewals {
		t.Fatalf("%d updates are counted; want %d", n, sessions*renewals)
	}
	hot := count(t, db, `SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'sessions'`)
	t.Logf("%d of %d renewals were heap-only updates", hot, sessions*renewals)
	// The first renewal of a session changes the day in expires_on, which is indexed; the others do not.
	if hot < sessions*(renewals-1)*95/100 {
		t.Errorf("%d of %d renewals were heap-only updates", hot, sessions*renewals)
	}
}
