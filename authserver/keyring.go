package authserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver/config"
	"github.com/auth-gateway/auth-gateway/authserver/identity"
	"github.com/auth-gateway/auth-gateway/authserver/postgres"
	"github.com/auth-gateway/auth-gateway/authserver/token"
	"github.com/auth-gateway/auth-gateway/keys"
)

// ringPoll is how often a replica looks whether the ring has changed. A revoked
// key is trusted for no longer than that by a replica that can see its home.
const ringPoll = 2 * time.Second

// ringTurn is how long whoever finds another at work on the ring waits before
// they look again, and turnWait how long a person's command does that.
const (
	ringTurn = 50 * time.Millisecond
	turnWait = 30 * time.Second
)

// maxKeyFile bounds what is read of a file in KEYS_DIR.
const maxKeyFile = 1 << 20

// keyring holds the keys that this replica signs and verifies with, and keeps
// them up with their home: the database, where the replicas rotate them among
// themselves, or a directory, where someone else does (the operator).
type keyring struct {
	dir    string // empty: the database
	store  *postgres.Store
	tokens *token.Service
	pass   keys.Passphrases
	policy keys.Policy
	log    *slog.Logger
	now    func() time.Time

	opened    atomic.Pointer[keys.Opened]
	preparing sync.WaitGroup // goroutines of openNext
	failed    atomic.Uint64  // reloads that were refused
}

func newKeyring(c config.Config, store *postgres.Store, tokens *token.Service, log *slog.Logger, now func() time.Time) *keyring {
	return &keyring{
		dir: c.KeysDir, store: store, tokens: tokens, log: log, now: now,
		pass: keys.Passphrases{
			Access:  given(c.AccessPassphrase, c.FormerAccessPassphrase),
			Refresh: given(c.RefreshPassphrase, c.FormerRefreshPassphrase),
		},
		policy: keys.Policy{
			Algorithm: keys.Algorithm(c.SigningAlgorithm), RotationInterval: c.KeyRotationInterval, PublishLead: c.KeyPublishLead,
			Lifetimes: map[keys.Kind]time.Duration{keys.Access: c.AccessTokenExpiry, keys.Refresh: c.RefreshTokenExpiry},
			ClockSkew: 2 * clockLeeway,
		},
	}
}

func given(secrets ...config.Secret) (texts []string) {
	for _, s := range secrets {
		if !s.IsZero() {
			texts = append(texts, s.Reveal())
		}
	}
	return texts
}

// Ring is what is published now; the zero Ring before there are keys.
func (k *keyring) Ring() keys.Ring {
	if o := k.opened.Load(); o != nil {
		return o.Ring()
	}
	return keys.Ring{}
}

// load reads the ring from its home. The zero Ring means that there never was
// one; whatever cannot be read is an error.
func (k *keyring) load(ctx context.Context) (keys.Ring, error) {
	var files map[string][]byte
	var err error
	if k.dir != "" {
		files, err = readFiles(k.dir)
	} else {
		files, _, err = k.store.LoadRing(ctx)
	}
	if err != nil || files == nil {
		return keys.Ring{}, err
	}
	return keys.FromFiles(files)
}

// readFiles reads the ring's files of a directory, as a mounted Secret has them.
func readFiles(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("KEYS_DIR: %w", err)
	}
	files := map[string][]byte{}
	for _, entry := range entries {
		name := entry.Name()
		if ext := filepath.Ext(name); strings.HasPrefix(name, ".") || (ext != ".json" && ext != ".pem") {
			continue
		}
		path := filepath.Join(dir, name)
		info, err := os.Stat(path) // through the link that a mounted Secret is
		if err == nil && info.Size() > maxKeyFile {
			err = fmt.Errorf("%s is larger than a key file can be", path)
		}
		var data []byte
		if err == nil {
			data, err = os.ReadFile(path)
		}
		if err != nil {
			return nil, fmt.Errorf("KEYS_DIR: %w", err)
		}
		files[name] = data
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("KEYS_DIR: %s holds no keys (ring.json and <kid>.pem): %w", dir, fs.ErrNotExist)
	}
	return files, nil
}

// use opens a ring and signs and verifies with it from now on. Where it cannot
// be opened, the one in use stays.
func (k *keyring) use(ring keys.Ring) (*keys.Opened, error) {
	var opened *keys.Opened
	var err error
	if last := k.opened.Load(); last != nil {
		opened, err = last.Reopen(ring, k.pass)
	} else {
		opened, err = keys.Open(ring, k.pass)
	}
	if err != nil {
		return nil, err
	}
	k.tokens.Use(opened)
	k.opened.Store(opened)
	k.preparing.Go(func() { k.openNext(opened) })
	return opened, nil
}

// close waits for what goes on in the background, which takes a derivation at
// the most.
func (k *keyring) close() { k.preparing.Wait() }

// openNext opens the keys that will sign later, off the path of any request.
func (k *keyring) openNext(opened *keys.Opened) {
	if err := opened.Prepare(); err != nil {
		k.log.Error("a key that is to sign later cannot be opened", "error", err)
	}
}

