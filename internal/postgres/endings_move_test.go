package postgres_test

import (
	"bytes"
	"context"
	"database/sql"
	"io"
	"log/slog"
	"maps"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/endings"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// countedLoads counts how often all endings are read.
type countedLoads struct {
	*postgres.Store
	loads atomic.Int64
}

func (s *countedLoads) LoadEndings(
	ctx context.Context, after endings.Ending, age time.Duration, limit int,
) (endings.View, error) {
	if after.ID == "" {
		s.loads.Add(1)
	}
	return s.Store.LoadEndings(ctx, after, age, limit)
}

// reader is a consumer that asks another replica each time.
type reader struct {
	feeds  []*endings.Feed
	turn   int
	cursor string
	knows  map[string]bool
}

// follow asks until a replica has nothing more. Replicas may be without a database for a while.
func (r *reader) follow(t *testing.T) map[string]bool {
	t.Helper()
	testenv.Eventually(t, patience, "the replicas answer", func() error {
		for more := true; more; {
			r.turn++
			answer, err := r.feeds[r.turn%len(r.feeds)].Next(t.Context(), r.cursor, 0, func() bool { return true })
			if err != nil {
				return err
			}
			r.cursor, more = answer.Next, answer.More
			for _, e := range answer.Endings {
				r.knows[e.ID] = true
			}
		}
		return nil
	})
	return r.knows
}

// recorded returns the ids in the table of endings.
func recorded(t *testing.T, db *sql.DB) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, id := range texts(t, db, `SELECT id FROM endings`) {
		all[id] = true
	}
	return all
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// texts returns the only column of all rows.
func texts(t *testing.T, db querier, query string, args ...any) (all []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query, args...)
	testenv.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var text string
		testenv.NoError(t, rows.Scan(&text))
		all = append(all, text)
	}
	testenv.NoError(t, rows.Err())
	return all
}

// takeNumbers uses up numbers of transactions.
func takeNumbers(t *testing.T, c postgres.Config) {
	t.Helper()
	postgrestest.Exec(t, c, `DO $$ BEGIN FOR i IN 1..10000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$`)
}

// dump copies a database to another server, as an administrator does.
func dump(t *testing.T, from, to postgres.Config) {
	t.Helper()
	programs := testenv.Must(localpostgres.Programs(t.Context(), io.Discard))(t)
	run := func(input []byte, program string, args ...string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(programs, program), args...)
		cmd.Stdin = bytes.NewReader(input)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", program, err, &stderr)
		}
		return out
	}
	text := run(nil, "pg_dump", postgrestest.DSN(from))
	run(text, "psql", "--quiet", "--set=ON_ERROR_STOP=1", postgrestest.DSN(to))
}

