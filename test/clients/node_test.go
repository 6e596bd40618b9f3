package clients

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// npmCI installs what package-lock.json says, once.
var npmCI = sync.OnceValues(func() ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	install := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	install.Dir = "node"
	return install.CombinedOutput()
})

// run runs the scripts of node/package.json in their order.
func run(t *testing.T, scripts ...[]string) {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	version, err := exec.Command("node", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(string(version), "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 20 {
		t.Skipf("the libraries need Node.js 20, and this is %s", version)
	}
	if out, err := npmCI(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, script := range scripts {
		cmd := exec.CommandContext(ctx, "npm", append([]string{"run", "--silent"}, script...)...)
		cmd.Dir = "node"
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
