package clients

import (
	"context"
	"os"
	"os/exec"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/testenv/nodejs"
)

// run runs scripts of node/package.json in the given order.
func run(t *testing.T, scripts ...[]string) {
	t.Helper()
	path := nodejs.Path(t)
	nodejs.Install(t, "node")
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

func TestOAuthLibrary(t *testing.T) {
	run(t, []string{"oauth", gateway(t), callerKey})
}

func TestDocumentHasNoWarnings(t *testing.T) {
	run(t, []string{"lint"})
}
