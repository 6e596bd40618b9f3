package keyring

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/keystest"
)

// memoryStore is a Store in memory, for one process.
type memoryStore struct {
	generation int64
	files      map[string][]byte
	events     []string // each is a name and a reason
	interfere  func()   // called before the next swap
}

func (s *memoryStore) LoadRing(ctx context.Context) (map[string][]byte, string, error) {
	version, err := s.RingVersion(ctx)
	return s.files, version, err
}

func (s *memoryStore) RingVersion(context.Context) (string, error) {
	return fmt.Sprintf("%d %x", s.generation, sha256.Sum256(fmt.Append(nil, s.files))), nil
}

func (s *memoryStore) SwapRing(
	_ context.Context, from, to int64, files map[string][]byte, event identity.Event,
) (bool, error) {
	if f := s.interfere; f != nil {
		s.interfere = nil
		f()
	}
	if from != s.generation {
		return false, nil
	}
	s.generation, s.files = to, files
	for _, detail := range event.Details {
		if detail.Key == "reason" {
			s.events = append(s.events, string(event.Name)+" "+detail.Value.String())
		}
	}
	return true, nil
}

func (s *memoryStore) TryRotationLock(ctx context.Context, f func(context.Context) error) (bool, error) {
	return true, f(ctx)
}

func TestReadFilesReadsOnlyTheFilesOfARing(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) {
		t.Helper()
		testenv.NoError(t, os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600))
	}
	for _, name := range []string{"ring.json", "kid.pem", ".hidden.pem", "..data", "README", "kid.pem~", "tls.key"} {
		write(name, 1)
	}
	testenv.NoError(t, os.Mkdir(filepath.Join(dir, "..2026_01_01"), 0o700))
	files, err := readFiles(dir)
	if err != nil || len(files) != 2 || files["ring.json"] == nil || files["kid.pem"] == nil {
		t.Errorf("got %d files, %v", len(files), err)
	}
	write("large.pem", maxKeyFile+1)
	if _, err := readFiles(dir); err == nil {
		t.Error("a file over the limit is read")
	}
	testenv.NoError(t, os.Remove(filepath.Join(dir, "large.pem")))
	testenv.NoError(t, os.Symlink("gone.pem", filepath.Join(dir, "dangling.pem")))
	if _, err := readFiles(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with a dangling link: %v", err)
	}
	if _, err := readFiles(t.TempDir()); !errors.Is(err, errNoKeysYet) {
		t.Errorf("with an empty folder: %v", err)
	}
}

// A replica that dies while it creates the first ring leaves one key. The next one
// completes the ring, or reports that the passphrase of that key is lost.
func TestStartCompletesAFirstRing(t *testing.T) {
	store := &memoryStore{}
	open := func(access, refresh string) *Keyring {
		policy := keystest.Policy()
		k := New(Config{
			Passphrases: keys.PassphraseState{Current: map[keys.Use]string{keys.Access: access, keys.Refresh: refresh}},
			Policy:      policy, Audit: true, Store: store, Use: func(*keys.Opened) {}, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		})
		t.Cleanup(k.Close)
		return k
	}
	const access, refresh = keystest.AccessPassphrase, keystest.RefreshPassphrase
	complete := keystest.New(t, keystest.Policy(), keystest.Passphrases(), time.Now())
	first, _ := complete.Signing(keys.Access)
	ring := keys.Ring{Generation: 1, Keys: []keys.Key{first}}
	store.generation, store.files = ring.Generation, ring.Files()
	folder := open(access, refresh)
	folder.Directory = t.TempDir()
	for name, data := range ring.Files() {
		testenv.NoError(t, os.WriteFile(filepath.Join(folder.Directory, name), data, 0o600))
	}
	if err := folder.Start(t.Context()); !errors.Is(err, errNoKeysYet) || !IsFatal(err) || !strings.Contains(err.Error(), folder.Directory) {
		t.Errorf("in a directory, whose ring another program must complete: %v", err)
	}
	if err := open("another passphrase", refresh).Start(t.Context()); !errors.Is(err, keys.ErrPassphrase) || !IsFatal(err) {
		t.Errorf("with another passphrase: %v", err)
	}
	k := open(access, refresh)
	testenv.NoError(t, k.Start(t.Context()))
	if signing, ok := k.Ring().Signing(keys.Access); !ok || signing.ID != first.ID {
		t.Error("the first key was not kept")
	}
	if !isComplete(*k.Ring()) || store.generation != 2 ||
		!slices.Equal(store.events, []string{string(identity.EventKeysChanged) + " FirstKey"}) {
		t.Errorf("generation %d, events %v", store.generation, store.events)
	}
}

