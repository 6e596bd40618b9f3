package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// runMain makes the test's own program be the server's: see TestMain.
const runMain = "AUTHSERVER_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
		return
	}
	postgrestest.Main(m)
}

// process is a real process of the program.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	api    string
	ops    string
	stderr *testenv.Output
	ended  chan struct{}
}

// launch starts the program; settings are NAME=value.
func launch(t *testing.T, db postgres.Config, args []string, settings ...string) *process {
	t.Helper()
	return launchIn(t, func(*exec.Cmd) {}, db, args, settings...)
}

// launchIn is launch for a process that needs something before it is started.
func launchIn(t *testing.T, prepare func(*exec.Cmd), db postgres.Config, args []string, settings ...string) *process {
	t.Helper()
	p := &process{t: t, stderr: new(testenv.Output), ended: make(chan struct{})}
	apiPort, opsPort := strconv.Itoa(testenv.FreePort(t)), strconv.Itoa(testenv.FreePort(t))
	p.api, p.ops = "http://127.0.0.1:"+apiPort, "http://127.0.0.1:"+opsPort
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Env = append([]string{
		runMain + "=1", "HOST=127.0.0.1", "ISSUER=http://auth.test", "PORT=" + apiPort, "METRICS_PORT=" + opsPort, "SALT_ROUNDS=8",
		"ACCESS_PASSPHRASE=the passphrase of access tokens", "REFRESH_PASSPHRASE=the passphrase of refresh tokens",
		"DB_HOST=" + db.Host, "DB_PORT=" + strconv.Itoa(db.Port), "DB_NAME=" + db.Database, "DB_USER=" + db.User, "DB_PASSWORD=" + db.Password,
	}, settings...)
	p.cmd.Stderr = p.stderr
	p.cmd.Stdout = p.stderr
	prepare(p.cmd)
	testenv.NoError(t, p.cmd.Start())
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("the server said:\n%s", p.stderr)
		}
	})
	return p
}

func (p *process) status(path string) int {
	response, err := http.Get(p.ops + path)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

func (p *process) waitReady() {
	p.t.Helper()
	testenv.Until(p.t, time.Minute, "ready", func() bool { return p.status("/readyz") == http.StatusOK })
}

// wait gives the exit code, and -1 where a signal ended the process.
func (p *process) wait(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(within):
		p.t.Fatalf("the process did not end within %v", within)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	testenv.NoError(p.t, p.cmd.Process.Signal(s))
}

func post(url string, body map[string]string) (int, map[string]any, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	response, err := http.Post(url, "application/json", bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	var members map[string]any
	err = json.NewDecoder(response.Body).Decode(&members)
	return response.StatusCode, members, err
}

func TestSIGTERMUnderLoadFailsNoRequestAndExitsWith0(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		p := launch(t, postgrestest.Config(t), []string{"serve"},
			// On a machine that stands still for a moment, a sign-in may wait for
			// longer than usual, and would be rejected: correctly, but not as a loss.
			"DRAIN_DELAY=2s", "HASHING_MAX_WAIT=5s")
		p.waitReady()
		person := map[string]string{
			"username": "ada", "email": "ada@example.org", "first_name": "Ada", "last_name": "Lovelace", "password": "an analytical engine",
		}
		status, reply, err := post(p.api+"/users", person)
		if err != nil || status != http.StatusCreated {
			t.Fatalf("%d %v %v", status, reply, err)
		}
		if status, _, err := post(p.api+"/users/verify-user",
			map[string]string{"code": reply["code"].(string)}); err != nil || status != http.StatusOK {
			t.Fatalf("%d %v", status, err)
		}
		var taken atomic.Int64
		var unready atomic.Bool
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				for !unready.Load() {
					status, reply, err := post(p.api+"/tokens/signin", map[string]string{"username": "ada", "password": "an analytical engine"})
					// On a machine that has no time for hashing a sign-in is rejected,
					// stop or no stop: that is an answer, and no loss.
					shed := status == http.StatusServiceUnavailable && strings.Contains(fmt.Sprint(reply), "too many passwords")
					if err != nil || status != http.StatusOK && !shed {
						t.Errorf("%d %v %v", status, reply, err)
						return
					}
					taken.Add(1)
				}
			})
		}
		testenv.Until(t, time.Minute, "the load is taken", func() bool { return taken.Load() > 20 || t.Failed() })
		begun := time.Now()
		p.signal(signal)
		testenv.Until(t, 10*time.Second, "unready", func() bool { return p.status("/readyz") == http.StatusServiceUnavailable })
		unready.Store(true)
		clients.Wait()
		if code := p.wait(15 * time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("it took %v", took)
		}
	}
}

