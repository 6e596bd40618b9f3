package authserver_test

import (
	"fmt"
	"maps"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/keystest"
)

// seed stores a ring in a database, so replicas start at once. Creating a ring takes seconds, because key derivation is
// slow on purpose.
func seed(t testing.TB, db postgres.Config) {
	t.Helper()
	ring := prepareRotation(t).first
	store := testenv.Must(postgres.Open(db))(t)
	defer store.Close()
	if swapped, err := store.SwapRing(t.Context(), 0, ring.Generation, ring.Files(), identity.Event{}); err != nil || !swapped {
		t.Fatalf("SwapRing: %v, %v", swapped, err)
	}
}

func testPassphrases() keys.Passphrases {
	return keys.Passphrases{Access: []string{accessPassphrase}, Refresh: []string{refreshPassphrase}}
}

// rotation is a ring at the steps of a rotation, the same in all tests.
type rotation struct {
	first, published, promoted, revoked keys.Ring

	former, successor map[keys.Use]string // key ids
}

var preparedRotation = sync.OnceValue(func() *rotation {
	all := keystest.Rotate(&testing.T{}, keystest.Policy(), testPassphrases(), time.Now())
	r := &rotation{
		first: all.First, published: all.Published, promoted: all.Promoted, revoked: all.Revoked,
		former: map[keys.Use]string{}, successor: map[keys.Use]string{},
	}
	for _, use := range keys.Uses() {
		former, _ := r.first.Signing(use)
		successor, _ := r.promoted.Signing(use)
		r.former[use], r.successor[use] = former.ID, successor.ID
	}
	return r
})

func prepareRotation(t testing.TB) *rotation {
	t.Helper()
	r := preparedRotation()
	if !r.promoted.Honoured("once") {
		t.Fatal("the rotation was not prepared")
	}
	return r
}

// files returns a ring as in a mounted Secret.
func (r *rotation) files(ring keys.Ring) map[string]string { return texts(ring.Files()) }

// reencrypted returns the files of a ring's next generation, encrypted with other passphrases and a number of rounds.
func (r *rotation) reencrypted(
	t testing.TB, ring keys.Ring, passphrases map[keys.Use]string, rounds int,
) map[string]string {
	t.Helper()
	return texts(keystest.Reencrypt(t, ring, testPassphrases(), passphrases, rounds).Files())
}

// renumbered returns the files of a ring with another generation.
func renumbered(t testing.TB, files map[string]string, generation int64) map[string]string {
	t.Helper()
	files = maps.Clone(files)
	line := regexp.MustCompile(`"generation": [0-9]+,`)
	if len(line.FindAllString(files["ring.json"], -1)) != 1 {
		t.Fatalf("ring.json has no generation:\n%s", files["ring.json"])
	}
	files["ring.json"] = line.ReplaceAllString(files["ring.json"], fmt.Sprintf(`"generation": %d,`, generation))
	return files
}
