package authserver_test

import (
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/keyring"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
	"github.com/auth-gateway/auth-gateway/keys"
)

// texts returns files as text.
func texts(files map[string][]byte) map[string]string {
	out := map[string]string{}
	for name, data := range files {
		out[name] = string(data)
	}
	return out
}

// readFiles reads a ring in a directory as a server does, and returns its files.
func readFiles(t testing.TB, dir string) (map[string][]byte, error) {
	ring, err := keyring.New(keyring.Config{Directory: dir}).Load(t.Context())
	return ring.Files(), err
}

// Kubernetes replaces a mounted Secret in several steps. After each step, a server reads either the old or the new ring.
func TestKeysDirIsReadAtOneMoment(t *testing.T) {
	t.Parallel()
	r := prepareRotation(t)
	one, other := r.files(r.published), r.files(r.promoted) // with four and two private keys
	t.Run("before the links of the files follow", func(t *testing.T) {
		dir := t.TempDir()
		mount{dir: dir}.write(t, one)
		mount{dir: dir, onlyTurn: true}.write(t, other) // two links are broken
		files, err := readFiles(t, dir)
		if err != nil || !maps.Equal(texts(files), other) {
			t.Errorf("%d files, %v", len(files), err)
		}
		mount{dir: dir}.write(t, other)
		mount{dir: dir, onlyTurn: true}.write(t, one) // two links are missing
		files, err = readFiles(t, dir)
		if err != nil || !maps.Equal(texts(files), one) {
			t.Errorf("%d files, %v", len(files), err)
		}
	})
	t.Run("while it is replaced continuously", func(t *testing.T) {
		dir := t.TempDir()
		mount{dir: dir}.write(t, one)
		stop, stopped := make(chan struct{}), make(chan struct{})
		defer func() { close(stop); <-stopped }()
		go func() {
			defer close(stopped)
			for next := other; ; next = map[bool]map[string]string{true: one, false: other}[maps.Equal(next, other)] {
				select {
				case <-stop:
					return
				default:
					mount{dir: dir}.write(t, next)
				}
			}
		}()
		seen := map[int]int{}
		for len(seen) < 2 || seen[5]+seen[3] < 1000 {
			files, err := readFiles(t, dir)
			switch got := texts(files); {
			case err != nil && strings.Contains(err.Error(), "changes faster"):
			case err != nil:
				t.Fatal(err)
			case maps.Equal(got, one) || maps.Equal(got, other):
				seen[len(got)]++
			default:
				t.Fatalf("a mixture: %v", slices.Sorted(maps.Keys(got)))
			}
		}
		t.Logf("seen, by the number of files: %v", seen)
	})
}

// signs returns the ids of the keys with which a replica signs.
func signs(t testing.TB, n *node, u user) map[keys.Use]string {
	t.Helper()
	s := n.signIn(u)
	return map[keys.Use]string{keys.Access: kidOf(t, s.access), keys.Refresh: kidOf(t, s.refresh)}
}

func sorted(kids ...string) []string { return slices.Sorted(slices.Values(kids)) }

