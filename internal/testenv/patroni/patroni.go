// Package patroni runs a PostgreSQL that fails over, for tests: three servers with streaming replication, each with its
// Patroni, an etcd in which they agree on the primary, and HAProxy in front of them. All are processes of this machine
// that listen on the loopback interface only. The programs are those of Debian's packages postgresql, patroni,
// etcd-server and haproxy, which hack/test.sh installs.
//
// The tests do to the processes what happens to machines: they end or freeze all processes of one (Node.Crash,
// Node.Freeze), only PostgreSQL (Node.Kill), only Patroni (Node.FreezePatroni), or stop the replication (Node.Cut).
//
// PostgreSQL does not run as root. If the test does, all programs run as the user postgres.
package patroni

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/postgres"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
	"github.com/auth-gateway/auth-gateway/internal/testenv/localpostgres"
)

// Options configure a cluster.
type Options struct {
	// Synchronous makes a commit wait for a standby. With SynchronousStrict it also waits if there is none.
	Synchronous Synchronous
	// TTL is the lifetime of the primary's lease. After it, the standbys replace a primary that does not answer.
	// Patroni's default is 30 s.
	TTL time.Duration
}

// Synchronous is Patroni's synchronous_mode.
type Synchronous string

// The modes of replication.
const (
	Asynchronous      Synchronous = "off"
	SynchronousMode   Synchronous = "on"
	SynchronousStrict Synchronous = "strict"
)

// Cluster is a running cluster.
type Cluster struct {
	Nodes []*Node
	Proxy int // the port of HAProxy, which leads to the primary

	dir      string
	uid, gid int // of the programs; 0: of this process
	programs string
	password string
	options  Options
	etcd     string
}

// Node is a server with its Patroni.
type Node struct {
	Name string
	Port int // of PostgreSQL
	REST int // the port of Patroni

	cluster *Cluster
	dir     string
	patroni *exec.Cmd
	ended   chan struct{}
}

// patience is how long a test waits for a step of the cluster on a busy machine.
const patience = 60 * time.Second

// Start starts a cluster, and ends it with the test. It skips the test if programs are missing.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	for _, program := range []string{"patroni", "etcd", "haproxy"} {
		if lookPath(program) == "" {
			t.Skip("there is no " + program + " on this machine; hack/test.sh installs it on Debian")
		}
	}
	if o.TTL == 0 {
		o.TTL = 30 * time.Second
	}
	c := &Cluster{options: o, password: rand.Text()}
	c.programs = testenv.Must(localpostgres.Programs(t.Context(), os.Stderr))(t)
	if os.Geteuid() == 0 {
		account := testenv.Must(user.Lookup("postgres"))(t)
		c.uid, c.gid = testenv.Must(strconv.Atoi(account.Uid))(t), testenv.Must(strconv.Atoi(account.Gid))(t)
	}
	removeAbandoned()
	dir, err := os.MkdirTemp("", prefix) //nolint:usetesting // the programs run as another user, which may not enter the test's folder
	testenv.NoError(t, err)
	c.dir = dir
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	testenv.NoError(t, os.Chmod(dir, 0o755))
	testenv.NoError(t, os.WriteFile(filepath.Join(dir, "owner"), []byte(strconv.Itoa(os.Getpid())), 0o644))
	c.startEtcd(t)
	for i := range 3 {
		n := &Node{Name: fmt.Sprintf("db%d", i), Port: testenv.FreePort(t), REST: testenv.FreePort(t), cluster: c}
		n.dir = c.folder(t, n.Name)
		c.Nodes = append(c.Nodes, n)
	}
	for _, n := range c.Nodes {
		testenv.NoError(t, os.WriteFile(n.file(), []byte(n.settings()), 0o644))
		testenv.NoError(t, n.StartPatroni())
		t.Cleanup(func() {
			n.end()
			if t.Failed() {
				t.Logf("the end of the log of %s:\n%s", n.Name, n.log())
			}
		})
	}
	c.startProxy(t)
	c.Whole(t)
	return c
}

