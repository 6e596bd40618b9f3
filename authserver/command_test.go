package authserver_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// outcome is what a call of the program gave.
type outcome struct {
	code     int
	out, err string
}

// call runs the program, in this process.
func call(t testing.TB, e env, args ...string) outcome {
	t.Helper()
	var out, err bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	code := authserver.Command{
		Args: args, LookupEnv: e.lookup, ReadFile: os.ReadFile, WriteFile: os.WriteFile, Out: &out, Err: &err, Version: "v1.2.3-test",
	}.Run(ctx)
	return outcome{code, out.String(), err.String()}
}

// call runs the program with the settings of the cluster's replicas.
func (c *cluster) call(args []string, changes ...env) outcome {
	c.t.Helper()
	return call(c.t, environment(c.db, changes...), args...)
}

func TestEverySettingIsListedWithItsDefault(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-h"}, {"--help"}, {"help"}} {
		got := call(t, env{}, args...)
		if got.code != 0 || got.err != "" {
			t.Errorf("%s: exit code %d, %s", args, got.code, got.err)
		}
		for _, s := range config.Settings() {
			if !strings.Contains(got.out, s.Name) || !strings.Contains(got.out, s.Default) {
				t.Errorf("%s does not tell of %s (%s)", args, s.Name, s.Default)
			}
		}
		for _, verb := range []string{"serve", "migrate", "keys list", "keys rotate", "keys revoke", "healthcheck", "version"} {
			if !strings.Contains(got.out, verb) {
				t.Errorf("%s does not tell of %s", args, verb)
			}
		}
	}
}

func TestTheVersionNeedsNoSettings(t *testing.T) {
	t.Parallel()
	if got := call(t, env{}, "version"); got.code != 0 || strings.TrimSpace(got.out) != "v1.2.3-test" {
		t.Errorf("got %+v", got)
	}
}

func TestTheVersionIsAFlagToo(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--version", "-version"} {
		if got := call(t, env{}, flag); got.code != 0 || strings.TrimSpace(got.out) != "v1.2.3-test" {
			t.Errorf("%s: got %+v", flag, got)
		}
	}
}

func TestACommandThatIsNoneIsToldSoWhateverFollows(t *testing.T) {
	t.Parallel()
	got := call(t, env{}, "users", "list")
	if got.code != 2 || !strings.Contains(got.err, `unknown command "users"`) {
		t.Errorf("got %+v", got)
	}
}

func TestRotatingTwiceSaysThatARotationIsUnderWay(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgrestest.Config(t))
	seed(t, c.db)
	first := c.call([]string{"keys", "rotate"})
	if first.code != 0 || strings.Contains(first.out, "nothing to do") || !strings.Contains(first.out, "signs from ") ||
		!strings.Contains(first.out, "is replaced by") {
		t.Errorf("the first time: %+v", first)
	}
	second := c.call([]string{"keys", "rotate"})
	if second.code != 0 || !strings.Contains(second.out, "a rotation is already in progress") {
		t.Errorf("the second time: %+v", second)
	}
	if first.err+second.err != "" {
		t.Errorf("beside the table stands %s%s", first.err, second.err)
	}
}

func TestWrongArgumentsAreNamedWithExitCode2(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"dance"}, {"serve", "now"}, {"migrate", "up"}, {"version", "x"}, {"-x"}, {"--port=1"},
		{"keys"}, {"keys", "list", "x"}, {"keys", "revoke"}, {"keys", "revoke", "a", "b"}, {"keys", "dance"},
	} {
		got := call(t, environment(postgrestest.Config(t)), args...)
		if got.code != 2 || got.out != "" || !strings.Contains(got.err, "authserver -h") {
			t.Errorf("%s: %+v", args, got)
		}
	}
}

func TestAStartWithoutSettingsNamesEveryOneThatIsNeeded(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"serve", "migrate"} {
		got := call(t, env{}, verb)
		if got.code != 2 || got.out != "" {
			t.Errorf("%s: exit code %d, %s", verb, got.code, got.out)
		}
		for _, s := range config.Settings() {
			if named := regexp.MustCompile(`(?m)^` + s.Name + `: is not set: `).MatchString(got.err); named != s.Required {
				t.Errorf("%s: %s is named: %v\n%s", verb, s.Name, named, got.err)
			}
		}
	}
}

