package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/hashes"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/moving"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// moved returns an account as CheckMovedAccount leaves it.
func moved(t testing.TB, n int, change func(*identity.MovedAccount)) identity.MovedAccount {
	t.Helper()
	name := fmt.Sprint("moved", n)
	a := identity.MovedAccount{
		ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", n), Username: name, Email: name + "@example.com", EmailVerified: true,
		PasswordHash: "!", Scope: new("profile"),
	}
	if change != nil {
		change(&a)
	}
	checked := identity.New(identity.Policy{}, identity.Dependencies{Now: time.Now})
	testenv.NoError(t, checked.CheckMovedAccount(&a))
	return a
}

func TestImportStoresABatchOrNothingOfIt(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	ctx := t.Context()
	testenv.NoError(t, store.RestartImport(ctx, "files"))
	accounts := func() int { return count(t, db, `SELECT count(*) FROM users`) }
	batch := moving.Batch{Import: "files", Accounts: []identity.MovedAccount{moved(t, 1, nil), moved(t, 2, nil)}}
	after := moving.Progress{Read: 2, Imported: 2}
	var taken []moving.Taken
	batch.Refuse = func(all []moving.Taken) (moving.Progress, error) { taken = all; return after, nil }
	stopped := errors.New("stopped")
	failing := batch
	failing.Refuse = func([]moving.Taken) (moving.Progress, error) { return after, stopped }
	if err := store.ImportBatch(ctx, failing); !errors.Is(err, stopped) || accounts() != 0 {
		t.Errorf("a batch that fails: %v, %d accounts", err, accounts())
	}
	dry := batch
	dry.DryRun = true
	if err := store.ImportBatch(ctx, dry); err != nil || accounts() != 0 {
		t.Errorf("a dry run: %v, %d accounts", err, accounts())
	}
	testenv.NoError(t, store.ImportBatch(ctx, batch))
	if p, found, err := store.BeginImport(ctx, "files"); err != nil || !found || p != after || accounts() != 2 || len(taken) != 0 {
		t.Errorf("the progress is %+v %v, %v; %d accounts, %v taken", p, found, err, accounts(), taken)
	}
	if err := store.ImportBatch(ctx, batch); !errors.Is(err, moving.ErrInterfered) {
		t.Errorf("the same batch again: %v", err)
	}
	// The end of an import whose last batch was lost in a failover is not recorded.
	if err := store.FinishImport(ctx, "files", moving.Progress{Read: after.Read + 1}); !errors.Is(err, moving.ErrInterfered) {
		t.Errorf("the end of another import: %v", err)
	}
	if p, _, err := store.BeginImport(ctx, "files"); err != nil || p.Finished {
		t.Errorf("the progress is %+v, %v", p, err)
	}
	dry.Accounts = append(dry.Accounts, moved(t, 3, nil))
	testenv.NoError(t, store.ImportBatch(ctx, dry))
	if len(taken) != 2 || !taken[1].ID || !taken[1].Username || !taken[1].Email {
		t.Errorf("a dry run finds that %+v are taken", taken)
	}
	batch.Before = after
	batch.Accounts = []identity.MovedAccount{
		moved(t, 1, nil), moved(t, 3, nil),
		moved(t, 4, func(a *identity.MovedAccount) { a.Username = "MOVED2" }),
		moved(t, 5, func(a *identity.MovedAccount) { a.Email = "Moved3@example.com"; a.Username = "" }),
		moved(t, 6, func(a *identity.MovedAccount) { a.Username = "" }),
	}
	testenv.NoError(t, store.ImportBatch(ctx, batch))
	// Number 5 has the address of number 3, which is in the same batch.
	want := []moving.Taken{{Index: 0, ID: true, Username: true, Email: true}, {Index: 2, Username: true}, {Index: 3}}
	if fmt.Sprint(taken) != fmt.Sprint(want) || accounts() != 4 {
		t.Errorf("%+v are taken; want %+v; %d accounts", taken, want, accounts())
	}
}

