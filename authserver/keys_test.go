package authserver_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
	"github.com/auth-gateway/auth-gateway/keys"
	"github.com/auth-gateway/auth-gateway/keys/keystest"
)

// keyIDs are the ids of the keys that a replica publishes.
type keyIDs struct{ access, refresh []string }

func kids(t testing.TB, n *node) keyIDs {
	t.Helper()
	var sets map[string]struct{ Keys []struct{ Kid string } }
	want(t, http.StatusOK, n.get("/tokens/keys")).JSON(t, &sets)
	var out keyIDs
	for _, k := range sets["access_token"].Keys {
		out.access = append(out.access, k.Kid)
	}
	for _, k := range sets["refresh_token"].Keys {
		out.refresh = append(out.refresh, k.Kid)
	}
	return out
}

func kidOf(t testing.TB, token string) string {
	t.Helper()
	kid, _ := decodePart(t, token, 0)["kid"].(string)
	return kid
}

// eventuallyKeys waits until the condition holds for the published keys of every replica.
func (c *cluster) eventuallyKeys(what string, holds func(keyIDs) bool) {
	c.t.Helper()
	testenv.Until(c.t, time.Minute, what, func() bool {
		for _, n := range c.nodes {
			if !holds(kids(c.t, n)) {
				return false
			}
		}
		return true
	})
}

// ring returns the files of the ring in the database.
func (c *cluster) ring() map[string]string {
	c.t.Helper()
	files := map[string]string{}
	for _, row := range column(c.t, c.db, "SELECT row_to_json(key_ring)::text FROM key_ring") {
		var r struct {
			Files map[string]string `json:"files"`
		}
		testenv.NoError(c.t, json.Unmarshal([]byte(row), &r))
		for name, text := range r.Files {
			data := testenv.Must(base64.StdEncoding.DecodeString(text))(c.t)
			files[name] = string(data)
		}
	}
	return files
}

// confirmed counts the keys whose wait is in its second half.
func (c *cluster) confirmed() int { return strings.Count(c.ring()["ring.json"], `"confirmed": true`) }

func (c *cluster) generation() string {
	return strings.Join(column(c.t, c.db, "SELECT generation::text FROM key_ring"), ",")
}

// clocksDiffer is longer than the difference of clocks that the rules of keys allow for.
const clocksDiffer = time.Minute

func TestKeysOfThreeReplicasThatStartAtOnceAreTheSame(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgrestest.Unmigrated(t))
	c.nodes = atOnce(3, func(int) *node {
		n, err := c.tryAdd()
		if err != nil {
			t.Error(err)
		}
		return n
	})
	if t.Failed() {
		c.nodes = slices.DeleteFunc(c.nodes, func(n *node) bool { return n == nil })
		return
	}
	for _, n := range c.nodes {
		n.waitReady()
	}
	first := kids(t, c.nodes[0])
	for _, n := range c.nodes[1:] {
		if k := kids(t, n); !slices.Equal(k.access, first.access) || !slices.Equal(k.refresh, first.refresh) || len(k.access) != 1 {
			t.Errorf("one replica publishes %v, another %v", first, k)
		}
	}
	for _, n := range c.nodes {
		c.alive("a token of any replica", n.newUser().access)
	}
}