func TestEveryWrongSettingIsNamedAndNoSecretIsShown(t *testing.T) {
	t.Parallel()
	wrong := env{
		"PORT": "http", "HOST": "http://localhost", "ACCESS_TOKEN_EXPIRY": "never", "REFRESH_TOKEN_EXPIRY": "-1",
		"SALT_ROUNDS": "99", "DB_PORT": "0", "DB_HOST": "postgres://db", "EXPOSURE": "partly", "SIGNING_ALGORITHM": "HS256",
		"KEY_ROTATION_INTERVAL": "P1D", "KEY_PUBLISH_LEAD": "0s", "REFRESH_TOKEN_ROTATION": "sometimes", "ISSUER": "auth.example.com",
		"TRUSTED_CALLER_KEY": "tooshortakey", "LOG_LEVEL": "loud", "LOG_FORMAT": "xml", "DB_SSLMODE": "maybe", "PASSWORD_BLOCKLIST": "yes",
		"ACCESS_PASSPHRASE": "one line of it\nand another",
	}
	got := call(t, environment(postgrestest.Config(t), wrong))
	if got.code != 2 {
		t.Errorf("exit code %d", got.code)
	}
	for name := range wrong {
		if !strings.Contains(got.err, "\n"+name+": ") {
			t.Errorf("%s is not named", name)
		}
	}
	if lines := strings.Count(got.err, "\n"); lines != len(wrong)+1 {
		t.Errorf("%d lines for %d problems:\n%s", lines, len(wrong), got.err)
	}
	for _, secret := range []string{"tooshortakey", "one line of it", "and another", refreshPassphrase} {
		if strings.Contains(got.err, secret) {
			t.Errorf("the secret %q is shown:\n%s", secret, got.err)
		}
	}
}

func TestExposureToThePublicIsRefusedInWords(t *testing.T) {
	t.Parallel()
	got := call(t, environment(postgrestest.Config(t), env{"EXPOSURE": "public"}), "serve")
	if got.code != 2 || !strings.Contains(got.err, "EXPOSURE: ") || !strings.Contains(got.err, "mail") {
		t.Errorf("got %+v", got)
	}
}

func TestAPortThatIsTakenIsNamed(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	for name, addr := range map[string]string{"PORT": c.nodes[0].base, "METRICS_PORT": c.nodes[0].ops} {
		e := environment(c.db, env{"PORT": strconv.Itoa(testenv.FreePort(t)), "METRICS_PORT": "0"})
		e[name] = addr[strings.LastIndexByte(addr, ':')+1:]
		got := call(t, e, "serve")
		if got.code != 1 || !strings.Contains(got.err, name+": cannot listen") {
			t.Errorf("got %+v", got)
		}
	}
}

func TestMigratingTwiceIsOneSchema(t *testing.T) {
	t.Parallel()
	e := environment(postgrestest.Unmigrated(t), env{"LOG_LEVEL": "error"})
	outcomes := atOnce(4, func(int) outcome { return call(t, e, "migrate") })
	for _, got := range append(outcomes, call(t, e, "migrate")) {
		if got != outcomes[0] || got.code != 0 || !regexp.MustCompile(`^the database has schema version [1-9]\d*\n$`).MatchString(got.out) {
			t.Errorf("got %+v", got)
		}
	}
}

func TestAHealthcheckTellsWhetherTheServerIsAlive(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	ops := c.nodes[0].ops
	// It needs none of the twelve settings.
	e := env{"METRICS_PORT": ops[strings.LastIndexByte(ops, ':')+1:], "HOST": "127.0.0.1"}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		e["HOST"] = host
		if got := call(t, e, "healthcheck"); got.code != 0 {
			t.Errorf("%s: got %+v", host, got)
		}
	}
	e["HOST"] = "0.0.0.0" // the server listens on all interfaces: ask this machine
	if got := call(t, e, "healthcheck"); got.code != 0 {
		t.Errorf("got %+v", got)
	}
	c.stop()
	if got := call(t, e, "healthcheck"); got.code != 1 || got.err == "" {
		t.Errorf("of a server that is gone: %+v", got)
	}
}

