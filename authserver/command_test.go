package authserver_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
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
	"github.com/auth-gateway/auth-gateway/internal/testenv/gatewaytest"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// outcome is the result of a command.
type outcome struct {
	code     int
	out, err string
}

// call runs a command in this process.
func call(t testing.TB, e env, args ...string) outcome {
	t.Helper()
	var out, err bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	code := authserver.Command{
		Args: args, LookupEnv: e.Lookup, ReadFile: os.ReadFile, WriteFile: os.WriteFile, Out: &out, Err: &err, Version: "v1.2.3-test",
	}.Run(ctx)
	return outcome{code, out.String(), err.String()}
}

// call runs a command with the settings of the cluster's replicas.
func (c *cluster) call(args []string, changes ...env) outcome {
	c.t.Helper()
	return call(c.t, gatewaytest.Environ(c.db, changes...), args...)
}

func TestHelpListsEverySettingAndCommand(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-h"}, {"--help"}, {"help"}, {"admin", "--help"}, {"keys", "revoke", "-h"}} {
		got := call(t, env{}, args...)
		if got.code != 0 || got.err != "" {
			t.Errorf("%s: exit code %d, %s", args, got.code, got.err)
		}
		for _, s := range config.Settings() {
			if !strings.Contains(got.out, s.Name) || !strings.Contains(got.out, s.Default) {
				t.Errorf("%s does not list %s (%s)", args, s.Name, s.Default)
			}
		}
		for _, verb := range []string{
			"serve", "authserver admin ", "migrate", "keys list", "keys rotate", "keys revoke", "healthcheck", "version",
			"users …", "sessions list", "events",
		} {
			if !strings.Contains(got.out, verb) {
				t.Errorf("%s does not list %s", args, verb)
			}
		}
	}
}

func TestVersionNeedsNoSettings(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"version", "--version", "-version"} {
		if got := call(t, env{}, arg); got.code != 0 || strings.TrimSpace(got.out) != "v1.2.3-test" {
			t.Errorf("%s: got %+v", arg, got)
		}
	}
}

func TestKeysRotateReportsARotationInProgress(t *testing.T) {
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
		t.Errorf("the errors are %s%s", first.err, second.err)
	}
}

func TestArgumentsThatAreWrongExitWith2(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"dance"}, {"serve", "now"}, {"migrate", "up"}, {"version", "x"}, {"-x"}, {"--port=1"},
		{"keys"}, {"keys", "list", "x"}, {"keys", "revoke"}, {"keys", "revoke", "a", "b"}, {"keys", "dance"},
		{"users"}, {"users", "list"}, {"users", "import"}, {"users", "import", "--from", "native"},
		{"users", "export"}, {"users", "export", "a", "b"},
	} {
		got := call(t, gatewaytest.Environ(postgrestest.Config(t)), args...)
		if got.code != 2 || got.out != "" || !strings.Contains(got.err, "; see authserver ") {
			t.Errorf("%s: %+v", args, got)
		}
	}
	if got := call(t, env{}, "user", "list"); got.code != 2 || !strings.Contains(got.err, `unknown command "user"`) {
		t.Errorf("got %+v", got)
	}
}

func TestSettingsThatAreMissingAreAllNamed(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"serve", "admin", "migrate"} {
		got := call(t, env{}, verb)
		if got.code != 2 || got.out != "" {
			t.Errorf("%s: exit code %d, %s", verb, got.code, got.out)
		}
		for _, s := range config.Settings() {
			named := regexp.MustCompile(`(?m)^` + s.Name + `: is not set: `).MatchString(got.err)
			if want := s.Required && (verb != "admin" || !s.ServeOnly); named != want {
				t.Errorf("%s: %s is named: %v\n%s", verb, s.Name, named, got.err)
			}
		}
	}
}

