package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/config"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// serverVariable makes the test binary act as the server that these tests run.
const serverVariable = "RUN_TEST_SERVER"

func TestMain(m *testing.M) {
	switch os.Getenv(serverVariable) {
	case "":
		testenv.Main(m)
	case "crash":
		os.Exit(3)
	case "serve":
		serve()
	}
}

func serve() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := config.Load(os.LookupEnv, os.ReadFile)
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stderr.WriteString("passphrases: " + c.AccessPassphrase.Reveal() + " " + c.RefreshPassphrase.Reveal() + "\n")
	os.Stderr.WriteString("algorithm: " + c.SigningAlgorithm + "\n")
	os.Stderr.WriteString("settings:\n" + c.String())
	l, err := net.Listen("tcp", c.MetricsAddress())
	if err != nil {
		panic(err)
	}
	go func() { _ = http.Serve(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) }()
	<-ctx.Done()
	os.Stderr.WriteString("the server ends in order\n")
}

const patience = 30 * time.Second

// running is `make run` in a folder of its own.
type running struct {
	*testenv.Output
	stop func()
	end  chan error
}

func start(t *testing.T, program, dir string) running {
	t.Helper()
	o := &testenv.Output{}
	ctx, cancel := context.WithCancel(t.Context())
	r := running{o, cancel, make(chan error, 1)}
	go func() { r.end <- runner{server: program, dir: dir, out: o, log: o}.run(ctx) }()
	return r
}

// startReady is start, and waits until the server is ready.
func startReady(t *testing.T, program, dir string) running {
	t.Helper()
	r := start(t, program, dir)
	r.WaitFor(t, patience, "Ctrl-C stops it")
	return r
}

func (r running) finish(t *testing.T) {
	t.Helper()
	r.stop()
	if err := <-r.end; err != nil {
		t.Errorf("%v\n%s", err, r)
	}
}

func TestRunEndsInOrderAndKeepsItsPassphrases(t *testing.T) {
	t.Setenv(serverVariable, "serve")
	t.Setenv("SIGNING_ALGORITHM", "EdDSA")
	dir := filepath.Join(t.TempDir(), ".local")
	first := startReady(t, os.Args[0], dir)
	first.WaitFor(t, patience, "algorithm: EdDSA")
	first.finish(t)
	first.WaitFor(t, patience, "the server ends in order")
	if _, err := os.Stat(filepath.Join(dir, "postgres", "data", "postmaster.pid")); err == nil {
		t.Error("PostgreSQL still runs")
	}
	for _, name := range []string{"access-passphrase", "refresh-passphrase"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}

	began := time.Now()
	second := startReady(t, os.Args[0], dir)
	if took := time.Since(began); took > 30*time.Second { // it does not install PostgreSQL again
		t.Errorf("the second start took %v", took)
	}
	second.finish(t)
	passphrases := regexp.MustCompile(`passphrases: (\S{16,}) (\S{16,})`)
	a, b := passphrases.FindStringSubmatch(first.String()), passphrases.FindStringSubmatch(second.String())
	if a == nil || b == nil || a[0] != b[0] || a[1] == a[2] {
		t.Errorf("passphrases: first %q, then %q", a, b)
	}
}

func TestRunEndsWithTheServer(t *testing.T) {
	t.Setenv(serverVariable, "crash")
	dir := t.TempDir()
	r := start(t, os.Args[0], dir)
	if err := <-r.end; err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("%v\n%s", err, r)
	}
	if _, err := os.Stat(filepath.Join(dir, "postgres", "data", "postmaster.pid")); err == nil {
		t.Error("PostgreSQL still runs")
	}
}

func TestRunEndsWithTheDatabase(t *testing.T) {
	t.Setenv(serverVariable, "serve")
	dir := t.TempDir()
	r := startReady(t, os.Args[0], dir)
	pid := testenv.Must(os.ReadFile(filepath.Join(dir, "postgres", "data", "postmaster.pid")))(t)
	first, _, _ := strings.Cut(string(pid), "\n")
	number := testenv.Must(strconv.Atoi(first))(t)
	testenv.NoError(t, syscall.Kill(number, syscall.SIGKILL))
	if err := <-r.end; err == nil || !strings.Contains(err.Error(), "PostgreSQL ended") {
		t.Errorf("%v\n%s", err, r)
	}
	r.WaitFor(t, patience, "the server ends in order")
}

func TestPrintedCommandsWork(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the server")
	}
	for _, program := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	program := testenv.Program(t, "./cmd/authserver")
	t.Setenv("SALT_ROUNDS", "4")
	r := startReady(t, program, t.TempDir())
	var lines []string
	for line := range strings.Lines(r.String()) {
		if strings.HasPrefix(line, "  code=") || strings.HasPrefix(line, "  curl ") {
			lines = append(lines, line)
		}
	}
	for _, c := range []struct{ command, want string }{
		{regexp.MustCompile(`signing keys +(.*)`).FindStringSubmatch(r.String())[1], "Signing"},
		{regexp.MustCompile(`accounts +(.*)`).FindStringSubmatch(r.String())[1], "nothing found"},
		{strings.Replace(regexp.MustCompile(`database +(.*)`).FindStringSubmatch(r.String())[1], "psql",
			"psql -c 'SELECT current_database()'", 1), databaseName},
	} {
		if strings.Contains(c.command, "psql") {
			if _, err := exec.LookPath("psql"); err != nil {
				continue // PostgreSQL's server may be installed without its client
			}
		}
		if out, err := exec.CommandContext(t.Context(), "bash", "-c", c.command).CombinedOutput(); err != nil ||
			!strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v\n%s", c.command, err, out)
		}
	}
	out, err := exec.CommandContext(t.Context(), "bash", "-c", strings.Join(lines, "")).CombinedOutput()
	if err != nil || len(lines) != 3 || bytes.Count(out, []byte(`"access_token"`)) != 2 {
		t.Errorf("%v\n%s\n%s", err, out, r)
	}
	r.finish(t)
}

