package clients

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
)

// npmCI installs the versions in package-lock.json once.
var npmCI = sync.OnceValues(func() ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	install := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	install.Dir = "node"
	return install.CombinedOutput()
})

// node20 is the version of Node.js that is installed from npm's registry if the machine has an older one than the
// libraries support, as Debian 12 does.
const node20 = "20.20.2"

// node returns a PATH with a Node.js that the libraries support.
var node = sync.OnceValues(func() (path string, err error) {
	path = os.Getenv("PATH")
	version, err := exec.Command("node", "--version").Output()
	if err != nil {
		return "", err
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(string(version), "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n >= 20 {
		return path, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dir, err := filepath.Abs(filepath.Join("node", ".node"))
	if err != nil {
		return "", err
	}
	name := "node-" + runtime.GOOS + "-" + map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	out, err := exec.CommandContext(ctx, "npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", dir,
		name+"@"+node20).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("npm install %s: %w\n%s", name, err, out)
	}
	return filepath.Join(dir, "node_modules", name, "bin") + string(filepath.ListSeparator) + path, nil
})

// run runs scripts of node/package.json in the given order.
func run(t *testing.T, scripts ...[]string) {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	path, err := node()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := npmCI(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, script := range scripts {
		cmd := exec.CommandContext(ctx, "npm", append([]string{"run", "--silent"}, script...)...)
		cmd.Dir, cmd.Env = "node", append(os.Environ(), "PATH="+path)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("npm run %s: %v\n%s", script, err, out)
		}
	}
}

func TestTypeScript(t *testing.T) {
	run(t, []string{"generate"}, []string{"build"}, []string{"flow", gateway(t), callerKey})
}

func TestAnOAuthLibrary(t *testing.T) {
	run(t, []string{"oauth", gateway(t), callerKey})
}

func TestTheDocumentHasNoWarnings(t *testing.T) {
	run(t, []string{"lint"})
}