func TestKeyRotationInvalidatesNoToken(t *testing.T) {
	t.Parallel()
	settings := env{"ACCESS_TOKEN_EXPIRY": "7200", "REFRESH_TOKEN_EXPIRY": "14400", "KEY_PUBLISH_LEAD": "10m"}
	c := newCluster(t, postgrestest.Config(t)) // the prepared ring is for tokens with a longer lifetime
	c.addReady(3, settings)
	first := kids(t, c.nodes[0])
	signs := func(n *node, u user) string { return kidOf(t, n.signIn(u).access) }

	c.clock.Advance(721 * time.Hour) // the rotation interval has passed
	c.eventuallyKeys("a successor is published", func(k keyIDs) bool { return len(k.access) == 2 && len(k.refresh) == 2 })
	u, other := c.nodes[0].newUser(), c.nodes[0].newUser()
	if kidOf(t, u.access) != first.access[0] {
		t.Error("the successor signs before its lead")
	}
	// The lead has to pass twice, because a clock may jump: the first time its end is only recorded.
	c.clock.Advance(10*time.Minute + clocksDiffer)
	testenv.Until(t, time.Minute, "the end of the lead is recorded", func() bool { return c.confirmed() == 2 })
	for _, n := range c.nodes {
		if signs(n, other) != first.access[0] {
			t.Error("the successor signs after a jump of the clock")
		}
	}
	c.clock.Advance(10*time.Minute + clocksDiffer)
	testenv.Until(t, time.Minute, "the successor signs everywhere", func() bool {
		return !slices.ContainsFunc(c.nodes, func(n *node) bool { return signs(n, other) == first.access[0] })
	})
	c.alive("a token of the previous key", u.access)
	for _, n := range c.nodes {
		r := want(t, http.StatusOK, n.renew(u.refresh), "a token of the previous key")
		c.alive("a renewed token", r.Text("access_token"))
		if k := kids(t, n); !slices.Contains(k.access, first.access[0]) {
			t.Error("a key was removed before its last token expired")
		}
	}
	// A replica that starts now has both keys.
	late := c.addReady(1, settings)
	want(t, http.StatusOK, late.profile(u.access), "a replica that starts now")

	c.clock.Advance(14400*time.Second + 10*time.Minute + clocksDiffer)
	testenv.Until(t, time.Minute, "the expiry of the last token is recorded", func() bool { return c.confirmed() == 2 })
	c.clock.Advance(14400*time.Second + 10*time.Minute + clocksDiffer)
	c.eventuallyKeys("the previous key is removed", func(k keyIDs) bool {
		return !slices.Contains(k.access, first.access[0]) && !slices.Contains(k.refresh, first.refresh[0])
	})
	c.dead("tokens of the removed key", u.tokens)
	c.alive("a sign-in after that", c.nodes[1].signIn(u).access)
}

func TestKeyAlgorithmChangeIsAnOrdinaryRotation(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	u := c.nodes[0].newUser()
	c.stop()
	for range 2 {
		c.addReady(1, env{"SIGNING_ALGORITHM": "EdDSA"})
	}
	c.alive("a token of the former algorithm", u.access)
	c.eventuallyKeys("a successor is published", func(k keyIDs) bool { return len(k.access) == 2 })
	reply := c.nodes[0].get("/.well-known/jwks.json")
	if !strings.Contains(string(reply.Body), `"EdDSA"`) || !strings.Contains(string(reply.Body), `"ES256"`) {
		t.Errorf("got %v", reply)
	}
}

func TestPassphraseThatIsWrongIsAnErrorAndReplacesNoKeys(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	u := c.nodes[0].newUser()
	c.stop()
	before := c.ring()
	for _, name := range []string{"ACCESS_PASSPHRASE", "REFRESH_PASSPHRASE"} {
		e := env{name: "some other passphrase", "PORT": strconv.Itoa(testenv.FreePort(t)), "METRICS_PORT": strconv.Itoa(testenv.FreePort(t))}
		got := c.call([]string{"serve"}, e)
		if got.code == 0 || !strings.Contains(got.err, name) || !strings.Contains(got.err, "passphrase") {
			t.Errorf("got %+v", got)
		}
		if strings.Contains(got.err, "some other passphrase") {
			t.Error("the passphrase is shown")
		}
		t.Logf("%s", got.err[max(0, strings.LastIndex(got.err, "authserver: ")):])
		if got := c.call([]string{"keys", "rotate"}, e); got.code == 0 {
			t.Errorf("rotating with a wrong passphrase: %+v", got)
		}
	}
	if after := c.ring(); len(before) == 0 || !maps.Equal(before, after) {
		t.Errorf("the ring has changed: %d files became %d", len(before), len(after))
	}
	c.addReady(1)
	c.alive("after all that", u.access)
}

