package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/crypto/bcrypt"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
)

// A grown database has users, sessions and an audit trail as a gateway leaves them after months: ids are in no order,
// the sessions of a user are spread over the table, and one session in eleven expired and three events in thirteen are
// too old.
type grown struct {
	*env
	users int
	conn  *pgx.Conn // holds the lock of the clean-up
	gate  *process
	next  int // the first request of the next load, so that none repeats the last one's
	fresh int // counts new accounts

	sample          []int // of users: token i is of a session of user sample[i], and of no other token's
	access, refresh []string
}

const (
	// Per user.
	sessionsEach, liveEach, eventsEach, oldEventsEach = 11, 10, 10, 3
	// cheapCost keeps hashing out of the way of the database.
	cheapCost = 4
	// cleanUpLock is the advisory lock of the clean-up: its text is "cleanup".
	cleanUpLock int64 = 0x636c65616e7570
	// seedBatch is the number of rows that one statement stores.
	seedBatch = 200_000
	// mostTokens bounds the memory of the tokens; so many requests in a row each concern another session.
	mostTokens = 40_000
)

// kept is what a directory records of a database, so that a later run can measure it.
type kept struct {
	Users                               int
	Hash                                string
	AccessPassphrase, RefreshPassphrase string
}

// growID returns the id of user or session n: the SQL below computes the same.
func growID(kind string, n int) string {
	sum := sha256.Sum256([]byte(kind + strconv.Itoa(n)))
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

const idSQL = `substring(encode(sha256(convert_to('%s' || (%s), 'UTF8')), 'hex'), 1, 32)::uuid`

func growUser(n string) string    { return fmt.Sprintf(idSQL, "u", n) }
func growSession(n string) string { return fmt.Sprintf(idSQL, "s", n) }

// growServer starts the PostgreSQL of the part growth: with the settings of production, or with those that store
// quickly.
func growServer(ctx context.Context, dir string, large int, seeding bool) (*localpostgres.Server, error) {
	settings := map[string]string{"shared_buffers": "512MB", "max_wal_size": "4GB", "max_connections": "100"}
	if large >= 1_000_000 {
		settings["shared_buffers"] = "3GB"
	}
	if seeding {
		for name, value := range map[string]string{
			"autovacuum": "off", "synchronous_commit": "off", "checkpoint_timeout": "30min",
			"wal_level": "minimal", "max_wal_senders": "0", "maintenance_work_mem": "512MB",
		} {
			settings[name] = value
		}
	}
	return localpostgres.Start(ctx, localpostgres.Options{
		Dir: filepath.Join(dir, "cluster"), Durable: !seeding, Settings: settings,
	})
}

// openGrown returns a database of a directory. If it is not there, and seeding is set, it is created first.
func (b *bench) openGrown(ctx context.Context, db *localpostgres.Server, dir, name string, users int) (*grown, error) {
	g := &grown{users: users, env: &env{db: db, program: b.program, name: name, algorithm: keys.ES256}}
	file := filepath.Join(dir, name+".json")
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return g, g.create(ctx, file)
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(text, &k)
	}
	if err != nil {
		return nil, err
	}
	if k.Users != users {
		return nil, fmt.Errorf("%s has a database of %d users, not of %d: use another -dir", dir, k.Users, users)
	}
	g.hash, g.accessPassphrase, g.refreshPassphrase = k.Hash, k.AccessPassphrase, k.RefreshPassphrase
	// The refresh tokens of an earlier run are of other generations.
	return g, errors.Join(g.loadKeys(ctx), g.exec(ctx, "UPDATE sessions SET generation = 0 WHERE generation > 0"))
}

func (g *grown) create(ctx context.Context, file string) error {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cheapCost)
	if err != nil {
		return err
	}
	g.hash, g.accessPassphrase, g.refreshPassphrase = string(hash), rand.Text(), rand.Text()
	// An earlier run may have been stopped while it stored.
	whole := &grown{env: &env{db: g.db, name: "postgres"}}
	if err := whole.exec(ctx, "DROP DATABASE IF EXISTS "+g.name); err != nil {
		return err
	}
	if err := g.db.CreateDatabase(ctx, g.name); err != nil {
		return err
	}
	first, err := g.startServer(ctx, nil)
	if err != nil {
		return err
	}
	first.stop()
	if err := g.seed(ctx); err != nil {
		return fmt.Errorf("seed %s: %w", g.name, err)
	}
	text, err := json.Marshal(kept{g.users, g.hash, g.accessPassphrase, g.refreshPassphrase})
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(file, text, 0o600), g.loadKeys(ctx))
}

