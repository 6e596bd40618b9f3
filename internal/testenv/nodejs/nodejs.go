// Package nodejs provides tests with Node.js and with packages of npm's registry. A test is skipped if the machine has
// no npm; hack/test.sh installs it on Debian.
package nodejs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const (
	// patience allows for downloads on a busy machine.
	patience = 5 * time.Minute

	// minMajor is the oldest version that the libraries support. If the machine has an older one, as Debian 12 does,
	// version is installed from npm's registry.
	minMajor = 20
	version  = "20.20.2"
)

var (
	mu        sync.Mutex
	installed = map[string]error{}
)

// Path returns a PATH with a Node.js that the libraries support.
func Path(t testing.TB) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	return testenv.Must(path())(t)
}

var path = sync.OnceValues(func() (string, error) {
	path := os.Getenv("PATH")
	out, err := exec.Command("node", "--version").Output()
	if err != nil {
		return "", err
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n >= minMajor {
		return path, err
	}
	dir := filepath.Join(testenv.Root(), "internal", "testenv", "nodejs", ".node")
	name := "node-" + runtime.GOOS + "-" + map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	bin := filepath.Join(dir, "node_modules", name, "bin")
	if _, err := os.Stat(filepath.Join(bin, "node")); err != nil {
		if err := npm("", os.Environ(), "install", "--no-save", "--prefix", dir, name+"@"+version); err != nil {
			return "", err
		}
	}
	return bin + string(filepath.ListSeparator) + path, nil
})

// Install installs the packages of dir/package-lock.json, once for a test binary.
func Install(t testing.TB, dir string) {
	t.Helper()
	env := append(os.Environ(), "PATH="+Path(t))
	mu.Lock()
	defer mu.Unlock()
	err, done := installed[dir]
	if !done {
		err = npm(dir, env, "ci", "--ignore-scripts")
		installed[dir] = err
	}
	if err != nil {
		t.Fatal(err)
	}
}

func npm(dir string, env []string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, "npm", append(args, "--no-audit", "--no-fund")...)
	command.Dir, command.Env = dir, env
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("npm %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