// An idle connection that a client keeps does not hold up the end.
func TestSIGTERMDoesNotWaitForIdleConnections(t *testing.T) {
	t.Parallel()
	p := launch(t, postgrestest.Config(t), nil)
	p.waitReady()
	for _, sent := range []string{"", "GET /tokens/keys HTTP/1.1\r\nHost: x\r\n\r\n", "POST /tokens HTTP/1.1\r\nHost: x\r\nContent-Le"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.api, "http://"))
		testenv.NoError(t, err)
		defer conn.Close()
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(sent, "\r\n\r\n") {
			if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
	}
	begun := time.Now()
	p.signal(syscall.SIGTERM)
	if code := p.wait(15 * time.Second); code != 0 {
		t.Errorf("exit code %d after %v", code, time.Since(begun))
	}
}

func TestASecondSIGTERMEndsTheProcessAtOnce(t *testing.T) {
	t.Parallel()
	p := launch(t, postgrestest.Config(t), nil, "DRAIN_DELAY=14s")
	p.waitReady()
	p.signal(syscall.SIGTERM)
	testenv.Until(t, 10*time.Second, "unready", func() bool { return p.status("/readyz") == http.StatusServiceUnavailable })
	p.signal(syscall.SIGTERM)
	if code := p.wait(5 * time.Second); code == 0 {
		t.Error("exit code 0, though it did not finish")
	}
}

func TestSIGTERMWhileItWaitsForItsDatabaseExitsWith0(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "termination-log")
	p := launch(t, postgres.Config{Host: "127.0.0.1", Port: testenv.FreePort(t), User: "u", Database: "d"}, nil, "TERMINATION_LOG="+log)
	testenv.Until(t, time.Minute, "alive", func() bool { return p.status("/healthz") == http.StatusOK })
	if status := p.status("/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("/readyz is %d", status)
	}
	if status := p.status("/state"); status != http.StatusOK {
		t.Errorf("/state is %d", status)
	}
	p.signal(syscall.SIGTERM)
	if code := p.wait(15 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if words, err := os.ReadFile(log); err == nil {
		t.Errorf("it has ended well, and leaves %q", words)
	}
}

func TestExitCodesTellWhatWentWrong(t *testing.T) {
	t.Parallel()
	db := postgrestest.Config(t)
	p := launch(t, db, nil)
	p.waitReady()
	p.signal(syscall.SIGTERM)
	p.wait(15 * time.Second)
	for _, tc := range []struct {
		name     string
		args     []string
		settings []string
		code     int
		says     string
		left     bool // in TERMINATION_LOG
	}{
		{"a wrong setting", nil, []string{"SALT_ROUNDS=3"}, 2, "SALT_ROUNDS: ", true},
		{"a wrong verb", []string{"dance"}, nil, 2, "unknown command", true},
		{"exposure to the public", nil, []string{"EXPOSURE=public"}, 2, "codes only by mail", true},
		{"a wrong passphrase", nil, []string{"ACCESS_PASSPHRASE=another passphrase than that"}, 1, "passphrase", true},
		{"the version", []string{"version"}, nil, 0, "", false},
		{"the settings", []string{"-h"}, nil, 0, "ACCESS_PASSPHRASE", false},
		{"the keys", []string{"keys", "list"}, nil, 0, "Signing", false},
		{"the schema", []string{"migrate"}, nil, 0, "schema", false},
		{"no server", []string{"healthcheck"}, nil, 1, "refused", false},
	} {
		log := filepath.Join(t.TempDir(), "termination-log")
		p := launch(t, db, tc.args, append(tc.settings, "TERMINATION_LOG="+log)...)
		if code := p.wait(time.Minute); code != tc.code || !strings.Contains(p.stderr.String(), tc.says) {
			t.Errorf("%s: exit code %d, want %d with %q:\n%s", tc.name, code, tc.code, tc.says, p.stderr)
		}
		words, err := os.ReadFile(log)
		if left := err == nil; left != tc.left || !strings.Contains(string(words), tc.says) && left ||
			!strings.HasSuffix(p.stderr.String(), string(words)) {
			t.Errorf("%s: the termination message is %q (%v)", tc.name, words, err)
		}
	}
}