func TestSettingsThatAreWrongAreAllNamedWithoutSecrets(t *testing.T) {
	t.Parallel()
	wrong := env{
		"PORT": "http", "HOST": "http://localhost", "ACCESS_TOKEN_EXPIRY": "never", "REFRESH_TOKEN_EXPIRY": "-1",
		"SALT_ROUNDS": "99", "DB_PORT": "0", "DB_HOST": "postgres://db", "EXPOSURE": "partly", "SIGNING_ALGORITHM": "HS256",
		"KEY_ROTATION_INTERVAL": "P1D", "KEY_PUBLISH_LEAD": "0s", "REFRESH_TOKEN_ROTATION": "sometimes", "ISSUER": "auth.example.com",
		"TRUSTED_CALLER_KEY": "tooshortakey", "LOG_LEVEL": "loud", "LOG_FORMAT": "xml", "DB_SSLMODE": "maybe", "PASSWORD_BLOCKLIST": "yes",
		"ACCESS_PASSPHRASE": "one line of it\nand another",
	}
	got := call(t, gatewaytest.Environ(postgrestest.Config(t), wrong))
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

func TestPortInUseIsNamed(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	for name, addr := range map[string]string{"PORT": c.nodes[0].Base, "METRICS_PORT": c.nodes[0].Ops} {
		e := gatewaytest.Environ(c.db, env{"PORT": strconv.Itoa(testenv.FreePort(t)), "METRICS_PORT": "0"})
		e[name] = addr[strings.LastIndexByte(addr, ':')+1:]
		got := call(t, e, "serve")
		if got.code != 1 || !strings.Contains(got.err, name+": cannot listen") {
			t.Errorf("got %+v", got)
		}
	}
}

func TestMigrateCanRunManyTimesAtOnce(t *testing.T) {
	t.Parallel()
	e := gatewaytest.Environ(postgrestest.Unmigrated(t), env{"LOG_LEVEL": "error"})
	outcomes := atOnce(4, func(int) outcome { return call(t, e, "migrate") })
	for _, got := range append(outcomes, call(t, e, "migrate")) {
		if got != outcomes[0] || got.code != 0 || !regexp.MustCompile(`^the database has schema version [1-9]\d*\n$`).MatchString(got.out) {
			t.Errorf("got %+v", got)
		}
	}
}

func TestHealthcheckReportsWhetherTheServerIsAlive(t *testing.T) {
	t.Parallel()
	c, n := single(t)
	// The command needs only these settings. 0.0.0.0 is all interfaces, of which it asks one.
	e := env{"METRICS_PORT": n.Ops[strings.LastIndexByte(n.Ops, ':')+1:]}
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0"} {
		e["HOST"] = host
		if got := call(t, e, "healthcheck"); got.code != 0 {
			t.Errorf("%s: got %+v", host, got)
		}
	}
	c.stop()
	if got := call(t, e, "healthcheck"); got.code != 1 || got.err == "" {
		t.Errorf("after the server has ended: %+v", got)
	}
}

func TestKeysListRotateAndRevoke(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgrestest.Config(t))
	if got := c.call([]string{"keys", "rotate"}); got.code != 1 || !strings.Contains(got.err, "there are no keys yet") {
		t.Errorf("rotating before there are keys: %+v", got)
	}
	seed(t, c.db)
	c.addReady(3)
	first := kids(t, c.nodes[0])
	if len(first.access) != 1 || len(first.refresh) != 1 || first.access[0] == first.refresh[0] {
		t.Fatalf("got %+v", first)
	}
	list := c.call([]string{"keys", "list"})
	if list.code != 0 || len(strings.Split(strings.TrimSpace(list.out), "\n")) != 3 ||
		!strings.Contains(list.out, first.access[0]) || !strings.Contains(list.out, first.refresh[0]) {
		t.Errorf("got %+v", list)
	}
	if got := c.call([]string{"keys", "revoke", "unknown"}); got.code != 1 || !strings.Contains(got.err, `no key has the kid "unknown"`) {
		t.Errorf("got %+v", got)
	}
	if got := c.call([]string{"keys", "rotate"}); got.code != 0 || strings.Count(got.out, "Published") != 2 {
		t.Fatalf("got %+v", got)
	}
	c.eventuallyKeys("two keys of each use", func(k keyIDs) bool { return len(k.access) == 2 && len(k.refresh) == 2 })

	// All replicas have the successors, which do not sign yet.
	u := c.nodes[1].newUser()
	if kidOf(t, u.access) != first.access[0] || kidOf(t, u.refresh) != first.refresh[0] {
		t.Error("a key that was just published signs")
	}
	for _, kid := range []string{first.access[0], first.refresh[0]} {
		if got := c.call([]string{"keys", "revoke", kid}); got.code != 0 {
			t.Errorf("got %+v", got)
		}
	}
	c.eventuallyKeys("no replica publishes the revoked keys", func(k keyIDs) bool { return len(k.access) == 1 && len(k.refresh) == 1 })
	c.dead("tokens of a revoked key", u.tokens)
	c.alive("a sign-in after that", c.nodes[2].signIn(u).access)
	for _, n := range c.nodes {
		want(t, http.StatusOK, n.renew(c.nodes[0].signIn(u).refresh))
	}
}

func TestKeysInADirectoryAreNotChangedByCommands(t *testing.T) {
	t.Parallel()
	c := newCluster(t, postgrestest.Config(t))
	for _, verb := range [][]string{{"keys", "rotate"}, {"keys", "revoke", "x"}} {
		if got := c.call(verb, env{"KEYS_DIR": t.TempDir()}); got.code != 1 || !strings.Contains(got.err, "KEYS_DIR") {
			t.Errorf("got %+v", got)
		}
	}
}

