package postgres_test

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

func TestRingIsReplacedByCompareAndSwap(t *testing.T) {
	t.Parallel()
	store := postgrestest.New(t)
	ctx := t.Context()
	ring := func(wantFiles map[string][]byte, wantGeneration int64) {
		t.Helper()
		files, generation, err := store.LoadRing(ctx)
		if err != nil || generation != wantGeneration || !reflect.DeepEqual(files, wantFiles) {
			t.Errorf("the ring is %q of generation %d, error %v; want %q of %d", files, generation, err, wantFiles, wantGeneration)
		}
		if generation, err := store.RingGeneration(ctx); err != nil || generation != wantGeneration {
			t.Errorf("the generation is %d, error %v", generation, err)
		}
	}
	swap := func(from, to int64, files map[string][]byte, want bool) {
		t.Helper()
		if swapped, err := store.SwapRing(ctx, from, to, files, noEvent); err != nil || swapped != want {
			t.Errorf("from %d to %d: swapped is %v, error %v", from, to, swapped, err)
		}
	}
	first := map[string][]byte{"ring.json": []byte(`{"keys":[]}`), "binary": {0, 1, 0xff}, "empty": {}}
	second := map[string][]byte{"ring.json": []byte("second")}
	ring(nil, 0)
	swap(1, 2, first, false) // no ring exists yet
	swap(0, 1, first, true)
	ring(first, 1)
	swap(0, 1, second, false)
	swap(2, 3, second, false)
	ring(first, 1)
	swap(1, 2, second, true)
	ring(second, 2)
}

func TestRingIsSwappedByOneOfMany(t *testing.T) {
	t.Parallel()
	store := postgrestest.New(t)
	for from := range int64(20) {
		var swaps atomic.Int64
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() {
				swapped, err := store.SwapRing(t.Context(), from, from+1, map[string][]byte{"x": {1}}, noEvent)
				if err != nil {
					t.Error(err)
				}
				if swapped {
					swaps.Add(1)
				}
			})
		}
		group.Wait()
		if n := swaps.Load(); n != 1 {
			t.Errorf("%d swaps from generation %d succeeded", n, from)
		}
	}
}

func TestRingRotationLockIsHeldByOneProcess(t *testing.T) {
	t.Parallel()
	c := postgrestest.Config(t)
	c.MaxConns = 1 // a call under the lock still finds a connection
	one, other := postgrestest.Open(t, c), postgrestest.Open(t, c)
	failure := errors.New("failure of the function")
	held, err := one.TryRotationLock(t.Context(), func(ctx context.Context) error {
		held, err := other.TryRotationLock(ctx, func(context.Context) error {
			t.Error("the function ran although the other process holds the lock")
			return nil
		})
		if held || err != nil {
			t.Errorf("while the other process holds the lock: held is %v, error %v", held, err)
		}
		if _, err := one.SwapRing(ctx, 0, 1, map[string][]byte{"x": {1}}, noEvent); err != nil {
			t.Error(err)
		}
		return failure
	})
	if !held || !errors.Is(err, failure) {
		t.Errorf("held is %v, error %v", held, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	testenv.Until(t, patience, "the lock is free again", func() bool {
		held, err := other.TryRotationLock(ctx, func(context.Context) error {
			cancel() // the lock is released nevertheless
			return nil
		})
		return held && err == nil
	})
	testenv.Until(t, patience, "the lock is free again", func() bool {
		held, err := one.TryRotationLock(t.Context(), func(context.Context) error { return nil })
		return held && err == nil
	})
}
