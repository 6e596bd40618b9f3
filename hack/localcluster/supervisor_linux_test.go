package localcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// newSupervisor returns a supervisor with one program, a script.
func newSupervisor(t *testing.T, script string) (*supervisor, *testenv.Output) {
	t.Helper()
	dir, log := t.TempDir(), &testenv.Output{}
	testenv.NoError(t, os.WriteFile(filepath.Join(dir, "one"), []byte("#!/bin/sh\n"+script), 0o700))
	return &supervisor{bin: dir, logs: dir, pids: t.TempDir(), path: os.Getenv("PATH"), log: log}, log
}

func (s *supervisor) pid(name string) (int, error) {
	content, err := os.ReadFile(filepath.Join(s.pids, name))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(content)))
}

func within(t *testing.T, try func() error) {
	t.Helper()
	testenv.Eventually(t, 30*time.Second, "it has happened", try)
}

func TestWhatEndsIsStartedAgainAndWhatIsStoppedIsNot(t *testing.T) {
	t.Parallel()
	s, log := newSupervisor(t, "echo $1; exec sleep 1000")
	testenv.NoError(t, s.start(t.Context(), component{name: "one", args: []string{"hello"}}))
	says := func(want string) {
		t.Helper()
		within(t, func() error {
			content, err := os.ReadFile(filepath.Join(s.logs, "one.log"))
			if err == nil && string(content) != want {
				err = fmt.Errorf("its log is %q", content)
			}
			return err
		})
	}
	var first, second int
	within(t, func() (err error) { first, err = s.pid("one"); return err })
	says("hello\n") // or it would be killed before it says so
	testenv.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	within(t, func() (err error) {
		if second, err = s.pid("one"); err == nil && second == first {
			err = errors.New("it is still the process that was killed")
		}
		return err
	})
	says("hello\nhello\n")
	s.stop("one")
	if err := syscall.Kill(second, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d has not ended: %v", second, err)
	}
	if _, err := s.pid("one"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stopped component is reported as running: %v", err)
	}
	if got := log.String(); strings.Count(got, "one ended (signal: killed); starting it again") != 1 || strings.Count(got, "\n") != 1 {
		t.Errorf("the log is %q", got)
	}
}

func TestAComponentThatCannotBeStartedIsTriedAgainUntilItIsStopped(t *testing.T) {
	t.Parallel()
	s, log := newSupervisor(t, "")
	testenv.NoError(t, s.start(t.Context(), component{name: "missing"}))
	within(t, func() error {
		if got := log.String(); strings.Count(got, "missing ended") < 2 {
			return fmt.Errorf("the log is %q", got)
		}
		return nil
	})
	s.stop("missing")
}

func TestWhoDoesNotGetReadyIsNamedWithItsLog(t *testing.T) {
	t.Parallel()
	s, _ := newSupervisor(t, "exec sleep 1000")
	err := s.start(t.Context(), component{name: "one", ready: func(context.Context) error { return errors.New("not today") }})
	s.stop("one")
	for _, want := range []string{"one did not become ready", filepath.Join(s.logs, "one.log"), "not today"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
}
