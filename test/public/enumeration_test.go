package public

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/auth-gateway/auth-gateway/internal/hashes"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// pairs is the number of requests of each kind in a comparison.
const pairs = 2000

// planted is the difference that the test must find.
const planted = 2 * time.Millisecond

const password = "correct horse battery"

// The kinds of accounts. All names have the same length.
const (
	verified   = "verifiedxx"
	unverified = "unverified"
	suspended  = "suspendedx"
	nobody     = "nobodyxxxx"
	argon2id   = "importedar" // an imported hash, which takes a few milliseconds more than an own one
	oldBcrypt  = "importedbc" // an imported hash of a higher cost than the own ones
	newcomer   = "newcomerxx" // has no account yet
)

var newcomers atomic.Int64

func newName() string { return name("newxxxxxxx", int(newcomers.Add(1))) }

// populate creates n accounts of each kind by SQL: signing them up would take longer than the test.
func (g *gateway) populate(n int) {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		g.t.Fatal(err)
	}
	salt := []byte("a salt of 16 B..")
	ofArgon2 := hashes.Argon2("argon2id", 1024, 1, 1, salt, argon2.IDKey([]byte(password), salt, 1, 1024, 1, 32))
	ofBcrypt := "$2b" + string(testenv.Must(bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost+1))(g.t))[3:]
	for kind, hash := range map[string]string{verified: string(hash), suspended: string(hash), argon2id: ofArgon2, oldBcrypt: ofBcrypt} {
		g.exec(`INSERT INTO users (id, username, canonical_username, email, canonical_email, first_name, last_name,
				scope, password_hash, email_verified_at, activated_at, suspended_at)
			SELECT gen_random_uuid(), name, name, name || '@mailbox.example', name || '@mailbox.example', 'A', 'B',
				'profile email', $3, now(), now(),
				CASE WHEN $1 = 'suspendedx' THEN now() END
			FROM (SELECT $1 || '.' || lpad(i::text, 5, '0') AS name FROM generate_series(0, $2 - 1) i) names`, kind, n, hash)
	}
	g.exec(`INSERT INTO signups (id, username, canonical_username, email, canonical_email, first_name, last_name, scope, password_hash)
		SELECT gen_random_uuid(), name, name, name || '@mailbox.example', name || '@mailbox.example', 'A', 'B', 'profile email', $3
		FROM (SELECT $1 || '.' || lpad(i::text, 5, '0') AS name FROM generate_series(0, $2 - 1) i) names`, unverified, n, string(hash))
	g.exec(`ANALYZE users`)
	g.exec(`ANALYZE signups`)
}

// ask creates the body of a request about account i of a kind.
type ask func(kind string, i int) map[string]string

func signIn(kind string, i int) map[string]string {
	return map[string]string{"username": name(kind, i), "password": "a wrong password"}
}

func signInByAddress(kind string, i int) map[string]string {
	return map[string]string{"username": address(kind, i), "password": "a wrong password"}
}

func signInRight(kind string, i int) map[string]string {
	return map[string]string{"username": name(kind, i), "password": password}
}

func byAddress(kind string, i int) map[string]string {
	return map[string]string{"email": address(kind, i)}
}

func signUp(kind string, i int) map[string]string {
	return map[string]string{"username": newName(), "email": address(kind, i), "first_name": "A", "last_name": "B", "password": password}
}

func signUpName(kind string, i int) map[string]string {
	return map[string]string{"username": name(kind, i), "email": newName() + "@mailbox.example", "first_name": "A",
		"last_name": "B", "password": password}
}

