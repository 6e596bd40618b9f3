// Package localkubernetes provides the programs of Kubernetes: kube-apiserver and etcd for tests, and all programs of a
// node for hack/localcluster. They are found, downloaded, or built from source, which takes minutes and happens once.
// So a test that needs an API server gets one on every machine.
//
// Package kubernetestest runs an API server.
package localkubernetes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// The version of Kubernetes in hack/kubernetes/go.mod.
const (
	major   = "1"
	minor   = "37"
	version = "v" + major + "." + minor + ".2"
)

// variable is the environment variable with the folder of the programs, which takes precedence. envtest and
// setup-envtest use the same one.
const variable = "KUBEBUILDER_ASSETS"

// A source provides the programs and returns their folder, which is scratch or below it.
type source func(ctx context.Context, log io.Writer, scratch string) (dir string, err error)

// Assets returns a folder with kube-apiserver and etcd: the one that KUBEBUILDER_ASSETS names, or one in the user's
// cache, which is filled if necessary. Progress is written to log.
func Assets(ctx context.Context, log io.Writer) (dir string, err error) {
	if dir := os.Getenv(variable); dir != "" {
		if missing := missingIn(dir, apiServer); missing != "" {
			return "", fmt.Errorf("%s is %s, which has no %s: set it to a folder that has it, "+
				"or unset it to download or build the programs", variable, dir, missing)
		}
		return filepath.Abs(dir)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("%w; or set %s to a folder that has kube-apiserver and etcd", err, variable)
	}
	name := strings.Join([]string{"kubernetes", version, runtime.GOOS, runtime.GOARCH}, "-")
	dir, err = cached(ctx, log, filepath.Join(cache, "auth-gateway", name), apiServer, downloadFrom(envtestIndex), build(apiServer))
	if err != nil {
		return "", fmt.Errorf("get the programs of a Kubernetes API server, "+
			"or set %s to a folder that has kube-apiserver and etcd: %w", variable, err)
	}
	return dir, nil
}

// Node returns a folder with the other programs of a node: those of Kubernetes, kubectl, containerd, runc, the CNI
// plugins and CoreDNS. If the user's cache has none, they are built. runc needs a C compiler, pkg-config and
// libseccomp.
func Node(ctx context.Context, log io.Writer) (dir string, err error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	digest := sha256.New()
	for _, module := range []string{kubernetesModule, containerdModule, runcModule, cniModule, corednsModule} {
		// go.sum contains all versions, which must be part of the folder's name.
		sums, err := os.ReadFile(filepath.Join(root, module, "go.sum"))
		if err != nil {
			return "", err
		}
		sources, err := filepath.Glob(filepath.Join(root, module, "*.go"))
		if err != nil {
			return "", err
		}
		digest.Write(sums)
		for _, path := range sources {
			content, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			digest.Write(content)
		}
	}
	name := strings.Join([]string{"node", version, runtime.GOOS, runtime.GOARCH, hex.EncodeToString(digest.Sum(nil)[:6])}, "-")
	dir, err = cached(ctx, log, filepath.Join(cache, "auth-gateway", name), node, build(node))
	if err != nil {
		return "", fmt.Errorf("get the programs of a Kubernetes node: %w", err)
	}
	return dir, nil
}

// missingIn returns the name of a program that dir lacks, or "".
func missingIn(dir string, programs []program) string {
	for _, p := range programs {
		if _, err := exec.LookPath(filepath.Join(dir, p.name)); err != nil {
			return p.name
		}
	}
	return ""
}

// cached returns the folder in the cache. If it is missing, the first source that succeeds fills it. Tests of several
// packages start at once; only one of them does the work.
func cached(ctx context.Context, log io.Writer, dir string, programs []program, sources ...source) (_ string, err error) {
	if missingIn(dir, programs) == "" {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, log, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if missingIn(dir, programs) == "" {
		return dir, nil
	}

	// The folder is filled under a temporary name and renamed when it is complete. An old temporary folder was left by
	// an interrupted run, because we hold the lock.
	unfinished := dir + ".unfinished"
	defer func() { err = errors.Join(err, os.RemoveAll(unfinished)) }()
	var failures []error
	for _, get := range sources {
		if err := errors.Join(os.RemoveAll(unfinished), os.Mkdir(unfinished, 0o755)); err != nil {
			return "", err
		}
		got, err := get(ctx, log, unfinished)
		if err == nil && missingIn(got, programs) != "" {
			err = fmt.Errorf("%s is missing in %s", missingIn(got, programs), got)
		}
		if err != nil {
			failures = append(failures, err)
			continue
		}
		return dir, errors.Join(os.RemoveAll(dir), os.Rename(got, dir))
	}
	return "", errors.Join(failures...)
}

// lock waits until no other process has locked the file. The system releases a lock when its holder dies.
func lock(ctx context.Context, log io.Writer, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		if !told {
			fmt.Fprintln(log, "waiting for another process that downloads or builds the programs")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for another process that downloads or builds the programs: %w", ctx.Err()), f.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Root returns the folder of the repository that contains the current folder. A test's current folder is its package's.
func Root() (string, error) {
	from, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := from; ; dir = filepath.Dir(dir) {
		_, err := os.Stat(filepath.Join(dir, "hack", "kubernetes", "go.mod"))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not in a checkout of Auth Gateway, whose hack/kubernetes/go.mod is needed", from)
		}
	}
}
