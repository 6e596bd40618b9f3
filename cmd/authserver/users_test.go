package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// testdata has files of other systems. All their accounts have this password.
const (
	testdata         = "../../internal/moving/testdata/"
	importedPassword = "correct horse battery"
)

// runProgram runs the program until it ends, and returns its output.
func runProgram(t *testing.T, db postgres.Config, args ...string) string {
	t.Helper()
	p := launch(t, db, args)
	if code := p.wait(5 * time.Minute); code != 0 {
		t.Fatalf("%v: exit code %d\n%s", args, code, p.stderr)
	}
	return p.stderr.String()
}

func connect(t *testing.T, c postgres.Config) *sql.DB {
	t.Helper()
	db := testenv.Must(sql.Open("pgx", postgrestest.DSN(c)))(t)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func number(t *testing.T, db *sql.DB, query string, args ...any) (n int) {
	t.Helper()
	testenv.NoError(t, db.QueryRow(query, args...).Scan(&n))
	return n
}

func TestImportedAccountsOfEverySystemSignInAndAreRenewed(t *testing.T) {
	c := postgrestest.Config(t)
	db := connect(t, c)
	runProgram(t, c, "migrate")
	dir := t.TempDir()
	for _, tc := range []struct{ from, file, want string }{
		{"native", "native.ndjson", "16 imported, 10 refused"},
		{"supabase", "supabase.csv", "2 imported, 2 refused"},
		{"supabase", "supabase-copy.sql", "1 imported, 1 refused"},
		{"supabase", "supabase-insert.sql", "2 imported, 0 refused"},
		{"keycloak", "keycloak.json", "4 imported, 2 refused"},
		{"auth0", "auth0.ndjson", "2 imported, 1 refused"},
		{"firebase", "firebase.json", "2 imported, 1 refused"},
		{"kratos", "kratos.json", "4 imported, 1 refused"},
	} {
		args := []string{"users", "import", testdata + tc.file, "--from", tc.from, "--refused", filepath.Join(dir, tc.file)}
		if tc.from == "firebase" {
			args = append(args, "--firebase-config", testdata+"firebase.config")
		}
		if out := runProgram(t, c, args...); !strings.Contains(out, tc.want) {
			t.Errorf("%s: %s", tc.file, out)
		}
	}
	p := launch(t, c, []string{"serve"}, "LIMIT_SIGNIN=off", "HASHING_MAX_WAIT=5s")
	p.waitReady()
	client := testenv.NewClient(t, p.api)
	status := func(email, password string) int {
		for {
			r := client.Do(http.MethodPost, "/tokens/signin", nil, map[string]string{"username": email, "password": password})
			if r.Status != http.StatusServiceUnavailable { // it has waited for a thread for too long
				return r.Status
			}
		}
	}
	var emails []string
	rows := testenv.Must(db.Query(`SELECT email FROM users WHERE suspended_at IS NULL AND password_hash <> '!' ORDER BY email`))(t)
	defer rows.Close()
	for rows.Next() {
		var email string
		testenv.NoError(t, rows.Scan(&email))
		emails = append(emails, email)
	}
	testenv.NoError(t, rows.Err())
	if len(emails) != 28 {
		t.Errorf("%d accounts can sign in", len(emails))
	}
	for _, email := range emails {
		if got := status(email, "a wrong password"); got != http.StatusUnauthorized {
			t.Errorf("%s, a wrong password: %d", email, got)
		}
		for range 2 {
			if got := status(email, importedPassword); got != http.StatusOK {
				t.Errorf("%s: %d", email, got)
			}
			if n := number(t, db, `SELECT count(*) FROM users WHERE email = $1 AND password_hash LIKE '$2a$08$%'`, email); n != 1 {
				t.Errorf("the hash of %s was not renewed", email)
			}
		}
	}
	for _, email := range []string{"nopassword@native.example", "suspended@native.example", "banned@csv.example", "google@firebase.example"} {
		if got := status(email, importedPassword); got != http.StatusUnauthorized {
			t.Errorf("%s: %d", email, got)
		}
	}
	if n := number(t, db, `SELECT count(*) FROM audit_events WHERE event = 'accounts imported'`); n != 8 {
		t.Errorf("%d imports are in the audit trail", n)
	}
}

func TestImportThatIsKilledIsResumedExactly(t *testing.T) {
	c := postgrestest.Config(t)
	db := connect(t, c)
	runProgram(t, c, "migrate")
	const lines, refusedEach = 120_000, 1000
	path := filepath.Join(t.TempDir(), "users.ndjson")
	var text strings.Builder
	for n := 1; n <= lines; n++ {
		email := fmt.Sprintf("user%d@example.com", n)
		switch n % refusedEach {
		case 0:
			email = "invalid"
		case 1:
			if n > refusedEach {
				email = "user2@example.com" // the second line has it
			}
		}
		fmt.Fprintf(&text, `{"email":%q,"email_verified":true,`+
			`"password_hash":"$2b$10$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"}`+"\n", email)
	}
	testenv.NoError(t, os.WriteFile(path, []byte(text.String()), 0o600))
	args := []string{"users", "import", path, "--from", "native", "--resume"}
	reached := func() int { return number(t, db, `SELECT coalesce(max(read), 0) FROM imports`) }
	for range 3 {
		before := reached()
		p := launch(t, c, args)
		testenv.Until(t, 3*time.Minute, "the import continues", func() bool { return reached() > before })
		time.Sleep(rand.N(150 * time.Millisecond))
		testenv.NoError(t, p.cmd.Process.Kill())
		<-p.ended
		t.Logf("killed after %d of %d accounts", reached(), lines)
	}
	if n := reached(); n == lines {
		t.Error("the import was complete before the last kill")
	}
	const refused = 2*lines/refusedEach - 1
	want := fmt.Sprintf("%d accounts read: %d imported, %d refused", lines, lines-refused, refused)
	if out := runProgram(t, c, args...); !strings.Contains(out, want) {
		t.Errorf("%s", out)
	}
	if n := number(t, db, `SELECT count(*) FROM users`); n != lines-refused {
		t.Errorf("%d accounts; want %d", n, lines-refused)
	}
	if n := number(t, db, `SELECT count(DISTINCT substring(canonical_email FROM '\d+')) FROM users`); n != lines-refused {
		t.Errorf("%d different accounts", n)
	}
	found := map[int]string{}
	for line := range strings.Lines(string(testenv.Must(os.ReadFile(path + ".refused"))(t))) {
		var r struct {
			Number int
			Reason string
		}
		testenv.NoError(t, json.Unmarshal([]byte(line), &r))
		found[r.Number] += r.Reason
	}
	for n := 1; n <= lines; n++ {
		want := map[int]string{0: "email: must be", 1: "email: "}[n%refusedEach]
		if n == 1 {
			want = ""
		}
		if got := found[n]; (got == "") != (want == "") || !strings.HasPrefix(got, want) || strings.Count(got, "email: ") > 1 {
			t.Fatalf("line %d: %q", n, got)
		}
	}
	again := fmt.Sprintf("imported before, with %d accounts", lines-refused)
	if out := runProgram(t, c, args...); !strings.Contains(out, again) || number(t, db, `SELECT count(*) FROM users`) != lines-refused {
		t.Errorf("once more: %s", out)
	}
}

var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// The commands of docs/moving-in.md work as they are written, one after the other.
func TestCommandsOfMovingInWork(t *testing.T) {
	if _, err := exec.LookPath("psql"); err != nil {
		t.Skip(err)
	}
	c := postgrestest.Config(t)
	db := connect(t, c)
	runProgram(t, c, "migrate")
	testenv.Must(db.Exec(`CREATE SCHEMA shop;
		CREATE TABLE shop.customers (id uuid DEFAULT gen_random_uuid(), name text, mail text, pw text, confirmed timestamptz);
		INSERT INTO shop.customers (name, mail, pw, confirmed) VALUES
			(E'Ada "Byron" \\ Lovelace', 'ada@shop.example', '$2a$10$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK', now()),
			('Alan Turing', 'alan@shop.example', '5f4dcc3b5aa765d61d8327deb882cf99', now()), ('Spam', 'spam@shop.example', 'x', NULL)`))(t)
	dir := t.TempDir()
	for name, from := range map[string]string{
		"users.csv": "supabase.csv", "realm.json": "keycloak.json", "auth0.ndjson": "auth0.ndjson", "firebase.json": "firebase.json",
		"firebase.config": "firebase.config", "identities.json": "kratos.json",
	} {
		testenv.NoError(t, os.WriteFile(filepath.Join(dir, name), testenv.Must(os.ReadFile(testdata+from))(t), 0o600))
	}
	text := string(testenv.Must(os.ReadFile("../../docs/moving-in.md"))(t))
	script := "set -e\nauthserver() { \"$PROGRAM\" \"$@\"; }\ngzip auth0.ndjson\n" // as Auth0 delivers it
	blocks := shellBlock.FindAllStringSubmatch(text, -1)
	for _, block := range blocks {
		script += block[1]
	}
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = dir
	program := testenv.Must(filepath.Abs(os.Args[0]))(t)
	cmd.Env = append(os.Environ(), runMain+"=1", "PROGRAM="+program, "HOST=127.0.0.1", "ISSUER=http://auth.test", "SALT_ROUNDS=4",
		"ACCESS_PASSPHRASE=the passphrase of access tokens", "REFRESH_PASSPHRASE=the passphrase of refresh tokens",
		"DB_HOST="+c.Host, "DB_PORT="+strconv.Itoa(c.Port), "DB_NAME="+c.Database, "DB_USER="+c.User, "DB_PASSWORD="+c.Password,
		"PGHOST="+c.Host, "PGPORT="+strconv.Itoa(c.Port), "PGDATABASE="+c.Database, "PGUSER="+c.User, "PGPASSWORD="+c.Password)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(blocks) < 7 || number(t, db, `SELECT count(*) FROM users`) < 14 {
		t.Errorf("%d blocks, and too few accounts:\n%s", len(blocks), out)
	}
	if n := number(t, db, `SELECT count(*) FROM users WHERE email LIKE '%@shop.example'`); n != 2 {
		t.Errorf("%d accounts of the table\n%s", n, out)
	}
}
