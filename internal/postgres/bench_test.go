package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// BenchmarkCalls measures the calls of the hot routes. For comparison it also measures
// the lower bound: one round trip that uses only the driver.
func BenchmarkCalls(b *testing.B) {
	c := postgrestest.Config(b)
	fill(b, c, 10_000)
	store := postgrestest.Open(b, c)
	now := time.Now().UTC().Truncate(time.Second)
	u := signUp(b, store, "ada")
	ref := open(b, store, u, now)

	run := func(name string, call func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(4)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := call(); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
	pool := testenv.Must(pgxpool.New(b.Context(), postgrestest.DSN(c)))(b)
	defer pool.Close()
	run("floor", func() error {
		var one int
		return pool.QueryRow(b.Context(), `SELECT 1 WHERE $1 = 1`, 1).Scan(&one)
	})
	run("floor of FindUser", func() error {
		var id, username, email, first, last, scope string
		var verified bool
		var created, updated time.Time
		return pool.QueryRow(b.Context(), `SELECT u.id::text, u.username, u.email, u.first_name, u.last_name, u.scope,
			u.email_verified_at IS NOT NULL, u.created_at, u.updated_at FROM sessions s JOIN users u ON u.id = s.user_id
			WHERE s.id = $1 AND s.user_id = $2 AND s.expires_at > $3`, ref.ID, ref.UserID, ref.Now).
			Scan(&id, &username, &email, &first, &last, &scope, &verified, &created, &updated)
	})
	run("FindUser", func() error { _, err := store.FindUser(b.Context(), ref); return err })
	run("FindSession", func() error { _, err := store.FindSession(b.Context(), ref); return err })
	run("FindCredentials", func() error {
		_, err := store.FindCredentials(b.Context(), identity.Login{CanonicalUsername: "ada"})
		return err
	})
	// Each goroutine has its own session, so that renewals do not wait for one another.
	run("sign-up, sign-in, renewal, sign-out", func() error { return lifeOfASession(b.Context(), store, now, noEvent) })
	recorded := identity.Event{Name: identity.EventSignedIn, UserID: u.ID, SessionID: ref.ID, RequestID: "request-1"}
	run("sign-up, sign-in, renewal, sign-out, recorded", func() error { return lifeOfASession(b.Context(), store, now, recorded) })
}

func lifeOfASession(ctx context.Context, store *postgres.Store, now time.Time, e identity.Event) error {
	c := newCode(identity.Verification)
	if err := store.CreateSignUp(ctx, newSignUp("u"+newID()), c, e); err != nil {
		return err
	}
	created, err := store.RedeemVerification(ctx, identity.ClaimProof{Code: c.Hash}, newSession(identity.User{}, now),
		identity.Record{Event: e})
	if err != nil {
		return err
	}
	n := newSession(created, now)
	if err := store.OpenSession(ctx, n, e); err != nil {
		return err
	}
	ref := identity.SessionRef{ID: n.ID, UserID: n.UserID, Now: now}
	if _, _, err := store.AdvanceSession(ctx, ref, 0, identity.Renewal{RefreshedAt: now, Lifetime: time.Hour}); err != nil {
		return err
	}
	_, err = store.EndSession(ctx, ref, e)
	return err
}
