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
}

// programs are those of an API server.
var programs = []program{
	{"etcd", "hack/kubernetes/etcd", "go.etcd.io/etcd/server/v3", "a minute"},
	{"kube-apiserver", "hack/kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", "7 minutes"},
}

// flags tell Kubernetes its version; its own build does that, too.
const flags = "-s -w" +
	" -X k8s.io/component-base/version.gitVersion=" + version +
	" -X k8s.io/component-base/version.gitMajor=" + major +
	" -X k8s.io/component-base/version.gitMinor=" + minor

// build needs nothing but Go and a proxy for its modules, and go.sum vouches for
// what comes from there.
func build(ctx context.Context, log io.Writer, scratch string) (string, error) {
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

// build shows that it is alive at every beat.
func (p program) build(ctx context.Context, log io.Writer, root, into string, beat time.Duration) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", flags, "-o", filepath.Join(into, p.name), p.path)
	cmd.Dir = filepath.Join(root, p.from)
	// For this machine, whatever the settings of the build that we are part of.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	endWithParent(cmd.SysProcAttr)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second // for its compilers, which hold the output

	fmt.Fprintf(log, "building %s for Kubernetes %s from source, once; about %s on 2 cores\n", p.name, version, p.takes)
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
