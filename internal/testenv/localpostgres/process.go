package localpostgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// An account is the user that PostgreSQL runs as; nil is the user of this process.
type account struct {
	name     string
	uid, gid int
}

// unprivileged returns the account to use if this process runs as root.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, err
		}
		return &account{name, uid, gid}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and neither of the users 'postgres' and 'nobody' exists: add one")
}

// own makes the account the owner of a path and its content.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	if info, err := os.Stat(path); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) == a.uid {
			return nil
		}
	}
	return filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, a.uid, a.gid)
	})
}

// command prepares a command with one of PostgreSQL's programs.
func (s *Server) command(ctx context.Context, program string, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.programs, program), arguments...)
	cmd.Dir = "/" // the account may be unable to enter ours
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "PG") && !strings.HasPrefix(variable, "LC_") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C") // for messages in English
	cmd.SysProcAttr = s.attributes()
	return cmd
}

// attributes returns the attributes of every program: the account, and a separate process group. Ctrl-C at the terminal
// then reaches only this process, which stops everything in order.
func (s *Server) attributes() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Setpgid: true}
	if s.account != nil {
		attributes.Credential = &syscall.Credential{Uid: uint32(s.account.uid), Gid: uint32(s.account.gid)}
	}
	if s.account != nil && !enterable(s.dir) {
		passFolders(attributes)
	}
	return attributes
}

// enterable reports whether every user may enter the folders above dir.
func enterable(dir string) bool {
	for dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		if info, err := os.Stat(dir); err != nil || info.Mode()&0o001 == 0 {
			return false
		}
	}
	return true
}

// A manner is the signal that selects how PostgreSQL shuts down.
type manner syscall.Signal

const (
	fast    = manner(syscall.SIGINT)
	quickly = manner(syscall.SIGQUIT)
)

// process is a running postgres.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of the process; valid after done
}

// launch starts postgres as a child.
func (s *Server) launch() (*process, error) {
	cmd := s.command(context.Background(), "postgres", s.arguments()...)
	if s.options.Durable {
		bindToParent(cmd.SysProcAttr, syscall.SIGINT)
	} else {
		bindToParent(cmd.SysProcAttr, syscall.SIGQUIT)
	}
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.WaitDelay = 5 * time.Second // for a child of postgres that keeps the log open
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Linux ends the child with the thread that created it, so this thread waits for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		if s.account != nil && errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("run PostgreSQL as %s: %w: allow that user to enter %s and %s, or do not run as root",
				s.account.name, err, s.programs, s.dir)
		}
		return nil, err
	}
	return p, nil
}

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop shuts the server down, and escalates if it does not end.
func (p *process) stop(how manner) error {
	if p.exited() {
		return nil
	}
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL}
	for _, signal := range signals[slices.Index(signals, syscall.Signal(how)):] {
		if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop PostgreSQL: %w", err)
		}
		select {
		case <-p.done:
			return nil
		case <-time.After(20 * time.Second):
		}
	}
	return errors.New("PostgreSQL did not end")
}
