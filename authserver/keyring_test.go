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
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
	"github.com/auth-gateway/auth-gateway/internal/token"
	"github.com/auth-gateway/auth-gateway/keys"
)

func TestOfAFolderTheRingsFilesAloneAreRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"ring.json", "kid.pem", ".hidden.pem", "..data", "README", "kid.pem~", "tls.key"} {
		write(name, 1)
	}
	if err := os.Mkdir(filepath.Join(dir, "..2026_01_01"), 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := readFiles(dir)
	if err != nil || len(files) != 2 || files["ring.json"] == nil || files["kid.pem"] == nil {
		t.Errorf("got %d files, %v", len(files), err)
	}
	write("large.pem", maxKeyFile+1)
	if _, err := readFiles(dir); err == nil {
		t.Error("a file of any size is read")
	}
	if err := os.Remove(filepath.Join(dir, "large.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("gone.pem", filepath.Join(dir, "dangling.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := readFiles(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a link to nothing: %v", err)
	}
	if _, err := readFiles(t.TempDir()); !errors.Is(err, errNoKeysYet) {
		t.Errorf("of an empty folder: %v", err)
	}
}

func TestWhatWaitingDoesNotMendEndsTheStart(t *testing.T) {
	for _, err := range []error{
		keys.ErrPassphrase, keys.ErrDamaged, fs.ErrNotExist, fs.ErrPermission, errNoKeys, errNoKeysYet,
		&identity.Error{Kind: identity.Internal},
	} {
		if !isFatal(fmt.Errorf("wrapped: %w", err)) {
			t.Errorf("%v: the server would wait for ever", err)
		}
	}
	for _, err := range []error{&identity.Error{Kind: identity.Unavailable}, context.Canceled} {
		if isFatal(fmt.Errorf("wrapped: %w", err)) {
			t.Errorf("%v: the server would give up", err)
		}
	}
}

// A replica that died while it made the first ring leaves one key. Where its
// passphrase is lost, the next one says so: it cannot finish that ring.
func TestAFirstRingThatWasNeverFinishedIsFinishedOrRefused(t *testing.T) {
	db := postgrestest.Config(t)
	store := postgrestest.Open(t, db)
	open := func(access, refresh string) *keyring {
		c := config.Defaults()
		c.AccessPassphrase, c.RefreshPassphrase = config.NewSecret(access), config.NewSecret(refresh)
		c.SigningAlgorithm = "ES256"
		k := newKeyring(c, store, token.New(token.Config{Issuer: "i", Audience: []string{"a"}, Now: time.Now}), slog.New(slog.DiscardHandler), time.Now)
		t.Cleanup(k.close)
		return k
	}
	const access, refresh = "a passphrase of access tokens", "a passphrase of refresh tokens"
	half := open(access, refresh)
	step := half.next(half.policy, keys.Ring{}, nil)
	ring, err := keys.Apply(keys.Ring{}, step, half.pass)
	if err != nil {
		t.Fatal(err)
	}
	if swapped, err := store.SwapRing(t.Context(), 0, ring.Generation, ring.Files(), identity.Event{}); err != nil || !swapped {
		t.Fatalf("%v %v", swapped, err)
	}
	folder := open(access, refresh)
	folder.dir = t.TempDir()
	for name, data := range ring.Files() {
		if err := os.WriteFile(filepath.Join(folder.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := folder.start(t.Context()); !errors.Is(err, errNoKeysYet) || !strings.Contains(err.Error(), folder.dir) {
		t.Errorf("of a folder, whose ring somebody else has to finish: %v", err)
	}
	if err := open("another passphrase", refresh).start(t.Context()); !errors.Is(err, keys.ErrPassphrase) || !isFatal(err) {
		t.Errorf("with another passphrase: %v", err)
	}
	k := open(access, refresh)
	if err := k.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if signing, ok := k.Ring().Signing(keys.Access); !ok || signing.ID != ring.Keys[0].ID {
		t.Error("the first key was not kept")
	}
}

func TestAReasonIsOneLineOfTheCauseAlone(t *testing.T) {
	away := errors.New("cannot reach\n\tdb:5432")
	for _, tc := range []struct {
		err  error
		want string
	}{
		{&identity.Error{Kind: identity.Unavailable, Message: "told to callers", Cause: away}, "waiting for the database: cannot reach db:5432"},
		{fmt.Errorf("wrapped: %w", &identity.Error{Kind: identity.Unavailable, Message: "told", Cause: away}), "waiting for the database: cannot reach db:5432"},
		{&identity.Error{Kind: identity.Unavailable, Message: "no cause is known"}, "no cause is known"},
		{&identity.Error{Kind: identity.Internal, Message: "refused", Cause: errors.New("SQLSTATE 42501")}, "refused: SQLSTATE 42501"},
		{errors.New("KEYS_DIR: /x holds no keys"), "KEYS_DIR: /x holds no keys"},
		{errors.New(strings.Repeat("a", 511)), strings.Repeat("a", 511)},
		{errors.New(strings.Repeat("a", 512)), strings.Repeat("a", 508) + "…"},
		{errors.New(strings.Repeat("é", 300)), strings.Repeat("é", 254) + "…"},
		{errors.New("a" + strings.Repeat("é", 300)), "a" + strings.Repeat("é", 253) + "…"},
	} {
		if got := because(tc.err); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}
