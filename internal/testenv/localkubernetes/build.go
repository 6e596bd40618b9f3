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
	takes string // on 2 cores, when nothing of it is in the build cache
	tags  string
	cgo   bool
}

// Each module has the requirements of its upstream, so that what is built is
// what upstream has tested; in one module they would raise each other's.
const (
	kubernetesModule = "hack/kubernetes"
	etcdModule       = "hack/kubernetes/etcd"
	containerdModule = "hack/kubernetes/containerd"
	runcModule       = "hack/kubernetes/runc"
	cniModule        = "hack/kubernetes/cni"
	corednsModule    = "hack/kubernetes/coredns"
)

// apiServer is what an API server consists of.
var apiServer = []program{
	{name: "etcd", from: etcdModule, path: "go.etcd.io/etcd/server/v3", takes: "a minute"},
	{name: "kube-apiserver", from: kubernetesModule, path: "k8s.io/kubernetes/cmd/kube-apiserver", takes: "7 minutes"},
}

// node is what a node has besides, and what makes a cluster of it: the control
// loops and DNS.
var node = []program{
	{name: "kube-controller-manager", from: kubernetesModule, path: "k8s.io/kubernetes/cmd/kube-controller-manager", takes: "2 minutes, after the API server"},
	{name: "kube-scheduler", from: kubernetesModule, path: "k8s.io/kubernetes/cmd/kube-scheduler", takes: "a minute"},
	{name: "kubelet", from: kubernetesModule, path: "k8s.io/kubernetes/cmd/kubelet", takes: "2 minutes"},
	{name: "kube-proxy", from: kubernetesModule, path: "k8s.io/kubernetes/cmd/kube-proxy", takes: "a minute"},
	{name: "kubectl", from: kubernetesModule, path: "k8s.io/kubernetes/cmd/kubectl", takes: "a minute"},
	{name: "containerd", from: containerdModule, path: "github.com/containerd/containerd/v2/cmd/containerd", tags: containerdTags, takes: "2 minutes"},
	{name: "containerd-shim-runc-v2", from: containerdModule, path: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", tags: containerdTags, takes: "a minute"},
	{name: "ctr", from: containerdModule, path: "github.com/containerd/containerd/v2/cmd/ctr", tags: containerdTags, takes: "a minute"},
	{name: "runc", from: runcModule, path: "github.com/opencontainers/runc", tags: "seccomp", cgo: true, takes: "a minute"},
	{name: "bridge", from: cniModule, path: "github.com/containernetworking/plugins/plugins/main/bridge", takes: "a minute"},
	{name: "host-local", from: cniModule, path: "github.com/containernetworking/plugins/plugins/ipam/host-local", takes: "a minute"},
	{name: "loopback", from: cniModule, path: "github.com/containernetworking/plugins/plugins/main/loopback", takes: "a minute"},
	{name: "portmap", from: cniModule, path: "github.com/containernetworking/plugins/plugins/meta/portmap", takes: "a minute"},
	{name: "coredns", from: corednsModule, path: ".", takes: "a minute"},
}

// containerdTags leave out the snapshotters that need libraries in C.
const containerdTags = "no_btrfs no_zfs no_devmapper"

// flags tell Kubernetes its version; its own build does that, too.
const flags = "-s -w" +
	" -X k8s.io/component-base/version.gitVersion=" + version +
	" -X k8s.io/component-base/version.gitMajor=" + major +
	" -X k8s.io/component-base/version.gitMinor=" + minor

// build has all of them built. It needs nothing but Go and a proxy for its
// modules, and go.sum vouches for what comes from there; cgo needs a C compiler.
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

// build shows that it is alive at every beat.
func (p program) build(ctx context.Context, log io.Writer, root, into string, beat time.Duration) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", p.tags, "-ldflags", flags, "-o", filepath.Join(into, p.name), p.path)
	cmd.Dir = filepath.Join(root, p.from)
	// For this machine, whatever the settings of the build that we are part of.
	cgo := "0"
	if p.cgo {
		cgo = "1"
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo, "GOFLAGS=", "GOWORK=off", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	endWithParent(cmd.SysProcAttr)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second // for its compilers, which hold the output

	fmt.Fprintf(log, "building %s for Kubernetes %s from source, once; up to %s on 2 cores\n", p.name, version, p.takes)
	begin := time.Now()
	done := make(chan error)
	go func() {
		// Linux ends the child when the thread that made it ends, not the
		// process; so this one waits with it.
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
			fmt.Fprintf(log, "still building %s, for %s now\n", p.name, time.Since(begin).Round(time.Second))
		}
	}
}