// terminationLog runs a command as Kubernetes does, with a file for the termination message that is not empty, and
// returns the content of the file after the command.
func terminationLog(t testing.TB, e env, args ...string) (message string, got outcome) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "termination-log")
	testenv.NoError(t, os.WriteFile(path, []byte(oldMessage), 0o600))
	got = call(t, e.With(env{"TERMINATION_LOG": path}), args...)
	text := testenv.Must(os.ReadFile(path))(t)
	return string(text), got
}

// oldMessage is longer than most messages that replace it.
var oldMessage = strings.Repeat("an old message ", 100)

func TestTerminationLogHasTheReason(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	api := c.nodes[0].Base
	taken := env{"PORT": api[strings.LastIndexByte(api, ':')+1:], "METRICS_PORT": "0"}
	free := func(changes env) env {
		return env{"PORT": strconv.Itoa(testenv.FreePort(t)), "METRICS_PORT": "0"}.With(changes)
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
		"exposure without mail":     {nil, free(env{"EXPOSURE": "public"}), 2, "EXPOSURE: public sends codes only by mail"},
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
		message, got := terminationLog(t, gatewaytest.Environ(c.db, tc.changes), tc.args...)
		if got.code != tc.code || !strings.Contains(message, tc.says) || !strings.HasSuffix(got.err, message) {
			t.Errorf("%s: exit code %d, the termination message is %q, and the output\n%s", about, got.code, message, got.err)
		}
		for _, secret := range []string{other, accessPassphrase, refreshPassphrase, c.db.Password} {
			if secret != "" && secret != c.db.User && strings.Contains(message, secret) {
				t.Errorf("%s: the message shows %q: %s", about, secret, message)
			}
		}
	}
}

func TestTerminationLogHasAtMost4096Bytes(t *testing.T) {
	t.Parallel()
	wrong := env{"ACCESS_PASSPHRASE": "one line\nand another", "REFRESH_PASSPHRASE": "one line\nand another"}
	for _, s := range config.Settings() {
		if !s.Secret {
			wrong[s.Name] = strings.Repeat("é", 50) // invalid for most settings
		}
	}
	message, got := terminationLog(t, wrong, "serve")
	if got.code != 2 || len(got.err) <= 4096 {
		t.Fatalf("exit code %d, %d bytes:\n%s", got.code, len(got.err), got.err)
	}
	begins, cut := strings.CutSuffix(message, "…")
	if len(message) > 4096 || len(message) < 4000 || !cut || !utf8.ValidString(message) || !strings.HasPrefix(got.err, begins) {
		t.Errorf("%d bytes: %q", len(message), message)
	}
}

func TestTerminationLogThatCannotBeWrittenHidesNoError(t *testing.T) {
	t.Parallel()
	db := postgrestest.Config(t)
	for about, path := range map[string]string{
		"a folder": t.TempDir(), "in no folder": filepath.Join(t.TempDir(), "none", "log"), "no path at all": "a\x01\x00b",
	} {
		got := call(t, gatewaytest.Environ(db, env{"SALT_ROUNDS": "99", "TERMINATION_LOG": path}))
		first, second, _ := strings.Cut(got.err, "authserver: TERMINATION_LOG: ")
		if got.code != 2 || !strings.Contains(first, "SALT_ROUNDS: ") || second == "" {
			t.Errorf("%s: %+v", about, got)
		}
	}
	// A file that does not exist is created.
	path := filepath.Join(t.TempDir(), "log")
	got := call(t, gatewaytest.Environ(db, env{"SALT_ROUNDS": "99", "TERMINATION_LOG": path}))
	if text, err := os.ReadFile(path); err != nil || string(text) != got.err {
		t.Errorf("%v %q", err, text)
	}
	if got := call(t, gatewaytest.Environ(db, env{"SALT_ROUNDS": "99", "TERMINATION_LOG": ""})); got.code != 2 ||
		strings.Contains(got.err, "TERMINATION_LOG") {
		t.Errorf("without a termination log: %+v", got)
	}
}

// Only a server that fails has a reason. Commands that people run in the container of a running server write none.
func TestTerminationLogIsNotWrittenByOtherCommands(t *testing.T) {
	t.Parallel()
	c := start(t, 1)
	unused := strconv.Itoa(testenv.FreePort(t))
	for _, tc := range []struct {
		code    int
		changes env
		args    []string
	}{
		{0, nil, []string{"version"}},
		{0, nil, []string{"-h"}},
		{0, nil, []string{"migrate"}},
		{0, nil, []string{"keys", "list"}},
		{1, nil, []string{"keys", "revoke", "unknown"}},
		{1, env{"KEYS_DIR": "/nowhere"}, []string{"keys", "rotate"}},
		{2, nil, []string{"keys", "dance"}},
		{2, env{"SALT_ROUNDS": "99"}, []string{"keys", "list"}},
		{1, env{"METRICS_PORT": unused}, []string{"healthcheck"}},
		{2, nil, []string{"healthcheck", "now"}},
	} {
		message, got := terminationLog(t, gatewaytest.Environ(c.db, tc.changes), tc.args...)
		if got.code != tc.code || message != oldMessage {
			t.Errorf("%v: exit code %d, and the file contains %.100q; %s", tc.args, got.code, message, got.err)
		}
	}
}