// seed stores all rows, with all indexes in place, so that these have the shape of production. Foreign keys and
// triggers are off: the rows are known to be right.
func (g *grown) seed(ctx context.Context) error {
	userRows := `INSERT INTO users (id, username, canonical_username, email, canonical_email, first_name, last_name,
			scope, password_hash, email_verified_at, activated_at, created_at, updated_at)
		SELECT ` + growUser("n") + `, 'user' || n, 'user' || n, 'user' || n || '@example.com', 'user' || n || '@example.com',
			'Ada', 'Lovelace', 'profile email', '` + g.hash + `', t, t, t, t
		FROM generate_series($1::int, $2::int) n, LATERAL (SELECT now() - (1 - n / $3::float8) * interval '300 days' AS t) x`
	networks := `INSERT INTO familiar_places (user_id, place, last_seen_at)
		SELECT ` + growUser("n") + `, sha256(convert_to('network' || n, 'UTF8')), now() - (n % 60) * interval '1 day'
		FROM generate_series($1::int, $2::int) n WHERE $3::int > 0`
	sessions := `INSERT INTO sessions (id, user_id, scope, opened_at, refreshed_at, expires_at, ends_at, user_agent)
		SELECT ` + growSession("n") + `, ` + growUser("n % "+strconv.Itoa(g.users)) + `, 'profile email', opened, refreshed,
			refreshed + interval '7 days', opened + interval '90 days',
			'Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko Firefox/128.0'
		FROM generate_series($1::int, $2::int) n,
			LATERAL (SELECT now() - (1 - n / $3::float8) * interval '60 days' - interval '10 days' AS opened,
				CASE WHEN n % 11 = 10 THEN now() - interval '9 days'
					ELSE now() - (n % 143) * interval '1 hour' END AS refreshed) x`
	events := `INSERT INTO audit_events (at, event, user_id, session_id, request_id, address)
		SELECT now() - (1 - n / $3::float8) * interval '120 days' - interval '1 minute',
			CASE WHEN n % 20 = 0 THEN 'password refused' WHEN n % 20 = 1 THEN 'signed out' ELSE 'signed in' END,
			` + growUser("n % "+strconv.Itoa(g.users)) + `, ` + growSession("n") + `, ` + growSession("n") + `::text,
			'192.0.2.1'::inet + n % 250
		FROM generate_series($1::int, $2::int) n`
	var both sync.WaitGroup
	failed := make([]error, 2)
	both.Go(func() {
		failed[0] = errors.Join(g.store(ctx, userRows, g.users), g.store(ctx, networks, g.users),
			g.store(ctx, sessions, g.users*sessionsEach))
	})
	both.Go(func() { failed[1] = g.store(ctx, events, g.users*(eventsEach+oldEventsEach)) })
	both.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	return g.exec(ctx, "VACUUM ANALYZE", "CHECKPOINT")
}

// store runs a statement for the rows from 0 to rows-1 in batches. Its parameters are the first and the last row of a
// batch and the number of rows.
func (g *grown) store(ctx context.Context, statement string, rows int) (err error) {
	conn, err := pgx.Connect(ctx, g.db.DSN(g.name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if _, err := conn.Exec(ctx, "SET session_replication_role = replica"); err != nil {
		return err
	}
	for first := 0; first < rows; first += seedBatch {
		if _, err := conn.Exec(ctx, statement, first, min(first+seedBatch, rows)-1, rows); err != nil {
			return err
		}
	}
	return nil
}

func (g *grown) exec(ctx context.Context, statements ...string) (err error) {
	conn, err := pgx.Connect(ctx, g.db.DSN(g.name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// open starts a gateway and signs tokens of users that are spread over all of them. The clean-up waits.
func (g *grown) open(ctx context.Context) (err error) {
	if g.conn, err = pgx.Connect(ctx, g.db.DSN(g.name)); err != nil {
		return err
	}
	if err := g.holdCleanUp(ctx); err != nil {
		return err
	}
	// Every renewal replaces the refresh token, as for a public gateway: it writes.
	g.gate, err = g.startServer(ctx, nil, config.EnvSaltRounds+"="+strconv.Itoa(cheapCost),
		config.EnvRefreshTokenRotation+"="+string(config.RotateAlways))
	if err != nil {
		return err
	}
	// As many tokens for both databases, because the gateway remembers the tokens that it has verified.
	count := min(g.users*liveEach, mostTokens)
	for i := range count {
		// A prime factor spreads them evenly, in an order that has nothing to do with that of the tables.
		g.sample = append(g.sample, int(int64(i%g.users)*7_368_787%int64(g.users)))
	}
	session := func(i int) int {
		skip := (i + i/g.users) % liveEach
		for n := g.sample[i]; ; n += g.users {
			if n%sessionsEach == sessionsEach-1 { // it has expired
				continue
			}
			if skip == 0 {
				return n
			}
			skip--
		}
	}
	now := time.Now()
	if g.access, err = tokens(count, func(i int) (string, error) {
		name := username(g.sample[i])
		return g.tokens.SignAccess(token.Access{
			Subject: growID("u", g.sample[i]), SessionID: growID("s", session(i)), Scope: "profile email", EmailVerified: true,
			Username: name, Email: name + "@example.com", Name: "Ada Lovelace",
		})
	}); err != nil {
		return err
	}
	g.refresh, err = tokens(count, func(i int) (string, error) {
		return g.tokens.SignRefresh(token.Refresh{
			Subject: growID("u", g.sample[i]), SessionID: growID("s", session(i)), IssuedAt: now, ExpiresAt: now.Add(refreshTTL),
		})
	})
	return err
}

func (g *grown) close(ctx context.Context) {
	g.gate.stop()
	if g.conn != nil {
		_ = g.conn.Close(ctx)
	}
}

func (g *grown) holdCleanUp(ctx context.Context) error {
	_, err := g.conn.Exec(ctx, "SELECT pg_advisory_lock($1)", cleanUpLock)
	return err
}

func (g *grown) allowCleanUp(ctx context.Context) error {
	_, err := g.conn.Exec(ctx, "SELECT pg_advisory_unlock($1)", cleanUpLock)
	return err
}