func TestKeysDirRotationIsFollowedWithinSeconds(t *testing.T) {
	t.Parallel()
	r := prepareRotation(t)
	access, refresh := r.former[keys.Access], r.former[keys.Refresh]
	nextAccess, nextRefresh := r.successor[keys.Access], r.successor[keys.Refresh]
	c := newCluster(t, postgrestest.Config(t))
	dir := t.TempDir()
	writeRing(t, dir, r.files(r.first))
	n := c.addReady(1, env{"KEYS_DIR": dir})
	// The interval of the checks, the time to decrypt a key, and time for a busy machine.
	const soon = 2*time.Second + 2*time.Second + 6*time.Second
	becomes := func(about string, ring keys.Ring, held []string) {
		t.Helper()
		writeRing(t, dir, r.files(ring))
		begun := time.Now()
		testenv.Until(t, soon, about, func() bool {
			s := n.state().Keys
			return s.Generation == ring.Generation && slices.Equal(sorted(s.Held...), held) && slices.Equal(sorted(s.Ready...), held)
		})
		t.Logf("%s: after %v", about, time.Since(begun))
	}
	if s := n.state().Keys; s.Generation != r.first.Generation || !slices.Equal(sorted(s.Ready...), sorted(access, refresh)) {
		t.Errorf("at first: %+v", s)
	}
	u := n.newUser()

	becomes("the successors are decrypted before they sign", r.published, sorted(access, refresh, nextAccess, nextRefresh))
	if got := signs(t, n, u); !maps.Equal(got, r.former) {
		t.Errorf("%v sign, want the former keys", got)
	}
	becomes("the retiring keys are kept", r.promoted, sorted(access, refresh, nextAccess, nextRefresh))
	if got := signs(t, n, u); !maps.Equal(got, r.successor) {
		t.Errorf("%v sign, want the successors", got)
	}
	c.alive("a token of a retiring key", u.access)
	want(t, http.StatusOK, n.renew(u.refresh), "a token of a retiring key")
	if failures(t, n) != 0 {
		t.Error("an ordinary rotation counts as a failure")
	}

	writeRing(t, dir, renumbered(t, r.files(r.revoked), r.promoted.Generation+1))
	testenv.Until(t, soon, "a revoked key is neither held nor ready", func() bool {
		s := n.state().Keys
		return slices.Equal(sorted(s.Held...), sorted(refresh, nextAccess, nextRefresh)) && slices.Equal(sorted(s.Ready...), sorted(s.Held...))
	})
	c.dead("tokens of a revoked key", tokens{access: u.access})
}

// failures returns how often a replica could not load its keys.
func failures(t testing.TB, n *node) int {
	return int(metric(t, n, "authgateway_key_ring_reload_failures_total"))
}

// A restored backup of the keys would trust keys again that were revoked since. A running server ignores it, and so does
// a server that starts with KEYS_PUBLISHED.
func TestKeysDirWithAnOlderRingIsIgnored(t *testing.T) {
	t.Parallel()
	r := prepareRotation(t)
	c := newCluster(t, postgrestest.Config(t))
	dir := t.TempDir()
	document := filepath.Join(t.TempDir(), "keys.json")
	publish := func(ring keys.Ring) {
		t.Helper()
		testenv.NoError(t, os.WriteFile(document, keys.PublicFiles(ring, "https://auth.example")[keys.PublicDocumentFile], 0o600))
	}
	settings := env{"KEYS_DIR": dir, "KEYS_PUBLISHED": document}
	stolen := r.former[keys.Access]
	writeRing(t, dir, r.files(r.revoked))
	n := c.add(settings) // nothing is published yet
	n.waitReady()
	publish(r.revoked)
	u := n.newUser()
	for _, older := range []keys.Ring{r.published, r.first} { // two restores
		before := failures(t, n)
		writeRing(t, dir, r.files(older))
		testenv.Until(t, time.Minute, "the replica notices", func() bool { return failures(t, n) > before })
		if got := signs(t, n, u); got[keys.Access] == stolen || slices.Contains(n.state().Keys.Held, stolen) {
			t.Errorf("%v sign, and %v are trusted", got, n.state().Keys.Held)
		}
	}
	started := c.add(settings)
	started.unready("the keys are older than the published ones", "an older key ring was restored")

	// The operator gives the ring a higher generation after a person has confirmed it.
	accepted := r.revoked
	accepted.Generation = r.revoked.Generation + 10
	writeRing(t, dir, r.files(accepted))
	for _, n := range []*node{n, started} {
		n.waitReady()
		testenv.Until(t, time.Minute, "the confirmed ring is loaded", func() bool { return n.state().Keys.Generation == accepted.Generation })
	}
}

// The generation of a ring that replaces a lost one starts again.
func TestKeysDirWithAnotherRingOfTheSameGenerationIsLoaded(t *testing.T) {
	t.Parallel()
	r := prepareRotation(t)
	c := newCluster(t, postgrestest.Config(t))
	dir := t.TempDir()
	writeRing(t, dir, r.files(r.first))
	n := c.addReady(1, env{"KEYS_DIR": dir})
	writeRing(t, dir, renumbered(t, r.files(r.promoted), r.first.Generation))
	u := n.newUser()
	testenv.Until(t, time.Minute, "the other ring is in use", func() bool { return maps.Equal(signs(t, n, u), r.successor) })
}