func TestImportsSayWhatIsRefused(t *testing.T) {
	settings := gatewaytest.Environ(postgrestest.Config(t))
	if got := call(t, settings, "migrate"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	dir := t.TempDir()
	file, refused := filepath.Join(dir, "accounts.ndjson"), filepath.Join(dir, "refused")
	lines := `{"email": "ada@example.com", "email_verified": true}` + "\n" + strings.Repeat(`{"email": "unproved@example.com"}`+"\n", 25)
	testenv.NoError(t, os.WriteFile(file, []byte(lines), 0o600))
	dry := []string{"users", "import", file, "--from", "native", "--dry-run"}
	got := call(t, settings, dry...)
	if got.code != 0 || !strings.Contains(got.out, "1 can be imported, 25 are refused") || !strings.Contains(got.err, "5 more are refused") ||
		!strings.Contains(got.err, file+", account 2: email: is not verified") || strings.Contains(got.err, "account 22") {
		t.Errorf("%+v", got)
	}
	// The file could be that of an import that was stopped.
	if _, err := os.Stat(file + ".refused"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dry run writes a file: %v", err)
	}
	got = call(t, settings, append(dry, "--refused", refused)...)
	reasons := string(testenv.Must(os.ReadFile(refused))(t))
	if got.code != 0 || strings.Contains(got.err, "more are refused") || strings.Count(reasons, "\n") != 25 {
		t.Errorf("%+v, and the file has %s", got, reasons)
	}
	// A script must not go on if nothing was imported, as after a wrong conversion.
	late := `{"email": "ada@example.com", "email_verified": true, "created_at": "2999-01-01T00:00:00Z"}`
	testenv.NoError(t, os.WriteFile(file, []byte(late), 0o600))
	got = call(t, settings, "users", "import", file, "--from", "native", "--refused", refused)
	reasons = string(testenv.Must(os.ReadFile(refused))(t))
	if got.code != 1 || !strings.Contains(got.err, "no account was imported") ||
		!strings.Contains(reasons, "created_at: is in the future: 2999") {
		t.Errorf("%+v, and the file has %s", got, reasons)
	}
	t.Chdir(dir)
	for _, args := range [][]string{{"users", "export", "-"}, {"users", "import", "-", "--from", "native"}} {
		if got := call(t, settings, args...); got.code != 2 || !strings.Contains(got.err, "FILE is -") {
			t.Errorf("%v: %+v", args, got)
		}
	}
}

// A token that is longer than verifiers accept would be useless, so an account whose tokens would be is refused.
func TestImportRefusesPipesAndWhatATokenHasNoRoomFor(t *testing.T) {
	t.Parallel()
	settings := gatewaytest.Environ(postgrestest.Config(t))
	if got := call(t, settings, "migrate"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	dir := t.TempDir()
	for _, path := range []string{dir, "/dev/null"} { // a pipe would be empty the second time
		if got := call(t, settings, "users", "import", path, "--from", "native"); got.code != 1 || !strings.Contains(got.err, "read twice") {
			t.Errorf("%s: %+v", path, got)
		}
	}
	file := filepath.Join(dir, "accounts.ndjson")
	line := `{"email": "ada@example.com", "email_verified": true, "metadata": {"plan": "` + strings.Repeat("x", 4000) + `"}}`
	testenv.NoError(t, os.WriteFile(file, []byte(line+"\n"), 0o600))
	settings["TOKEN_CLAIMS"] = "plan"
	if got := call(t, settings, "users", "import", file, "--from", "native"); !strings.Contains(got.out+got.err, "0 imported, 1 refused") {
		t.Errorf("with the claim: %+v", got)
	}
	if reasons := string(testenv.Must(os.ReadFile(file + ".refused"))(t)); !strings.Contains(reasons, "TOKEN_CLAIMS names") {
		t.Errorf("the reason is %s", reasons)
	}
	delete(settings, "TOKEN_CLAIMS")
	if got := call(t, settings, "users", "import", file, "--from", "native"); !strings.Contains(got.out+got.err, "1 imported, 0 refused") {
		t.Errorf("without the claim: %+v", got)
	}
}
