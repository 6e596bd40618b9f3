package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv/freeport"
)

// A process is a measured program.
type process struct {
	cmd     *exec.Cmd
	address string // of the API
	metrics string // of /healthz and /readyz
	began   time.Time
	ready   time.Duration // from the start to the first 200 of /readyz
	input   io.Closer
	done    chan struct{} // closed when it has ended
	err     error         // of the process; valid after done
}

// launch prepares a program, in a control group if one is given. It gets only the given environment, so that ours does
// not affect the figures.
func launch(ctx context.Context, group *cgroup, environ []string, program string, args ...string) (*process, error) {
	if group != nil {
		// The shell enters the group before it executes the program, which reads its CPU limit at start.
		args = append([]string{"-c", `echo $$ > "$0" && exec "$@"`, group.procs(), program}, args...)
		program = "/bin/sh"
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = environ
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	if os.Getenv("LOAD_LOG") != "" {
		cmd.Stderr = os.Stderr // by default it goes to /dev/null
	}
	return &process{cmd: cmd, done: make(chan struct{})}, nil
}

func (p *process) start() error {
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return nil
}

// stop ends the process with SIGTERM, and with SIGKILL if that does not help.
func (p *process) stop() {
	if p == nil || p.cmd.Process == nil {
		return
	}
	if p.input != nil {
		_ = p.input.Close()
	}
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		_ = p.cmd.Process.Signal(signal) // it may have ended
		select {
		case <-p.done:
			return
		case <-time.After(20 * time.Second):
		}
	}
}

// waitUntilReady polls every millisecond, which is the precision of the figure.
func (p *process) waitUntilReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.metrics+"/readyz", http.NoBody)
		if err != nil {
			return err
		}
		if response, err := client.Do(request); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				p.ready = time.Since(p.began)
				return nil
			}
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready (%w); LOAD_LOG=1 shows its log", p.cmd.Path, p.err)
		case <-ctx.Done():
			return fmt.Errorf("%s did not become ready; LOAD_LOG=1 shows its log", p.cmd.Path)
		case <-time.After(time.Millisecond):
		}
	}
}

// memory returns VmRSS (the resident memory) or VmHWM (its maximum) in MiB.
func (p *process) memory(field string) (float64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, field+":"); found {
			kibibytes, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
			return kibibytes / 1024, err
		}
	}
	return 0, errors.New("the system does not report " + field)
}

// cpuTime returns the CPU time that all threads of the process have used.
func (p *process) cpuTime() (time.Duration, error) {
	s, err := readStat(p.cmd.Process.Pid)
	return s.own, err
}

// stat is what the system reports of a process.
type stat struct {
	parent        int
	own, children time.Duration // CPU time: its own, and that of its children that have ended
}

func readStat(pid int) (s stat, err error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return s, err
	}
	// The parent is the second field after the name, which is in parentheses; utime, stime, cutime and cstime are the
	// 12th to the 15th, in hundredths of a second (proc_pid_stat(5); USER_HZ is 100 on every platform of Go).
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 15 {
		return s, errors.New("the system does not report the CPU time of a process")
	}
	var n [5]int
	for i, field := range append(fields[1:2:2], fields[11:15]...) {
		value, failure := strconv.Atoi(field)
		n[i], err = value, errors.Join(err, failure)
	}
	s.parent = n[0]
	s.own, s.children = time.Duration(n[1]+n[2])*10*time.Millisecond, time.Duration(n[3]+n[4])*10*time.Millisecond
	return s, err
}

func freeAddress() (string, error) {
	port, err := freeport.Choose(background)
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), err
}

// The roles of this program's child processes. The environment names the role, so a test binary can have it too.
const (
	roleVariable = "LOAD_ROLE"
	roleFloor    = "floor"
	roleHash     = "hash"
)

type hashOptions struct {
	Hash    string
	Threads int
	For     time.Duration
}

// play runs the role of a child process.
func play(role string) error {
	input := json.NewDecoder(os.Stdin)
	switch role {
	case roleFloor:
		var o floorOptions
		if err := input.Decode(&o); err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // until the parent closes it or dies
			os.Exit(0)
		}()
		return serveFloor(context.Background(), o)
	case roleHash:
		var o hashOptions
		if err := input.Decode(&o); err != nil {
			return err
		}
		rate, err := hashRate(o.Hash, o.Threads, o.For)
		fmt.Println(rate)
		return err
	default:
		return fmt.Errorf("%s=%s: unknown role", roleVariable, role)
	}
}

func launchRole(ctx context.Context, group *cgroup, role string, options any) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := launch(ctx, group, []string{roleVariable + "=" + role}, self)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(options)
	if err != nil {
		return nil, err
	}
	pipe, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.input = pipe
	go func() { _, _ = pipe.Write(text) }()
	return p, nil
}

// hashAlone measures only bcrypt in a separate process, in the group if there is one, under the same limit as the
// server.
func hashAlone(ctx context.Context, group *cgroup, o hashOptions) (float64, error) {
	p, err := launchRole(ctx, group, roleHash, o)
	if err != nil {
		return 0, err
	}
	var output bytes.Buffer
	p.cmd.Stdout = &output
	if err := p.start(); err != nil {
		return 0, err
	}
	<-p.done
	if p.err != nil {
		return 0, fmt.Errorf("only bcrypt: %w", p.err)
	}
	return strconv.ParseFloat(strings.TrimSpace(output.String()), 64)
}

// cgroup is a control group with a CPU limit.
type cgroup struct{ dir string }

func (g *cgroup) procs() string { return filepath.Join(g.dir, "cgroup.procs") }

// newCgroup creates a group that limits its processes to so many CPUs. It only adds a group below our own. If cgroup
// version 2 does not delegate the cpu controller there, it returns an error.
func newCgroup(cpus float64) (*cgroup, error) {
	memberships, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	failure := errors.New("no control group with a cpu controller")
	for line := range strings.Lines(string(memberships)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		const period = 100_000
		root, file, limit := "/sys/fs/cgroup", "cpu.max", fmt.Sprintf("%.0f %d", cpus*period, period)
		if fields[0] != "0" {
			if fields[1] != "cpu" && !strings.HasPrefix(fields[1], "cpu,") {
				continue
			}
			root, file, limit = filepath.Join(root, fields[1]), "cpu.cfs_quota_us", fmt.Sprintf("%.0f", cpus*period)
			if text, err := os.ReadFile(filepath.Join(root, fields[2], "cpu.cfs_period_us")); err == nil {
				if own, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64); err == nil {
					limit = fmt.Sprintf("%.0f", cpus*own)
				}
			}
		}
		dir, err := os.MkdirTemp(filepath.Join(root, fields[2]), "authgateway-load-")
		if err != nil {
			failure = err
			continue
		}
		g := &cgroup{dir}
		// With O_CREATE, a kernel without this file would not be noticed.
		f, err := os.OpenFile(filepath.Join(g.dir, file), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString(limit)
			err = errors.Join(err, f.Close())
		}
		if err == nil {
			return g, nil
		}
		failure = errors.Join(err, g.remove())
	}
	return nil, failure
}

// remove waits until the processes of the group have ended.
func (g *cgroup) remove() (err error) {
	for range 100 {
		if err = os.Remove(g.dir); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}
