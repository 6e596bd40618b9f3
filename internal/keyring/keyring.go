// Package keyring keeps the signing keys of a server up to date. The ring is stored
// either in the database, where the replicas rotate the keys among themselves, or in a
// directory that another program writes, such as the operator through a Secret.
//
//	keyring.go    the keys in use, and what the server reports about them
//	rotate.go     the database: create, rotate and revoke keys
//	directory.go  the directory: read its files as of one moment
//	watch.go      notice a changed ring
package keyring

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/keys"
)

// Store is the part of the database that holds the ring. internal/postgres implements it.
type Store interface {
	LoadRing(ctx context.Context) (files map[string][]byte, version string, err error)
	RingVersion(ctx context.Context) (version string, err error)
	SwapRing(
		ctx context.Context, from, to int64, files map[string][]byte, event identity.Event,
	) (swapped bool, err error)
	TryRotationLock(ctx context.Context, f func(context.Context) error) (held bool, err error)
}

// Config is what a Keyring needs.
type Config struct {
	Directory string // empty: the ring is in the database
	Published string // a file with the published state of a ring in a directory; may be empty

	Passphrases keys.PassphraseState
	Policy      keys.Policy
	Audit       bool // record each step in the audit trail

	Store Store
	Use   func(*keys.Opened) // called with each ring that comes into use
	Log   *slog.Logger
	Now   func() time.Time
}

// Keyring holds the keys that this replica signs and verifies with.
type Keyring struct {
	Config

	passphrases keys.Passphrases
	opened      atomic.Pointer[keys.Opened]
	ring        atomic.Pointer[keys.Ring] // of opened
	preparing   sync.WaitGroup            // goroutines that decrypt keys
	failed      atomic.Uint64             // failed refreshes

	// changing is held by what may take another ring into use: the watch, and the request of an administrator.
	changing sync.Mutex
	// rejected is the last ring that could not be opened, and rejection the reason.
	rejected  keys.Ring
	rejection error
	// read is the last ring that was read from the database, and version is its version there.
	read    keys.Ring
	version string
	// revoked are the IDs of all revoked keys of the rings that were in use.
	revoked []string
}

// New returns a Keyring without keys; Start loads them.
func New(c Config) *Keyring {
	k := &Keyring{Config: c, passphrases: c.Passphrases.Passphrases()}
	k.ring.Store(&keys.Ring{})
	return k
}

// Ring returns the ring in use, or the zero Ring before there are keys. It must not be modified. When another ring comes
// into use, it returns another pointer.
func (k *Keyring) Ring() *keys.Ring { return k.ring.Load() }

// Failures returns how many refreshes have failed.
func (k *Keyring) Failures() uint64 { return k.failed.Load() }

// RotationInterval returns the age at which this server replaces the signing key of a
// use. It is zero for a ring in a directory, because another program rotates it.
func (k *Keyring) RotationInterval(ring keys.Ring, use keys.Use) time.Duration {
	due := k.Policy.NextRotation(ring, use)
	if k.Directory != "" || due.IsZero() {
		return 0
	}
	signing, _ := ring.Signing(use)
	return due.Sub(signing.PhaseSince)
}

// State reports the keys that this process can verify and sign with.
func (k *Keyring) State() config.KeysState {
	state := config.KeysState{Held: []string{}, Ready: []string{}}
	opened := k.opened.Load()
	if opened == nil {
		return state
	}
	ring := opened.Ring()
	state.Generation = ring.Generation
	for _, key := range ring.Keys {
		if _, verifies := opened.PublicKey(key.Use, key.ID); !verifies {
			continue
		}
		state.Held = append(state.Held, key.ID)
		if key.Phase == keys.Retiring || opened.Ready(key.ID) { // a retiring key no longer signs
			state.Ready = append(state.Ready, key.ID)
		}
	}
	return state
}

// Load reads the stored ring. It returns the zero Ring if there never was one, and an
// error for everything that cannot be read.
func (k *Keyring) Load(ctx context.Context) (keys.Ring, error) {
	ring, _, err := k.load(ctx)
	return ring, err
}

// reload is Load, and remembers what it has read. The caller holds changing, or is Start.
func (k *Keyring) reload(ctx context.Context) (ring keys.Ring, err error) {
	ring, k.version, err = k.load(ctx)
	k.read = ring
	return ring, err
}

func (k *Keyring) load(ctx context.Context) (ring keys.Ring, version string, err error) {
	var files map[string][]byte
	if k.Directory != "" {
		files, err = readFiles(k.Directory)
	} else {
		files, version, err = k.Store.LoadRing(ctx)
	}
	if err != nil || files == nil {
		return keys.Ring{}, "", err
	}
	if ring, err = keys.FromFiles(files); err != nil {
		return keys.Ring{}, "", err
	}
	return ring, version, k.checkPublished(ring)
}

// trustedAgain returns the IDs of the keys of a ring that were revoked in one that was in use before. The database has
// lost their revocation, in a failover or because a backup was restored. In a directory, the program that writes the
// ring sees to that.
func (k *Keyring) trustedAgain(ring keys.Ring) (ids []string) {
	for _, key := range ring.Keys {
		if k.Directory == "" && key.Phase != keys.Revoked && slices.Contains(k.revoked, key.ID) {
			ids = append(ids, key.ID)
		}
	}
	return ids
}

// use decrypts a ring, and signs and verifies with it from now on. If that fails, the ring in use stays. It tries each
// ring once: the passphrases of a process never change, and each attempt costs derivations.
func (k *Keyring) use(ring keys.Ring) (*keys.Opened, error) {
	if k.rejection != nil && isSame(ring, k.rejected) {
		return nil, k.rejection
	}
	var opened *keys.Opened
	var err error
	if last := k.opened.Load(); last != nil {
		opened, err = last.Reopen(ring, k.passphrases)
	} else {
		opened, err = keys.Open(ring, k.passphrases)
	}
	if k.rejected, k.rejection = ring, err; err != nil {
		return nil, err
	}
	k.Use(opened)
	k.opened.Store(opened)
	inUse := opened.Ring()
	k.ring.Store(&inUse)
	k.revoked = ring.AllRevoked(k.revoked)
	k.preparing.Go(func() { // decrypts the keys that sign later, so no request has to wait for it
		if err := opened.Prepare(); err != nil {
			k.Log.Error("a key that is to sign later cannot be decrypted", "error", err)
		}
	})
	return opened, nil
}

// Close waits for background work, which takes one derivation at most.
func (k *Keyring) Close() { k.preparing.Wait() }

// isSame reports whether two rings have the same bytes. Their generations are not
// enough: a new ring starts again at the first generation.
func isSame(a, b keys.Ring) bool {
	return a.Generation == b.Generation && maps.EqualFunc(a.Files(), b.Files(), bytes.Equal)
}

// isComplete reports whether each use has a signing key. A ring that is being created does not.
func isComplete(ring keys.Ring) bool {
	for _, use := range keys.Uses() {
		if _, signs := ring.Signing(use); !signs {
			return false
		}
	}
	return true
}
