package main

import (
	"database/sql"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/argon2"

	"github.com/auth-gateway/auth-gateway/internal/hashes"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// Two threads that check imported hashes at the bound of memory would need more than the whole pod has.
func TestMemoryOfImportedHashesIsBounded(t *testing.T) {
	group := newMemoryGroup(t)
	db := postgrestest.Config(t)
	p := launchIn(t, group.enter, db, []string{"serve"}, "LOG_LEVEL=warn",
		"HASHING_THREADS=2", "HASHING_MAX_WAIT=5s", "LIMIT_SIGNIN=off")
	p.waitReady()
	connection := testenv.Must(sql.Open("pgx", postgrestest.DSN(db)))(t)
	defer connection.Close()
	salt := []byte("a salt of 16 B..")
	const password, accounts = "correct horse battery", 6
	for i := range accounts {
		memory := uint32(hashes.MaxMemory>>10 - 1024*(i%2)) // two schemes, so that a wrong password takes both
		hash := hashes.Argon2("argon2id", int(memory), 1, 1, salt, argon2.IDKey([]byte(password), salt, 1, memory, 1, 32))
		testenv.Must(testenv.Must(hashes.Import(hash))(t).Stored(4))(t)
		testenv.Must(connection.Exec(`INSERT INTO users (id, username, canonical_username, email, canonical_email, first_name, last_name,
				scope, password_hash, email_verified_at, activated_at)
			SELECT gen_random_uuid(), name, name, name || '@mailbox.example', name || '@mailbox.example', 'A', 'B',
				'profile', $2, now(), now()
			FROM (SELECT 'imported' || $1::text AS name) names`, strconv.Itoa(i), hash))(t)
	}
	signIn := func(i int, password string) int {
		body := fmt.Sprintf(`{"username":"imported%d","password":%q}`, i, password)
		for {
			resp, err := http.Post(p.api+"/tokens/signin", "application/json", strings.NewReader(body))
			if err != nil {
				return 0
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable { // it has waited for a thread for too long
				return resp.StatusCode
			}
		}
	}
	var clients sync.WaitGroup
	for i := range accounts {
		clients.Go(func() {
			for range 3 {
				if status := signIn(i, "a wrong password"); status != http.StatusUnauthorized {
					t.Errorf("a wrong password: %d", status)
				}
			}
			for range 2 { // the first one renews the hash
				if status := signIn(i, password); status != http.StatusOK {
					t.Errorf("the right password: %d", status)
				}
			}
		})
	}
	clients.Wait()
	t.Logf("at most %s of %d MiB were used", group.mostUsed(), podLimit>>20)
	select {
	case <-p.ended:
		t.Fatalf("the server was ended: %v", p.cmd.ProcessState)
	default:
	}
	var own int
	testenv.NoError(t, connection.QueryRow(`SELECT count(*) FROM users WHERE password_hash LIKE '$2a$08$%'`).Scan(&own))
	if own != accounts {
		t.Errorf("%d of %d hashes were renewed", own, accounts)
	}
}