// Each step is written and recorded on its own, and a lost swap starts over.
func TestChangeWritesEachStepByCompareAndSwap(t *testing.T) {
	ring := keystest.New(t, keystest.Policy(), keystest.Passphrases(), time.Now())
	store := &memoryStore{generation: ring.Generation, files: ring.Files()}
	now, used := time.Now(), int64(0)
	k := New(Config{
		Passphrases: keys.PassphraseState{Current: map[keys.Use]string{
			keys.Access: keystest.AccessPassphrase, keys.Refresh: keystest.RefreshPassphrase,
		}},
		Policy: keystest.Policy(), Audit: true, Store: store, Log: slog.New(slog.DiscardHandler),
		Use: func(o *keys.Opened) { used = o.Ring().Generation }, Now: func() time.Time { return now },
	})
	defer k.Close()
	testenv.NoError(t, k.Start(t.Context()))
	policy := k.Policy
	policy.Rotate = "now"
	other := keystest.Advance(t, ring, policy, keystest.Passphrases(), now)
	store.interfere = func() { store.generation, store.files = other.Generation, other.Files() }
	change := func() int { return testenv.Must(k.Change(t.Context(), policy, identity.Event{}))(t) }
	if caused := change(); caused != 0 {
		t.Errorf("%d steps of a rotation that another process has begun", caused)
	}
	if store.generation != other.Generation || len(store.events) > 0 || used != other.Generation {
		t.Errorf("after a lost swap: generation %d of %d, in use %d, events %v", store.generation, other.Generation, used, store.events)
	}
	policy.Rotate = ""
	now = now.Add(policy.PublishLead + policy.ClockSkew + time.Second)
	if caused := change(); caused != 0 {
		t.Errorf("the passing of time counts as %d requested steps", caused)
	}
	want := string(identity.EventKeysChanged) + " DeadlineReached"
	if !slices.Equal(store.events, []string{want, want}) || store.generation != other.Generation+2 || used != store.generation {
		t.Errorf("generation %d after %d, in use %d, events %v", store.generation, other.Generation, used, store.events)
	}
	// What a person asks for has their event, and the steps that time causes beside it do not.
	signing, _ := k.Ring().Signing(keys.Access)
	policy.Revoked, store.events = []string{signing.ID}, nil
	now = now.Add(policy.PublishLead + policy.ClockSkew + time.Second)
	event := identity.Event{Name: "asked for", Details: []slog.Attr{slog.String("reason", "a copy was seen")}}
	caused := testenv.Must(k.Change(t.Context(), policy, event))(t)
	due := string(identity.EventKeysChanged) + " LeadPassed"
	if want := []string{"asked for a copy was seen", due}; caused != 1 || !slices.Equal(store.events, want) {
		t.Errorf("%d steps, events %q, want %q", caused, store.events, want)
	}
}

// A failover can lose the last changes of the ring, and the generations that they had are then given to other rings.
func TestRefreshAfterTheDatabaseLostChanges(t *testing.T) {
	policy, now := keystest.Policy(), time.Now()
	ring := keystest.New(t, policy, keystest.Passphrases(), now)
	store := &memoryStore{generation: ring.Generation, files: ring.Files()}
	replica := func() *Keyring {
		k := New(Config{
			Passphrases: keys.PassphraseState{Current: map[keys.Use]string{
				keys.Access: keystest.AccessPassphrase, keys.Refresh: keystest.RefreshPassphrase,
			}},
			Policy: policy, Audit: true, Store: store, Log: slog.New(slog.DiscardHandler), Use: func(*keys.Opened) {},
			Now: func() time.Time { return now },
		})
		t.Cleanup(k.Close)
		testenv.NoError(t, k.Start(t.Context()))
		return k
	}
	one, other := replica(), replica()
	rotate := policy
	rotate.Rotate = "now"
	testenv.Must(one.Change(t.Context(), rotate, identity.Event{}))(t)
	lost := one.Ring()
	store.generation, store.files = ring.Generation, ring.Files()
	testenv.Must(other.Change(t.Context(), rotate, identity.Event{}))(t)
	if a, b := one.Ring(), other.Ring(); a.Generation != b.Generation || isSame(*a, *b) {
		t.Fatalf("generations %d and %d: want the same one of two rings", a.Generation, b.Generation)
	}
	testenv.NoError(t, one.Refresh(t.Context()))
	if !isSame(*one.Ring(), *other.Ring()) {
		t.Error("a replica goes on with a ring that the database has lost")
	}
	for _, key := range lost.Keys {
		if _, kept := ring.Key(key.ID); kept {
			continue
		}
		if _, kept := one.Ring().Key(key.ID); kept {
			t.Errorf("the key %s, which the database has lost, is kept", key.ID)
		}
	}

	// A revocation that any replica has seen stays.
	before, files := store.generation, store.files
	stolen, _ := one.Ring().Signing(keys.Access)
	revoke := policy
	revoke.Revoked = []string{stolen.ID}
	testenv.Must(other.Change(t.Context(), revoke, identity.Event{}))(t)
	store.generation, store.files, store.events = before, files, nil
	var used []keys.Ring
	other.Use = func(o *keys.Opened) { used = append(used, o.Ring()) }
	for range 2 {
		testenv.NoError(t, other.Refresh(t.Context()))
		testenv.NoError(t, one.Refresh(t.Context()))
	}
	for _, ring := range append(used, *one.Ring(), *other.Ring()) {
		if key, ok := ring.Key(stolen.ID); ok && key.Phase != keys.Revoked {
			t.Errorf("after the database lost the revocation, the key is %s in a ring of generation %d", key.Phase, ring.Generation)
		}
	}
	if want := []string{string(identity.EventKeysChanged) + " KeyRevoked"}; !slices.Equal(store.events, want) || len(used) != 1 ||
		!isSame(*one.Ring(), *other.Ring()) {
		t.Errorf("events %q, want %q; %d rings came into use", store.events, want, len(used))
	}
}

func TestIsFatal(t *testing.T) {
	for _, err := range []error{errNoKeys, errNoKeysYet, keys.ErrPassphrase, keys.ErrDamaged, fs.ErrNotExist, fs.ErrPermission} {
		if !IsFatal(fmt.Errorf("wrapped: %w", err)) {
			t.Errorf("%v: the server would wait forever", err)
		}
	}
	if IsFatal(fmt.Errorf("%w: %w", keys.ErrRolledBack, fs.ErrNotExist)) {
		t.Error("the server would not wait for a mount")
	}
}
