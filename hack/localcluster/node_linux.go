package localcluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
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
	"syscall"
	"text/template"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv/localkubernetes"
)

// The addresses of the node's networks. They are private, and only this machine reaches them.
const (
	nodeName        = "local"
	nodeLink        = "agw-node"  // a bridge without ports, because not every kernel has dummy links
	nodeAddress     = "10.77.0.1" // the machine, as pods see it
	podLink         = "agw-pods"  // the bridge of the pods
	podNetwork      = "10.244.0.0/24"
	serviceNetwork  = "10.96.0.0/16"
	firstService    = "10.96.0.1" // the Service of the API server
	dnsService      = "10.96.0.10"
	apiServerPort   = "16443"
	etcdURL         = "https://127.0.0.1:12379"
	etcdPeerURL     = "http://127.0.0.1:12380" // the only member
	apiServerURL    = "https://" + nodeAddress + ":" + apiServerPort
	runtimeFolder   = "/run/auth-gateway-cluster" // of containerd: the path of a socket must be short
	containerSocket = runtimeFolder + "/containerd.sock"
)

// A node is the cluster without Docker: one node whose official components are processes of this machine.
type node struct {
	dir string // holds all files of the node
	log io.Writer
}

func newNode(dir string, log io.Writer) engine { return &node{dir: dir, log: log} }

func (n *node) path(elements ...string) string {
	return filepath.Join(append([]string{n.dir}, elements...)...)
}

func (*node) url() string { return "http://" + net.JoinHostPort(nodeAddress, nodePort) }