// start brings up the first ring: it returns once there are keys to sign with
// and nothing that has to happen before they do is left to do.
func (k *keyring) start(ctx context.Context) error {
	for {
		ring, err := k.load(ctx)
		if err != nil {
			return err
		}
		if k.dir != "" || isComplete(ring) {
			opened, err := k.use(ring)
			if err != nil {
				return err
			}
			if k.dir != "" || k.next(k.policy, ring, opened.Seals()).Action == keys.None {
				return nil
			}
		}
		// Of the replicas that start at once, one makes the ring.
		held, err := k.store.TryRotationLock(ctx, func(ctx context.Context) error { return k.advance(ctx, k.policy) })
		if err != nil {
			return err
		}
		if held {
			return nil
		}
		select {
		case <-time.After(ringTurn):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// isComplete tells whether a ring has what Open needs: a ring that is being made
// for the first time has not.
func isComplete(ring keys.Ring) bool {
	for _, kind := range keys.Kinds() {
		if _, signs := ring.Signing(kind); !signs {
			return false
		}
	}
	return true
}

func (k *keyring) next(policy keys.Policy, ring keys.Ring, seals map[string]keys.Seal) keys.Step {
	return keys.Next(ring, policy, keys.Observed{Seals: seals, Seen: keys.SeenEverywhere}, k.now())
}

// advance takes every step that is due, in the database, one swap each. Whoever
// loses a swap reads again and asks again.
func (k *keyring) advance(ctx context.Context, policy keys.Policy) error {
	for {
		ring, err := k.load(ctx)
		if err != nil {
			return err
		}
		seals, err := k.seals(ring, policy)
		if err != nil {
			return err
		}
		step := k.next(policy, ring, seals)
		if step.Action == keys.None {
			if !isComplete(ring) {
				return unfinished(step)
			}
			return nil
		}
		changed, err := keys.Apply(ring, step, k.pass)
		if err != nil {
			return err
		}
		swapped, err := k.store.SwapRing(ctx, ring.Generation, changed.Generation, changed.Files())
		if err != nil {
			return err
		}
		if swapped {
			k.log.Info("key ring: "+step.Message, "log", "audit", "action", step.Action, "reason", step.Reason, "kind", step.Kind, "kid", step.Key)
		}
	}
}

// advanceInTurn is advance for a person: where a server is at it, it waits for
// its turn, since a person's word must not get lost.
func (k *keyring) advanceInTurn(ctx context.Context, policy keys.Policy) error {
	ctx, cancel := context.WithTimeout(ctx, turnWait)
	defer cancel()
	for {
		held, err := k.store.TryRotationLock(ctx, func(ctx context.Context) error { return k.advance(ctx, policy) })
		if held || err != nil {
			return err
		}
		select {
		case <-time.After(ringTurn):
		case <-ctx.Done():
			return errors.New("a server has been changing the keys for too long; try again, and look into its log")
		}
	}
}

// seals takes a ring into use and tells what opens its private halves. A ring
// that is still being made has no keys to use yet; and where a person revokes
// keys whose passphrase is lost, it goes on with those that cannot be opened.
func (k *keyring) seals(ring keys.Ring, policy keys.Policy) (map[string]keys.Seal, error) {
	if !isComplete(ring) {
		return keys.Inspect(ring, k.pass), nil
	}
	opened, err := k.use(ring)
	switch {
	case err == nil:
		return opened.Seals(), nil
	case errors.Is(err, keys.ErrPassphrase) && len(policy.Revoked) > 0:
		return keys.Inspect(ring, k.pass), nil
	default:
		return nil, err
	}
}

// unfinished is the error of a first ring that can neither be used nor finished.
func unfinished(step keys.Step) error {
	if step.Reason == keys.Unopenable {
		return fmt.Errorf("keys: %s: %w", step.Message, keys.ErrPassphrase)
	}
	return fmt.Errorf("keys: %w: %s", errNoKeys, step.Message)
}

var errNoKeys = errors.New("there is nothing to sign with")

// watch keeps the keys up with their home until ctx ends. Whatever goes wrong,
// the keys in use stay in use.
func (k *keyring) watch(ctx context.Context) {
	tick := time.NewTicker(ringPoll)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		err := k.refresh(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			k.failed.Add(1)
			if !failing { // once, not at each look: the metric tells how long it goes on
				k.log.Error("the keys cannot be brought up to date; the last good ones stay in use", "error", err)
			}
		case failing:
			k.log.Info("the keys are up to date again")
		}
		failing = err != nil
	}
}

// refresh takes over a ring that has changed, and rotates when it is time to.
func (k *keyring) refresh(ctx context.Context) error {
	opened := k.opened.Load()
	changed, err := k.hasChanged(ctx, opened.Ring())
	if err != nil {
		return err
	}
	if changed {
		ring, err := k.load(ctx)
		if err != nil {
			return err
		}
		if ring.Generation == 0 {
			return errors.New("the key ring is gone from its home")
		}
		if opened, err = k.use(ring); err != nil {
			return err
		}
	}
	if k.dir != "" {
		return nil
	}
	step := k.next(k.policy, opened.Ring(), opened.Seals())
	if step.Action == keys.None {
		switch step.Reason {
		case keys.Unopenable, keys.RingFull, keys.PolicyInvalid:
			return errors.New(step.Message) // no time mends these: a person has to
		default:
			return nil
		}
	}
	_, err = k.store.TryRotationLock(ctx, func(ctx context.Context) error { return k.advance(ctx, k.policy) })
	return err
}

func (k *keyring) hasChanged(ctx context.Context, ring keys.Ring) (bool, error) {
	if k.dir == "" {
		generation, err := k.store.RingGeneration(ctx)
		return generation != ring.Generation, err
	}
	found, err := k.load(ctx)
	return found.Generation != ring.Generation, err
}

// isFatal tells of errors that waiting does not mend.
func isFatal(err error) bool {
	return errors.Is(err, keys.ErrPassphrase) || errors.Is(err, keys.ErrDamaged) || errors.Is(err, errNoKeys) ||
		errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) ||
		(identity.KindOf(err) == identity.Internal && !errors.Is(err, context.Canceled))
}
