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

// logs has everything that the replicas of a test log, at level debug, and every secret in their requests and replies.
// At the end of a test no secret may be in the logs: row L01 of the security decisions, in all tests.
type logs struct {
	testenv.Output

	mu      sync.Mutex
	private map[string]string // the secrets, and what they are
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// secretMembers are the parameters and the members of replies that only their user may see, including personal data.
var secretMembers = []string{
	"password", "old_password", "code", "token", "access_token", "refresh_token",
	"username", "email", "first_name", "last_name", "name",
}

// probeLength is the number of bytes of a secret that the test searches for first. Shorter secrets may occur by chance.
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
	l.note("the access passphrase", accessPassphrase)
	l.note("the refresh passphrase", refreshPassphrase)
	l.note("the database's password", db.Password)
	for _, hash := range column(t, db, "SELECT password_hash FROM users") {
		l.note("password hash", hash)
	}
	l.mu.Unlock()
	l.hasNone(t, "the log", l.String())
	l.hasNone(t, "the audit trail", strings.Join(column(t, db, "SELECT e::text FROM audit_events e"), "\n"))
	if t.Failed() && testing.Verbose() {
		t.Logf("the logs:\n%s", l)
	}
}

// hasNone reports an error for each secret in a text.
func (l *logs) hasNone(t testing.TB, what, text string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, found := range findSecrets([]byte(text), l.private) {
		t.Errorf("%s contains the %s %q", what, l.private[found], found)
	}
}

// findSecrets searches for all secrets in one pass over the text.
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

// column runs a query without the server. A database that has been dropped, or has no such table, has no rows.
func column(t testing.TB, c postgres.Config, query string, args ...any) (values []string) {
	t.Helper()
	db := testenv.Must(sql.Open("pgx", postgrestest.DSN(c)))(t)
	defer db.Close()
	rows, err := db.Query(query, args...)
	if err != nil {
		return nil
	}
	defer rows.Close()
	for rows.Next() {
		var value string
		testenv.OK(t, rows.Scan(&value))
		values = append(values, value)
	}
	testenv.OK(t, rows.Err())
	return values
}

func TestLogCheckFindsSecrets(t *testing.T) {
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
