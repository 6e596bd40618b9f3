package authserver_test

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// logs keeps everything that the replicas of a test log, at the level debug,
// and every secret that went over the wire meanwhile. When the test ends, none
// of these may be in those: row L01 of the security decisions, over all tests.
type logs struct {
	testenv.Output

	mu      sync.Mutex
	private map[string]string // what must not be logged: what it is
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// secretMembers are the parameters and the members of replies that only their user may
// see. They include personal data.
var secretMembers = []string{
	"password", "old_password", "code", "token", "access_token", "refresh_token",
	"username", "email", "first_name", "last_name", "name",
}

// probeLength is how many bytes of a secret the test looks for first. It does not look
// for shorter secrets, because they may occur by chance.
const probeLength = 10

func (l *logs) secrets(members body) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range secretMembers {
		l.note(name, members[name])
	}
	if code := members["code"]; code != "" {
		digest := sha256.Sum256([]byte(code))
		l.note("hash of a code", hex.EncodeToString(digest[:]))
		l.note("hash of a code", base64.StdEncoding.EncodeToString(digest[:]))
	}
}

// note is called with mu held.
func (l *logs) note(what, secret string) {
	if len(secret) < probeLength {
		return
	}
	if l.private == nil {
		l.private = map[string]string{}
	}
	l.private[secret] = what
}

func (l *logs) check(t testing.TB, db postgres.Config) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note("the access passphrase", accessPassphrase)
	l.note("the refresh passphrase", refreshPassphrase)
	l.note("the database's password", db.Password)
	for _, hash := range column(t, db, "SELECT password_hash FROM users") {
		l.note("password hash", hash)
	}
	for _, found := range findSecrets([]byte(l.String()), l.private) {
		t.Errorf("the logs hold the %s %q", l.private[found], found)
	}
	trail := strings.Join(column(t, db, "SELECT e::text FROM audit_events e"), "\n")
	for _, found := range findSecrets([]byte(trail), l.private) {
		t.Errorf("the audit trail holds the %s %q", l.private[found], found)
	}
	if t.Failed() && testing.Verbose() {
		t.Logf("the logs:\n%s", l)
	}
}

// findSecrets looks for all secrets in one pass over the text.
func findSecrets(text []byte, secrets map[string]string) (found []string) {
	byPrefix := map[string][]string{}
	for secret := range secrets {
		byPrefix[secret[:probeLength]] = append(byPrefix[secret[:probeLength]], secret)
	}
	seen := map[string]bool{}
	for i := 0; i+probeLength <= len(text); i++ {
		for _, secret := range byPrefix[string(text[i:i+probeLength])] {
			if !seen[secret] && bytes.HasPrefix(text[i:], []byte(secret)) {
				seen[secret] = true
				found = append(found, secret)
			}
		}
	}
	return found
}

// column runs a query behind the servers' back. A database that is not there
// any more, or has no such table, has no rows.
func column(t testing.TB, c postgres.Config, query string, args ...any) (values []string) {
	t.Helper()
	db, err := sql.Open("pgx", postgrestest.DSN(c))
	testenv.NoError(t, err)
	defer db.Close()
	rows, err := db.Query(query, args...)
	if err != nil {
		return nil
	}
	defer rows.Close()
	for rows.Next() {
		var value string
		testenv.NoError(t, rows.Scan(&value))
		values = append(values, value)
	}
	testenv.NoError(t, rows.Err())
	return values
}

func TestTheCheckOfTheLogsFindsWhatMustNotBeThere(t *testing.T) {
	l := new(logs)
	l.secrets(body{"password": "correct horse battery", "code": "0123456789abcdef", "scope": "profile email"})
	if _, err := l.Write([]byte(`{"msg":"correct horse battery","scope":"profile email","x":"0123456789abcdeX"}`)); err != nil {
		t.Fatal(err)
	}
	found := findSecrets([]byte(l.String()), l.private)
	if len(found) != 1 || found[0] != "correct horse battery" {
		t.Errorf("found %q", found)
	}
}