func TestPassphraseChangeDecryptsKeysWithTheFormerOne(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	u := c.nodes[0].newUser()
	c.stop()
	changed := env{"ACCESS_PASSPHRASE": "the second access passphrase", "REFRESH_PASSPHRASE": "the second refresh passphrase"}
	both := changed.With(env{"FORMER_ACCESS_PASSPHRASE": accessPassphrase, "FORMER_REFRESH_PASSPHRASE": refreshPassphrase})
	before := c.generation()
	c.addReady(1, both)
	c.alive("a token of a key that is encrypted with the former passphrase", u.access)
	want(t, http.StatusOK, c.nodes[0].renew(u.refresh))
	testenv.Until(t, time.Minute, "the keys are encrypted again", func() bool { return c.generation() != before })
	testenv.Until(t, time.Minute, "the new passphrases open all keys", func() bool {
		e := changed.With(env{"PORT": strconv.Itoa(testenv.FreePort(t)), "METRICS_PORT": "0"})
		return c.call([]string{"keys", "rotate"}, e).code == 0
	})
	c.addReady(1, changed)
	c.alive("a replica without the former passphrase", u.access)
}

// mount writes files to a directory as Kubernetes replaces a mounted Secret: it creates a new directory, changes one link
// to it, and then updates the links of the files.
type mount struct {
	dir      string
	onlyTurn bool // stop after the one link has changed
}

func (m mount) write(t testing.TB, files map[string]string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(m.dir, name) }
	try := func(err error) {
		t.Helper()
		if err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	data := "..data-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	try(os.Mkdir(at(data), 0o700))
	for name, text := range files {
		try(os.WriteFile(filepath.Join(at(data), name), []byte(text), 0o600))
	}
	before, _ := os.Readlink(at("..data"))
	try(os.Symlink(data, at("..data_tmp")))
	try(os.Rename(at("..data_tmp"), at("..data")))
	if m.onlyTurn {
		return
	}
	for name := range files {
		try(os.Symlink(filepath.Join("..data", name), at(name)))
	}
	entries, err := os.ReadDir(m.dir)
	try(err)
	for _, entry := range entries {
		if _, kept := files[entry.Name()]; !kept && !strings.HasPrefix(entry.Name(), ".") {
			try(os.Remove(at(entry.Name())))
		}
	}
	if before != "" {
		try(os.RemoveAll(at(before)))
	}
}

// writeRing replaces the files in a directory.
func writeRing(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	mount{dir: dir}.write(t, files)
}

func TestKeysDirThatBreaksLeavesTheLastGoodRing(t *testing.T) {
	t.Parallel()
	c := start(t, 1) // creates the rings, in the database
	first := c.ring()
	if got := c.call([]string{"keys", "rotate"}); got.code != 0 {
		t.Fatalf("got %+v", got)
	}
	second := c.ring()
	c.stop()

	dir := t.TempDir()
	writeRing(t, dir, first)
	n := c.addReady(1, env{"KEYS_DIR": dir})
	u := n.newUser()
	half := map[string]string{}
	for name, text := range second {
		half[name] = text[:len(text)/2]
	}
	missing := map[string]string{"ring.json": second["ring.json"]}
	for about, bad := range map[string]func(){
		"half-written":        func() { writeRing(t, dir, half) },
		"incomplete":          func() { writeRing(t, dir, missing) },
		"empty":               func() { writeRing(t, dir, map[string]string{"ring.json": ""}) },
		"a missing directory": func() { testenv.NoError(t, os.Remove(filepath.Join(dir, "..data"))) },
	} {
		before := failures(t, n)
		bad()
		testenv.Until(t, time.Minute, "the replica notices: "+about, func() bool { return failures(t, n) > before })
		want(t, http.StatusOK, n.profile(u.access), "with", about)
		want(t, http.StatusOK, n.trySignIn(u.username, u.password), "with", about)
		if !n.ready() || len(kids(t, n).access) != 1 {
			t.Errorf("%s: the last good ring is not in use", about)
		}
	}
	writeRing(t, dir, second)
	c.eventuallyKeys("the new ring is loaded", func(k keyIDs) bool { return len(k.access) == 2 })
	want(t, http.StatusOK, n.profile(u.access))
}

