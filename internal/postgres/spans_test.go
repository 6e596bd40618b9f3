package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/span"
	"github.com/auth-gateway/auth-gateway/internal/span/spantest"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestSpansNameStatementsAndShowNoValues(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	c.MaxConns, c.AcquireTimeout = 1, 300*time.Millisecond
	store := testenv.Must(postgres.Open(c))(t)
	defer store.Close()
	testenv.NoError(t, store.Migrate(t.Context()))
	recorded := func(f func(context.Context) error) (*spantest.Recording, error) {
		r := &spantest.Recording{}
		return r, f(span.With(t.Context(), r))
	}

	r, err := recorded(func(ctx context.Context) error { _, err := store.MaxConnections(ctx); return err })
	testenv.NoError(t, err)
	if got := r.Names(); !slices.Equal(got, []string{"MaxConnections"}) {
		t.Errorf("the spans are %q", got)
	}

	const value = "the-marker-of-a-value"
	r, err = recorded(func(ctx context.Context) error { return store.Raw(ctx, "SELECT '"+value+"'::int") })
	if err == nil || !strings.Contains(err.Error(), "22P02") {
		t.Fatalf("the error is %v, want 22P02", err)
	}
	if got := r.Names(); !slices.Equal(got, []string{"SELECT 22P02"}) || strings.Contains(fmt.Sprintf("%+v", r.Spans()), value) {
		t.Errorf("the spans are %+v", r.Spans())
	}

	r, err = recorded(func(ctx context.Context) error {
		return store.InTx(ctx, func(ctx context.Context) error {
			// The only connection is in use.
			_, err := store.MaxConnections(ctx)
			return err
		})
	})
	if got := r.Names(); err == nil || !slices.Equal(got, []string{"BEGIN", "connection wait timeout", "ROLLBACK"}) {
		t.Errorf("%v: the spans are %q", err, got)
	}

	done := make(chan error)
	testenv.NoError(t, store.InTx(t.Context(), func(context.Context) error {
		go func() {
			var err error
			r, err = recorded(func(ctx context.Context) error { _, err := store.MaxConnections(ctx); return err })
			done <- err
		}()
		time.Sleep(50 * time.Millisecond)
		return nil
	}))
	testenv.NoError(t, <-done)
	if got := r.Names(); !slices.Equal(got, []string{"connection wait", "MaxConnections"}) {
		t.Errorf("after a wait the spans are %q", got)
	}
}
