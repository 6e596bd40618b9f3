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

// server is the program that was started.
type server struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; to be read after done
}

func startServer(program string, environ []string, log io.Writer) (*server, error) {
	cmd := exec.Command(program) //nolint:noctx // it is ended by a signal, in order
	cmd.Env = environ
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: Ctrl-C at the terminal is for us, who stop the
	// server before its database.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	bindToParent(cmd.SysProcAttr)
	s := &server{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Linux binds the child to the thread that made it.
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

// stop lets the server finish what it has taken, within its own bounds.
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
	return errors.New("the server does not end")
}