// While passphrases change, the Secrets of the keys and of the passphrases reach a pod at different times. It must always
// have a key to sign with.
func TestKeysDirWithChangedPassphrases(t *testing.T) {
	t.Parallel()
	r := prepareRotation(t)
	c := newCluster(t, postgrestest.Config(t))
	secrets := map[string]string{
		"ACCESS_PASSPHRASE": accessPassphrase, "REFRESH_PASSPHRASE": refreshPassphrase,
		"new-access": "the second access passphrase", "new-refresh": "the second refresh passphrase", "empty": "",
	}
	secretDir := t.TempDir()
	for name, text := range secrets {
		testenv.NoError(t, os.WriteFile(filepath.Join(secretDir, name), []byte(text), 0o600))
		c.logs.mu.Lock()
		c.logs.note(name, text)
		c.logs.mu.Unlock()
	}
	dir := t.TempDir()
	started := func(access, formerAccess, refresh, formerRefresh string) env {
		e := env{"KEYS_DIR": dir}
		for name, file := range map[string]string{
			"ACCESS_PASSPHRASE_FILE": access, "FORMER_ACCESS_PASSPHRASE_FILE": formerAccess,
			"REFRESH_PASSPHRASE_FILE": refresh, "FORMER_REFRESH_PASSPHRASE_FILE": formerRefresh,
		} {
			e[name] = filepath.Join(secretDir, file)
		}
		return e
	}
	// All four are read from files.
	add := func(e env) *node {
		t.Helper()
		n := c.addReady(1, e, env{"ACCESS_PASSPHRASE": unset, "REFRESH_PASSPHRASE": unset})
		return n
	}
	writeRing(t, dir, r.files(r.first))
	before := add(started("ACCESS_PASSPHRASE", "empty", "REFRESH_PASSPHRASE", "empty"))
	u := before.newUser()
	during := add(started("new-access", "ACCESS_PASSPHRASE", "new-refresh", "REFRESH_PASSPHRASE"))
	usable := func(about string, n *node) {
		t.Helper()
		if got := signs(t, n, u); !maps.Equal(got, r.former) {
			t.Errorf("%s: %v sign", about, got)
		}
		want(t, http.StatusOK, n.profile(u.access), about)
	}
	usable("with both, the keys are encrypted with the former", during)

	second := map[keys.Use]string{keys.Access: secrets["new-access"], keys.Refresh: secrets["new-refresh"]}
	reencrypted := r.reencrypted(t, r.first, second, 1)
	writeRing(t, dir, reencrypted)
	testenv.Until(t, time.Minute, "the server with both passphrases loads the ring", func() bool {
		s := during.state().Keys
		return s.Generation == r.first.Generation+1 && len(s.Ready) == 2
	})
	testenv.Until(t, time.Minute, "the server with only the former ones counts a failure at each check",
		func() bool { return failures(t, before) >= 2 })
	if failures(t, during) != 0 {
		t.Error("the server with both counts a failure")
	}
	if s := before.state(); !s.Ready || s.Keys.Generation != r.first.Generation || len(s.Keys.Ready) != 2 {
		t.Errorf("the server with only the former ones: %+v", s)
	}
	usable("the server with only the former ones", before)
	usable("with both, the keys are encrypted with the current", during)
	usable("started with only the new ones", add(started("new-access", "empty", "new-refresh", "empty")))
	usable("started with both", add(started("new-access", "ACCESS_PASSPHRASE", "new-refresh", "REFRESH_PASSPHRASE")))
	if !c.logs.Contains("wrong passphrase") {
		t.Error("the log does not have the reason")
	}
	writeRing(t, dir, renumbered(t, r.files(r.first), r.first.Generation+2))
	testenv.Until(t, time.Minute, "the server with only the former ones loads the ring again", func() bool {
		return before.state().Keys.Generation == r.first.Generation+2
	})
}