func TestKeysAreListedRotatedAndRevokedByHand(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgrestest.Config(t))
	if got := c.call([]string{"keys", "rotate"}); got.code != 1 || !strings.Contains(got.err, "there are no keys yet") {
		t.Errorf("rotating before there are keys: %+v", got)
	}
	seed(t, c.db)
	for range 3 {
		c.add()
	}
	for _, n := range c.nodes {
		n.waitReady()
	}
	first := kids(t, c.nodes[0])
	if len(first.access) != 1 || len(first.refresh) != 1 || first.access[0] == first.refresh[0] {
		t.Fatalf("got %+v", first)
	}
	list := c.call([]string{"keys", "list"})
	if list.code != 0 || len(strings.Split(strings.TrimSpace(list.out), "\n")) != 3 ||
		!strings.Contains(list.out, first.access[0]) || !strings.Contains(list.out, first.refresh[0]) {
		t.Errorf("got %+v", list)
	}
	if got := c.call([]string{"keys", "revoke", "nobody"}); got.code != 1 || !strings.Contains(got.err, `no key has the kid "nobody"`) {
		t.Errorf("got %+v", got)
	}
	if got := c.call([]string{"keys", "rotate"}); got.code != 0 || strings.Count(got.out, "Published") != 2 {
		t.Fatalf("got %+v", got)
	}
	c.eventuallyKeys("two of each kind", func(k keyIDs) bool { return len(k.access) == 2 && len(k.refresh) == 2 })

	// The successors are known everywhere, and none of them signs yet.
	u := c.nodes[1].newUser()
	if kidOf(t, u.access) != first.access[0] || kidOf(t, u.refresh) != first.refresh[0] {
		t.Error("a key signs that was published just now")
	}
	for _, kid := range []string{first.access[0], first.refresh[0]} {
		if got := c.call([]string{"keys", "revoke", kid}); got.code != 0 {
			t.Errorf("got %+v", got)
		}
	}
	c.eventuallyKeys("the revoked are gone", func(k keyIDs) bool { return len(k.access) == 1 && len(k.refresh) == 1 })
	c.dead("signed by a revoked key", u.tokens)
	c.alive("of a sign-in after that", c.nodes[2].signIn(u).access)
	for _, n := range c.nodes {
		want(t, http.StatusOK, n.renew(c.nodes[0].signIn(u).refresh))
	}
}

func TestKeysInAFolderAreChangedByWhoWritesIt(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgrestest.Config(t))
	for _, verb := range [][]string{{"keys", "rotate"}, {"keys", "revoke", "x"}} {
		if got := c.call(verb, env{"KEYS_DIR": t.TempDir()}); got.code != 1 || !strings.Contains(got.err, "KEYS_DIR") {
			t.Errorf("got %+v", got)
		}
	}
}

// lastWords calls the program as Kubernetes does: with a file for a termination
// message, in which something stands already. It gives what stands there then.
func lastWords(t testing.TB, e env, args ...string) (words string, got outcome) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "termination-log")
	testenv.NoError(t, os.WriteFile(path, []byte(stood), 0o600))
	got = call(t, e.with(env{"TERMINATION_LOG": path}), args...)
	text, err := os.ReadFile(path)
	testenv.NoError(t, err)
	return string(text), got
}

// stood is longer than most of what is written over it.
var stood = strings.Repeat("what stood there ", 100)

func TestTheReasonOfAnEndIsInTheTerminationLog(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	api := c.nodes[0].base
	taken := env{"PORT": api[strings.LastIndexByte(api, ':')+1:], "METRICS_PORT": "0"}
	free := func(changes env) env {
		return env{"PORT": strconv.Itoa(testenv.FreePort(t)), "METRICS_PORT": "0"}.with(changes)
	}
	damaged := t.TempDir()
	testenv.NoError(t, os.WriteFile(filepath.Join(damaged, "ring.json"), []byte("{"), 0o600))
	const other = "another passphrase than that"
	for about, tc := range map[string]struct {
		args    []string
		changes env
		code    int
		says    string
	}{
		"a wrong setting":           {nil, free(env{"SALT_ROUNDS": "99"}), 2, "SALT_ROUNDS: "},
		"a setting that is missing": {nil, free(env{"DB_NAME": unset}), 2, "DB_NAME: is not set"},
		"a wrong verb":              {[]string{"dance"}, nil, 2, `unknown command "dance"`},
		"a wrong flag":              {[]string{"-port=1"}, nil, 2, "-port"},
		"a wrong passphrase":        {nil, free(env{"ACCESS_PASSPHRASE": other}), 1, "wrong passphrase"},
		"a folder of no keys":       {nil, free(env{"KEYS_DIR": t.TempDir()}), 1, "KEYS_DIR: "},
		"a damaged ring":            {nil, free(env{"KEYS_DIR": damaged}), 1, "the key ring is damaged"},
		"a port that is taken":      {nil, taken, 1, "PORT: cannot listen"},
		"a missing certificate": {nil, free(env{"DB_SSLMODE": "verify-full", "DB_SSLROOTCERT": "/nowhere/ca.pem"}),
			1, "/nowhere/ca.pem"},
		"a migration without a database": {[]string{"migrate"}, free(env{"DB_PORT": "1"}), 1, "cannot reach 127.0.0.1:1: connection refused"},
	} {
		words, got := lastWords(t, environment(c.db, tc.changes), tc.args...)
		if got.code != tc.code || !strings.Contains(words, tc.says) || !strings.HasSuffix(got.err, words) {
			t.Errorf("%s: exit code %d, %q is in the termination log, and this was printed:\n%s", about, got.code, words, got.err)
		}
		for _, secret := range []string{other, accessPassphrase, refreshPassphrase, c.db.Password} {
			if secret != "" && secret != c.db.User && strings.Contains(words, secret) {
				t.Errorf("%s: shows %q: %s", about, secret, words)
			}
		}
	}
}