// Another server, or the same one after a crash, gives numbers of transactions again that consumers have seen before.
// They must learn of everything that ends there, and of nothing else.
func TestEndingsOnAnotherServerReachConsumers(t *testing.T) {
	t.Parallel()
	type scene struct {
		last func() // called before the last sessions end on the first server; may be nil
		move func() postgres.Config
		lost bool // the last endings are not on the second server
	}
	promoted := func(t *testing.T, primary, standby *localpostgres.Server) postgres.Config {
		testenv.NoError(t, primary.StopNow())
		testenv.NoError(t, standby.Promote(t.Context()))
		return configOf(standby)
	}
	for name, prepare := range map[string]func(t *testing.T) (postgres.Config, scene){
		"a synchronous standby is promoted": func(t *testing.T) (postgres.Config, scene) {
			primary, standby, c := pair(t)
			return c, scene{
				last: func() {
					postgrestest.Exec(t, c, `ALTER SYSTEM SET synchronous_standby_names = '*'`)
					postgrestest.Exec(t, c, `SELECT pg_reload_conf()`)
					testenv.Until(t, patience, "the standby is synchronous", func() bool {
						return count(t, connect(t, c), `SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'`) == 1
					})
				},
				move: func() postgres.Config { return promoted(t, primary, standby) },
			}
		},
		"a standby that misses transactions is promoted": func(t *testing.T) (postgres.Config, scene) {
			primary, standby, c := pair(t)
			return c, scene{
				last: func() {
					copied := configOf(standby)
					follows(t, c, copied)
					postgrestest.Exec(t, copied, `ALTER SYSTEM SET primary_conninfo = ''`)
					postgrestest.Exec(t, copied, `SELECT pg_reload_conf()`)
					testenv.Until(t, patience, "the standby is cut off", func() bool {
						return count(t, connect(t, c), `SELECT count(*) FROM pg_stat_replication`) == 0
					})
					takeNumbers(t, c)
				},
				move: func() postgres.Config { return promoted(t, primary, standby) },
				lost: true,
			}
		},
		"a dump is restored": func(t *testing.T) (postgres.Config, scene) {
			_, c := ownServer(t)
			_, other := ownServer(t)
			return c, scene{
				last: func() {
					takeNumbers(t, c)
					postgrestest.Exec(t, c, `INSERT INTO endings (kind, id) SELECT 'sid', gen_random_uuid() FROM generate_series(1, 10500)`)
				},
				move: func() postgres.Config {
					dump(t, c, other)
					postgrestest.Exec(t, other, `ALTER ROLE `+c.User+` PASSWORD '`+c.Password+`'`)
					other.Password = c.Password
					return other
				},
			}
		},
		"a process of PostgreSQL crashes": func(t *testing.T) (postgres.Config, scene) {
			_, c := ownServer(t)
			return c, scene{move: func() postgres.Config {
				db := connect(t, c)
				testenv.NoError(t, syscall.Kill(count(t, db, `SELECT pg_backend_pid()`), syscall.SIGKILL))
				testenv.Until(t, patience, "PostgreSQL has recovered", func() bool {
					return db.PingContext(t.Context()) == nil
				})
				return c
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, s := prepare(t)
			n, c := through(t, from)
			store := postgrestest.Open(t, c)
			testenv.NoError(t, store.Migrate(t.Context()))
			counted := &countedLoads{Store: store}
			follower, late := &reader{knows: map[string]bool{}}, &reader{knows: map[string]bool{}}
			for range 2 {
				f := endings.New(endings.Config{
					Store: counted, Lifetime: func() time.Duration { return 15 * time.Minute }, Always: true,
					Log: slog.New(slog.DiscardHandler),
				})
				go f.Run(t.Context())
				follower.feeds, late.feeds = append(follower.feeds, f), append(late.feeds, f)
			}
			u := signUp(t, store, "ada")
			end := func(sessions ...identity.SessionRef) (ids []string) {
				for _, session := range sessions {
					testenv.Eventually(t, patience, "a session ends", func() error {
						return testenv.Err(store.EndSession(t.Context(), session, noEvent))
					})
					ids = append(ids, session.ID)
				}
				return ids
			}
			knowsAll := func(r *reader, ids ...string) {
				t.Helper()
				testenv.Until(t, patience, "a consumer knows what has ended", func() bool {
					knows := r.follow(t)
					return !slices.ContainsFunc(ids, func(id string) bool { return !knows[id] })
				})
			}
			var sessions []identity.SessionRef
			for range 8 {
				sessions = append(sessions, open(t, store, u, time.Now()))
			}
			first := end(sessions[:2]...)
			knowsAll(follower, first...)
			if s.last != nil {
				s.last()
			}
			last := end(sessions[2:4]...)
			knowsAll(follower, append(first, last...)...)
			old := recorded(t, connect(t, from))
			before := load(t, store).Snapshot

			to := s.move()
			n.turn(net.JoinHostPort(to.Host, strconv.Itoa(to.Port)))
			loads := counted.loads.Load()
			testenv.Until(t, patience, "both replicas read everything again", func() bool { return counted.loads.Load() >= loads+2 })
			next := end(sessions[4:]...)
			db := connect(t, to)
			if s.lost || to.Port != from.Port && before.Next > 10_000 {
				if count(t, db, `SELECT count(*) FROM endings WHERE id = ANY ($1) AND xact < $2`, next, before.Next) == 0 {
					t.Error("the second server used no number of the first, so this proves nothing")
				}
			}
			now := recorded(t, db)
			for _, id := range last {
				if now[id] == s.lost {
					t.Errorf("lost = %v, but the second server has the ending: %v", s.lost, now[id])
				}
			}
			for _, r := range []*reader{late, follower} {
				knowsAll(r, slices.Collect(maps.Keys(now))...)
			}
			if !maps.Equal(late.follow(t), now) {
				t.Errorf("a new consumer knows %d endings; want the %d of the second server", len(late.knows), len(now))
			}
			maps.Copy(now, old)
			if !maps.Equal(follower.follow(t), now) {
				t.Errorf("the consumer knows %d endings; want the %d that were ever recorded", len(follower.knows), len(now))
			}
			time.Sleep(3 * time.Second) // a few looks
			if n := counted.loads.Load() - loads; n > 4 {
				t.Errorf("all endings were read %d times by two replicas", n)
			}
		})
	}
}

// Meanwhile more sessions end than a replica keeps apart for consumers that follow, and the first endings are removed.
func TestEndingsReachAConsumerThatWasCutOffForAnHour(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	f := endings.New(endings.Config{
		Store: store, Lifetime: func() time.Duration { return 15 * time.Minute }, Always: true, Log: slog.New(slog.DiscardHandler),
	})
	go f.Run(t.Context())
	consumer := &reader{feeds: []*endings.Feed{f}, knows: map[string]bool{}}
	end := func(many int) {
		postgrestest.Exec(t, c, `INSERT INTO endings (kind, id) SELECT 'sid', gen_random_uuid() FROM generate_series(1, $1::int)`, many)
	}
	const few, many = 100, 15_000
	end(few)
	testenv.Until(t, patience, "the consumer follows", func() bool { return len(consumer.follow(t)) == few })
	end(many)
	postgrestest.Exec(t, c, `UPDATE endings SET ended_at = ended_at - interval '1 hour'`)
	removed := int64(0)
	for removed < few+many {
		deleted, err := store.DeleteExpired(t.Context(), time.Now(), postgres.Retention{Tokens: 16 * time.Minute}, 5000)
		testenv.NoError(t, err)
		removed += deleted.Endings
	}
	for range 2 {
		end(many)
		time.Sleep(2 * time.Second) // a look or two
	}
	clear(consumer.knows)
	testenv.Until(t, patience, "the consumer knows what matters", func() bool {
		knows := consumer.follow(t)
		for id := range recorded(t, db) {
			if !knows[id] {
				return false
			}
		}
		return true
	})
	if n := len(consumer.knows); n > 3*many {
		t.Errorf("the consumer got %d endings; %d matter", n, 2*many)
	}
}
