package main

import (
	"bufio"
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

// runMain makes the test binary run main; see TestMain.
const runMain = "AUTHSERVER_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
		return
	}
	postgrestest.Main(m)
}

// process is a process of the program.
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

// launchIn is launch for a command that must be changed before it starts.
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
			t.Logf("the output of the server:\n%s", p.stderr)
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
	p.await("/readyz", http.StatusOK)
}

// wait returns the exit code, or -1 if a signal ended the process.
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

// await waits until the operations port replies to a path with a status.
func (p *process) await(path string, status int) {
	p.t.Helper()
	testenv.Until(p.t, time.Minute, fmt.Sprintf("%s is %d", path, status), func() bool { return p.status(path) == status })
}

// exits reports an error unless the process exits with 0.
func (p *process) exits(within time.Duration) {
	p.t.Helper()
	if code := p.wait(within); code != 0 {
		p.t.Errorf("exit code %d", code)
	}
}

func TestSIGTERMUnderLoadFailsNoRequestAndExitsWith0(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		p := launch(t, postgrestest.Config(t), []string{"serve"},
			// On a busy machine, sign-ins wait for longer and would be rejected.
			"DRAIN_DELAY=2s", "HASHING_MAX_WAIT=5s")
		p.waitReady()
		client := testenv.NewClient(t, p.api)
		login := map[string]string{"username": "ada", "password": "an analytical engine"}
		reply := client.Do("POST", "/users", nil, map[string]string{
			"username": "ada", "email": "ada@example.org", "first_name": "Ada", "last_name": "Lovelace", "password": login["password"],
		})
		testenv.Expect(t, reply, http.StatusCreated)
		reply = client.Do("POST", "/users/verify-user", nil, map[string]string{"code": reply.Text("code")})
		testenv.Expect(t, reply, http.StatusOK)
		var taken atomic.Int64
		var unready atomic.Bool
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				for !unready.Load() {
					reply, err := client.Try("POST", "/tokens/signin", nil, login)
					// A busy machine rejects some sign-ins, also without a stop.
					if err != nil || reply.Status != http.StatusOK && reply.Text("reason") != "overloaded" {
						t.Errorf("got %v, %v", reply, err)
						return
					}
					taken.Add(1)
				}
			})
		}
		testenv.Until(t, time.Minute, "sign-ins succeed", func() bool { return taken.Load() > 20 || t.Failed() })
		begun := time.Now()
		p.signal(signal)
		p.await("/readyz", http.StatusServiceUnavailable)
		unready.Store(true)
		clients.Wait()
		p.exits(15 * time.Second)
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("it took %v", took)
		}
	}
}

// Idle connections do not delay the end.
func TestSIGTERMDoesNotWaitForIdleConnections(t *testing.T) {
	t.Parallel()
	p := launch(t, postgrestest.Config(t), nil)
	p.waitReady()
	for _, sent := range []string{"", "GET /tokens/keys HTTP/1.1\r\nHost: x\r\n\r\n", "POST /tokens HTTP/1.1\r\nHost: x\r\nContent-Le"} {
		conn := testenv.Must(net.Dial("tcp", strings.TrimPrefix(p.api, "http://")))(t)
		defer conn.Close()
		testenv.NoError(t, testenv.Err(io.WriteString(conn, sent)))
		if strings.HasSuffix(sent, "\r\n\r\n") {
			testenv.NoError(t, testenv.Err(bufio.NewReader(conn).ReadString('\n')))
		}
	}
	p.signal(syscall.SIGTERM)
	p.exits(15 * time.Second)
}

func TestSIGTERMTwiceEndsTheProcessAtOnce(t *testing.T) {
	t.Parallel()
	p := launch(t, postgrestest.Config(t), nil, "DRAIN_DELAY=14s")
	p.waitReady()
	p.signal(syscall.SIGTERM)
	p.await("/readyz", http.StatusServiceUnavailable)
	p.signal(syscall.SIGTERM)
	if code := p.wait(5 * time.Second); code == 0 {
		t.Error("exit code 0, although requests were not finished")
	}
}

func TestSIGTERMWhileWaitingForTheDatabaseExitsWith0(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "termination-log")
	p := launch(t, postgres.Config{Host: "127.0.0.1", Port: testenv.FreePort(t), User: "u", Database: "d"}, nil, "TERMINATION_LOG="+log)
	p.await("/healthz", http.StatusOK)
	p.await("/readyz", http.StatusServiceUnavailable)
	p.await("/state", http.StatusOK)
	p.signal(syscall.SIGTERM)
	p.exits(15 * time.Second)
	if message, err := os.ReadFile(log); err == nil {
		t.Errorf("the termination message after success is %q", message)
	}
}

func TestExitCodes(t *testing.T) {
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
		message, err := os.ReadFile(log)
		if left := err == nil; left != tc.left || !strings.Contains(string(message), tc.says) && left ||
			!strings.HasSuffix(p.stderr.String(), string(message)) {
			t.Errorf("%s: the termination message is %q (%v)", tc.name, message, err)
		}
	}
}

// The environment of a container may name a proxy, which cannot reach the port of its health check.
func TestHealthcheckUsesNoProxy(t *testing.T) {
	t.Parallel()
	at := ownAddress(t)
	l := testenv.Must(net.Listen("tcp", net.JoinHostPort(at, "0")))(t)
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	cmd := exec.CommandContext(t.Context(), os.Args[0], "healthcheck")
	proxy := "http://127.0.0.1:" + strconv.Itoa(testenv.FreePort(t)) // nothing listens there
	cmd.Env = []string{runMain + "=1", "HOST=" + at, "METRICS_PORT=" + port, "HTTP_PROXY=" + proxy, "http_proxy=" + proxy}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// ownAddress returns an address of this machine that is not on the loopback interface, for which Go would use a proxy.
func ownAddress(t *testing.T) string {
	t.Helper()
	for _, a := range testenv.Must(net.InterfaceAddrs())(t) {
		if network, ok := a.(*net.IPNet); ok && network.IP.To4() != nil && network.IP.IsGlobalUnicast() {
			return network.IP.String()
		}
	}
	t.Skip("this machine has only the loopback interface")
	return ""
}
