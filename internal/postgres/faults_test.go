package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestUnavailableDatabaseIsReportedInBoundedTime(t *testing.T) {
	t.Parallel()
	c := postgres.Config{Host: "127.0.0.1", Port: 1, User: "u", Password: "secret", Database: "d", SSLMode: "disable"}
	store := postgrestest.Open(t, c)
	unavailable(t, time.Second, "no database", func() error { return store.Ready(t.Context()) })
	unavailable(t, time.Second, "no database", func() error {
		return store.CreateSignUp(t.Context(), newSignUp("ada"), newCode(identity.Verification), noEvent)
	})
	if err := store.Migrate(t.Context()); err == nil {
		t.Error("Migrate reports success")
	}
	if held, err := store.TryRotationLock(t.Context(), nil); held || identity.KindOf(err) != identity.Unavailable {
		t.Errorf("held is %v, error %v", held, err)
	}
}

// unavailable fails the test unless the call returns an error of kind Unavailable in time.
func unavailable(t testing.TB, within time.Duration, what string, call func() error) {
	t.Helper()
	began := time.Now()
	err := call()
	if took := time.Since(began); took > within {
		t.Errorf("%s: took %v; want at most %v", what, took, within)
	}
	e, ok := errors.AsType[*identity.Error](err)
	if !ok || e.Kind != identity.Unavailable || e.RetryAfter <= 0 {
		t.Errorf("%s: the error is %v; want kind Unavailable with RetryAfter", what, err)
	}
}

func TestUnavailablePoolIsReportedInBoundedTime(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	c.MaxConns, c.AcquireTimeout, c.StatementTimeout = 2, 500*time.Millisecond, 20*time.Second
	store := postgrestest.Open(t, c)
	occupy(t, store) // connecting may take long on a busy machine
	u := signUp(t, store, "ada")
	ref := open(t, store, u, time.Now())
	tx := testenv.Must(connect(t, c).Begin())(t)
	testenv.Must(tx.Exec(`SELECT FROM users FOR UPDATE`))(t)
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			if _, err := store.UpdateUser(t.Context(), ref, identity.ProfileChange{}, noEvent); err != nil {
				t.Error(err)
			}
		})
	}
	waits(t, connect(t, c), 2)
	for range 3 {
		unavailable(t, 2*time.Second, "no connection is free", func() error {
			_, err := store.FindUser(t.Context(), ref)
			return err
		})
	}
	if stats := store.Stats(); stats.Max != 2 || stats.Acquired != 2 || stats.GaveUp < 3 || stats.Waited == 0 {
		t.Errorf("the pool's statistics are %+v", stats)
	}
	testenv.NoError(t, tx.Rollback())
	group.Wait()
	if _, err := store.FindUser(t.Context(), ref); err != nil {
		t.Error(err)
	}
}

func TestUnavailableLockIsReportedInBoundedTime(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	c.StatementTimeout = 4 * time.Second // half of it is the lock timeout, long enough for waits on a busy machine
	store := postgrestest.Open(t, c)
	u := signUp(t, store, "ada")
	ref := open(t, store, u, time.Now())
	done := make(chan struct{})
	err := meet(t, c,
		func() error {
			defer close(done)
			unavailable(t, 5*time.Second, "locked", func() error {
				_, err := store.UpdateUser(t.Context(), ref, identity.ProfileChange{}, noEvent)
				return err
			})
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			if _, err := store.UpdateUser(ctx, ref, identity.ProfileChange{}, noEvent); !errors.Is(err, context.Canceled) {
				t.Errorf("the caller canceled the call: the error is %v", err)
			}
			return nil
		},
		func(tx *sql.Tx) error { <-done; return tx.Rollback() },
		`SELECT FROM users FOR UPDATE`)
	if err != nil {
		t.Error(err)
	}
}

// ownServer starts a PostgreSQL server that the test may stop.
func ownServer(t *testing.T) (*localpostgres.Server, postgres.Config) {
	t.Helper()
	s := testenv.Must(localpostgres.Start(t.Context(), localpostgres.Options{}))(t)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s, configOf(s)
}

func configOf(s *localpostgres.Server) postgres.Config {
	return postgres.Config{
		Host: s.Host(), Port: s.Port(), User: s.User(), Password: s.Password(),
		Database: "postgres", SSLMode: "disable",
		AcquireTimeout: time.Second, StatementTimeout: 2 * time.Second,
	}
}

// occupy makes so many concurrent calls that the pool opens all its connections.
func occupy(t *testing.T, store *postgres.Store) {
	t.Helper()
	testenv.Until(t, patience, "the pool is full", func() bool {
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() { _ = store.Ready(t.Context()) })
		}
		group.Wait()
		return store.Stats().Idle == store.Stats().Max
	})
}

