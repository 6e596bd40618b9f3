package authserver_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/authserver"
	"github.com/auth-gateway/auth-gateway/authserver/config"
	"github.com/auth-gateway/auth-gateway/authserver/postgres/postgrestest"
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
		e := environment(c.db, env{"PORT": strconv.Itoa(freePort(t)), "METRICS_PORT": "0"})
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
		if got != outcomes[0] || got.code != 0 || !regexp.MustCompile(`^the database has schema [1-9]\d*\n$`).MatchString(got.out) {
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