func TestTheTerminationLogHoldsNoMoreThanKubernetesKeeps(t *testing.T) {
	t.Parallel()
	wrong := env{"ACCESS_PASSPHRASE": "one line\nand another", "REFRESH_PASSPHRASE": "one line\nand another"}
	for _, s := range config.Settings() {
		if !s.Secret {
			wrong[s.Name] = strings.Repeat("é", 50) // hardly anything is this
		}
	}
	words, got := lastWords(t, wrong, "serve")
	if got.code != 2 || len(got.err) <= 4096 {
		t.Fatalf("exit code %d, %d bytes:\n%s", got.code, len(got.err), got.err)
	}
	begins, cut := strings.CutSuffix(words, "…")
	if len(words) > 4096 || len(words) < 4000 || !cut || !utf8.ValidString(words) || !strings.HasPrefix(got.err, begins) {
		t.Errorf("%d bytes: %q", len(words), words)
	}
}

func TestATerminationLogThatCannotBeWrittenHidesNothing(t *testing.T) {
	t.Parallel()
	db := postgrestest.Config(t)
	for about, path := range map[string]string{
		"a folder": t.TempDir(), "in no folder": filepath.Join(t.TempDir(), "none", "log"), "no path at all": "a\x01\x00b",
	} {
		got := call(t, environment(db, env{"SALT_ROUNDS": "99", "TERMINATION_LOG": path}))
		first, second, _ := strings.Cut(got.err, "authserver: TERMINATION_LOG: ")
		if got.code != 2 || !strings.Contains(first, "SALT_ROUNDS: ") || second == "" {
			t.Errorf("%s: %+v", about, got)
		}
	}
	// The file may be one that this program has to make.
	path := filepath.Join(t.TempDir(), "log")
	got := call(t, environment(db, env{"SALT_ROUNDS": "99", "TERMINATION_LOG": path}))
	if text, err := os.ReadFile(path); err != nil || string(text) != got.err {
		t.Errorf("%v %q", err, text)
	}
	if got := call(t, environment(db, env{"SALT_ROUNDS": "99", "TERMINATION_LOG": ""})); got.code != 2 ||
		strings.Contains(got.err, "TERMINATION_LOG") {
		t.Errorf("where none is wanted: %+v", got)
	}
}

// What ends well has no reason; and what people do beside a server that runs, in
// its container and with its settings, is not what that server ends with.
func TestTheTerminationLogIsOfTheServerThatEnds(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	nobody := strconv.Itoa(testenv.FreePort(t))
	for _, tc := range []struct {
		code    int
		changes env
		args    []string
	}{
		{0, nil, []string{"version"}},
		{0, nil, []string{"-h"}},
		{0, nil, []string{"migrate"}},
		{0, nil, []string{"keys", "list"}},
		{1, nil, []string{"keys", "revoke", "nobody"}},
		{1, env{"KEYS_DIR": "/nowhere"}, []string{"keys", "rotate"}},
		{2, nil, []string{"keys", "dance"}},
		{2, env{"SALT_ROUNDS": "99"}, []string{"keys", "list"}},
		{1, env{"METRICS_PORT": nobody}, []string{"healthcheck"}},
		{2, nil, []string{"healthcheck", "now"}},
	} {
		words, got := lastWords(t, environment(c.db, tc.changes), tc.args...)
		if got.code != tc.code || words != stood {
			t.Errorf("%v: exit code %d, and the file says %.100q; %s", tc.args, got.code, words, got.err)
		}
	}
}
