package localcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// A component is a program of the node. If it ends without being stopped, it is restarted.
type component struct {
	name string
	args []string
	// ready waits until other components can rely on it. If it is nil, the start does not wait.
	ready func(ctx context.Context) error
}

// A supervisor runs components as its children. When it ends for any reason, they end too.
type supervisor struct {
	bin, logs, pids string // folders
	path            string // of the components
	log             io.Writer
	running         []*supervised
}

type supervised struct {
	component
	stop    chan struct{}
	ended   chan struct{}
	current struct {
		sync.Mutex
		process *os.Process
		stopped bool
	}
}

// start starts a component, and waits until it is ready.
func (s *supervisor) start(ctx context.Context, c component) error {
	one := &supervised{component: c, stop: make(chan struct{}), ended: make(chan struct{})}
	s.running = append(s.running, one)
	go s.supervise(one)
	if c.ready == nil {
		return nil
	}
	if err := c.ready(ctx); err != nil {
		return fmt.Errorf("%s did not become ready; its log is %s: %w", c.name, filepath.Join(s.logs, c.name+".log"), err)
	}
	return nil
}

// pauseBeforeRestart is the time between the end of a component and its restart.
const pauseBeforeRestart = 500 * time.Millisecond

func (s *supervisor) supervise(one *supervised) {
	// Linux ends children with the thread that created them.
	runtime.LockOSThread()
	defer close(one.ended)
	for {
		err := s.run(one)
		select {
		case <-one.stop:
			return
		default:
			fmt.Fprintf(s.log, "%s %s ended (%v); starting it again\n", time.Now().Format(time.RFC3339), one.name, err)
		}
		select {
		case <-one.stop:
			return
		case <-time.After(pauseBeforeRestart):
		}
	}
}

func (s *supervisor) run(one *supervised) error {
	log, err := os.OpenFile(filepath.Join(s.logs, one.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(filepath.Join(s.bin, one.name), one.args...) //nolint:noctx // stop ends it
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "PATH="+s.path)
	// In their own process group they do not get Ctrl-C from the terminal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	one.current.Lock()
	if one.current.stopped {
		one.current.Unlock()
		return nil
	}
	err = cmd.Start()
	one.current.process = cmd.Process
	one.current.Unlock()
	if err != nil {
		return err
	}
	pid := filepath.Join(s.pids, one.name)
	if err := os.WriteFile(pid, []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o600); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return errors.Join(cmd.Wait(), os.Remove(pid))
}

// stop stops components in the given order, and waits for each.
func (s *supervisor) stop(names ...string) {
	for _, name := range names {
		for _, one := range s.running {
			if one.name == name {
				one.end()
			}
		}
	}
}

// grace is the time that a component has to stop after SIGTERM.
const grace = 10 * time.Second

func (one *supervised) end() {
	one.current.Lock()
	one.current.stopped = true
	process := one.current.process
	one.current.Unlock()
	close(one.stop)
	if process == nil {
		<-one.ended
		return
	}
	_ = process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-one.ended:
	case <-time.After(grace):
		_ = process.Kill()
		<-one.ended
	}
}
