package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/postgrestest"
)

// podLimit is the default memory limit of a pod.
const podLimit = 256 << 20

// memoryGroup is a control group with a limit of memory, of either version.
type memoryGroup struct{ dir, peak string }

// newMemoryGroup creates one, or skips the test.
func newMemoryGroup(t *testing.T) memoryGroup {
	t.Helper()
	for _, v := range []struct{ root, limit, swap, peak string }{
		{"/sys/fs/cgroup", "memory.max", "memory.swap.max", "memory.peak"},
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max_usage_in_bytes"},
	} {
		write := func(dir, name, value string) error {
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0) // a missing file is not created
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString(value)
			return err
		}
		if _, err := os.Stat(filepath.Join(v.root, "cgroup.procs")); err != nil {
			continue
		}
		_ = write(v.root, "cgroup.subtree_control", "+memory")
		dir, err := os.MkdirTemp(v.root, "authserver-test-") //nolint:usetesting // it is a control group
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			// A group can be removed when its last process has ended.
			testenv.Until(t, 10*time.Second, "the control group is removed", func() bool { return syscall.Rmdir(dir) == nil })
		})
		if write(dir, v.limit, strconv.Itoa(podLimit)) != nil {
			continue
		}
		swap := strconv.Itoa(podLimit)
		if strings.HasSuffix(v.swap, "swap.max") {
			swap = "0"
		}
		_ = write(dir, v.swap, swap) // without swap there is nothing to limit
		return memoryGroup{dir, filepath.Join(dir, v.peak)}
	}
	t.Skip("a control group with a limit of memory needs root on Linux")
	return memoryGroup{}
}

// enter makes a command run in the group.
func (g memoryGroup) enter(cmd *exec.Cmd) {
	cmd.Args = append([]string{"sh", "-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(g.dir, "cgroup.procs")}, cmd.Args...)
	cmd.Path = "/bin/sh"
}

func (g memoryGroup) mostUsed() string {
	text, err := os.ReadFile(g.peak)
	if err != nil {
		return "unknown"
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return fmt.Sprintf("%d MiB", n>>20)
}

// siege keeps connections open, and opens a new one for each that the server closes.
type siege struct {
	address string
	wire    []byte

	opened  atomic.Int64
	holding atomic.Int64
	stop    chan struct{}
	ended   sync.WaitGroup
}

const besiegers = 3000

func besiege(address, wire string) *siege {
	s := &siege{address: address, wire: []byte(wire), stop: make(chan struct{})}
	for range besiegers {
		s.ended.Go(s.hold)
	}
	return s
}

// hold opens one connection after the other.
func (s *siege) hold() {
	for {
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			s.opened.Add(1)
			s.holding.Add(1)
			_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				if _, err := c.Write(s.wire); err != nil {
					return
				}
				waitUntilClosed(c, bytes.HasSuffix(s.wire, []byte("\r\n\r\n")) && s.wire[0] == 'G')
			}()
			select {
			case <-closed:
				_ = c.Close()
				s.holding.Add(-1)
			case <-s.stop:
				_ = c.Close()
				<-closed
				return
			}
		}
		select {
		case <-s.stop:
			return
		case <-time.After(200 * time.Millisecond): // an attacker with many machines
		}
	}
}

// waitUntilClosed returns when the server has closed the connection or, if it must not reply, has sent something. It reads
// nothing.
func waitUntilClosed(c net.Conn, mayAnswer bool) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return err == nil && (n == 0 || !mayAnswer) || err != nil && err != syscall.EAGAIN
	})
}

func (s *siege) lift() {
	close(s.stop)
	s.ended.Wait()
}

// ordinary is a client that sends each request at once, over one connection. The test logs how long it waits. It has no
// limit for that, because attackers, server and client share the processors of the machine.
type ordinary struct {
	t      *testing.T
	base   string
	client *http.Client
}

