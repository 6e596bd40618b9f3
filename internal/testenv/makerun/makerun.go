// Package makerun runs `make run` for tests: the server with its own PostgreSQL and a mailbox, and with exposure public
// an application.
package makerun

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// patience allows for a start that has to install PostgreSQL first.
const patience = 10 * time.Minute

// Server is a running `make run` with its output.
type Server struct {
	testenv.Output

	URL     string // of the API
	Mailbox string // the URL of the page that shows the mail
	SMTP    string // the address that accepts mail
	App     string // the URL of the application, with exposure public
	Console string // the URL of the console
	Key     string // the key of an administrator
	Dir     string // the folder of its data

	// Stop stops it gracefully. A server that is still running after all tests of the package is stopped then.
	Stop func() error
}

var greeting = regexp.MustCompile(`(?s)Auth Gateway runs at (\S+)\n.*\n  mail +(\S+), .*\n` +
	`  SMTP server +(\S+), [^\n]*\n(.*)Ctrl-C stops it`)

var console = regexp.MustCompile(`\n  console +(\S+), with the key of: cat (\S+)\n`)

// Start builds the programs, starts them with free ports and cheap hashes, and waits until the server is ready.
// settings are of the form NAME=value.
func Start(t testing.TB, exposure string, settings ...string) *Server {
	t.Helper()
	program, run := testenv.Program(t, "./cmd/authserver"), testenv.Program(t, "./hack/run")
	dir, err := os.MkdirTemp(filepath.Dir(program), exposure+"-") //nolint:usetesting // PostgreSQL's account must enter it
	if err != nil {
		t.Fatal(err)
	}
	testenv.NoError(t, os.Chmod(dir, 0o755))
	s := &Server{Dir: dir}
	cmd := exec.Command(run, "-server", program, "-dir", dir)
	cmd.Env = append(os.Environ(), "EXPOSURE="+exposure, "SALT_ROUNDS=4")
	for _, name := range []string{"PORT", "METRICS_PORT", "ADMIN_PORT", "SMTP_PORT", "MAILBOX_PORT", "APP_PORT"} {
		cmd.Env = append(cmd.Env, name+"="+strconv.Itoa(testenv.FreePort(t)))
	}
	cmd.Env = append(cmd.Env, settings...)
	cmd.Stdout, cmd.Stderr = &s.Output, &s.Output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	testenv.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		err = cmd.Wait()
		close(ended)
	}()
	s.Stop = sync.OnceValue(func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
		<-ended
		if err != nil {
			return fmt.Errorf("make run ended: %w\n%s", err, s)
		}
		return nil
	})
	testenv.AtExit(t, s.Stop)
	testenv.Eventually(t, patience, "make run is ready", func() error {
		select {
		case <-ended:
			t.Fatalf("make run ended before it was ready: %v\n%s", err, s)
		default:
		}
		found := greeting.FindStringSubmatch(s.String())
		if found == nil {
			return errors.New("the output so far:\n" + s.String())
		}
		s.URL, s.Mailbox, s.SMTP = found[1], found[2], found[3]
		if opens := console.FindStringSubmatch(s.String()); opens != nil {
			key, err := os.ReadFile(opens[2])
			if err != nil {
				return err
			}
			s.Console, s.Key = opens[1], strings.TrimSpace(string(key))
		}
		if app := regexp.MustCompile(`\n\n  (http\S+)\n`).FindStringSubmatch(found[4]); app != nil {
			s.App = app[1]
		}
		return nil
	})
	return s
}

// MailedCode waits for mail to an address, and returns the code of the newest one.
func (s *Server) MailedCode(t testing.TB, to string) string {
	t.Helper()
	s.WaitFor(t, time.Minute, "Mail to "+to+": ")
	code := ""
	for _, m := range mailed.FindAllStringSubmatch(s.String(), -1) {
		if m[1] == to {
			if code = m[3]; m[2] != "" {
				code = m[2]
			}
		}
	}
	if code == "" {
		t.Fatalf("the mail to %s has no code:\n%s", to, s)
	}
	return strings.TrimSpace(code)
}

var mailed = regexp.MustCompile(`Mail to (\S+): .*\n(?:  link .*[#=]([A-Z2-7]{26})\n)?  code  (\S+)`)