// lock takes the lock that the supervisor holds. A caller that gets it knows that no supervisor runs. The system
// releases it when its holder dies.
func (n *node) lock() (*os.File, error) {
	if err := os.MkdirAll(runtimeFolder, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(runtimeFolder, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// owner returns the folder of the cluster that runs on this machine, or "".
func (n *node) owner() string {
	lock, err := n.lock()
	if err == nil {
		_ = lock.Close()
		return ""
	}
	content, err := os.ReadFile(filepath.Join(runtimeFolder, "owner"))
	if err != nil {
		return "another folder"
	}
	return string(content)
}

// up starts the supervisor, which keeps running after this process has ended.
func (n *node) up(ctx context.Context) error {
	switch owner := n.owner(); owner {
	case n.dir:
		fmt.Fprintln(n.log, "the node runs already")
		return nil
	case "":
	default:
		return fmt.Errorf("the cluster of %s runs on this machine, which can run only one: run make down there", owner)
	}
	if err := needPrograms(ctx, n.log); err != nil {
		return err
	}
	assets, err := localkubernetes.Assets(ctx, n.log)
	if err != nil {
		return err
	}
	programs, err := localkubernetes.Node(ctx, n.log)
	if err != nil {
		return err
	}
	// Remove what a node that was killed has left.
	if err := n.clean(ctx); err != nil {
		return err
	}
	if err := refuseToShare(ctx); err != nil {
		return err
	}
	for _, folder := range []string{"bin", "logs", "pids", "pki", "kubelet", "cni"} {
		if err := os.MkdirAll(n.path(folder), 0o700); err != nil {
			return err
		}
	}
	if err := n.link(assets, "etcd", "kube-apiserver"); err != nil {
		return err
	}
	entries, err := os.ReadDir(programs)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := n.link(programs, entry.Name()); err != nil {
			return err
		}
	}
	if err := n.credentials(); err != nil {
		return err
	}
	if err := n.configure(programs); err != nil {
		return err
	}
	return n.startSupervisor(ctx)
}

func (n *node) link(folder string, names ...string) error {
	for _, name := range names {
		if err := os.Symlink(filepath.Join(folder, name), n.path("bin", name)); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) credentials() error {
	ca, err := newAuthority(n.path("pki"))
	if err != nil {
		return err
	}
	return errors.Join(
		ca.serviceAccounts(),
		ca.issue("etcd", "etcd", nil, "127.0.0.1"),
		ca.issue("apiserver", "kube-apiserver", nil, "kubernetes", "kubernetes.default", "kubernetes.default.svc", firstService, nodeAddress),
		ca.issue("apiserver-kubelet", "kube-apiserver-kubelet", []string{"system:masters"}),
		ca.issue("admin", "admin", []string{"system:masters"}),
		ca.issue("kube-controller-manager", "system:kube-controller-manager", nil),
		ca.issue("kube-scheduler", "system:kube-scheduler", nil),
		ca.issue("kube-proxy", "system:kube-proxy", nil),
		ca.issue("kubelet", "system:node:"+nodeName, []string{"system:nodes"}, nodeAddress),
		ca.kubeconfig(n.path("kubeconfig"), "admin"),
		ca.kubeconfig(n.path("pki", "kube-controller-manager.kubeconfig"), "kube-controller-manager"),
		ca.kubeconfig(n.path("pki", "kube-scheduler.kubeconfig"), "kube-scheduler"),
		ca.kubeconfig(n.path("pki", "kube-proxy.kubeconfig"), "kube-proxy"),
		ca.kubeconfig(n.path("pki", "kubelet.kubeconfig"), "kubelet"),
	)
}

//go:embed configuration/containerd.toml
var containerdConfiguration string

//go:embed configuration/kubelet.yaml
var kubeletConfiguration string

//go:embed configuration/pods.conflist
var podsConfiguration string

// configure writes the configuration of components that flags do not configure completely.
func (n *node) configure(programs string) error {
	resolver := "/etc/resolv.conf"
	// If systemd-resolved listens at a loopback address, which pods cannot reach, pods use the servers that it queries.
	if upstream := "/run/systemd/resolve/resolv.conf"; exists(upstream) {
		resolver = upstream
	}
	values := map[string]string{
		"Dir": n.dir, "Runtime": runtimeFolder, "Socket": containerSocket, "Programs": programs, "Pause": pauseImage,
		"Bridge": podLink, "PodNetwork": podNetwork, "DNS": dnsService, "Address": nodeAddress, "Resolver": resolver,
	}
	for file, text := range map[string]string{
		"containerd.toml":   containerdConfiguration,
		"kubelet.yaml":      kubeletConfiguration,
		"cni/pods.conflist": podsConfiguration,
	} {
		t, err := template.New(file).Option("missingkey=error").Parse(text)
		if err != nil {
			return err
		}
		var content bytes.Buffer
		if err := t.Execute(&content, values); err != nil {
			return err
		}
		if err := os.WriteFile(n.path(file), content.Bytes(), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) startSupervisor(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.Create(n.path("logs", "supervisor.log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has a copy
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, "supervise", n.dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this process and its terminal
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }()
	cmd.ExtraFiles = []*os.File{writer}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return errors.Join(err, writer.Close())
	}
	_ = writer.Close()
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()

	// It writes "ready", or ends.
	told := make(chan string, 1)
	go func() {
		word, _ := io.ReadAll(reader)
		told <- string(word)
	}()
	select {
	case word := <-told:
		if word != "ready" {
			<-ended
			content, _ := os.ReadFile(log.Name())
			return fmt.Errorf("the node did not start; the logs of its components are in %s\n%s", n.path("logs"), content)
		}
	case <-ctx.Done():
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		return ctx.Err()
	}
	fmt.Fprintf(n.log, "the node started in %s\n", time.Since(begin).Round(100*time.Millisecond))
	return nil
}

// readyDescriptor is the supervisor's end of a pipe, on which it reports that all components are ready. It is the first
// descriptor that exec passes on after the standard three.
const readyDescriptor = 3

// Supervise runs the components of the node in a folder until ctx ends. Up calls it in a separate process.
func Supervise(ctx context.Context, dir string) (err error) {
	syscall.CloseOnExec(readyDescriptor) // the components must not hold it open
	n := &node{dir: dir, log: os.Stderr}
	lock, err := n.lock()
	if err != nil {
		return fmt.Errorf("another cluster runs on this machine: %w", err)
	}
	defer func() { _ = lock.Close() }()
	if err := os.WriteFile(filepath.Join(runtimeFolder, "owner"), []byte(dir), 0o600); err != nil {
		return err
	}
	self := n.path("pids", "supervisor")
	if err := os.WriteFile(self, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(self)) }()

	s := &supervisor{
		bin: n.path("bin"), logs: n.path("logs"), pids: n.path("pids"), log: os.Stderr,
		path: n.path("bin") + ":" + os.Getenv("PATH"),
	}
	// Pods end after the kubelet, which would restart them, and before containerd. The API server ends before etcd,
	// without which it cannot end.
	defer s.stop("containerd", "kube-apiserver", "etcd")
	defer n.endPods(context.WithoutCancel(ctx))
	defer s.stop("kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager")
	if err := n.start(ctx, s); err != nil {
		return err
	}
	ready := os.NewFile(readyDescriptor, "ready")
	if _, err := ready.WriteString("ready"); err != nil {
		return err
	}
	if err := ready.Close(); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func (n *node) start(ctx context.Context, s *supervisor) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := addLinks(ctx, n); err != nil {
		return err
	}
	for _, c := range n.components() {
		if err := s.start(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) components() []component {
	pki := func(name string) string { return n.path("pki", name) }
	kubeconfig := func(name string) string { return pki(name + ".kubeconfig") }
	return []component{
		{name: "etcd", args: []string{
			"--data-dir=" + n.path("etcd"), "--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
			"--listen-peer-urls=" + etcdPeerURL, "--initial-advertise-peer-urls=" + etcdPeerURL, "--initial-cluster=default=" + etcdPeerURL,
			"--client-cert-auth", "--trusted-ca-file=" + pki("ca.crt"), "--cert-file=" + pki("etcd.crt"), "--key-file=" + pki("etcd.key"),
			"--unsafe-no-fsync", // a test cluster may lose its data in a crash
		}},
		{name: "containerd", args: []string{"--config=" + n.path("containerd.toml")}, ready: listens("unix", containerSocket)},
		{name: "kube-apiserver", ready: n.apiServerIsReady, args: []string{
			"--etcd-servers=" + etcdURL, "--etcd-cafile=" + pki("ca.crt"), "--etcd-certfile=" + pki("etcd.crt"), "--etcd-keyfile=" + pki("etcd.key"),
			"--bind-address=" + nodeAddress, "--advertise-address=" + nodeAddress, "--secure-port=" + apiServerPort,
			"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"), "--client-ca-file=" + pki("ca.crt"),
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
			"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + pki("accounts.pub"),
			"--service-account-signing-key-file=" + pki("accounts.key"), "--service-cluster-ip-range=" + serviceNetwork,
			"--kubelet-preferred-address-types=InternalIP", "--kubelet-certificate-authority=" + pki("ca.crt"),
			"--kubelet-client-certificate=" + pki("apiserver-kubelet.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet.key"),
		}},
		{name: "kube-controller-manager", args: []string{
			"--kubeconfig=" + kubeconfig("kube-controller-manager"), "--bind-address=127.0.0.1", "--leader-elect=false",
			"--service-account-private-key-file=" + pki("accounts.key"), "--root-ca-file=" + pki("ca.crt"), "--use-service-account-credentials",
		}},
		{name: "kube-scheduler", args: []string{
			"--kubeconfig=" + kubeconfig("kube-scheduler"), "--bind-address=127.0.0.1", "--leader-elect=false",
		}},
		{name: "kubelet", args: []string{
			"--kubeconfig=" + kubeconfig("kubelet"), "--config=" + n.path("kubelet.yaml"), "--root-dir=" + n.path("kubelet"),
			"--cert-dir=" + n.path("kubelet", "pki"), "--hostname-override=" + nodeName, "--node-ip=" + nodeAddress,
		}},
		{name: "kube-proxy", args: []string{
			"--kubeconfig=" + kubeconfig("kube-proxy"), "--proxy-mode=iptables", "--cluster-cidr=" + podNetwork, "--hostname-override=" + nodeName,
			"--nodeport-addresses=" + nodeAddress + "/32", "--conntrack-max-per-core=0", // keep the machine's limits
		}},
	}
}

// listens waits until an address accepts connections.
func listens(network, address string) func(context.Context) error {
	return func(ctx context.Context) error {
		return poll(ctx, func() error {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return err
			}
			return c.Close()
		})
	}
}

func (n *node) apiServerIsReady(ctx context.Context) error {
	ca, err := os.ReadFile(n.path("pki", "ca.crt"))
	if err != nil {
		return err
	}
	admin, err := tls.LoadX509KeyPair(n.path("pki", "admin.crt"), n.path("pki", "admin.key"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{admin},
	}}}
	defer client.CloseIdleConnections()
	return poll(ctx, func() error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, apiServerURL+"/readyz", http.NoBody)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s", response.Status)
		}
		return nil
	})
}