// Config returns the address of the cluster's database, with all hosts.
func (c *Cluster) Config() postgres.Config {
	config := postgres.Config{
		User: "postgres", Password: c.password, Database: "postgres", SSLMode: "disable",
		Host: strings.TrimSuffix(strings.Repeat("127.0.0.1,", len(c.Nodes)), ","),
	}
	for _, n := range c.Nodes {
		config.Ports = append(config.Ports, n.Port)
	}
	return config
}

// ProxyConfig returns the address of the cluster's database at HAProxy.
func (c *Cluster) ProxyConfig() postgres.Config {
	config := c.Config()
	config.Host, config.Port, config.Ports = "127.0.0.1", c.Proxy, nil
	return config
}

// Primary waits until a Patroni says that its server is the primary, except the nodes that are left out.
func (c *Cluster) Primary(t testing.TB, except ...*Node) (primary *Node) {
	t.Helper()
	testenv.Until(t, patience, "there is a primary", func() bool {
		for _, n := range c.Nodes {
			if !slices.Contains(except, n) && n.is("primary") {
				primary = n
				return true
			}
		}
		return false
	})
	return primary
}

// Whole waits until each server runs and follows the primary and, with synchronous replication, one of them is
// synchronous.
func (c *Cluster) Whole(t testing.TB) {
	t.Helper()
	testenv.Eventually(t, 2*patience, "the cluster is whole", func() error {
		var view clusterView
		for _, n := range c.Nodes {
			if text, err := n.get("/cluster"); err == nil && json.Unmarshal(text, &view) == nil && len(view.Members) > 0 {
				break
			}
		}
		var leaders, followers, synchronous int
		for _, m := range view.Members {
			switch {
			case m.State != "running":
			case m.Role == "leader":
				leaders++
			case m.Timeline == view.leader():
				followers++
				if m.Role == "sync_standby" {
					synchronous++
				}
			}
		}
		if leaders != 1 || followers != 2 || synchronous == 0 && c.options.Synchronous != Asynchronous {
			return fmt.Errorf("members: %+v", view.Members)
		}
		return nil
	})
}

// clusterView is the answer of Patroni to GET /cluster.
type clusterView struct {
	Members []struct {
		Name, Role, State string
		Timeline, Lag     any // lag is "unknown" at times
	}
}

// leader returns the timeline of the leader.
func (v clusterView) leader() any {
	for _, m := range v.Members {
		if m.Role == "leader" {
			return m.Timeline
		}
	}
	return nil
}

// Switchover makes another node the primary, in order.
func (c *Cluster) Switchover(t testing.TB, from *Node) {
	t.Helper()
	body := testenv.Must(json.Marshal(map[string]string{"leader": from.Name}))(t)
	testenv.Eventually(t, patience, "Patroni switches over", func() error {
		client := http.Client{Timeout: patience}
		response, err := client.Post(from.url("/switchover"), "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%d: %s", response.StatusCode, text)
		}
		return nil
	})
}

// Kill kills PostgreSQL, but not Patroni.
func (n *Node) Kill() { n.signal(syscall.SIGKILL, n.postgres()...) }

// Crash kills PostgreSQL and Patroni. StartPatroni starts both again.
func (n *Node) Crash() {
	n.signal(syscall.SIGKILL, append(n.postgres(), n.patroni.Process.Pid)...)
	<-n.ended
}

// Freeze stops all processes of the node, as a machine that hangs.
func (n *Node) Freeze() { n.signal(syscall.SIGSTOP, append(n.postgres(), n.patroni.Process.Pid)...) }

// FreezePatroni stops only Patroni: PostgreSQL does not learn that its lease has ended.
func (n *Node) FreezePatroni() { n.signal(syscall.SIGSTOP, n.patroni.Process.Pid) }

// Thaw undoes Freeze, FreezePatroni and Cut.
func (n *Node) Thaw() { n.signal(syscall.SIGCONT, append(n.postgres(), n.patroni.Process.Pid)...) }