// A client cannot find out whether an account exists or what state it is in: each route without a token replies with
// the same status, header fields and bytes, and takes the same time, for every account.
func TestEnumerationIsPrevented(t *testing.T) {
	g := start(t, map[string]string{"LIMIT_SIGNIN": "off", "LIMIT_SIGNUP": "off", "LIMIT_CODES": "off", "LIMIT_MAILS": "100/1h"})
	g.populate(pairs)
	plan := []struct {
		about, path string
		ask         ask
		known       string
		unknown     string
		status      int
	}{
		// The imported ones first: from then on, all others take their work too.
		{"sign-in, argon2id, a wrong password", "/tokens/signin", signIn, argon2id, nobody, http.StatusUnauthorized},
		{"sign-in, bcrypt of another cost", "/tokens/signin", signIn, oldBcrypt, nobody, http.StatusUnauthorized},
		{"sign-in, a wrong password", "/tokens/signin", signIn, verified, nobody, http.StatusUnauthorized},
		{"sign-in by address, a wrong password", "/tokens/signin", signInByAddress, verified, nobody, http.StatusUnauthorized},
		{"sign-in, not verified, a wrong password", "/tokens/signin", signIn, unverified, nobody, http.StatusUnauthorized},
		{"sign-in, not verified, the right password", "/tokens/signin", signInRight, unverified, nobody, http.StatusUnauthorized},
		{"sign-in, suspended, the right password", "/tokens/signin", signInRight, suspended, nobody, http.StatusUnauthorized},
		{"forgot-password, verified", "/users/forgot-password", byAddress, verified, nobody, http.StatusAccepted},
		{"forgot-password, not verified", "/users/forgot-password", byAddress, unverified, nobody, http.StatusAccepted},
		{"forgot-password, suspended", "/users/forgot-password", byAddress, suspended, nobody, http.StatusAccepted},
		{"verification-code, not verified", "/users/verification-code", byAddress, unverified, nobody, http.StatusAccepted},
		{"verification-code, verified", "/users/verification-code", byAddress, verified, nobody, http.StatusAccepted},
		{"sign-up, the address is taken", "/users", signUp, verified, newcomer, http.StatusAccepted},
		{"sign-up, the name is taken", "/users", signUpName, verified, newcomer, http.StatusAccepted},
	}
	for _, c := range plan {
		t.Run(c.about, func(t *testing.T) {
			measured := g.compare(t, g.base+c.path, c.ask, c.known, c.unknown, c.status)
			t.Log(measured)
			if measured.differs() {
				t.Errorf("the two kinds differ in time: %v", measured)
			}
			if p := measured.power(planted); p < 0.99 {
				t.Errorf("the test finds %v in only %.0f %% of cases", planted, 100*p)
			}
		})
	}
	t.Run("a planted difference is found", func(t *testing.T) {
		base := g.delayed(verified, planted)
		measured := g.compare(t, base+"/tokens/signin", signIn, verified, nobody, http.StatusUnauthorized)
		t.Log(measured)
		if !measured.differs() {
			t.Errorf("%v is not found: %v", planted, measured)
		}
	})
}

// compare sends pairs of requests, one about a known account and one about an unknown one, in random order.
func (g *gateway) compare(t *testing.T, url string, ask ask, known, unknown string, status int) comparison {
	t.Helper()
	g.t = t
	// The names of an earlier comparison have failures and uses: a row of theirs is updated, and one of a new name is
	// inserted, which takes a different time. Here both kinds start without a history.
	g.exec(`TRUNCATE throttles, limits`)
	var c comparison
	var first reply
	for i := range pairs + 50 {
		var took [2]time.Duration
		order := []int{0, 1}
		if rand.IntN(2) == 0 {
			slices.Reverse(order)
		}
		for _, which := range order {
			content := testenv.Must(json.Marshal(ask([]string{known, unknown}[which], i%pairs)))(t)
			began := time.Now()
			r := g.send(url, nil, content)
			took[which] = time.Since(began)
			if r.status != status {
				t.Fatalf("%s: %d %s", content, r.status, r.body)
			}
			if first.status == 0 {
				first = r
			}
			if seen, before := visible(r), visible(first); seen != before {
				t.Fatalf("the reply to %s is\n%s\nand another reply is\n%s", content, seen, before)
			}
		}
		if i >= 50 { // the first ones warm up
			c.known, c.unknown = append(c.known, took[0]), append(c.unknown, took[1])
		}
	}
	return c
}

// visible returns everything in a reply that does not differ between all replies.
func visible(r reply) string {
	header := r.header.Clone()
	header.Del("Date")
	header.Del("X-Request-Id")
	text := fmt.Sprintln(r.status, r.body)
	for _, field := range slices.Sorted(maps.Keys(header)) {
		text += fmt.Sprintln(field, header[field])
	}
	return text
}