func TestPortInUseIsReplaced(t *testing.T) {
	t.Setenv(serverVariable, "serve")
	l := testenv.Must(net.Listen("tcp", "localhost:0"))(t)
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	t.Setenv("PORT", port)
	r := start(t, os.Args[0], t.TempDir())
	r.WaitFor(t, patience, "PORT: port "+port+" is in use; using ")
	r.WaitFor(t, patience, "Ctrl-C stops it")
	r.finish(t)
}

// The usual ports of the API and of administrators are neighbours, so if both are in use, the search for both finds the
// same next one.
func TestPortsThatAreFoundDiffer(t *testing.T) {
	t.Setenv(serverVariable, "serve")
	first, second := neighbours(t)
	defer first.Close()
	defer second.Close()
	t.Setenv("PORT", portOf(first))
	t.Setenv("ADMIN_PORT", portOf(second))
	t.Setenv("METRICS_PORT", portOf(second))
	r := startReady(t, os.Args[0], t.TempDir())
	api, admin, metrics := r.setting(t, "PORT"), r.setting(t, "ADMIN_PORT"), r.setting(t, "METRICS_PORT")
	if api == admin || admin == metrics || api == metrics {
		t.Errorf("the ports are %s, %s and %s", api, admin, metrics)
	}
	r.finish(t)
}

// neighbours listens on two ports, one after the other.
func neighbours(t *testing.T) (first, second net.Listener) {
	t.Helper()
	for range 100 {
		first = testenv.Must(net.Listen("tcp", "localhost:0"))(t)
		number := testenv.Must(strconv.Atoi(portOf(first)))(t)
		second, err := net.Listen("tcp", "localhost:"+strconv.Itoa(number+1))
		if err == nil {
			return first, second
		}
		testenv.NoError(t, first.Close())
	}
	t.Fatal("no two ports are free")
	return nil, nil
}

// Variables of libpq are about databases of other programs.
func TestVariablesOfLibpqLeadNowhereElse(t *testing.T) {
	t.Setenv(serverVariable, "serve")
	for name, value := range map[string]string{
		"PGSERVICE": "elsewhere", "PGHOSTADDR": "192.0.2.1", "PGSSLMODE": "verify-full", "PGTARGETSESSIONATTRS": "standby",
		"PGOPTIONS": "-c statement_timeout=1",
	} {
		t.Setenv(name, value)
	}
	dir := t.TempDir()
	r := startReady(t, os.Args[0], dir)
	defer r.finish(t)
	if value, set := os.LookupEnv("PGOPTIONS"); set {
		t.Errorf("the server gets PGOPTIONS=%s", value)
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-euc", `PGSERVICE=elsewhere; export PGSERVICE; . "$1"
		echo "$PGHOST $PGSSLMODE ${PGSERVICE-none} ${AUTHSERVER_ADMIN_SERVER}"; cat "$AUTHSERVER_ADMIN_KEY_FILE"`,
		"sh", filepath.Join(dir, "env")).CombinedOutput()
	want := "127.0.0.1 disable none http://localhost:" + r.setting(t, "ADMIN_PORT") + "\nagadmin_"
	if err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("%v: %q, want %q", err, out, want)
	}
}

func TestEnvFileHasTheSettings(t *testing.T) {
	t.Setenv(serverVariable, "serve")
	t.Setenv("SIGNING_ALGORITHM", "EdDSA")
	t.Setenv("SERVICE_NAME", "Ada's shop")
	dir := t.TempDir()
	r := startReady(t, os.Args[0], dir)
	path := filepath.Join(dir, "env")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c",
		`. "$1"; echo "$SIGNING_ALGORITHM $SERVICE_NAME $PORT $PGDATABASE"`, "sh", path).CombinedOutput()
	if want := "EdDSA Ada's shop " + r.setting(t, "PORT") + " " + databaseName + "\n"; err != nil || string(out) != want {
		t.Errorf("%v: %q, want %q", err, out, want)
	}
	r.finish(t)
}

func TestHostIsHonoured(t *testing.T) {
	t.Setenv(serverVariable, "serve")
	t.Setenv("HOST", "127.0.0.1")
	r := startReady(t, os.Args[0], t.TempDir())
	r.WaitFor(t, patience, "Auth Gateway runs at http://127.0.0.1:")
	if got := r.setting(t, "HOST"); got != "127.0.0.1" {
		t.Errorf("the server listens on %s", got)
	}
	r.finish(t)
	t.Setenv("HOST", "192.0.2.1") // no machine has this address
	if err := (runner{server: os.Args[0], dir: t.TempDir(), out: &testenv.Output{},
		log: &testenv.Output{}}).run(t.Context()); err == nil || !strings.Contains(err.Error(), `HOST: cannot listen on "192.0.2.1"`) {
		t.Errorf("an address of another machine: %v", err)
	}
}

func TestDatabaseSettingsAreRefused(t *testing.T) {
	t.Setenv("DB_HOST", "db.example.com")
	t.Setenv("DB_NAME", "shop")
	dir := filepath.Join(t.TempDir(), "untouched")
	err := runner{dir: dir, out: &testenv.Output{}, log: &testenv.Output{}}.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "DB_HOST, DB_NAME: make run starts its own PostgreSQL") ||
		!strings.Contains(err.Error(), "unset DB_HOST DB_NAME") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("make run has created its folder")
	}
}