// load imports images into containerd.
func (n *node) load(ctx context.Context, archives ...string) error {
	for _, archive := range archives {
		cmd := exec.CommandContext(ctx, n.path("bin", "ctr"), "--address", containerSocket, "--namespace", "k8s.io", "images", "import", archive)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("load %s: %w\n%s", archive, err, out)
		}
	}
	return nil
}

func (n *node) kubectl() string { return n.path("bin", "kubectl") }

// status reports which components run.
func (n *node) status(_ context.Context) error {
	switch owner := n.owner(); owner {
	case n.dir:
	case "":
		return errors.New("the node is not running: run make up")
	default:
		return fmt.Errorf("the cluster of another checkout (%s) runs on this machine", owner)
	}
	var down []string
	for _, c := range n.components() {
		content, err := os.ReadFile(n.path("pids", c.name))
		if err != nil {
			down = append(down, c.name)
			continue
		}
		fmt.Fprintf(n.log, "  %-24s process %s", c.name, content)
	}
	if len(down) > 0 {
		return fmt.Errorf("%s: not running; see %s", strings.Join(down, ", "), n.path("logs"))
	}
	return nil
}

// down stops the supervisor, and removes everything that the node has left on the machine.
func (n *node) down(ctx context.Context) error {
	owner := n.owner()
	if owner != "" && owner != n.dir {
		return fmt.Errorf("the cluster of %s runs on this machine: run make down there", owner)
	}
	if owner == n.dir {
		content, err := os.ReadFile(n.path("pids", "supervisor"))
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			return fmt.Errorf("stop the supervisor, process %d: %w", pid, err)
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		if err := poll(ctx, func() error {
			if n.owner() != "" {
				return fmt.Errorf("process %d has not ended", pid)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return n.clean(ctx)
}

// needPrograms installs what no Go module provides: iptables and ip, which kube-proxy and the CNI plugins run, and the
// build requirements of runc.
func needPrograms(ctx context.Context, log io.Writer) error {
	var packages []string
	for program, name := range map[string]string{"iptables": "iptables", "ip": "iproute2", "pkg-config": "pkg-config", "gcc": "gcc"} {
		if _, err := exec.LookPath(program); err != nil {
			packages = append(packages, name)
		}
	}
	if _, err := exec.LookPath("pkg-config"); err != nil || exec.CommandContext(ctx, "pkg-config", "--exists", "libseccomp").Run() != nil {
		packages = append(packages, "libseccomp-dev")
	}
	if !exists("/usr/include/stdlib.h") {
		packages = append(packages, "libc6-dev")
	}
	if len(packages) == 0 {
		return nil
	}
	slices.Sort(packages)
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("programs are missing on this machine: install what Debian has in the packages %s", strings.Join(packages, " "))
	}
	fmt.Fprintln(log, "installing", strings.Join(packages, " "))
	for _, args := range [][]string{{"update"}, append([]string{"install", "--yes", "--no-install-recommends"}, packages...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}
