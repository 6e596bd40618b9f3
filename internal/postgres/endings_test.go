package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/endings"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// ending is one way in which sessions end.
type ending struct {
	name string
	// end ends some of a user's sessions, which are those of own and of another one. The result is which of the two ended.
	end func(t *testing.T, w endingWorld) (own, other bool)
}

type endingWorld struct {
	ctx   context.Context
	store *postgres.Store
	exec  func(statement string, args ...any)
	user  identity.User
	own   identity.SessionRef
	other identity.SessionRef
	now   time.Time
}

var allEndings = []ending{
	{"a sign-out, or a stolen refresh token", func(t *testing.T, w endingWorld) (own, other bool) {
		_, err := w.store.EndSession(w.ctx, w.own, noEvent)
		testenv.NoError(t, err)
		return true, false
	}},
	{"the end of one session by its owner", func(t *testing.T, w endingWorld) (own, other bool) {
		_, err := w.store.EndOwnSession(w.ctx, w.own, w.other.ID, noEvent)
		testenv.NoError(t, err)
		return false, true
	}},
	{"a change of the password", func(t *testing.T, w endingWorld) (own, other bool) {
		testenv.NoError(t, w.store.ChangePassword(w.ctx, w.own, passwordHash, otherHash, noRecord))
		return false, true
	}},
	{"a reset of the password", func(t *testing.T, w endingWorld) (own, other bool) {
		c := newCode(identity.Recovery)
		_, err := w.store.IssueCode(w.ctx, w.user.Email, c, noEvent)
		testenv.NoError(t, err)
		owner, err := w.store.FindRecovery(w.ctx, c.Hash)
		testenv.NoError(t, err)
		testenv.NoError(t, w.store.RedeemRecovery(w.ctx, c.Hash, owner, otherHash, "192.0.2.8/32", noRecord))
		return true, true
	}},
	{"the verification of a new address", func(t *testing.T, w endingWorld) (own, other bool) {
		change := newCode(identity.EmailChange)
		testenv.NoError(t, w.store.IssueEmailChange(w.ctx, w.own, change, noEvent))
		address := "new-" + w.user.Email
		_, err := w.store.RedeemEmailChange(w.ctx, w.own,
			identity.EmailRedemption{Code: change.Hash, Email: address, CanonicalEmail: address}, noRecord)
		testenv.NoError(t, err)
		proof := newCode(identity.Verification)
		_, err = w.store.IssueCode(w.ctx, address, proof, noEvent)
		testenv.NoError(t, err)
		_, err = w.store.RedeemVerification(w.ctx, identity.ClaimProof{Code: proof.Hash}, newSession(w.user, w.now), noRecord)
		testenv.NoError(t, err)
		return true, true
	}},
	{"the deletion of the user", func(t *testing.T, w endingWorld) (own, other bool) {
		testenv.NoError(t, w.store.DeleteUser(w.ctx, w.own, noEvent))
		return true, true
	}},
	{"a suspension", func(_ *testing.T, w endingWorld) (own, other bool) {
		w.exec(`UPDATE users SET suspended_at = now() WHERE id = $1`, w.user.ID)
		return true, true
	}},
	{"a sign-in beyond the cap", func(t *testing.T, w endingWorld) (own, other bool) {
		n := newSession(w.user, w.now.Add(time.Minute))
		n.Keep = 2
		testenv.NoError(t, w.store.OpenSession(w.ctx, n, noEvent))
		return true, false
	}},
	{"a sign-in beyond the cap that upgrades the hash", func(t *testing.T, w endingWorld) (own, other bool) {
		n := newSession(w.user, w.now.Add(time.Minute))
		n.Keep, n.Rehash = 1, otherHash
		testenv.NoError(t, w.store.OpenSession(w.ctx, n, noEvent))
		return true, true
	}},
	{"an administrator's deletion of one", func(_ *testing.T, w endingWorld) (own, other bool) {
		w.exec(`DELETE FROM sessions WHERE id = $1`, w.other.ID)
		return false, true
	}},
	{"an administrator's deletion of the user", func(_ *testing.T, w endingWorld) (own, other bool) {
		w.exec(`DELETE FROM users WHERE id = $1`, w.user.ID)
		return true, true
	}},
	{"an administrator's truncation", func(_ *testing.T, w endingWorld) (own, other bool) {
		w.exec(`TRUNCATE sessions`)
		return true, true
	}},
	{"a role that may only delete sessions", func(_ *testing.T, w endingWorld) (own, other bool) {
		w.exec(`DO $$ BEGIN CREATE ROLE only_deletes; EXCEPTION WHEN duplicate_object THEN NULL; END $$`)
		w.exec(`GRANT SELECT, DELETE ON sessions TO only_deletes`)
		w.exec(fmt.Sprintf(`DO $$ BEGIN SET LOCAL ROLE only_deletes; SET LOCAL search_path = pg_catalog;
			DELETE FROM public.sessions WHERE id = '%s'; END $$`, w.own.ID))
		return true, false
	}},
	{"the clean-up, while a token may be alive", func(t *testing.T, w endingWorld) (own, other bool) {
		w.exec(`UPDATE sessions SET expires_at = now() - interval '25 hours' WHERE id = $1`, w.own.ID)
		keep := retention
		keep.Tokens = 26 * time.Hour
		_, err := w.store.DeleteExpired(w.ctx, time.Now(), keep, 10)
		testenv.NoError(t, err)
		return true, false
	}},
	{"the clean-up of the previous release", func(_ *testing.T, w endingWorld) (own, other bool) {
		w.exec(`UPDATE sessions SET expires_at = now() - interval '25 hours' WHERE id = $1`, w.own.ID)
		w.exec(`DELETE FROM sessions WHERE expires_on < current_date`)
		return true, false
	}},
	{"old age", func(t *testing.T, w endingWorld) (own, other bool) {
		w.exec(`UPDATE sessions SET expires_at = now() - interval '25 hours' WHERE id = $1`, w.own.ID)
		deleted, err := w.store.DeleteExpired(w.ctx, time.Now(), retention, 10)
		testenv.NoError(t, err)
		if deleted.Sessions != 1 {
			t.Errorf("the clean-up removed %+v", deleted)
		}
		return false, false
	}},
	{"a renewal", func(t *testing.T, w endingWorld) (own, other bool) {
		_, _, err := w.store.AdvanceSession(w.ctx, w.own, 0, identity.Renewal{RefreshedAt: w.now, Lifetime: time.Hour})
		testenv.NoError(t, err)
		return false, false
	}},
	{"a deletion that is undone", func(_ *testing.T, w endingWorld) (own, other bool) {
		w.exec(`DO $$ BEGIN DELETE FROM sessions; RAISE EXCEPTION 'undone'; EXCEPTION WHEN raise_exception THEN NULL; END $$`)
		return false, false
	}},
}