func TestRestartCostsNoCallerAnError(t *testing.T) {
	t.Parallel()
	server, c := ownServer(t)
	store := postgrestest.Open(t, c)
	testenv.NoError(t, store.Migrate(t.Context()))
	now := time.Now()
	u := signUp(t, store, "ada")
	ref := open(t, store, u, now)
	calls := map[string]func() error{
		"FindSession":    func() error { _, err := store.FindSession(t.Context(), ref); return err },
		"AdvanceSession": func() error { _, _, err := store.AdvanceSession(t.Context(), ref, -1, identity.Renewal{}); return err },
		"EndSession":     func() error { _, err := store.EndSession(t.Context(), identity.SessionRef{}, noEvent); return err },
		"UpdateUser": func() error {
			return testenv.Err(store.UpdateUser(t.Context(), ref, identity.ProfileChange{}, noEvent))
		},
		"ChangePassword": func() error { return store.ChangePassword(t.Context(), ref, passwordHash, passwordHash, noRecord) },
	}
	for name, call := range calls {
		occupy(t, store)
		testenv.NoError(t, server.Restart(t.Context()))
		for i := range 20 {
			if err := call(); err != nil {
				t.Errorf("%s, call %d after the restart: %v", name, i, err)
			}
		}
	}
}

func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	server, c := ownServer(t)
	store := postgrestest.Open(t, c)
	testenv.NoError(t, store.Migrate(t.Context()))
	now := time.Now()
	u := signUp(t, store, "ada")
	ref := open(t, store, u, now)
	for name, restart := range map[string]func() error{
		"stopped": func() error { return server.Restart(t.Context()) },
		"crashed": func() error { return errors.Join(server.StopNow(), server.StartAgain(t.Context())) },
	} {
		var back atomic.Bool // set once the database answers again
		var stop atomic.Bool
		var calls, failed, slowest atomic.Int64
		var group sync.WaitGroup
		for range 16 {
			group.Go(func() {
				for !stop.Load() {
					wasBack, began := back.Load(), time.Now()
					_, err := store.FindSession(context.WithoutCancel(t.Context()), ref)
					for took := int64(time.Since(began)); ; {
						if seen := slowest.Load(); took <= seen || slowest.CompareAndSwap(seen, took) {
							break
						}
					}
					calls.Add(1)
					switch {
					case err == nil:
						continue
					case identity.KindOf(err) != identity.Unavailable:
						t.Errorf("%s: %v", name, err)
					case wasBack:
						t.Errorf("%s: after the database had recovered: %v", name, err)
					}
					failed.Add(1)
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
		time.Sleep(200 * time.Millisecond)
		testenv.NoError(t, restart())
		back.Store(true)
		time.Sleep(500 * time.Millisecond)
		stop.Store(true)
		group.Wait()
		if bound := c.AcquireTimeout + c.StatementTimeout + time.Second; time.Duration(slowest.Load()) > bound {
			t.Errorf("%s: a call took %v; want at most %v", name, time.Duration(slowest.Load()), bound)
		}
		t.Logf("%s: %d calls, %d unavailable, the slowest took %v", name, calls.Load(), failed.Load(), time.Duration(slowest.Load()))
	}
}

func TestAbortedTransactionIsRepeatedOnce(t *testing.T) {
	t.Parallel()
	store := postgrestest.New(t)
	for _, code := range []string{"40001", "40P01"} {
		for aborts, want := range map[int]identity.Kind{1: -1, 2: identity.Unavailable} {
			tries := 0
			err := store.Do(t.Context(), func() error {
				if tries++; tries <= aborts {
					return &pgconn.PgError{Code: code}
				}
				return nil
			})
			if tries != 2 || (err == nil) != (want == -1) || err != nil && identity.KindOf(err) != want {
				t.Errorf("%s %d times: %d tries, error %v", code, aborts, tries, err)
			}
		}
	}
}

func TestTranslateReturnsTheDomainsErrors(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for code, want := range map[string]identity.Kind{
		"08006": identity.Unavailable, "53100": identity.Unavailable, "53300": identity.Unavailable,
		"57P01": identity.Unavailable, "57P03": identity.Unavailable, "57014": identity.Unavailable,
		"55P03": identity.Unavailable, "25006": identity.Unavailable, "40001": identity.Unavailable,
		"58030": identity.Unavailable, "XX000": identity.Unavailable, "ZZ999": identity.Unavailable,
		"42P01": identity.Internal, "22P02": identity.Internal, "22021": identity.Internal,
		"23514": identity.Internal, "23505": identity.Internal, "54000": identity.Internal,
	} {
		err := postgres.Translate(ctx, fmt.Errorf("wrapped: %w", &pgconn.PgError{
			Code: code, Message: "message about ada@example.com", Detail: "Key (email)=(ada@example.com) exists",
			ConstraintName: "some_constraint",
		}))
		if got := identity.KindOf(err); got != want {
			t.Errorf("%s is %v; want %v", code, got, want)
		}
		want := "PostgreSQL: SQLSTATE " + code + ", constraint some_constraint"
		if got := errors.Unwrap(err).Error(); got != want {
			t.Errorf("the cause is %q; want %q", got, want)
		}
	}
	for _, err := range []error{errors.New("ada@example.com"), context.DeadlineExceeded} {
		got, ok := errors.AsType[*identity.Error](postgres.Translate(ctx, err))
		if !ok || got.Kind != identity.Unavailable || got.Cause.Error() == "ada@example.com" {
			t.Errorf("%v becomes %v", err, got)
		}
	}
}
