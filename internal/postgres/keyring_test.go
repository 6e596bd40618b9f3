package postgres_test

import (
	"context"
	"errors"
	"reflect"
	"strconv"
	"strings"
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
	ring := func(wantFiles map[string][]byte, wantGeneration int64) string {
		t.Helper()
		files, version, err := store.LoadRing(ctx)
		generation, _, _ := strings.Cut(version, " ")
		is := version == "" && wantGeneration == 0 || generation == strconv.FormatInt(wantGeneration, 10)
		if err != nil || !is || !reflect.DeepEqual(files, wantFiles) {
			t.Errorf("the ring is %q of version %s, error %v; want %q of %d", files, version, err, wantFiles, wantGeneration)
		}
		if looked, err := store.RingVersion(ctx); err != nil || looked != version {
			t.Errorf("the version is %q and %q, error %v", looked, version, err)
		}
		return version
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
	version := ring(second, 2)
	// Another ring of the same generation, as after a failover that lost the last swap, has another version.
	swap(2, 1, first, true)
	swap(1, 2, first, true)
	if other := ring(first, 2); other == version {
		t.Errorf("two rings have the version %s", version)
	}
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