func TestKeysDirWithoutKeysIsNamedAtStart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgrestest.Config(t))
	file := filepath.Join(t.TempDir(), "file")
	gone := t.TempDir()
	testenv.NoError(t, errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink("nowhere", filepath.Join(gone, "..data"))))
	for name, tc := range map[string]struct{ dir, says string }{
		"an empty one":   {t.TempDir(), "holds no keys to sign with yet (ring.json and <kid>.pem)"},
		"a missing one":  {filepath.Join(t.TempDir(), "none"), "no such file or directory"},
		"a file":         {file, "not a directory"},
		"a broken mount": {gone, "no such file or directory"},
	} {
		e := env{"KEYS_DIR": tc.dir, "PORT": strconv.Itoa(testenv.FreePort(t)), "METRICS_PORT": "0"}
		got := c.call([]string{"serve"}, e)
		if got.code != 1 || !strings.Contains(got.err, "authserver: KEYS_DIR: ") || !strings.Contains(got.err, tc.says) ||
			!strings.Contains(got.err, tc.dir) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// seed stores a ring in a database, so replicas start at once. Creating a ring takes seconds, because key derivation is
// slow on purpose.
func seed(t testing.TB, db postgres.Config) {
	t.Helper()
	ring := prepareRotation(t).first
	store := testenv.Must(postgres.Open(db))(t)
	defer store.Close()
	if swapped, err := store.SwapRing(t.Context(), 0, ring.Generation, ring.Files(), identity.Event{}); err != nil || !swapped {
		t.Fatalf("SwapRing: %v, %v", swapped, err)
	}
}

func testPassphrases() keys.Passphrases {
	return keys.Passphrases{Access: []string{accessPassphrase}, Refresh: []string{refreshPassphrase}}
}

// rotation is a ring at the steps of a rotation, the same in all tests.
type rotation struct {
	first, published, promoted, revoked keys.Ring

	former, successor map[keys.Use]string // key ids
}

var preparedRotation = sync.OnceValue(func() *rotation {
	all := keystest.Rotate(&testing.T{}, keystest.Policy(), testPassphrases(), time.Now())
	r := &rotation{
		first: all.First, published: all.Published, promoted: all.Promoted, revoked: all.Revoked,
		former: map[keys.Use]string{}, successor: map[keys.Use]string{},
	}
	for _, use := range keys.Uses() {
		former, _ := r.first.Signing(use)
		successor, _ := r.promoted.Signing(use)
		r.former[use], r.successor[use] = former.ID, successor.ID
	}
	return r
})

func prepareRotation(t testing.TB) *rotation {
	t.Helper()
	r := preparedRotation()
	if !r.promoted.Honoured("once") {
		t.Fatal("the rotation was not prepared")
	}
	return r
}

// files returns a ring as in a mounted Secret.
func (r *rotation) files(ring keys.Ring) map[string]string { return texts(ring.Files()) }

// reencrypted returns the files of a ring's next generation, encrypted with other passphrases and a number of rounds.
func (r *rotation) reencrypted(
	t testing.TB, ring keys.Ring, passphrases map[keys.Use]string, rounds int,
) map[string]string {
	t.Helper()
	return texts(keystest.Reencrypt(t, ring, testPassphrases(), passphrases, rounds).Files())
}

// renumbered returns the files of a ring with another generation.
func renumbered(t testing.TB, files map[string]string, generation int64) map[string]string {
	t.Helper()
	files = maps.Clone(files)
	line := regexp.MustCompile(`"generation": [0-9]+,`)
	if len(line.FindAllString(files["ring.json"], -1)) != 1 {
		t.Fatalf("ring.json has no generation:\n%s", files["ring.json"])
	}
	files["ring.json"] = line.ReplaceAllString(files["ring.json"], fmt.Sprintf(`"generation": %d,`, generation))
	return files
}