func TestEndingsRecordEveryEndOfASession(t *testing.T) {
	t.Parallel()
	for _, pooled := range []bool{false, true} {
		c := postgrestest.Config(t)
		direct := postgrestest.Open(t, c)
		through := direct
		if pooled {
			through = postgrestest.Open(t, postgrestest.Behind(t, c, "transaction"))
		}
		for i, e := range allEndings {
			t.Run(fmt.Sprintf("%s/pooled=%v", e.name, pooled), func(t *testing.T) {
				postgrestest.Exec(t, c, `DELETE FROM users`)
				u := signUp(t, direct, fmt.Sprintf("user%d", i))
				now := time.Now().UTC().Truncate(time.Second)
				w := endingWorld{
					ctx: t.Context(), store: through, user: u, now: now,
					exec: func(statement string, args ...any) { postgrestest.Exec(t, c, statement, args...) },
				}
				w.own = open(t, direct, u, now.Add(-2*time.Second))
				w.other = open(t, direct, u, now.Add(-time.Second))
				before := load(t, direct)
				endedOwn, endedOther := e.end(t, w)
				after := tail(t, direct, before.Snapshot)
				var want []string
				if endedOwn {
					want = append(want, w.own.ID)
				}
				if endedOther {
					want = append(want, w.other.ID)
				}
				slices.Sort(want)
				if got := ids(after); !slices.Equal(got, want) {
					t.Errorf("recorded %v; want %v", got, want)
				}
				for _, e := range after.Endings {
					if age := after.At.Sub(e.At); e.Kind != endings.Session || age < 0 || age > time.Minute {
						t.Errorf("recorded %+v at %v", e, after.At)
					}
				}
				if got := ids(tail(t, direct, after.Snapshot)); len(got) > 0 {
					t.Errorf("recorded again: %v", got)
				}
			})
		}
	}
}

// A session can be used until the transaction that ends it commits. The time of the ending
// is therefore that of the commit. Other transactions that begin later commit before.
func TestEndingsAreSeenWhenTheirTransactionsCommit(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	u := signUp(t, store, "ada")
	now := time.Now()
	slow, quick, undone := open(t, store, u, now), open(t, store, u, now), open(t, store, u, now)
	view := load(t, store)

	tx, err := db.BeginTx(t.Context(), nil)
	testenv.NoError(t, err)
	_, err = tx.ExecContext(t.Context(), `DELETE FROM sessions WHERE id = $1`, slow.ID)
	testenv.NoError(t, err)
	other, err := db.BeginTx(t.Context(), nil)
	testenv.NoError(t, err)
	_, err = other.ExecContext(t.Context(), `DELETE FROM sessions WHERE id = $1`, undone.ID)
	testenv.NoError(t, err)
	_, err = store.EndSession(t.Context(), quick, noEvent)
	testenv.NoError(t, err)
	view = tail(t, store, view.Snapshot)
	if got := ids(view); !slices.Equal(got, []string{quick.ID}) {
		t.Errorf("while two transactions are open: %v; want %s", got, quick.ID)
	}
	beforeCommit := view.At
	testenv.NoError(t, tx.Commit())
	testenv.NoError(t, other.Rollback())
	late := tail(t, store, view.Snapshot)
	if got := ids(late); !slices.Equal(got, []string{slow.ID}) || late.Endings[0].At.Before(beforeCommit) {
		t.Errorf("after the commit: %+v; want %s", late.Endings, slow.ID)
	}
	if !late.Snapshot.Covers(view.Snapshot) || view.Snapshot.Covers(late.Snapshot) {
		t.Errorf("%+v is not later than %+v", late.Snapshot, view.Snapshot)
	}
	if got := ids(load(t, store)); len(got) != 3 { // and the session of the sign-up
		t.Errorf("all in all: %v", got)
	}
}

