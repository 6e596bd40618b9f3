package postgres_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// PostgreSQL logs the colliding values with a unique violation. Its log is rarely protected
// like personal data, so no call may cause such an error.
func TestServerLogContainsNoNameThatIsTaken(t *testing.T) {
	t.Parallel()
	log := new(testenv.Output)
	server := testenv.Must(localpostgres.Start(t.Context(), localpostgres.Options{Log: log}))(t)
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	c := configOf(server)
	c.AcquireTimeout, c.StatementTimeout = 20*time.Second, 20*time.Second
	store := postgrestest.Open(t, c)
	testenv.NoError(t, store.Migrate(t.Context()))
	now := time.Now()
	ada := signUp(t, store, "ada")
	name := "wanted-by-many"
	refs := []identity.SessionRef{open(t, store, ada, now)}
	for len(refs) < 64 {
		refs = append(refs, open(t, store, signUp(t, store, "u"+newID()), now))
	}
	var group sync.WaitGroup
	var taken, done sync.Map
	for i, ref := range refs {
		group.Go(func() {
			u, err := store.UpdateUser(t.Context(), ref, identity.ProfileChange{Username: &name, CanonicalUsername: &name}, noEvent)
			collision, isTaken := errors.AsType[*identity.TakenError](err)
			switch {
			case err == nil && u.Username == name:
				done.Store(i, true)
			case isTaken && collision.Username && !collision.Email:
				taken.Store(i, true)
			default:
				t.Errorf("%+v, %v", u, err)
			}
		})
	}
	group.Wait()
	size := func(m *sync.Map) (n int) { m.Range(func(any, any) bool { n++; return true }); return n }
	if size(&done) != 1 || size(&taken) != 63 {
		t.Errorf("%d users got the name, and %d got a TakenError", size(&done), size(&taken))
	}
	// Once the log contains this error, it contains everything before it.
	if err := store.Raw(t.Context(), `SELECT 1/0 AS the_end_of_the_test`); err == nil {
		t.Fatal("division by zero succeeds")
	}
	testenv.Until(t, patience, "the log has been written", func() bool { return log.Contains("the_end_of_the_test") })
	for _, leak := range []string{name, "@example.com", "duplicate key", "already exists"} {
		if strings.Contains(log.String(), leak) {
			t.Errorf("PostgreSQL's log contains %q:\n%s", leak, log)
		}
	}
}
