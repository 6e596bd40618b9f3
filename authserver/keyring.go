package authserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/token"
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
	public string // the file of what is published; empty: there is none
	store  *postgres.Store
	tokens *token.Service
	pass   keys.Passphrases
	policy keys.Policy
	log    *slog.Logger
	now    func() time.Time

	keepAudit bool // a change of the ring is recorded with it

	opened    atomic.Pointer[keys.Opened]
	preparing sync.WaitGroup // goroutines of openNext
	failed    atomic.Uint64  // reloads that were refused

	// The ring that could not be opened when it was last tried, and why. Only
	// whoever brings the keys up to date looks at it.
	shut      keys.Ring
	shutCause error
}

func newKeyring(c config.Config, store *postgres.Store, tokens *token.Service, log *slog.Logger, now func() time.Time) *keyring {
	return &keyring{
		dir: c.KeysDir, public: c.KeysPublished, store: store, tokens: tokens, log: log, now: now, keepAudit: c.AuditRetention > 0,
		pass: keys.Passphrases{
			Access:  given(c.AccessPassphrase, c.FormerAccessPassphrase),
			Refresh: given(c.RefreshPassphrase, c.FormerRefreshPassphrase),
		},
		policy: keys.Policy{
			Algorithm: keys.Algorithm(c.SigningAlgorithm), RotationInterval: c.KeyRotationInterval, PublishLead: c.KeyPublishLead,
			Lifetimes: map[keys.Use]time.Duration{keys.Access: c.AccessTokenExpiry, keys.Refresh: c.RefreshTokenExpiry},
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

// rotationInterval returns the age at which this server replaces the signing key
// of a kind. It is zero when the server reads its keys from a folder, because
// the operator then rotates them.
func (k *keyring) rotationInterval(ring keys.Ring, use keys.Use) time.Duration {
	due := k.policy.NextRotation(ring, use)
	if k.dir != "" || due.IsZero() {
		return 0
	}
	signing, _ := ring.Signing(use)
	return due.Sub(signing.PhaseSince)
}

// state says what this process could verify and sign with now.
func (k *keyring) state() config.KeysState {
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
		if key.Phase == keys.Retiring || opened.Ready(key.ID) { // a retiring key signs no more
			state.Ready = append(state.Ready, key.ID)
		}
	}
	return state
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
	ring, err := keys.FromFiles(files)
	if err != nil {
		return keys.Ring{}, err
	}
	return ring, k.checkPublished(ring)
}

// checkPublished holds a ring of a folder against what is published. The two are
// mounted each by itself, and either may lag behind by minutes: a server that
// starts meanwhile waits until they agree. Where nothing is published yet, or
// what is cannot be read, nothing is known.
func (k *keyring) checkPublished(ring keys.Ring) error {
	if k.dir == "" || k.public == "" {
		return nil
	}
	var document keys.PublicDocument
	text, err := os.ReadFile(k.public)
	if err != nil || json.Unmarshal(text, &document) != nil {
		return nil //nolint:nilerr // then nothing is known
	}
	if err := document.Check(ring); err != nil {
		return fmt.Errorf("%s, %s: %w", config.EnvKeysDir, config.EnvKeysPublished, err)
	}
	return nil
}

// errNoKeysYet is of a folder that somebody has yet to write.
var errNoKeysYet = errors.New("holds no keys to sign with yet (ring.json and <kid>.pem)")

// readTries bounds how often a folder is read that changes meanwhile.
const readTries = 10

// readFiles reads the ring's files of a directory, all as they were at one
// moment. Kubernetes replaces a mounted Secret by turning one link, ..data, to
// another folder; the links of the single files follow later, and the folder of
// before is removed. So the files are read where ..data leads, and once more
// where it has been turned meanwhile.
func readFiles(dir string) (map[string][]byte, error) {
	for range readTries {
		at := dataFolder(dir)
		files, err := readFolder(at)
		if dataFolder(dir) != at {
			continue
		}
		if err == nil && len(files) == 0 {
			err = fmt.Errorf("%s %w", dir, errNoKeysYet)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", config.EnvKeysDir, err)
		}
		return files, nil
	}
	return nil, fmt.Errorf("%s: %s changes faster than it can be read", config.EnvKeysDir, dir)
}

// dataFolder is where the files of a directory are: in the folder that ..data
// leads to, if it is a mounted Secret.
func dataFolder(dir string) string {
	target, err := os.Readlink(filepath.Join(dir, "..data"))
	switch {
	case err != nil:
		return dir
	case filepath.IsAbs(target):
		return target
	default:
		return filepath.Join(dir, target)
	}
}

func readFolder(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, entry := range entries {
		name := entry.Name()
		if ext := filepath.Ext(name); strings.HasPrefix(name, ".") || (ext != ".json" && ext != ".pem") {
			continue
		}
		path := filepath.Join(dir, name)
		info, err := os.Stat(path) // through a link, as other ways to mount have them
		if err != nil {
			return nil, err
		}
		if info.Size() > maxKeyFile {
			return nil, fmt.Errorf("%s is larger than a key file can be", path)
		}
		if files[name], err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// isSame says that two rings have the same bytes. Their generations alone do not
// tell: a ring that somebody made anew counts from the beginning.
func isSame(a, b keys.Ring) bool {
	return a.Generation == b.Generation && maps.EqualFunc(a.Files(), b.Files(), bytes.Equal)
}

// use opens a ring and signs and verifies with it from now on. Where it cannot
// be opened, the one in use stays. It tries each ring once: the passphrases of a
// process never change, and each try costs derivations.
func (k *keyring) use(ring keys.Ring) (*keys.Opened, error) {
	if k.shutCause != nil && isSame(ring, k.shut) {
		return nil, k.shutCause
	}
	var opened *keys.Opened
	var err error
	if last := k.opened.Load(); last != nil {
		opened, err = last.Reopen(ring, k.pass)
	} else {
		opened, err = keys.Open(ring, k.pass)
	}
	if k.shut, k.shutCause = ring, err; err != nil {
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
		if k.dir != "" && !isComplete(ring) {
			return fmt.Errorf("%s: %s %w", config.EnvKeysDir, k.dir, errNoKeysYet)
		}
		if isComplete(ring) {
			opened, err := k.use(ring)
			if err != nil {
				return err
			}
			if k.dir != "" || k.next(k.policy, ring, opened.Encryption()).Action == keys.None {
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
	for _, use := range keys.Uses() {
		if _, signs := ring.Signing(use); !signs {
			return false
		}
	}
	return true
}

func (k *keyring) next(policy keys.Policy, ring keys.Ring, encryption map[string]keys.Encryption) keys.Step {
	return keys.Next(ring, policy, keys.Observed{Encryption: encryption, Seen: keys.SeenEverywhere}, k.now())
}

// advance takes every step that is due, in the database, one swap each. Whoever
// loses a swap reads again and asks again.
func (k *keyring) advance(ctx context.Context, policy keys.Policy) error {
	for {
		ring, err := k.load(ctx)
		if err != nil {
			return err
		}
		encryption, err := k.seals(ring, policy)
		if err != nil {
			return err
		}
		step := k.next(policy, ring, encryption)
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
		event := keysChanged(step)
		var audited identity.Event
		if k.keepAudit {
			audited = event
		}
		swapped, err := k.store.SwapRing(ctx, ring.Generation, changed.Generation, changed.Files(), audited)
		if err != nil {
			return err
		}
		if swapped {
			k.log.LogAttrs(ctx, slog.LevelInfo, "key ring: "+step.Message, append(event.Details, slog.String("log", "audit"))...)
		}
	}
}

// keysChanged is a step as an event of the audit trail.
func keysChanged(step keys.Step) identity.Event {
	return identity.Event{Name: identity.EventKeysChanged, Details: []slog.Attr{
		slog.String("action", string(step.Action)), slog.String("reason", string(step.Reason)),
		slog.String("kind", string(step.Use)), slog.String("kid", step.Key),
	}}
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
func (k *keyring) seals(ring keys.Ring, policy keys.Policy) (map[string]keys.Encryption, error) {
	if !isComplete(ring) {
		return keys.Inspect(ring, k.pass), nil
	}
	opened, err := k.use(ring)
	switch {
	case err == nil:
		return opened.Encryption(), nil
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
	ring, changed, err := k.loadChanged(ctx, opened.Ring())
	if err != nil {
		return err
	}
	if changed {
		if ring.Generation == 0 {
			return errors.New("the key ring is gone from its home")
		}
		if err := k.isOlder(ring, opened.Ring()); err != nil {
			return err
		}
		if opened, err = k.use(ring); err != nil {
			return err
		}
	}
	if k.dir != "" {
		return nil
	}
	step := k.next(k.policy, opened.Ring(), opened.Encryption())
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

// isOlder refuses a ring of a folder that is older than the one in use, as where
// somebody has restored a backup of its Secret: what has been revoked since would
// be trusted again. The operator gives a ring that is to be gone back to a
// generation above all others. In the database the ring is what it is.
func (k *keyring) isOlder(ring, used keys.Ring) error {
	if k.dir == "" || ring.Generation >= used.Generation {
		return nil
	}
	return fmt.Errorf("%s: the keys in %s have generation %d, older than %d, the one in use: they were taken back, and are not taken over", config.EnvKeysDir, k.dir, ring.Generation, used.Generation)
}

// loadChanged reads the ring from its home where it is another than the one in
// use.
func (k *keyring) loadChanged(ctx context.Context, used keys.Ring) (ring keys.Ring, changed bool, err error) {
	if k.dir == "" {
		// In the database a generation is written once.
		generation, err := k.store.RingGeneration(ctx)
		if err != nil || generation == used.Generation {
			return keys.Ring{}, false, err
		}
	}
	ring, err = k.load(ctx)
	return ring, err == nil && !isSame(ring, used), err
}

// isFatal tells of errors that waiting does not mend.
func isFatal(err error) bool {
	if errors.Is(err, keys.ErrTakenBack) { // what is mounted may only lag behind what is published
		return false
	}
	return isIssuerError(err) || errors.Is(err, keys.ErrPassphrase) || errors.Is(err, keys.ErrDamaged) ||
		errors.Is(err, errNoKeys) || errors.Is(err, errNoKeysYet) ||
		errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) ||
		(identity.KindOf(err) == identity.Internal && !errors.Is(err, context.Canceled))
}