// An export that is imported elsewhere is the same there, in all columns.
func TestExportAndImportAreEqual(t *testing.T) {
	t.Parallel()
	from, to := postgrestest.Config(t), postgrestest.Config(t)
	source, target := postgrestest.Open(t, from), postgrestest.Open(t, to)
	db := connect(t, from)
	fill(t, from, 3000)
	for _, statement := range []string{
		`UPDATE users SET password_hash = '$2a$04$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK'`,
		`UPDATE users SET suspended_at = now(), scope = '', language = 'de, "x";q=0.5' WHERE id IN (SELECT id FROM users LIMIT 10)`,
		`UPDATE users SET username = id, canonical_username = id, first_name = '', last_name = E'O''Ha\\ra <&>  名'
		 WHERE id IN (SELECT id FROM users OFFSET 10 LIMIT 10)`,
		`UPDATE users SET roles = 'admin editor', metadata = '{"plan": "<b>", "n": 1.50, "list": [1, null]}' WHERE id IN (SELECT id FROM users LIMIT 5)`,
		`UPDATE users SET unproved_email = 'New@example.com', canonical_unproved_email = 'new@example.com', unproved_since = now(),
			email_verified_at = NULL
		 WHERE id IN (SELECT id FROM users OFFSET 20 LIMIT 10)`,
		`UPDATE users SET password_hash = '$migrate$$' WHERE id IN (SELECT id FROM users OFFSET 40 LIMIT 10)`,
		`UPDATE users SET password_hash = '!', updated_at = '2020-01-01 00:00:00.000001+00' WHERE id IN (SELECT id FROM users OFFSET 30 LIMIT 10)`,
	} {
		testenv.Must(db.Exec(statement))(t)
	}
	dir := t.TempDir()
	export := func(store interface {
		ExportAccounts(context.Context, bool, func(*identity.MovedAccount) error) error
	}, name string) moving.Manifest {
		return testenv.Must(moving.Export(t.Context(), filepath.Join(dir, name), 0, func(f func(*identity.MovedAccount) error) error {
			return store.ExportAccounts(t.Context(), name == "after", f)
		}))(t)
	}
	before := export(source, "before")
	reader := &moving.Reader{From: "native", Files: []string{filepath.Join(dir, "before")}}
	testenv.NoError(t, reader.Check())
	i := importing(target)
	p := testenv.Must(i.Run(t.Context(), "files", reader.Entries()))(t)
	if p.Imported != 3000 || p.Refused != 0 {
		t.Errorf("%+v", p)
	}
	after := export(target, "after")
	if before.Users != 3000 || before != after {
		t.Errorf("the manifests are %+v and %+v", before, after)
	}
	// The manifest notices a change of the file.
	path := filepath.Join(dir, "after")
	content := testenv.Must(os.ReadFile(path))(t)
	testenv.NoError(t, os.WriteFile(path, content[:len(content)-1], 0o600))
	if err := moving.CheckManifest(path); err == nil || !strings.Contains(err.Error(), "manifest") {
		t.Errorf("a file that was cut: %v", err)
	}
}

// hashed returns an account with a hash of another system, for an import of its own.
func hashed(n int, hash string) moving.Entry {
	return moving.Entry{File: "f", Number: n + 1, Foreign: true, Account: identity.MovedAccount{
		Email: fmt.Sprintf("hashed%d@example.com", n), EmailVerified: true, PasswordHash: hash,
	}}
}