func (o ordinary) p99(requests int) time.Duration {
	o.t.Helper()
	var took []time.Duration
	for i := range requests {
		begun := time.Now()
		var resp *http.Response
		var err error
		if i%2 == 0 {
			resp, err = o.client.Get(o.base + "/tokens/keys")
		} else {
			resp, err = o.client.Post(o.base+"/tokens", "application/json", strings.NewReader(`{"refresh_token":"a.b.c"}`))
		}
		if err != nil {
			o.t.Fatalf("request %d: %v", i, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if want := []int{200, 401}[i%2]; resp.StatusCode != want {
			o.t.Fatalf("request %d got %d, want %d", i, resp.StatusCode, want)
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

// D1. This test is not parallel, because it measures times.
func TestMemoryUnderThousandsOfUnfinishedConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	group := newMemoryGroup(t)
	p := launchIn(t, group.enter, postgrestest.Config(t), []string{"serve"}, "LOG_LEVEL=warn", "GOGC=100")
	p.waitReady()
	client := ordinary{t, p.api, &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}}
	client.p99(50)
	quiet := client.p99(400)
	address := strings.TrimPrefix(p.api, "http://")
	body := " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 65536\r\n\r\n"
	almost := string(bytes.Repeat([]byte(" "), 65535))
	for _, kind := range []struct{ name, wire string }{
		{"bodies without their end", "POST /tokens" + body + almost},
		{"bodies without their end for no path", "POST /nowhere" + body + almost},
		{"bodies that are only announced", "PUT /nowhere" + body},
		{"chunks without their end", "POST /tokens HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n8000\r\n" + almost[:0x8000] + "\r\n7ff0\r\n"},
		{"heads without their end", "GET /users HTTP/1.1\r\nHost: x\r\nX: " + almost[:12<<10]},
		{"replies that the client does not read", strings.Repeat("GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n", 20)},
		{"idle connections", "GET /tokens/keys HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"connections without a byte", ""},
	} {
		attack := besiege(address, kind.wire)
		arriving := client.p99(200)
		testenv.Until(t, time.Minute, kind.name+": all connections are open", func() bool { return attack.opened.Load() >= besiegers })
		besieged := client.p99(200)
		t.Logf("%-38s %5d opened, %4d held; p99 %v while they open, %v when all are open, %v without them; at most %s of %d MiB",
			kind.name, attack.opened.Load(), attack.holding.Load(), arriving, besieged, quiet, group.mostUsed(), podLimit>>20)
		attack.lift()
		select {
		case <-p.ended:
			t.Fatalf("%s: the server was ended: %v", kind.name, p.cmd.ProcessState)
		default:
		}
	}
	// The server also ends in time with thousands of idle connections.
	attack := besiege(address, "GET /tokens/keys HTTP/1.1\r\nHost: x\r\n\r\n")
	testenv.Until(t, time.Minute, "all connections are open", func() bool { return attack.opened.Load() >= besiegers })
	p.signal(syscall.SIGTERM)
	p.exits(30 * time.Second)
	attack.lift()
}

// The limit of the group becomes the limit of the runtime, and a part of it is for clients.
func TestMemoryLimitOfAPodIsUsed(t *testing.T) {
	group := newMemoryGroup(t)
	for env, want := range map[string]string{
		"":                   fmt.Sprintf(`"usable_bytes":%d,"connections_bytes":%d`, podLimit*9/10, podLimit*9/10/4),
		"GOMEMLIMIT=100MiB":  fmt.Sprintf(`"usable_bytes":%d,"connections_bytes":%d`, 100<<20, 25<<20),
		"GOMEMLIMIT=1000GiB": fmt.Sprintf(`"usable_bytes":%d,"connections_bytes":%d`, podLimit*9/10, podLimit*9/10/4),
	} {
		settings := []string{"LOG_FORMAT=json"}
		if env != "" {
			settings = append(settings, env)
		}
		p := launchIn(t, group.enter, postgrestest.Config(t), []string{"serve"}, settings...)
		testenv.Until(t, 20*time.Second, "the memory is logged", func() bool { return p.stderr.Contains(`"connections_bytes"`) })
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("with %q: %s is not in %s", env, want, p.stderr)
		}
		p.signal(syscall.SIGTERM)
		p.wait(20 * time.Second)
	}
}

// A process without free descriptors continues to serve its connections.
func TestFileDescriptorsRunningOutIsSurvived(t *testing.T) {
	t.Parallel()
	few := func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"sh", "-c", `ulimit -n 200 && exec "$0" "$@"`}, cmd.Args...)
		cmd.Path = "/bin/sh"
	}
	p := launchIn(t, few, postgrestest.Config(t), []string{"serve"})
	p.waitReady()
	var held []net.Conn
	for range 1000 {
		c, err := net.Dial("tcp", strings.TrimPrefix(p.api, "http://"))
		if err != nil {
			break // the kernel's queue is full
		}
		held = append(held, c)
	}
	client := ordinary{t, p.api, &http.Client{Timeout: 30 * time.Second}}
	client.p99(20)
	for _, c := range held {
		_ = c.Close()
	}
	client.p99(20)
}