// Cut stops the receiver of the replication, and reports whether there was one.
func (n *Node) Cut() bool {
	for _, pid := range n.postgres() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if bytes.Contains(line, []byte("walreceiver")) {
			n.signal(syscall.SIGSTOP, pid)
			return true
		}
	}
	return false
}

func (n *Node) signal(signal syscall.Signal, pids ...int) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, signal)
	}
}

// postgres returns the processes of the server, the first of which is the parent of the others.
func (n *Node) postgres() (pids []int) {
	data, err := filepath.EvalSymlinks(n.data())
	if err != nil {
		return nil
	}
	return processesIn(data)
}

// processesIn returns the processes whose working folder is dir: PostgreSQL's is that of its data.
func processesIn(dir string) (pids []int) {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if at, err := os.Readlink(link); err == nil && at == dir {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(link)))
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// Synchronous reports whether commits wait for this standby.
func (n *Node) Synchronous() bool { return n.is("synchronous") }

// is asks Patroni, as HAProxy does.
func (n *Node) is(role string) bool {
	_, err := n.get("/" + role)
	return err == nil
}

func (n *Node) url(path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", n.REST, path) }

func (n *Node) get(path string) ([]byte, error) {
	client := http.Client{Timeout: time.Second}
	response, err := client.Get(n.url(path))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return text, err
}

func (n *Node) data() string { return filepath.Join(n.dir, "data") }
func (n *Node) file() string { return filepath.Join(n.dir, "patroni.yml") }

// log returns the end of the log of Patroni and PostgreSQL.
func (n *Node) log() string {
	text, _ := os.ReadFile(filepath.Join(n.dir, "log"))
	return string(text[max(0, len(text)-8000):])
}

// settings returns Patroni's configuration. It uses etcd's API v2: over v3, Patroni 3.0.2, which is Debian 12's, writes its
// lease without a comparison, so a frozen primary that thaws takes the lock back from its successor, whose commits are
// lost.
//
// A primary that crashes is replaced at once, and not started again (primary_start_timeout). A standby that does not
// answer is noticed after three seconds (wal_sender_timeout).
func (n *Node) settings() string {
	c := n.cluster
	ttl := int(c.options.TTL / time.Second)
	return fmt.Sprintf(`scope: test
name: %[1]s
restapi: {listen: "127.0.0.1:%[2]d", connect_address: "127.0.0.1:%[2]d"}
etcd: {host: "%[3]s"}
bootstrap:
  dcs:
    ttl: %[4]d
    loop_wait: 1
    retry_timeout: %[5]d
    maximum_lag_on_failover: 1048576
    primary_start_timeout: 0
    synchronous_mode: %[6]t
    synchronous_mode_strict: %[7]t
    postgresql:
      use_pg_rewind: true
      parameters:
        max_connections: 100
        shared_buffers: 16MB
        wal_sender_timeout: 3s
        wal_receiver_timeout: 3s
        tcp_keepalives_idle: 5
        fsync: "off"
        wal_log_hints: "on"
  initdb: [{encoding: UTF8}, {locale: C}, {auth-host: scram-sha-256}, {auth-local: scram-sha-256}]
postgresql:
  listen: 127.0.0.1:%[8]d
  connect_address: 127.0.0.1:%[8]d
  data_dir: %[9]s
  bin_dir: %[10]s
  pgpass: %[11]s/pgpass
  pg_hba: ["host all all 127.0.0.1/32 scram-sha-256", "host replication all 127.0.0.1/32 scram-sha-256"]
  parameters: {unix_socket_directories: ""}
  authentication:
    superuser: {username: postgres, password: %[12]s}
    replication: {username: replicator, password: %[12]s}
    rewind: {username: rewinder, password: %[12]s}
`, n.Name, n.REST, c.etcd, ttl, max(1, (ttl-1)/2), c.options.Synchronous != Asynchronous && c.options.Synchronous != "",
		c.options.Synchronous == SynchronousStrict, n.Port, n.data(), c.programs, n.dir, c.password)
}

// StartPatroni starts Patroni, which starts PostgreSQL.
func (n *Node) StartPatroni() error {
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	n.patroni, n.ended = n.cluster.command(log, "patroni", n.file()), make(chan struct{})
	cmd, ended := n.patroni, n.ended
	started := make(chan error)
	go func() {
		// Linux ends the child with the thread that created it, so this thread waits for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(ended)
		}
	}()
	return <-started
}