func each(entries ...moving.Entry) iter.Seq2[moving.Entry, error] {
	return func(yield func(moving.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func argon2(memory int) string {
	return hashes.Argon2("argon2id", memory, 1, 1, []byte("a salt of 16 B.."), make([]byte, 32))
}

// Each kind of hash makes every failed sign-in slower, so their number is bounded, whatever is imported in how many runs.
func TestImportAdmitsFewKindsOfHashes(t *testing.T) {
	t.Parallel()
	pbkdf2 := func(iterations int) string {
		return hashes.PBKDF2("pbkdf2-sha256", iterations, []byte("a salt of 16 B.."), make([]byte, 32))
	}
	const bcrypt10, digest = "$2y$10$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK", "88e4ddd2402d92d50e1879d6ecd9ffd4"
	var entries []moving.Entry
	add := func(hash string) { entries = append(entries, hashed(len(entries), hash)) }
	for n := range hashes.MaxForeignKinds - 4 {
		add(argon2(40 + n))
	}
	for _, hash := range []string{
		argon2(16), argon2(17), pbkdf2(100),
		pbkdf2(200), // of the kind of the former one: the work adds up
		bcrypt10, digest, "", hashes.Migrating,
		argon2(18), argon2(19), argon2(20), argon2(16),
	} {
		add(hash)
	}
	for range 64 { // the rest is in another batch
		add(digest)
	}
	add(argon2(21))
	add(argon2(18))
	for _, dry := range []bool{true, false} {
		c := postgrestest.Config(t)
		store, db := postgrestest.Open(t, c), connect(t, c)
		i := importing(store)
		i.DryRun, i.Refused = dry, filepath.Join(t.TempDir(), "refused")
		p := testenv.Must(i.Run(t.Context(), "files", each(entries...)))(t)
		if p.Read != 82 || p.Refused != 3 || p.Imported != 79 {
			t.Errorf("dry run %v: %+v", dry, p)
		}
		if dry {
			continue
		}
		refused := string(testenv.Must(os.ReadFile(i.Refused))(t))
		for _, want := range []string{`"number":14,"reason":"password_hash: argon2id with m=19,t=1,p=1 would be one kind too many`,
			`"number":15,`, `"number":81,`, "pbkdf2-sha256 with 100 iterations are in use"} {
			if !strings.Contains(refused, want) {
				t.Errorf("%s is not in\n%s", want, refused)
			}
		}
		// Another run knows what the first one has stored; a kind that no account has any more is free.
		again := func(id string, n, imported int) {
			t.Helper()
			p := testenv.Must(importing(store).Run(t.Context(), id, each(hashed(n, argon2(19)))))(t)
			if p.Imported != int64(imported) {
				t.Errorf("%s: %+v", id, p)
			}
		}
		again("second", 100, 0)
		testenv.Must(db.Exec(`DELETE FROM users WHERE password_hash LIKE '$argon2id$v=19$m=17,%'`))(t)
		again("third", 101, 1)
	}
}

// Two imports at once cannot both add the last kind: the second one sees what the first has stored.
func TestImportsAtOnceAdmitFewKindsOfHashes(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	batch := func(id string, n int, exclude func([]string) map[int]bool) moving.Batch {
		testenv.NoError(t, store.RestartImport(t.Context(), id))
		a := moved(t, n, func(a *identity.MovedAccount) { a.PasswordHash = argon2(16 + n) })
		return moving.Batch{Import: id, Accounts: []identity.MovedAccount{a}, Exclude: exclude,
			Refuse: func([]moving.Taken) (moving.Progress, error) { return moving.Progress{}, nil }}
	}
	began, release := make(chan struct{}), make(chan struct{})
	var seen []string
	first := batch("first", 1, func([]string) map[int]bool { close(began); <-release; return nil })
	second := batch("second", 2, func(schemes []string) map[int]bool { seen = schemes; return map[int]bool{0: true} })
	done := make(chan error, 2)
	go func() { done <- store.ImportBatch(t.Context(), first) }()
	<-began
	go func() { done <- store.ImportBatch(t.Context(), second) }()
	testenv.Until(t, patience, "the second import waits", func() bool {
		return count(t, db, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`) == 1
	})
	close(release)
	testenv.NoError(t, <-done)
	testenv.NoError(t, <-done)
	if len(seen) != 1 || seen[0] != "$argon2id$v=19$m=17,t=1,p=1" {
		t.Errorf("the second import sees the schemes %q", seen)
	}
	if n := count(t, db, `SELECT count(*) FROM users`); n != 1 {
		t.Errorf("%d accounts are stored; the second one was excluded", n)
	}
}

// Batches share a connection, and a lost one is replaced before the next batch.
func TestImportKeepsItsConnection(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	run := func(n int) {
		p, err := importing(store).Run(t.Context(), fmt.Sprint(n), each(moving.Entry{Account: moved(t, n, nil)}))
		if err != nil || p.Imported != 1 {
			t.Fatalf("import %d: %+v, %v", n, p, err)
		}
	}
	const bulk = ` FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'commit%' AND pid <> pg_backend_pid()`
	run(1)
	first := count(t, db, `SELECT min(pid)`+bulk)
	run(2)
	if pid, n := count(t, db, `SELECT min(pid)`+bulk), count(t, db, `SELECT count(*)`+bulk); pid != first || n != 1 {
		t.Errorf("process %d served the second import, not %d; %d processes", pid, first, n)
	}
	testenv.Must(db.Exec(`SELECT pg_terminate_backend($1)`, first))(t)
	testenv.Until(t, 10*time.Second, "the connection ends", func() bool { return count(t, db, `SELECT count(*)`+bulk) == 0 })
	run(3)
}

// Behind a pooler, the second command gets the server process of the first.
func TestImportsFollowEachOtherBehindAPooler(t *testing.T) {
	t.Parallel()
	for _, mode := range poolModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			c := postgrestest.Config(t)
			pooled := postgrestest.Behind(t, c, mode, "default_pool_size = 2")
			for n := range 6 {
				store := postgrestest.Open(t, pooled)
				id := fmt.Sprint("files", n)
				testenv.NoError(t, store.RestartImport(t.Context(), id))
				for k := range 2 {
					after := moving.Progress{Read: int64(k + 1), Imported: int64(k + 1)}
					batch := moving.Batch{Import: id, Accounts: []identity.MovedAccount{moved(t, 2*n+k, nil)},
						Before: moving.Progress{Read: int64(k), Imported: int64(k)},
						Refuse: func([]moving.Taken) (moving.Progress, error) { return after, nil }}
					testenv.NoError(t, store.ImportBatch(t.Context(), batch))
				}
				exported := 0
				testenv.NoError(t, store.ExportAccounts(t.Context(), false, func(*identity.MovedAccount) error { exported++; return nil }))
				if want := 2 * (n + 1); exported != want {
					t.Errorf("%d accounts are exported; want %d", exported, want)
				}
				store.Close()
			}
		})
	}
}

// An import that ends with an error leaves no batch that it has sent ahead.
func TestImportThatStopsLeavesNothingStaged(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	var entries []moving.Entry
	for n := range 300 { // batches of 64, because digests are hashed
		account := moved(t, n, func(a *identity.MovedAccount) { a.PasswordHash = "88e4ddd2402d92d50e1879d6ecd9ffd4" })
		entries = append(entries, moving.Entry{Account: account})
	}
	i := importing(store)
	open := func() int {
		return count(t, db, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND state LIKE 'idle in transaction%'`)
	}
	var interferes sync.WaitGroup
	i.Report = func(p moving.Progress) {
		if p.Read != 192 {
			return
		}
		tx := testenv.Must(db.Begin())(t)
		testenv.Must(tx.Exec(`UPDATE imports SET read = 0`))(t)
		interferes.Go(func() { // while the next batch waits for this transaction, the one after it is sent ahead
			testenv.Until(t, patience, "a batch is sent ahead", func() bool { return open() == 2 })
			testenv.NoError(t, tx.Commit())
		})
	}
	p, err := i.Run(t.Context(), "files", each(entries...))
	if !errors.Is(err, moving.ErrInterfered) || p.Read != 192 || count(t, db, `SELECT count(*) FROM users`) != 192 {
		t.Errorf("it stops after %+v: %v", p, err)
	}
	interferes.Wait()
	testenv.Until(t, 5*time.Second, "no transaction is left", func() bool { return open() == 0 })
}

// The database of a gentle export neither sorts before the first account nor uses another processor.
func TestGentleExportReadsAccountsInTheirOrder(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	populate(t, c, 50_000)
	for _, tc := range []struct {
		settings []string
		never    []string
	}{
		{[]string{"ReadWithOneProcess"}, []string{"Gather", "JIT"}},
		{[]string{"ReadWithOneProcess", "ReadInOrder"}, []string{"Gather", "JIT", "Sort"}},
	} {
		tx := testenv.Must(connect(t, c).Begin())(t)
		for _, setting := range []string{
			"random_page_cost = 1000", // so that a sort is cheaper
			"statement_timeout = '1h'", "parallel_setup_cost = 0", "parallel_tuple_cost = 0", "min_parallel_table_scan_size = 0", "jit_above_cost = 0",
		} {
			testenv.Must(tx.Exec("SET LOCAL " + setting))(t)
		}
		for _, name := range tc.settings {
			text, _ := postgres.Statement(name)
			testenv.Must(tx.Exec(text))(t)
		}
		text, _ := postgres.Statement("ExportAccounts")
		plan := strings.Join(texts(t, tx, "EXPLAIN "+text), "\n")
		if slices.ContainsFunc(tc.never, func(node string) bool { return strings.Contains(plan, node) }) {
			t.Errorf("with %v:\n%s", tc.settings, plan)
		}
		if limit := texts(t, tx, "SHOW statement_timeout")[0]; len(tc.settings) == 2 && limit != "0" {
			t.Errorf("with %v it may take %s", tc.settings, limit)
		}
		testenv.NoError(t, tx.Rollback())
	}
}

func importing(store moving.Store) *moving.Import {
	checked := identity.New(identity.Policy{SignUpScopes: "profile email"}, identity.Dependencies{Now: time.Now})
	return &moving.Import{Store: store, Check: checked.CheckMovedAccount, Cost: 4}
}

// An import that stops at any batch continues without losing or repeating an account.
func TestImportContinuesWhereItStopped(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	store, db := postgrestest.Open(t, c), connect(t, c)
	const all = 25_000
	stop := errors.New("the file cannot be read")
	entries := func(until int) iter.Seq2[moving.Entry, error] {
		return func(yield func(moving.Entry, error) bool) {
			for n := range all {
				if n == until {
					yield(moving.Entry{}, stop)
					return
				}
				name := fmt.Sprint("moved", n-n%1000/999) // each thousandth has the name of the one before it
				account := identity.MovedAccount{Username: name, Email: fmt.Sprint(n, "@example.com"), EmailVerified: true}
				if !yield(moving.Entry{File: "f", Number: n + 1, Account: account}, nil) {
					return
				}
			}
		}
	}
	i := importing(store)
	i.Refused = filepath.Join(t.TempDir(), "refused")
	for _, until := range []int{15_000, 22_000} {
		p, err := i.Run(t.Context(), "files", entries(until))
		if !errors.Is(err, stop) || p.Finished {
			t.Fatalf("%+v, %v", p, err)
		}
		// The import cuts lines that were written after the last commit.
		content := testenv.Must(os.ReadFile(i.Refused))(t)
		testenv.NoError(t, os.WriteFile(i.Refused, append(content, "half a li"...), 0o600))
		i.Resume = false
		if _, err := i.Run(t.Context(), "files", entries(all)); err == nil || !strings.Contains(err.Error(), "--resume") {
			t.Errorf("without --resume: %v", err)
		}
		i.Resume = true
		other := *i
		other.Refused = filepath.Join(t.TempDir(), "another file")
		if _, err := other.Run(t.Context(), "files", entries(all)); err == nil || !strings.Contains(err.Error(), "is shorter") {
			t.Errorf("with another file of refused accounts: %v", err)
		}
	}
	p := testenv.Must(i.Run(t.Context(), "files", entries(-1)))(t)
	if p.Read != all || p.Imported != all-25 || p.Refused != 25 {
		t.Errorf("%+v", p)
	}
	if n := count(t, db, `SELECT count(*) FROM users`); n != all-25 {
		t.Errorf("%d accounts", n)
	}
	lines := strings.Split(strings.TrimSpace(string(testenv.Must(os.ReadFile(i.Refused))(t))), "\n")
	if len(lines) != 25 {
		t.Fatalf("%d lines", len(lines))
	}
	for k, line := range lines {
		var r struct {
			Number int
			Reason string
		}
		testenv.NoError(t, json.Unmarshal([]byte(line), &r))
		if r.Number != 1000*(k+1) || !strings.HasPrefix(r.Reason, "username: ") {
			t.Errorf("%s", line)
		}
	}
	if p := testenv.Must(i.Run(t.Context(), "files", entries(-1)))(t); !p.Finished {
		t.Errorf("an import that is complete begins again: %+v", p)
	}
}
