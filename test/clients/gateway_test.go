package clients

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	root      = "../.."
	callerKey = "the key of the one trusted caller"

	// patience is for the first build and the first downloads, on a busy machine.
	patience = 5 * time.Minute
)

var (
	scratch string // holds the programs, and the data of the server
	startup = sync.OnceValues(start)
	stop    = func() {}
)

func TestMain(m *testing.M) {
	code := m.Run()
	stop()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// gateway returns the URL of the server that all tests share. It is that of make
// run, and starts with the first test that asks for it.
func gateway(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and starts the server")
	}
	url, err := startup()
	if err != nil {
		t.Fatal(err)
	}
	return url
}

var runsAt = regexp.MustCompile(`Auth Gateway runs at (\S+)`)

func start() (url string, err error) {
	if scratch, err = os.MkdirTemp("", "clients"); err != nil {
		return "", err
	}
	// If we are root, PostgreSQL runs as another user, who has to get there.
	if err := os.Chmod(scratch, 0o755); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", scratch+"/", "./cmd/authserver", "./hack/run")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	server := exec.Command(filepath.Join(scratch, "run"), "-server", filepath.Join(scratch, "authserver"), "-dir", filepath.Join(scratch, "data"))
	server.Env = append(os.Environ(), "EXPOSURE=internal", "SALT_ROUNDS=4", "TRUSTED_CALLER_KEY="+callerKey)
	for _, name := range []string{"PORT", "METRICS_PORT", "SMTP_PORT", "MAILBOX_PORT"} {
		port, err := freePort()
		if err != nil {
			return "", err
		}
		server.Env = append(server.Env, name+"="+port)
	}
	said := &output{}
	server.Stdout, server.Stderr = said, said
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := server.Start(); err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	stop = func() {
		_ = syscall.Kill(-server.Process.Pid, syscall.SIGTERM) // it may have ended already
		<-ended
	}
	for deadline := time.Now().Add(patience); ; {
		if found := runsAt.FindStringSubmatch(said.String()); found != nil && strings.Contains(said.String(), "Ctrl-C stops it") {
			return found[1], nil
		}
		select {
		case err := <-ended:
			ended <- err
			return "", fmt.Errorf("the server ended (%w)\n%s", err, said)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("the server does not get ready\n%s", said)
		}
	}
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// output collects what a program prints.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