// folder returns a server over a directory of keys that does not run. It reads its keys only on request.
func folder(t testing.TB, dir string) *authserver.Server {
	t.Helper()
	nowhere := postgres.Config{Host: "127.0.0.1", Port: 1, User: "u", Database: "d"}
	settings := gatewaytest.Environ(nowhere, env{"KEYS_DIR": dir}).Load(t)
	server := testenv.Must(authserver.New(settings, authserver.Options{}))(t)
	t.Cleanup(server.Close)
	return server
}

// costly is a number of rounds with which key derivation takes far longer than everything else.
const costly = 3_000_000

// This test is not parallel, because it measures times.
func TestKeysDirPromotionDerivesNoKey(t *testing.T) {
	r := prepareRotation(t)
	dir := t.TempDir()
	costlyFiles := r.reencrypted(t, r.published, map[keys.Use]string{keys.Access: accessPassphrase, keys.Refresh: refreshPassphrase}, costly)
	published, promoted := r.files(r.published), r.files(r.promoted)
	for _, kid := range r.successor {
		published[kid+".pem"], promoted[kid+".pem"] = costlyFiles[kid+".pem"], costlyFiles[kid+".pem"]
	}
	writeRing(t, dir, published)
	s := folder(t, dir)
	begun := time.Now()
	testenv.NoError(t, s.OpenKeys(t.Context()))
	opening := time.Since(begun)
	writeRing(t, dir, promoted)
	begun = time.Now()
	testenv.NoError(t, s.RefreshKeys(t.Context()))
	if took := time.Since(begun); took > opening/4 {
		t.Errorf("the promotion took %v, and the start %v", took, opening)
	}
}

// This test is not parallel, because it measures times.
func TestKeysDirThatCannotBeDecryptedIsTriedOnce(t *testing.T) {
	r := prepareRotation(t)
	dir := t.TempDir()
	writeRing(t, dir, r.files(r.first))
	s := folder(t, dir)
	testenv.NoError(t, s.OpenKeys(t.Context()))
	refused := func() time.Duration {
		t.Helper()
		begun := time.Now()
		if err := s.RefreshKeys(t.Context()); !errors.Is(err, keys.ErrPassphrase) {
			t.Errorf("the error is %v", err)
		}
		return time.Since(begun)
	}
	others := map[keys.Use]string{keys.Access: "other passphrases", keys.Refresh: "than it has"}
	writeRing(t, dir, r.reencrypted(t, r.first, others, costly))
	trying := refused()
	for range 3 {
		if took := refused(); took > trying/4 {
			t.Errorf("the second attempt took %v, and the first %v", took, trying)
		}
	}
	writeRing(t, dir, r.reencrypted(t, r.first, others, 1)) // the same generation, other bytes
	refused()
	writeRing(t, dir, r.files(r.published))
	if err := s.RefreshKeys(t.Context()); err != nil {
		t.Errorf("a good ring after it: %v", err)
	}
}

// A replica could not sign with such a key, so it must not be promoted.
func TestKeysDirReportsAKeyThatCannotBeDecryptedAsNotReady(t *testing.T) {
	t.Parallel()
	r := prepareRotation(t)
	other := r.reencrypted(t, r.published, map[keys.Use]string{keys.Access: "another", keys.Refresh: "passphrase"}, 1)
	files := r.files(r.published)
	kid := r.successor[keys.Refresh]
	files[kid+".pem"] = other[kid+".pem"]
	c := newCluster(t, postgrestest.Config(t))
	dir := t.TempDir()
	writeRing(t, dir, files)
	n := c.addReady(1, env{"KEYS_DIR": dir})
	testenv.Until(t, time.Minute, "the other keys have been tried", func() bool { return c.logs.Contains("cannot be decrypted") })
	s := n.state()
	if !s.Ready || len(s.Keys.Held) != 4 || len(s.Keys.Ready) != 3 || !slices.Contains(s.Keys.Held, kid) ||
		slices.Contains(s.Keys.Ready, kid) {
		t.Errorf("got %+v; only %s should not be ready", s, kid)
	}
}
