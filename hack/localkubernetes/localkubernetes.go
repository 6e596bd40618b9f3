// Package localkubernetes gets the two programs that a Kubernetes API server
// consists of, kube-apiserver and etcd, for tests. Whatever the machine is, a
// test that needs an API server gets one: the programs are found, downloaded, or
// built from source, which takes minutes and happens once.
//
// kubernetestest runs them.
package localkubernetes

import (
	"context"
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

// The version of Kubernetes, as hack/kubernetes/go.mod has it.
const (
	major   = "1"
	minor   = "37"
	version = "v" + major + "." + minor + ".2"
)

// variable names the folder of the programs, over all others. It is the one
// that controller-runtime's envtest and its setup-envtest know.
const variable = "KUBEBUILDER_ASSETS"

// A source brings the programs, and tells the folder that they are in: scratch,
// or one below.
type source func(ctx context.Context, log io.Writer, scratch string) (dir string, err error)

// Assets gives a folder that has kube-apiserver and etcd: the one that
// KUBEBUILDER_ASSETS names, or else one in the user's cache, which is filled
// where that has not happened yet. What takes its time is told on log.
func Assets(ctx context.Context, log io.Writer) (dir string, err error) {
	if dir := os.Getenv(variable); dir != "" {
		if missing := missingIn(dir); missing != "" {
			return "", fmt.Errorf("%s is %s, and there is no %s: name a folder that has it, or unset the variable to have the programs downloaded or built", variable, dir, missing)
		}
		return filepath.Abs(dir)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("%w; or set %s to a folder that has kube-apiserver and etcd", err, variable)
	}
	return cached(ctx, log, filepath.Join(cache, "auth-gateway"), downloadFrom(envtestIndex), build)
}

// missingIn names a program that dir lacks; "" means that all are there.
func missingIn(dir string) string {
	for _, p := range programs {
		if _, err := exec.LookPath(filepath.Join(dir, p.name)); err != nil {
			return p.name
		}
	}
	return ""
}

// cached gives the folder in the cache, and has it filled by the first source
// that can. Tests of several packages start at once: one of them does the work.
func cached(ctx context.Context, log io.Writer, cache string, sources ...source) (_ string, err error) {
	dir := filepath.Join(cache, strings.Join([]string{"kubernetes", version, runtime.GOOS, runtime.GOARCH}, "-"))
	if missingIn(dir) == "" {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, log, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if missingIn(dir) == "" {
		return dir, nil
	}

	// Filled beside its place and moved there when it is whole, so that an
	// interrupted run leaves nothing that looks like one. The lock is ours, so
	// what is there was left by such a run.
	unfinished := dir + ".unfinished"
	defer func() { err = errors.Join(err, os.RemoveAll(unfinished)) }()
	var failures []error
	for _, get := range sources {
		if err := errors.Join(os.RemoveAll(unfinished), os.Mkdir(unfinished, 0o755)); err != nil {
			return "", err
		}
		got, err := get(ctx, log, unfinished)
		if err == nil && missingIn(got) != "" {
			err = fmt.Errorf("%s is missing in %s", missingIn(got), got)
		}
		if err != nil {
			failures = append(failures, err)
			continue
		}
		return dir, errors.Join(os.RemoveAll(dir), os.Rename(got, dir))
	}
	return "", fmt.Errorf("get the programs of a Kubernetes API server, or set %s to a folder that has kube-apiserver and etcd: %w", variable, errors.Join(failures...))
}

// lock waits until no other process has the file locked. The system drops a lock
// when its holder dies, however it dies.
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
			fmt.Fprintln(log, "another process is getting kube-apiserver and etcd; waiting for it")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for another process that is getting kube-apiserver and etcd: %w", ctx.Err()), f.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Root is the folder of the repository that the current folder is in: that of a
// test is its package's.
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
