package localkubernetes

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// A program is built from source.
type program struct {
	name  string
	from  string // the folder of its module in the repository
	path  string // the package to build
	takes string // on 2 cores with an empty build cache
	tags  string
	cgo   bool
}

// Each module has the requirements of its upstream, so the tested versions are built. In one module they would raise
// each other's.
const (
	kubernetesModule = "hack/kubernetes"
	etcdModule       = "hack/kubernetes/etcd"
	containerdModule = "hack/kubernetes/containerd"
	runcModule       = "hack/kubernetes/runc"
	cniModule        = "hack/kubernetes/cni"
	corednsModule    = "hack/kubernetes/coredns"
)

// apiServer lists the programs of an API server.
var apiServer = []program{
	{name: "etcd", from: etcdModule, path: "go.etcd.io/etcd/server/v3", takes: "a minute"},
	{name: "kube-apiserver", from: kubernetesModule, path: "k8s.io/kubernetes/cmd/kube-apiserver", takes: "7 minutes"},
}

// node lists the other programs of a node and a cluster: the controllers and DNS.
var node = []program{
	{name: "kube-controller-manager", from: kubernetesModule, path: "k8s.io/kubernetes/cmd/kube-controller-manager",
		takes: "2 minutes, after the API server"},
	{name: "kube-scheduler", from: kubernetesModule, path: "k8s.io/kubernetes/cmd/kube-scheduler", takes: "a minute"},
	{name: "kubelet", from: kubernetesModule, path: "k8s.io/kubernetes/cmd/kubelet", takes: "2 minutes"},
	{name: "kube-proxy", from: kubernetesModule, path: "k8s.io/kubernetes/cmd/kube-proxy", takes: "a minute"},
	{name: "kubectl", from: kubernetesModule, path: "k8s.io/kubernetes/cmd/kubectl", takes: "a minute"},
	{name: "containerd", from: containerdModule, path: "github.com/containerd/containerd/v2/cmd/containerd",
		tags: containerdTags, takes: "2 minutes"},
	{name: "containerd-shim-runc-v2", from: containerdModule,
		path: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", tags: containerdTags, takes: "a minute"},
	{name: "ctr", from: containerdModule, path: "github.com/containerd/containerd/v2/cmd/ctr", tags: containerdTags, takes: "a minute"},
	{name: "runc", from: runcModule, path: "github.com/opencontainers/runc", tags: "seccomp", cgo: true, takes: "a minute"},
	{name: "bridge", from: cniModule, path: "github.com/containernetworking/plugins/plugins/main/bridge", takes: "a minute"},
	{name: "host-local", from: cniModule, path: "github.com/containernetworking/plugins/plugins/ipam/host-local", takes: "a minute"},
	{name: "loopback", from: cniModule, path: "github.com/containernetworking/plugins/plugins/main/loopback", takes: "a minute"},
	{name: "portmap", from: cniModule, path: "github.com/containernetworking/plugins/plugins/meta/portmap", takes: "a minute"},
	{name: "coredns", from: corednsModule, path: ".", takes: "a minute"},
}

// containerdTags exclude the snapshotters that need C libraries.
const containerdTags = "no_btrfs no_zfs no_devmapper"

// flags set the version of Kubernetes, as its own build does.
const flags = "-s -w" +
	" -X k8s.io/component-base/version.gitVersion=" + version +
	" -X k8s.io/component-base/version.gitMajor=" + major +
	" -X k8s.io/component-base/version.gitMinor=" + minor

// build builds all programs. It needs only Go and a module proxy, whose modules go.sum verifies; cgo needs a C
// compiler.
func build(programs []program) source {
	return func(ctx context.Context, log io.Writer, scratch string) (string, error) {
		root, err := Root()
		if err != nil {
			return "", err
		}
		for _, p := range programs {
			if err := p.build(ctx, log, root, scratch, 30*time.Second); err != nil {
				return "", err
			}
		}
		return scratch, nil
	}
}

// build prints its progress at every beat.
func (p program) build(ctx context.Context, log io.Writer, root, into string, beat time.Duration) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", p.tags, "-ldflags", flags, "-o", filepath.Join(into, p.name), p.path)
	cmd.Dir = filepath.Join(root, p.from)
	// The programs are built for this machine, regardless of the build settings of this process.
	cgo := "0"
	if p.cgo {
		cgo = "1"
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo, "GOFLAGS=", "GOWORK=off", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	endWithParent(cmd.SysProcAttr)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second // its compilers hold the output open

	fmt.Fprintf(log, "building %s for Kubernetes %s from source; this happens once and takes up to %s on 2 cores\n", p.name, version, p.takes)
	begin := time.Now()
	done := make(chan error)
	go func() {
		// Linux ends the child with the thread that created it, so this thread waits for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("build %s in %s: %w\n%s", p.name, p.from, err, out.Bytes())
			}
			return nil
		case <-ticker.C:
			fmt.Fprintf(log, "still building %s, after %s\n", p.name, time.Since(begin).Round(time.Second))
		}
	}
}