// end ends Patroni first, because it would start PostgreSQL again.
func (n *Node) end() {
	n.signal(syscall.SIGKILL, n.patroni.Process.Pid)
	<-n.ended
	n.signal(syscall.SIGKILL, n.postgres()...)
}

// command prepares a program that ends with this process.
func (c *Cluster) command(log io.Writer, name string, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), lookPath(name), arguments...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PG") }), "LC_ALL=C", "HOME="+c.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.uid), Gid: uint32(c.gid)}
	}
	bindToParent(cmd.SysProcAttr)
	return cmd
}

// folder creates a folder for the programs.
func (c *Cluster) folder(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(c.dir, name)
	testenv.NoError(t, os.Mkdir(dir, 0o755))
	if c.uid != 0 {
		testenv.NoError(t, os.Chown(dir, c.uid, c.gid))
	}
	return dir
}

func (c *Cluster) startEtcd(t testing.TB) {
	t.Helper()
	c.etcd = testenv.FreeAddress(t)
	client, peer := "http://"+c.etcd, "http://"+testenv.FreeAddress(t)
	c.service(t, "etcd", "--data-dir="+filepath.Join(c.folder(t, "etcd"), "data"), "--listen-client-urls="+client,
		"--advertise-client-urls="+client, "--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer,
		"--initial-cluster=default="+peer, "--enable-v2=true", "--log-level=error")
	testenv.Eventually(t, patience, "etcd answers", func() error {
		response, err := http.Get(client + "/health")
		if err == nil {
			_ = response.Body.Close()
		}
		return err
	})
}

// startProxy starts HAProxy as Patroni's manual configures it, with shorter intervals.
func (c *Cluster) startProxy(t testing.TB) {
	t.Helper()
	c.Proxy = testenv.FreePort(t)
	text := fmt.Sprintf(`global
  maxconn 1000
defaults
  mode tcp
  retries 2
  timeout client 30m
  timeout connect 2s
  timeout server 30m
  timeout check 1s
listen primary
  bind 127.0.0.1:%d
  option httpchk OPTIONS /primary
  http-check expect status 200
  default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
`, c.Proxy)
	for _, n := range c.Nodes {
		text += fmt.Sprintf("  server %s 127.0.0.1:%d maxconn 200 check port %d\n", n.Name, n.Port, n.REST)
	}
	file := filepath.Join(c.dir, "haproxy.cfg")
	testenv.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	c.service(t, "haproxy", "-db", "-f", file)
}

// service starts a program that runs until the test ends.
func (c *Cluster) service(t testing.TB, name string, arguments ...string) {
	t.Helper()
	log := testenv.Must(os.Create(filepath.Join(c.dir, name+".log")))(t)
	cmd := c.command(log, name, arguments...)
	testenv.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the end of the log of %s:\n%s", name, text[max(0, len(text)-2000):])
		}
	})
}

// lookPath finds a program, also in /usr/sbin, or returns "".
func lookPath(name string) string {
	for _, name := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

const prefix = "authgateway-patroni-"

// removeAbandoned ends the servers of tests that were killed, which their Patroni has started as independent processes,
// and removes their folders.
func removeAbandoned() {
	folders, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	for _, dir := range folders {
		text, err := os.ReadFile(filepath.Join(dir, "owner"))
		if err != nil {
			continue
		}
		if owner, err := strconv.Atoi(string(text)); err != nil || syscall.Kill(owner, 0) == nil {
			continue
		}
		for i := range 3 {
			for _, pid := range processesIn(filepath.Join(dir, fmt.Sprintf("db%d", i), "data")) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		_ = os.RemoveAll(dir)
	}
}
