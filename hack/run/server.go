package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// server is the running server process.
type server struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // of the process; valid after done
}

func startServer(program string, environ []string, log io.Writer) (*server, error) {
	cmd := exec.Command(program) //nolint:noctx // stop ends it by a signal
	cmd.Env = environ
	cmd.Stdout, cmd.Stderr = log, log
	// In its own process group it does not get Ctrl-C from the terminal: this program stops it, before the database.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	bindToParent(cmd.SysProcAttr)
	s := &server{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Linux ends the child with the thread that created it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			s.err = cmd.Wait()
			close(s.done)
		}
	}()
	return s, <-started
}

// stop ends the server, which first finishes the requests that it has accepted.
func (s *server) stop() error {
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := s.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		select {
		case <-s.done:
			return nil
		case <-time.After(20 * time.Second):
		}
	}
	return errors.New("the server did not end")
}
