package moving_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/hashes"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/moving"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// batches is a Store that only counts.
type batches struct{ sizes []int }

func (*batches) BeginImport(context.Context, string) (moving.Progress, bool, error) {
	return moving.Progress{}, false, nil
}
func (*batches) RestartImport(context.Context, string) error { return nil }
func (*batches) FinishImport(context.Context, string, moving.Progress) error {
	return nil
}
func (*batches) Stage(context.Context, []identity.MovedAccount) (moving.Staged, error) {
	return nil, nil
}
func (s *batches) ImportBatch(_ context.Context, b moving.Batch) error {
	s.sizes = append(s.sizes, len(b.Accounts))
	_, err := b.Refuse(nil)
	return err
}

// Batches are small only if their hashes take long, so that a stopped import has little to repeat.
func TestOnlySlowHashesMakeSmallBatches(t *testing.T) {
	for hash, want := range map[string][]int{
		"":               {150},
		hashes.None:      {150},
		hashes.Migrating: {150},
		"$2b$10$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK":                         {150},
		"pbkdf2_sha256$1000$AsaltOfDjango$LUinhDSk9zpg40FzNWnjd0Va7V3iWo0LUinhDSk9zpg40FzNWnj": {150},
		"88e4ddd2402d92d50e1879d6ecd9ffd4":                                                     {64, 64, 22},
	} {
		var entries iter.Seq2[moving.Entry, error] = func(yield func(moving.Entry, error) bool) {
			for n := range 150 {
				account := identity.MovedAccount{Email: fmt.Sprintf("moved%d@example.com", n), EmailVerified: true, PasswordHash: hash}
				if !yield(moving.Entry{File: "f", Number: n + 1, Account: account}, nil) {
					return
				}
			}
		}
		store, rules := &batches{}, identity.New(identity.Policy{}, identity.Dependencies{Now: time.Now})
		i := moving.Import{Store: store, Check: rules.CheckMovedAccount, Cost: 4}
		p := testenv.Must(i.Run(t.Context(), "files", entries))(t)
		if fmt.Sprint(store.sizes) != fmt.Sprint(want) || p.Refused != 0 {
			t.Errorf("%.20s: the batches have %v accounts, %d refused; want %v", hash, store.sizes, p.Refused, want)
		}
	}
}

// With a rate, an import takes as long as that says, in batches that are small.
func TestImportKeepsToItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var entries iter.Seq2[moving.Entry, error] = func(yield func(moving.Entry, error) bool) {
			for n := range 1050 {
				account := identity.MovedAccount{Email: fmt.Sprintf("moved%d@example.com", n), EmailVerified: true}
				if !yield(moving.Entry{File: "f", Number: n + 1, Account: account}, nil) {
					return
				}
			}
		}
		store, rules := &batches{}, identity.New(identity.Policy{}, identity.Dependencies{Now: time.Now})
		i := moving.Import{Store: store, Check: rules.CheckMovedAccount, Cost: 4, Rate: 1000}
		begun := time.Now()
		p := testenv.Must(i.Run(t.Context(), "files", entries))(t)
		took := time.Since(begun)
		if p.Imported != 1050 || slices.Max(store.sizes) != 50 || took < 990*time.Millisecond || took > 1010*time.Millisecond {
			t.Errorf("%d accounts in %v, at most %d in a batch; want 1050 in 1 s, 50 in a batch", p.Imported, took, slices.Max(store.sizes))
		}
	})
}

func TestExportKeepsToItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		path := filepath.Join(t.TempDir(), "accounts")
		m := testenv.Must(moving.Export(t.Context(), path, 1000, func(f func(*identity.MovedAccount) error) error {
			for range 1050 {
				if err := f(&identity.MovedAccount{}); err != nil {
					return err
				}
			}
			return nil
		}))(t)
		if took := time.Since(begun); m.Users != 1050 || took < 990*time.Millisecond || took > 1010*time.Millisecond {
			t.Errorf("%d accounts in %v; want 1050 in 1 s", m.Users, took)
		}
	})
}

// ahead is a Store that fails at the third batch, once another one is staged.
type ahead struct {
	batches
	staged, discarded, stored atomic.Int32
}

func (s *ahead) Stage(context.Context, []identity.MovedAccount) (moving.Staged, error) {
	s.staged.Add(1)
	return s, nil
}
func (s *ahead) Discard() { s.discarded.Add(1) }
func (s *ahead) ImportBatch(_ context.Context, b moving.Batch) error {
	if s.stored.Add(1) < 3 {
		_, err := b.Refuse(nil)
		return err
	}
	for s.staged.Load() < 4 {
		time.Sleep(time.Millisecond)
	}
	return moving.ErrInterfered
}

func TestImportDiscardsWhatItHasSentAhead(t *testing.T) {
	var entries iter.Seq2[moving.Entry, error] = func(yield func(moving.Entry, error) bool) {
		for n := range 640 {
			account := identity.MovedAccount{Email: fmt.Sprintf("moved%d@example.com", n), EmailVerified: true,
				PasswordHash: "88e4ddd2402d92d50e1879d6ecd9ffd4"}
			if !yield(moving.Entry{File: "f", Number: n + 1, Account: account}, nil) {
				return
			}
		}
	}
	store, rules := &ahead{}, identity.New(identity.Policy{}, identity.Dependencies{Now: time.Now})
	i := moving.Import{Store: store, Check: rules.CheckMovedAccount, Cost: 4}
	if _, err := i.Run(t.Context(), "files", entries); !errors.Is(err, moving.ErrInterfered) {
		t.Errorf("it ends with %v", err)
	}
	if left := store.staged.Load() - store.stored.Load() - store.discarded.Load(); left != 0 {
		t.Errorf("%d batches are neither stored nor discarded", left)
	}
}