func TestEndingsAreLoadedInPagesAndForgotten(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store := postgrestest.Open(t, c)
	postgrestest.Exec(t, c, `INSERT INTO endings (kind, id, ended_at)
		SELECT 'sid', gen_random_uuid(), clock_timestamp() - i * interval '1 minute' FROM generate_series(0, 99) i`)
	testenv.NoError(t, store.EndKey(t.Context(), "thumbprint", time.Now()))
	testenv.NoError(t, store.EndKey(t.Context(), "thumbprint", time.Now().Add(time.Hour)))
	var got []endings.Ending
	for after := (endings.Ending{}); ; {
		page, err := store.LoadEndings(t.Context(), after, 50*time.Minute, 7)
		testenv.NoError(t, err)
		got = append(got, page.Endings...)
		if len(page.Endings) < 7 {
			break
		}
		after = page.Endings[6]
	}
	if len(got) != 51 || got[0].Kind != endings.Key || time.Until(got[0].At) > time.Minute {
		t.Errorf("%d endings, the first is %+v; want 51, and the key with its first time", len(got), got[0])
	}
	if !slices.IsSortedFunc(got[1:], func(a, b endings.Ending) int { return slices.Compare([]byte(a.ID), []byte(b.ID)) }) {
		t.Error("not sorted by id")
	}
	deleted, err := store.DeleteExpired(t.Context(), time.Now(), postgres.Retention{Tokens: 50 * time.Minute}, 1000)
	if err != nil || deleted.Endings != 50 {
		t.Errorf("the clean-up removed %+v, %v", deleted, err)
	}
}

// Every replica reads what is new once a second. That must not depend on how much there is, on statistics, or on whether
// the plan was made for these parameters.
func TestEndingsThatAreNewAreFoundByTheIndex(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	const seen = `DO $$ BEGIN FOR i IN 1..%d LOOP
		INSERT INTO endings (kind, id) SELECT 'sid', gen_random_uuid() FROM generate_series(1, 100); COMMIT; END LOOP; END $$`
	postgrestest.Exec(t, c, `ANALYZE endings`) // it is empty
	postgrestest.Exec(t, c, fmt.Sprintf(seen, 2000))
	for _, about := range []string{"statistics of an empty table", "present statistics"} {
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			since := load(t, store).Snapshot
			// Other tests' transactions have numbers in between.
			open := texts(t, db, `SELECT max(xact) FROM endings WHERE xact < $1`, since.Next)[0]
			postgrestest.Exec(t, c, fmt.Sprintf(seen, 1))
			conn := testenv.Must(db.Conn(t.Context()))(t)
			for _, statement := range []string{
				`SET plan_cache_mode = ` + mode,
				`PREPARE tail(bigint[], bigint, int) AS ` + postgres.Statements()["TailEndings"],
			} {
				_, err := conn.ExecContext(t.Context(), statement)
				testenv.NoError(t, err)
			}
			plan := strings.Join(texts(t, conn, fmt.Sprintf(
				`EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) EXECUTE tail('{%s}', %d, 10000)`, open, since.Next)), "\n")
			_, err := conn.ExecContext(t.Context(), `DEALLOCATE tail`)
			testenv.NoError(t, errors.Join(err, conn.Close()))
			_, reads, _ := strings.Cut(plan, "Append") // without those of the incarnation
			if strings.Contains(plan, "Workers") || strings.Contains(reads, "Seq Scan") || strings.Contains(reads, "Rows Removed") ||
				strings.Count(reads, "endings_xact_idx") != 2 || !strings.Contains(reads, "rows=200 loops=1") {
				t.Errorf("%s, %s:\n%s", about, mode, plan)
			}
		}
		postgrestest.Exec(t, c, `ANALYZE endings`)
	}
}

func load(t *testing.T, store *postgres.Store) endings.View {
	t.Helper()
	view, err := store.LoadEndings(t.Context(), endings.Ending{}, time.Hour, 1000)
	testenv.NoError(t, err)
	return view
}

func tail(t *testing.T, store *postgres.Store, since endings.Snapshot) endings.View {
	t.Helper()
	view, err := store.TailEndings(t.Context(), since, 1000)
	testenv.NoError(t, err)
	return view
}

func ids(v endings.View) (ids []string) {
	for _, e := range v.Endings {
		ids = append(ids, e.ID)
	}
	slices.Sort(ids)
	return ids
}
